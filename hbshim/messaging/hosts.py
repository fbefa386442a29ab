"""The brokers of a URL, in the order in which they are tried.

No message here repeats any part of a URL: with a password that holds ``/``, ``,`` or ``@``
unescaped, a piece of it passes for host or port.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from hbshim.errors import OptionError

#: URL schemes, each with whether it means TLS.
SCHEMES = {"hbkombu": False, "hbpika": False, "amqp": False, "amqps": True}
#: As IANA registered them: amqp and amqps.
PORT, TLS_PORT = 5672, 5671

_ADDRESS = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[^\[\]:/\s]*))(?::(?P<port>\d+))?")
_FORM = "hbpika://user:password@host:5672,user:password@host2:5672/vhost"


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
        try:
            parts = urlsplit(url)
        except ValueError:
            raise _refusal() from None
        if parts.scheme not in SCHEMES or parts.fragment or "@" in parts.path + parts.query:
            raise _refusal()
        tls = tls or SCHEMES[parts.scheme]
        virtual_host = unquote(parts.path[1:]) or "/"
        hosts = tuple(
            _host(text, TLS_PORT if tls else PORT, virtual_host) for text in parts.netloc.split(",")
        )
        logins = {"@" in text for text in parts.netloc.split(",")}
        if len(logins) > 1:
            raise OptionError(
                "this URL gives a login for some of its hosts only; "
                "write user:password@ before each of them, or before none"
            )
        found = cls(hosts, parts.scheme, tls)
        return found.shuffled() if shuffle else found


def _host(text: str, port: int, virtual_host: str) -> Host:
    login, at, address = text.rpartition("@")
    found = _ADDRESS.fullmatch(address)
    if found is None or "@" in login:
        raise _refusal()
    number = port if found["port"] is None else int(found["port"])
    if not 1 <= number <= 65535:
        raise _refusal()
    username, _, password = login.partition(":") if at else ("guest", "", "guest")
    return Host(
        hostname=found["six"] or found["name"] or "localhost",
        port=number,
        username=unquote(username),
        password=unquote(password),
        virtual_host=virtual_host,
    )


def _refusal() -> OptionError:
    return OptionError(
        f"this URL cannot be taken apart (it is not repeated here); write {_FORM}, or one of the "
        f"schemes {', '.join(SCHEMES)}; percent-encode what is special in user, password and "
        "virtual host: / is %2F, @ is %40, a comma is %2C"
    )
