"""Parses the URL of a broker or of its management API. The password is never shown.

No message repeats any part of a malformed URL: if a password has an unescaped ``/``, ``?`` or
``#``, a piece of it may be taken for the host or port.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from hbshim.errors import OptionError
from hbshim.options import split_url

#: Ports as IANA registered them, by URL scheme: kombu's names for py-amqp, and hbshim's.
PORTS = {"amqp": 5672, "pyamqp": 5672, "hbshim": 5672, "amqps": 5671}
#: Those of them that only kombu uses.
KOMBU_SCHEMES = ("pyamqp", "hbshim")
#: oslo.messaging's own driver, with hbshim's heartbeats and without.
OSLO_SCHEMES = ("rabbit", "hbrabbit")
#: Schemes of messaging drivers, whose URLs may name several hosts.
DRIVER_SCHEMES = ("hbkombu", "hbpika", *OSLO_SCHEMES)
#: Of the driver over ZeroMQ; behind a + there may be the scheme of a directory.
ZMQ_SCHEME = "hbzmq"
#: Of the driver over AMQP 1.0.
AMQP1_SCHEME, AMQP1_TLS_SCHEME = "hbamqp", "hbamqps"
MANAGEMENT_PORTS = {"http": 15672, "https": 15671}
LONGEST_TEXT = 160


@dataclass(frozen=True)
class Target:
    """Host and credentials to connect with.

    Attributes:
        tls: use TLS.
        password: not shown by ``repr``.
        vhost: the virtual host, unescaped.
        heartbeat: what the URL's query requests, in seconds; None if it does not.
        options: hbshim's options in the query, not parsed.
        scheme: of the URL.
        tls_options: those of the URL's driver: CA, and the client's certificate with its key.
        external: log in by that certificate (SASL EXTERNAL), without a password.
    """

    host: str
    port: int
    tls: bool
    user: str
    password: str = field(repr=False)
    vhost: str = "/"
    heartbeat: int | None = None
    options: dict[str, object] = field(default_factory=dict)
    scheme: str = "amqp"
    tls_options: dict[str, Any] = field(default_factory=dict, repr=False)
    external: bool = False

    @property
    def driver(self) -> str:
        """The scheme of the messaging driver that the URL is for; "" for a client's URL."""
        return self.scheme if self.scheme in DRIVER_SCHEMES else ""

    @property
    def client(self) -> str | None:
        """The client library, "amqp" or "pika", that the scheme requires; None for either."""
        if self.scheme == "hbpika":
            return "pika"
        return "amqp" if self.driver or self.scheme in KOMBU_SCHEMES else None

    @property
    def name(self) -> str:
        """Host and port, for reports."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def clean(self, text: object) -> str:
        """Return text from a peer in a form that can be shown.

        It is short and printable, and does not contain the password.
        """
        shown = text.decode("latin-1") if isinstance(text, bytes) else str(text)
        # A password equal to the user's name, such as guest's, is no secret.
        if self.password and self.password != self.user:
            shown = shown.replace(self.password, "***")
        shown = "".join(char if char.isprintable() else "?" for char in shown)
        return shown if len(shown) <= LONGEST_TEXT else shown[:LONGEST_TEXT] + "..."


def is_zmq_url(url: str) -> bool:
    """Return whether a URL is for the driver over ZeroMQ."""
    return url.partition("://")[0].partition("+")[0] == ZMQ_SCHEME


def is_amqp1_url(url: str) -> bool:
    """Return whether a URL is for the driver over AMQP 1.0."""
    return url.partition("://")[0] in (AMQP1_SCHEME, AMQP1_TLS_SCHEME)


def broker_target(url: str) -> Target:
    """Parse a broker's URL.

    Raises:
        OptionError: it is malformed; the message does not repeat it.
    """
    if url.partition("://")[0] in DRIVER_SCHEMES:
        return _driver_target(url)
    form = "amqp://user:password@host:5672/vhost, or amqps:// for TLS"
    parts, port = _split(url, PORTS, form)
    query = parse_qs(parts.query, keep_blank_values=True)
    return Target(
        host=parts.hostname or "localhost",
        port=port,
        tls=parts.scheme == "amqps",
        user=unquote(parts.username or "guest"),
        password=unquote("guest" if parts.password is None else parts.password),
        vhost=unquote(parts.path[1:]) or "/",
        heartbeat=_seconds(query.get("heartbeat")),
        options=split_url(url)[1],
        scheme=parts.scheme,
    )


def _driver_target(url: str) -> Target:
    """Parse the URL of a messaging driver; the first of several hosts is used."""
    from hbshim.messaging.amqp.login import login_at
    from hbshim.messaging.amqp.names import PORT, TLS_PORT, check_virtual_host
    from hbshim.messaging.amqp.options import AmqpOptions
    from hbshim.messaging.hosts import read_hosts

    scheme, _, rest = url.partition("://")
    heartbeat: int | None = None
    tls, options, tls_options, external = False, {}, {}, False
    if scheme in OSLO_SCHEMES:
        host = read_hosts(f"hbkombu://{rest}", PORT)[0]
        options = split_url(f"{scheme}://?{rest.partition('?')[2]}")[1]
    else:
        loaded = AmqpOptions.load(url=url)
        host = read_hosts(url, TLS_PORT if loaded.ssl else PORT)[0]
        tls, tls_options = loaded.ssl, loaded.tls()
        external = loaded.login_method == "EXTERNAL"
        heartbeat = 0 if loaded.heartbeat_interval == "off" else loaded.heartbeat_interval
        if loaded.heartbeat_in_pthread != "auto":
            options["heartbeat_in_pthread"] = loaded.heartbeat_in_pthread
    login = login_at(host)
    check_virtual_host(login.virtual_host)
    return Target(
        host=host.hostname,
        port=host.port,
        tls=tls,
        user=login.username,
        password=login.password,
        vhost=login.virtual_host,
        heartbeat=heartbeat,
        options=options,
        scheme=scheme,
        tls_options=tls_options,
        external=external,
    )


def management_target(url: str, broker: Target) -> Target:
    """Parse the URL of a management API; without a login in it, the broker's is used.

    Raises:
        OptionError: it is malformed; the message does not repeat it.
    """
    parts, port = _split(url, MANAGEMENT_PORTS, "http://host:15672, or https:// for TLS")
    return Target(
        host=parts.hostname or broker.host,
        port=port,
        tls=parts.scheme == "https",
        user=broker.user if parts.username is None else unquote(parts.username),
        password=broker.password if parts.password is None else unquote(parts.password),
        vhost=broker.vhost,
    )


def _split(url: str, ports: dict[str, int], form: str) -> tuple[SplitResult, int]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = SplitResult("", "", "", "", ""), None
    if ";" in url and "://" in url.partition(";")[2]:
        raise OptionError("this URL names several brokers; give one of them")
    if parts.scheme not in ports or "@" in parts.path + parts.query + parts.fragment:
        raise OptionError(
            f"this URL is malformed (it is not repeated here); write {form}, and "
            "percent-encode what is special in user, password and vhost: / is %2F, @ is %40"
        )
    return parts, ports[parts.scheme] if port is None else port


def _seconds(values: list[Any] | None) -> int | None:
    if not values:
        return None
    try:
        seconds = int(values[-1])
    except ValueError:
        seconds = -1
    # AMQP 0-9-1, connection.tune-ok: `heartbeat` is an unsigned short, in seconds.
    if not 0 <= seconds <= 65535:
        raise OptionError("heartbeat=... in the URL is to be whole seconds, 0 to 65535")
    return seconds
