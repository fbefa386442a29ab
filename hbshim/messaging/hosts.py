"""The brokers of a URL."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field, replace

from hbshim.errors import OptionError
from hbshim.messaging.url import refusal, split, unescaped

#: As IANA registered them, for AMQP and for AMQP over TLS.
PORT, TLS_PORT = 5672, 5671

#: AMQP 0-9-1, connection.open: `virtual-host` is a short string.
LONGEST_VIRTUAL_HOST = 255

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


def read_hosts(url: str, *, tls: bool = False) -> tuple[Host, ...]:
    """The brokers that a URL names, in its order.

    ``scheme://user:password@host:port,user:password@host:port/virtual-host?query``; what is
    special in user, password and virtual host is percent-encoded. The query is not looked
    at: see :class:`hbshim.messaging.options.MessagingOptions`. The virtual host follows
    oslo.messaging: ``/name`` is "name"; none, ``/`` and ``//`` are "/".

    Parameters:
        tls: the connections use TLS; it decides the default port.

    Raises:
        OptionError: it cannot be taken apart; the message does not repeat it.
    """
    parts = split(url)
    virtual_host = parts.path or "/"
    if len(virtual_host.encode()) > LONGEST_VIRTUAL_HOST:
        raise refusal()
    texts = parts.hosts.split(",")
    if len({"@" in text for text in texts}) > 1:
        raise OptionError(
            "this URL gives a login for some of its hosts only; "
            "write user:password@ before each of them, or before none"
        )
    port = TLS_PORT if tls else PORT
    hosts = tuple(_host(text, port, virtual_host) for text in texts)
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
