"""The hosts of a URL."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field, replace

from hbshim.errors import OptionError
from hbshim.messaging.url import malformed_url, split, unescaped

_ADDRESS = re.compile(r"(?:\[(?P<six>[^\[\]]+)\]|(?P<name>[\w.-]*))(?::(?P<port>[0-9]{1,5}))?")


@dataclass(frozen=True)
class Host:
    """One host of a URL, with login and path, whose meaning the driver defines.

    Attributes:
        hostname: a name or an address; IPv6 without brackets.
        username, password: of the login; None if the URL has none. ``repr`` shows no password.
        path: what follows the hosts and a slash, unescaped.
    """

    hostname: str
    port: int
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    path: str = ""

    @property
    def name(self) -> str:
        """Host and port, for messages; without credentials."""
        host = f"[{self.hostname}]" if ":" in self.hostname else self.hostname
        return f"{host}:{self.port}"

    def __str__(self) -> str:
        return self.name


def read_hosts(url: str, default_port: int) -> tuple[Host, ...]:
    """Return the hosts of a URL, in its order; ``localhost`` if it names none.

    ``scheme://user:password@host:port,user:password@host:port/path?query``; special characters in
    user, password and path are percent-encoded. The query is not parsed: see
    :meth:`hbshim.messaging.options.MessagingOptions.load`.

    Parameters:
        url: the URL.
        default_port: the port of a host for which the URL has none.

    Raises:
        OptionError: the URL is malformed; the message does not repeat it.
    """
    parts = split(url)
    texts = parts.hosts.split(",")
    if len({"@" in text for text in texts}) > 1:
        raise OptionError(
            "this URL gives a login for some of its hosts only; "
            "write user:password@ before each of them, or before none"
        )
    hosts = tuple(_host(text, default_port, parts.path) for text in texts)
    if all(host.hostname for host in hosts):
        return hosts
    if len(hosts) > 1:
        raise malformed_url()
    return (replace(hosts[0], hostname="localhost"),)


def _host(text: str, port: int, path: str) -> Host:
    login, at, address = text.rpartition("@")
    found = _ADDRESS.fullmatch(address)
    if found is None or "@" in login or login.startswith(":") or (at and not login):
        raise malformed_url()
    if found["six"]:
        try:
            ipaddress.IPv6Address(found["six"])
        except ValueError:
            raise malformed_url() from None
    number = int(found["port"] or port)
    if not 1 <= number <= 65535:
        raise malformed_url()
    username, colon, password = login.partition(":")
    return Host(
        hostname=found["six"] or found["name"],
        port=number,
        username=unescaped(username) if at else None,
        password=unescaped(password) if colon else None,
        path=path,
    )
