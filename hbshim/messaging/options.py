"""The options that all messaging drivers have, their sources, and their documentation.

A driver adds its own in a subclass, such as :class:`hbshim.messaging.amqp.options.AmqpOptions`.
Names and defaults are those of the specification of oslo.messaging's pika driver
(blueprint rabbit-pika, "Configuration Impact"), with what brokers need today.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from hbshim.errors import OptionError
from hbshim.messaging import registry
from hbshim.messaging.url import query_of
from hbshim.options import (
    DEFAULT,
    ENVIRONMENT_PREFIX,
    URL_KEYS,
    Default,
    Options,
    OptionSet,
    boolean,
    int_range,
    non_negative_seconds,
    option,
    tristate,
    uint16,
)

if TYPE_CHECKING:
    from ssl import SSLContext

MIB = 1024 * 1024

SSL_KEYS = (
    "cafile",
    "capath",
    "certfile",
    "keyfile",
    "password",
    "verify",
    "verify_hostname",
    "server_hostname",
    "version",
)

#: Names of TLS versions as OpenSSL and oslo.messaging write them; SSLv23 is any that both sides
#: accept.
TLS_VERSIONS = ("sslv23", "tlsv1", "tlsv1_1", "tlsv1_2", "tlsv1_3")


def optional(parse: Callable[[object], Any]) -> Callable[[object], Any]:
    """Return a parser that also accepts "none"."""

    def parse_or_none(value: object) -> Any:
        if value is None or str(value).strip().lower() in ("", "none"):
            return None
        return parse(value)

    return parse_or_none


def positive_seconds(value: object) -> float:
    """Parse a finite number of seconds above 0."""
    number = non_negative_seconds(value)
    if number == 0:
        raise ValueError
    return number


def _heartbeat_interval(value: object) -> int | Literal["off"]:
    return "off" if str(value).strip().lower() == "off" else uint16(value)


def _tls_version(value: object) -> str:
    text = str(value).strip().lower()
    if text not in TLS_VERSIONS:
        raise ValueError
    return text


class Hidden(str):
    """Text that ``repr`` does not show."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'...'"


def _ssl_options(value: object) -> dict[str, Any] | None:
    try:
        return _parsed_ssl_options(value)
    except ValueError:
        if "password" not in str(value):
            raise
        raise OptionError(
            f"ssl_options is not valid; give key=value,... with keys of: {', '.join(SSL_KEYS)}"
        ) from None


def _parsed_ssl_options(value: object) -> dict[str, Any] | None:
    if isinstance(value, str):
        text = value.strip()
        if text.startswith("{"):
            value = json.loads(text)
        else:
            # A part without "=" cannot be unpacked into a pair.
            pairs = (pair.split("=", 1) for pair in text.split(","))
            value = {key.strip(): rest.strip() for key, rest in pairs}
    if not isinstance(value, Mapping) or not set(value) <= set(SSL_KEYS):
        raise ValueError
    parsed = {key: str(text) for key, text in value.items() if text is not None}
    truths = {key: boolean(parsed[key]) for key in ("verify", "verify_hostname") if key in parsed}
    if "password" in parsed:
        parsed["password"] = Hidden(parsed["password"])
    if "version" in parsed:
        parsed["version"] = _tls_version(parsed["version"])
    return {**parsed, **truths}


def driver_option(
    name: str, default: Any, parse: Callable[[object], Any], accepts: str, doc: str
) -> Any:
    """Return the field of an option that a URL may set; see :func:`hbshim.options.option`."""
    return option(default, parse, accepts, doc, url_key=name)


@dataclasses.dataclass(frozen=True)
class MessagingOptions(OptionSet):
    """The options of every messaging driver. Immutable; build it with :meth:`load`.

    Raises:
        OptionError: a value is not valid, or two options contradict each other.
    """

    environment_prefix = "HBSHIM_MESSAGING_"
    config_section = "hbshim_messaging"

    heartbeat_interval: int | Literal["off"] = driver_option(
        "heartbeat_interval",
        0,
        _heartbeat_interval,
        "whole seconds, 0 to 65535 | off",
        "Heartbeat timeout to ask the broker for; 0 takes the broker's own (60 s unless "
        "configured). hbshim sends a heartbeat after half of what is negotiated. off: there are "
        "no heartbeats on the connection.",
    )
    ssl: bool = driver_option("ssl", False, boolean, "true | false", "Use TLS.")
    ssl_options: Mapping[str, Any] | None = dataclasses.field(
        default=None,
        hash=False,
        metadata={
            "parse": optional(_ssl_options),
            "accepts": f"key=value,...; or a mapping, or JSON; keys: {', '.join(SSL_KEYS)}",
            "doc": "Parameters of TLS, with `ssl`: the CA to trust (the system's, unless given), "
            "the client's certificate, its key, and the key's password, whether the broker's "
            "certificate (verify) and the name in it (verify_hostname) are verified (true unless "
            "given), that name, where it is not the host's, and the version "
            f"({', '.join(TLS_VERSIONS)}; sslv23: any).",
            "url_key": "ssl_options",
        },
    )
    ssl_version: str | None = driver_option(
        "ssl_version",
        None,
        optional(_tls_version),
        f"{' | '.join(TLS_VERSIONS)} | none",
        "Version of TLS, under the name that oslo.messaging's URLs have; takes precedence over "
        "version in `ssl_options`.",
    )
    ssl_ca_file: str | None = driver_option(
        "ssl_ca_file",
        None,
        optional(str),
        "path of a file | none",
        "CA to trust, under the name that oslo.messaging's URLs have; takes precedence over cafile "
        "in `ssl_options`.",
    )
    socket_timeout: float = driver_option(
        "socket_timeout",
        10.0,
        positive_seconds,
        "seconds, more than 0",
        "Longest wait for one address of a host to accept a connection (TCP), within the "
        "caller's timeout and handshake_timeout.",
    )
    handshake_timeout: float = driver_option(
        "handshake_timeout",
        10.0,
        positive_seconds,
        "seconds, more than 0",
        "Longest wait for all that it takes to open a connection to one host: TCP, TLS and the "
        "login; then the next host is tried. RabbitMQ's own limit of this name is 10 s, too.",
    )
    hosts_shuffle: bool = driver_option(
        "hosts_shuffle",
        True,
        boolean,
        "true | false",
        "Try several hosts in a random order, chosen once for each driver, so that clients spread "
        "over them; else in the order of the URL.",
    )
    connection_retry_attempts: int = driver_option(
        "connection_retry_attempts",
        3,
        int_range(1, 2**31 - 1),
        "1 or more",
        "Attempts, the first one included, to connect, or to send again what a lost connection "
        "took with it; each goes through all hosts. For casts, notifications, submitted requests "
        "and declared queues; a call and a server retry until their timeout.",
    )
    connection_retry_delay: float = driver_option(
        "connection_retry_delay",
        0.1,
        non_negative_seconds,
        "seconds, 0 or more",
        "Longest first pause between these attempts; it doubles with each, up to 30 s, and its "
        "actual length is random.",
    )
    rpc_timeout: float = driver_option(
        "rpc_timeout",
        60.0,
        positive_seconds,
        "seconds, more than 0",
        "Longest wait for the reply to a call, and age at which a cast is skipped, where the "
        "caller gives no timeout.",
    )
    rpc_prefetch_count: int = driver_option(
        "rpc_prefetch_count",
        100,
        uint16,
        "0 to 65535",
        "Unacknowledged requests that each consumer of an oslo.messaging server may hold; it has "
        "one for each of its queues (topic, server, fanout). hbshim.messaging.Server has a "
        "parameter for it. 0: any number.",
    )
    notification_prefetch_count: int = driver_option(
        "notification_prefetch_count",
        100,
        uint16,
        "0 to 65535",
        "Unacknowledged notifications that each consumer of a listener may hold; it has a consumer "
        "for each topic and priority. 0: any number.",
    )
    notification_retry_attempts: int = driver_option(
        "notification_retry_attempts",
        10,
        int_range(1, 2**31 - 1),
        "1 or more",
        "Attempts to handle a notification, the first one included; then it goes to the "
        "dead-letter queue, whose name is that of its queue with .dead behind it.",
    )
    notification_retry_delay: float = driver_option(
        "notification_retry_delay",
        0.5,
        positive_seconds,
        "seconds, more than 0",
        "Pause before a notification that failed is handled again; it doubles with each "
        "attempt, up to 60 s.",
    )
    payload_limit: int = driver_option(
        "payload_limit",
        16 * MIB,
        int_range(1, 512 * MIB),
        "bytes, 1 to 536870912",
        "Largest encoded payload. RabbitMQ 4 refuses more than its max_message_size, 16 MiB "
        "unless configured.",
    )
    heartbeat_in_pthread: bool | Literal["auto"] = driver_option(
        "heartbeat_in_pthread",
        "auto",
        tristate,
        "true | false | auto",
        "Send heartbeats from a native thread (true), from the program's green threads (false), or "
        "by hbshim's option of this name (auto).",
    )

    def _check(self) -> None:
        own = self.ssl_options or {}
        if "keyfile" in own and "certfile" not in own:
            raise OptionError("ssl_options has a keyfile without a certfile; give both")

    def attempts(self, attempts: int | Default | None) -> int | None:
        """Return `attempts`, or what this object sets for `DEFAULT`."""
        return self.connection_retry_attempts if attempts is DEFAULT else attempts

    def heartbeat_options(self) -> Options:
        """Return the options for the heartbeats of these connections.

        Raises:
            OptionError: an option from another source of hbshim contradicts it.
        """
        in_pthread = self.heartbeat_in_pthread
        return Options.load(
            heartbeat_in_pthread=None if in_pthread == "auto" else in_pthread,
            # Otherwise hbshim's own option `heartbeat` would request a timeout.
            heartbeat=0 if self.heartbeat_interval == "off" else None,
        )

    def tls(self) -> dict[str, Any]:
        """Return the parameters of TLS: `ssl_options`, and what has an option of its own."""
        named = {"cafile": self.ssl_ca_file, "version": self.ssl_version}
        return {
            **(self.ssl_options or {}),
            **{key: value for key, value in named.items() if value is not None},
        }

    def ssl_context(self) -> SSLContext | None:
        """Return the TLS context, or None without TLS.

        Raises:
            OptionError: a file of `ssl_options` cannot be used.
        """
        if not self.ssl:
            return None
        import ssl

        own = self.tls()
        try:
            context = ssl.create_default_context(cafile=own.get("cafile"), capath=own.get("capath"))
            if "certfile" in own:
                # Without a password, OpenSSL would ask for one at the terminal.
                password = str(own.get("password", ""))
                context.load_cert_chain(own["certfile"], own.get("keyfile"), password)
        except OSError as error:
            raise OptionError(
                f"a file that ssl_options names cannot be used ({error}); "
                "correct cafile (or ssl_ca_file), capath, certfile or keyfile"
            ) from None
        if not own.get("verify", True):
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if not own.get("verify_hostname", True):
            context.check_hostname = False
        version = own.get("version", "sslv23")
        if version != "sslv23":
            exact = getattr(ssl.TLSVersion, version.replace("tls", "TLS"))
            context.minimum_version = context.maximum_version = exact
        return context

    @classmethod
    def _of_config(cls, config: Mapping[str, object]) -> Mapping[str, object]:
        """Leave out the options of other drivers, which may share the configuration."""
        names = {field.name for field in dataclasses.fields(cls)}
        if names.issuperset(config):
            return config
        foreign = registry.option_schemes().keys() - names
        return {name: value for name, value in config.items() if name not in foreign}

    @classmethod
    def _unknown(cls, names: Sequence[str], others: Collection[str] = ()) -> OptionError:
        schemes = registry.option_schemes()
        for name in names:
            if name in schemes:
                drivers = " and ".join(f"{scheme}://" for scheme in schemes[name])
                return OptionError(
                    f"{name} is an option of {drivers} only; leave it out of this driver's URL and "
                    "keywords, or set it in a configuration that the drivers share"
                )
        return super()._unknown(names, [*others, *schemes])

    @classmethod
    def _from_url(cls, url: str) -> Mapping[str, object]:
        return cls.from_query(dict(query_of(url)))

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> dict[str, object]:
        """Return what the query of a URL sets, for :meth:`load`.

        Raises:
            OptionError: the query has an option of hbshim that is not a driver's.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        for key in query:
            if key in URL_KEYS and key not in names:
                raise OptionError(
                    f"{key} is not an option of a driver; set {ENVIRONMENT_PREFIX}"
                    f"{URL_KEYS[key].upper()} in the environment, for the whole process"
                )
        return dict(query)

    @classmethod
    def names_in_environment(cls) -> frozenset[str]:
        """Return the names of the options that environment variables set."""
        return frozenset(name for name, _ in cls._from_environment(os.environ))
