"""The brokers of a URL, in the order in which they are tried."""

from __future__ import annotations

import ipaddress
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from hbshim.errors import OptionError
from hbshim.messaging.url import refusal, split, unescaped

#: As IANA registered them: amqp and amqps.
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


@dataclass(frozen=True)
class Hosts:
    """The brokers of one URL; iterates over them in the order in which to try them.

    Attributes:
        scheme: the URL's.
        tls: the scheme asks for TLS.
    """

    hosts: tuple[Host, ...]
    scheme: str = "amqp"
    tls: bool = False

    def __iter__(self) -> Iterator[Host]:
        return iter(self.hosts)

    def __len__(self) -> int:
        return len(self.hosts)

    def __str__(self) -> str:
        return ", ".join(host.name for host in self.hosts)

    def after(self, host: Host | None) -> tuple[Host, ...]:
        """All of them, those behind `host` first and `host` itself last; failover's order."""
        if host is None or host not in self.hosts:
            return self.hosts
        next_one = self.hosts.index(host) + 1
        return self.hosts[next_one:] + self.hosts[:next_one]

    def shuffled(
        self, sample: Callable[[Sequence[Host], int], list[Host]] = random.sample
    ) -> Hosts:
        """The same in random order, so that many processes spread over the brokers."""
        return Hosts(tuple(sample(self.hosts, len(self.hosts))), self.scheme, self.tls)

    @classmethod
    def from_url(cls, url: str, *, shuffle: bool = False, tls: bool = False) -> Hosts:
        """Take a URL with one or several brokers apart.

        ``scheme://user:password@host:port,user:password@host:port/virtual-host?query``; what
        is special in user, password and virtual host is percent-encoded. The query is not
        looked at: see :class:`hbshim.messaging.options.MessagingOptions`. The virtual host
        follows oslo.messaging: ``/name`` is "name"; none, ``/`` and ``//`` are "/".

        Parameters:
            shuffle: bring them into random order.
            tls: TLS is asked for elsewhere; decides the default port.

        Raises:
            OptionError: it cannot be taken apart; the message does not repeat it.
        """
        parts = split(url)
        tls = tls or parts.tls
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
        if not all(host.hostname for host in hosts):
            if len(hosts) > 1:
                raise refusal()
            hosts = (replace(hosts[0], hostname="localhost"),)
        found = cls(hosts, parts.scheme, tls)
        return found.shuffled() if shuffle else found


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
