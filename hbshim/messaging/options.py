"""The options of the messaging drivers, where they come from, and their documentation.

Names and defaults are those of the specification of oslo.messaging's pika driver
(blueprint rabbit-pika, "Configuration Impact"), with what brokers need today.

Longer than others: it is a table, one field for each option.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from hbshim.errors import OptionError
from hbshim.messaging.url import query_of
from hbshim.options import (
    ENVIRONMENT_PREFIX,
    URL_KEYS,
    Options,
    OptionSet,
    boolean,
    interval,
    option,
    seconds,
    tristate,
    whole,
)

if TYPE_CHECKING:
    from ssl import SSLContext

MIB = 1024 * 1024

SSL_KEYS = (
    "cafile",
    "capath",
    "certfile",
    "keyfile",
    "verify",
    "verify_hostname",
    "server_hostname",
    "version",
)

#: Names of TLS versions as OpenSSL and oslo.messaging write them; SSLv23 is any that both sides
#: accept.
TLS_VERSIONS = ("sslv23", "tlsv1", "tlsv1_1", "tlsv1_2", "tlsv1_3")

#: As a lifetime of a queue: until it is deleted (:data:`hbshim.messaging.base.NEVER`).
_NEVER = float("inf")


def _optional(parse: Callable[[object], Any]) -> Callable[[object], Any]:
    def parse_or_none(value: object) -> Any:
        if value is None or str(value).strip().lower() in ("", "none"):
            return None
        return parse(value)

    return parse_or_none


def _positive(value: object) -> float:
    number = seconds(value)
    if number == 0:
        raise ValueError
    return number


def _lifetime(value: object) -> float:
    text = str(value).strip().lower()
    if text in ("never", "inf"):
        return _NEVER
    return seconds(value) or _NEVER


def _heartbeat_interval(value: object) -> int | Literal["off"]:
    return "off" if str(value).strip().lower() == "off" else interval(value)


def _login_method(value: object) -> str:
    text = str(value).strip().upper()
    if text not in ("PLAIN", "AMQPLAIN", "EXTERNAL"):
        raise ValueError
    return text


def _channels(value: object) -> int:
    number = whole(0, 65535)(value)
    # One for what consumes, publishes and acknowledges, one for synchronous methods.
    if number == 1:
        raise ValueError
    return number


def _name(value: object) -> str:
    text = str(value)
    # AMQP 0-9-1, exchange.declare: a name is a short string of these.
    if not 0 < len(text.encode()) <= 255 or "\0" in text:
        raise ValueError
    return text


def _ssl_options(value: object) -> dict[str, Any] | None:
    if isinstance(value, str):
        text = value.strip()
        if text.startswith("{"):
            value = json.loads(text)
        else:
            # Of a pair without "=" nothing is left to unpack.
            pairs = (pair.split("=", 1) for pair in text.split(","))
            value = {key.strip(): rest.strip() for key, rest in pairs}
    if not isinstance(value, Mapping) or not set(value) <= set(SSL_KEYS):
        raise ValueError
    parsed = {key: str(text) for key, text in value.items() if text is not None}
    truths = {key: boolean(parsed[key]) for key in ("verify", "verify_hostname") if key in parsed}
    if "version" in parsed:
        parsed["version"] = parsed["version"].lower()
        if parsed["version"] not in TLS_VERSIONS:
            raise ValueError
    return {**parsed, **truths}


def _messaging(
    name: str, default: Any, parse: Callable[[object], Any], accepts: str, doc: str
) -> Any:
    return option(default, parse, accepts, doc, url_key=name)


@dataclasses.dataclass(frozen=True)
class MessagingOptions(OptionSet):
    """How the messaging drivers work. Immutable; build it with :meth:`load`.

    Raises:
        OptionError: a value is not acceptable, or two options contradict each other.
    """

    environment_prefix = "HBSHIM_MESSAGING_"
    config_section = "hbshim_messaging"

    channel_max: int = _messaging(
        "channel_max",
        0,
        _channels,
        "0, or 2 to 65535",
        "Channels of one connection at most; 0 takes the broker's own limit. A connection uses "
        "two.",
    )
    frame_max: int = _messaging(
        "frame_max",
        131072,
        # RabbitMQ 4.x closes a connection that asks for less than 8192 in connection.tune-ok.
        whole(8192, 2**31 - 1),
        "bytes, 8192 or more",
        "Size of a frame at most; RabbitMQ 4 refuses less than 8192.",
    )
    heartbeat_interval: int | Literal["off"] = _messaging(
        "heartbeat_interval",
        0,
        _heartbeat_interval,
        "whole seconds, 0 to 65535 | off",
        "Heartbeat timeout to ask the broker for; 0 takes the broker's own (60 s unless "
        "configured). hbshim sends a heartbeat after half of what is negotiated. off: there are "
        "no heartbeats on the connection.",
    )
    login_method: Literal["PLAIN", "AMQPLAIN", "EXTERNAL"] = _messaging(
        "login_method",
        "PLAIN",
        _login_method,
        "PLAIN | AMQPLAIN | EXTERNAL",
        "SASL mechanism of the login. EXTERNAL takes the user from the client's TLS certificate. "
        "AMQPLAIN sends the same as PLAIN in another form; over pika it is PLAIN.",
    )
    ssl: bool = _messaging("ssl", False, boolean, "true | false", "Use TLS.")
    ssl_options: Mapping[str, Any] | None = dataclasses.field(
        default=None,
        hash=False,
        metadata={
            "parse": _optional(_ssl_options),
            "accepts": f"key=value,...; or a mapping, or JSON; keys: {', '.join(SSL_KEYS)}",
            "doc": "Parameters of TLS, with `ssl`: the CA to trust (the system's, unless given), "
            "the client's certificate and key, whether the broker's certificate (verify) and the "
            "name in it (verify_hostname) are verified (true unless given), that name, where it "
            f"is not the host's, and the version ({', '.join(TLS_VERSIONS)}; sslv23: any).",
            "url_key": "ssl_options",
        },
    )
    socket_timeout: float = _messaging(
        "socket_timeout",
        10.0,
        _positive,
        "seconds, more than 0",
        "Longest wait for one address of a host to accept a connection (TCP), within the "
        "caller's timeout and handshake_timeout.",
    )
    handshake_timeout: float = _messaging(
        "handshake_timeout",
        10.0,
        _positive,
        "seconds, more than 0",
        "Longest wait for all that it takes to open a connection to one host: TCP, TLS and the "
        "login; then the next host is tried. RabbitMQ's own limit of this name is 10 s, too.",
    )
    hosts_shuffle: bool = _messaging(
        "hosts_shuffle",
        True,
        boolean,
        "true | false",
        "Try several hosts in a random order, chosen once for each driver, so that clients spread "
        "over them; else in the order of the URL.",
    )
    pool_max_size: int = _messaging(
        "pool_max_size",
        10,
        whole(1, 65535),
        "1 to 65535",
        "Connections to keep when nobody uses them.",
    )
    pool_max_overflow: int = _messaging(
        "pool_max_overflow",
        10,
        whole(0, 65535),
        "0 to 65535",
        "Connections to open beyond these while all are in use.",
    )
    pool_timeout: float = _messaging(
        "pool_timeout",
        30.0,
        seconds,
        "seconds, 0 or more",
        "Longest wait for a connection of the pool.",
    )
    pool_recycle: float | None = _messaging(
        "pool_recycle",
        None,
        _optional(_positive),
        "seconds, more than 0 | none",
        "Lifetime of a connection since it was opened; an older one is closed instead of lent.",
    )
    pool_stale: float | None = _messaging(
        "pool_stale",
        None,
        _optional(_positive),
        "seconds, more than 0 | none",
        "A connection that nobody used for so long is closed instead of lent.",
    )
    connection_retry_attempts: int = _messaging(
        "connection_retry_attempts",
        3,
        whole(1, 2**31 - 1),
        "1 or more",
        "Attempts, the first one included, to connect, or to send again what a lost connection "
        "took with it; each goes through all hosts. For casts, notifications, submitted requests "
        "and declared queues; a call and a server try until their time is over.",
    )
    connection_retry_delay: float = _messaging(
        "connection_retry_delay",
        0.1,
        seconds,
        "seconds, 0 or more",
        "Longest first pause between these tries; it doubles with each, up to 30 s, and a "
        "random part of it is slept.",
    )
    rejected_message_retry_attempts: int = _messaging(
        "rejected_message_retry_attempts",
        3,
        whole(1, 2**31 - 1),
        "1 or more",
        "Attempts, the first one included, to store a message that the broker rejects, or a "
        "notification that it cannot route.",
    )
    rejected_message_retry_delay: float = _messaging(
        "rejected_message_retry_delay",
        0.1,
        seconds,
        "seconds, 0 or more",
        "Longest first pause between these tries; it grows likewise.",
    )
    rpc_timeout: float = _messaging(
        "rpc_timeout",
        60.0,
        _positive,
        "seconds, more than 0",
        "Longest wait for the reply to a call, and age at which a cast is skipped, where the "
        "caller gives no timeout.",
    )
    rpc_queue_expiration: float = _messaging(
        "rpc_queue_expiration",
        60.0,
        _lifetime,
        "seconds | never",
        "Time after which the broker deletes an RPC queue without a consumer; 0 is never.",
    )
    result_expiration: float = _messaging(
        "result_expiration",
        86400.0,
        _positive,
        "seconds, more than 0",
        "Age at which the broker deletes the result of a submitted request that no caller waits "
        "for, where the caller gives no lifetime; longer than the work takes.",
    )
    default_rpc_exchange: str = _messaging(
        "default_rpc_exchange",
        "openstack_rpc",
        _name,
        "a name of 1 to 255 bytes",
        "Exchange of RPC messages whose target names none.",
    )
    rpc_reply_exchange: str = _messaging(
        "rpc_reply_exchange",
        "openstack_rpc_reply",
        _name,
        "a name of 1 to 255 bytes",
        "Exchange of replies, where RabbitMQ's direct reply-to does not serve.",
    )
    rpc_prefetch_count: int = _messaging(
        "rpc_prefetch_count",
        100,
        whole(0, 65535),
        "0 to 65535",
        "Unacknowledged requests that each consumer of an oslo.messaging server may hold; it has "
        "one for each of its queues (topic, server, fanout). hbshim.messaging.Server has a "
        "parameter for it. 0: any number.",
    )
    notification_persistence: bool = _messaging(
        "notification_persistence",
        False,
        boolean,
        "true | false",
        "Have notifications written to disk, so that they survive a restart of the broker.",
    )
    default_notification_exchange: str = _messaging(
        "default_notification_exchange",
        "openstack_notification",
        _name,
        "a name of 1 to 255 bytes",
        "Exchange of notifications whose target names none.",
    )
    notification_prefetch_count: int = _messaging(
        "notification_prefetch_count",
        100,
        whole(0, 65535),
        "0 to 65535",
        "Unacknowledged notifications that each consumer of a listener may hold; it has a consumer "
        "for each topic and priority. 0: any number.",
    )
    notification_retry_attempts: int = _messaging(
        "notification_retry_attempts",
        10,
        whole(1, 2**31 - 1),
        "1 or more",
        "Attempts to handle a notification, the first one included; then it goes to the "
        "dead-letter queue, whose name is that of its queue with .dead behind it.",
    )
    notification_retry_delay: float = _messaging(
        "notification_retry_delay",
        0.5,
        _positive,
        "seconds, more than 0",
        "Pause before a notification that failed is handled again; it doubles with each "
        "attempt, up to 60 s.",
    )
    quorum_queues: bool | None = _messaging(
        "quorum_queues",
        None,
        _optional(boolean),
        "true | false | none",
        "Make shared queues quorum queues, which RabbitMQ replicates to several nodes. none: if "
        "there is more than one host. An existing queue of the other type is used as it is, with a "
        "warning: delete it to have it replicated.",
    )
    quorum_delivery_limit: int = _messaging(
        "quorum_delivery_limit",
        0,
        whole(0, 2**31 - 1),
        "0 or more",
        "Redeliveries of a message after which a quorum queue drops it (x-delivery-limit); 0 takes "
        "the broker's own: none before RabbitMQ 4, 20 since.",
    )
    quorum_max_memory_length: int = _messaging(
        "quorum_max_memory_length",
        0,
        whole(0, 2**31 - 1),
        "0 or more",
        "Messages that a quorum queue keeps in memory (x-max-in-memory-length); 0: no limit.",
    )
    quorum_max_memory_bytes: int = _messaging(
        "quorum_max_memory_bytes",
        0,
        whole(0, 2**31 - 1),
        "bytes, 0 or more",
        "Size of the messages that a quorum queue keeps in memory (x-max-in-memory-bytes); 0: no "
        "limit.",
    )
    payload_limit: int = _messaging(
        "payload_limit",
        16 * MIB,
        whole(1, 512 * MIB),
        "bytes, 1 to 536870912",
        "Largest encoded payload. RabbitMQ 4 refuses more than its max_message_size, 16 MiB "
        "unless configured.",
    )
    heartbeat_in_pthread: bool | Literal["auto"] = _messaging(
        "heartbeat_in_pthread",
        "auto",
        tristate,
        "true | false | auto",
        "Beat from a native thread (true), from the program's own green threads (false), or as "
        "hbshim's option of this name says (auto).",
    )

    def _check(self) -> None:
        own = self.ssl_options or {}
        if "keyfile" in own and "certfile" not in own:
            raise OptionError("ssl_options has a keyfile without a certfile; give both")
        if self.login_method == "EXTERNAL" and "certfile" not in own:
            raise OptionError(
                "login_method=EXTERNAL needs a client certificate; set ssl=true and give "
                "ssl_options a certfile"
            )

    def heartbeat_options(self) -> Options:
        """How the heartbeats of these connections are made.

        Raises:
            OptionError: what hbshim's own sources say contradicts it.
        """
        in_pthread = self.heartbeat_in_pthread
        return Options.load(
            heartbeat_in_pthread=None if in_pthread == "auto" else in_pthread,
            # Else hbshim's own option `heartbeat` would ask for one.
            heartbeat=0 if self.heartbeat_interval == "off" else None,
        )

    def quorum_arguments(self) -> dict[str, int]:
        """Return the arguments of quorum queues, as RabbitMQ names them, that are set."""
        limits = {
            "x-delivery-limit": self.quorum_delivery_limit,
            "x-max-in-memory-length": self.quorum_max_memory_length,
            "x-max-in-memory-bytes": self.quorum_max_memory_bytes,
        }
        return {name: limit for name, limit in limits.items() if limit}

    def ssl_context(self) -> SSLContext | None:
        """What TLS is to be spoken with; None where it is not to be.

        Raises:
            OptionError: a file of `ssl_options` cannot be used.
        """
        if not self.ssl:
            return None
        import ssl

        own = self.ssl_options or {}
        try:
            context = ssl.create_default_context(cafile=own.get("cafile"), capath=own.get("capath"))
            if "certfile" in own:
                context.load_cert_chain(own["certfile"], own.get("keyfile"))
        except OSError as error:
            raise OptionError(
                f"a file that ssl_options names cannot be used ({error}); "
                "correct cafile, capath, certfile or keyfile"
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
    def _from_url(cls, url: str) -> Mapping[str, object]:
        return cls.from_query(dict(query_of(url)))

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> dict[str, object]:
        """Return what the query of a URL sets, for :meth:`load`.

        Raises:
            OptionError: it has an option of hbshim's that is not a driver's.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        for key in query:
            if key in URL_KEYS and key not in names:
                raise OptionError(
                    f"{key} is no option of a driver; set {ENVIRONMENT_PREFIX}"
                    f"{URL_KEYS[key].upper()} in the environment, for the whole process"
                )
        return dict(query)

    @classmethod
    def names_in_environment(cls) -> frozenset[str]:
        """Return the names of the options that environment variables set."""
        return frozenset(name for name, _ in cls._from_environment(os.environ))
