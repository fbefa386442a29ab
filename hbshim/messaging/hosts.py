"""The brokers of a URL."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field, replace

from hbshim.errors import OptionError
from hbshim.messaging.url import refusal, split, unescaped

_ADDRESS = re.compile(r"(?:\[(?P<six>[^\[\]]+)\]|(?P<name>[\w.-]*))(?::(?P<port>[0-9]{1,5}))?")


@dataclass(frozen=True)
class Host:
    """One broker, and whom we are to it.

    Attributes:
        hostname: a name, or an address; IPv6 without brackets.
        password: not shown by ``repr``.
        virtual_host: unescaped.
    """

    hostname: str
    port: int
    username: str = "guest"
    password: str = field(default="guest", repr=False)
    virtual_host: str = "/"

    @property
    def name(self) -> str:
        """Host and port, for people; without credentials."""
        host = f"[{self.hostname}]" if ":" in self.hostname else self.hostname
        return f"{host}:{self.port}"

    def __str__(self) -> str:
        return self.name


def read_hosts(url: str, default_port: int) -> tuple[Host, ...]:
    """The brokers that a URL names, in its order.

    ``scheme://user:password@host:port,user:password@host:port/virtual-host?query``; what is
    special in user, password and virtual host is percent-encoded. The query is not looked
    at: see :meth:`hbshim.messaging.options.MessagingOptions.load`. The virtual host follows
    oslo.messaging: ``/name`` is "name"; none, ``/`` and ``//`` are "/".

    Parameters:
        default_port: of a host for which the URL names none.

    Raises:
        OptionError: it cannot be taken apart; the message does not repeat it.
    """
    parts = split(url)
    virtual_host = parts.path or "/"
    texts = parts.hosts.split(",")
    if len({"@" in text for text in texts}) > 1:
        raise OptionError(
            "this URL gives a login for some of its hosts only; "
            "write user:password@ before each of them, or before none"
        )
    hosts = tuple(_host(text, default_port, virtual_host) for text in texts)
    if all(host.hostname for host in hosts):
        return hosts
    if len(hosts) > 1:
        raise refusal()
    return (replace(hosts[0], hostname="localhost"),)


def _host(text: str, port: int, virtual_host: str) -> Host:
    login, at, address = text.rpartition("@")
    found = _ADDRESS.fullmatch(address)
    if found is None or "@" in login or login.startswith(":") or (at and not login):
        raise refusal()
    if found["six"]:
        try:
            ipaddress.IPv6Address(found["six"])
        except ValueError:
            raise refusal() from None
    number = int(found["port"] or port)
    if not 1 <= number <= 65535:
        raise refusal()
    username, _, password = login.partition(":") if at else ("guest", "", "guest")
    return Host(
        hostname=found["six"] or found["name"],
        port=number,
        username=unescaped(username),
        password=unescaped(password),
        virtual_host=virtual_host,
    )
