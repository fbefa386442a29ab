"""Every option of ``[oslo_messaging_rabbit]``, and its effect in hbshim's drivers.

Each is honoured, or translated to an option of :class:`AmqpOptions`, or named in a warning when it
is set: an option on which a service relied must not be ignored silently. The options are those of
oslo.messaging 17.3 and 18.3; a test compares. Not for ``hbrabbit://``, which is oslo.messaging's
own driver and honours them itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hbshim.oslo import effects
from hbshim.oslo.effects import Combined, Effect, Ignored, Translated


def _off_unless_positive(seconds: int) -> int | str:
    return seconds if seconds > 0 else "off"


def _at_least_a_second(seconds: int) -> int:
    return max(1, seconds)


_TLS = ("ssl_options",)
_PAUSE = "the longest first pause is the sum of rabbit_retry_interval, kombu_reconnect_delay and "
_PAUSE += "kombu_reconnect_splay"
_QUEUE_NAMES = "queues have names of hbshim's own, and those of one server end with its connection"
_PROCESS = "it holds for the whole process; set HBSHIM_{} in the environment"

OPTIONS: Mapping[str, Effect] = {
    "ssl": Translated(("ssl",)),
    "ssl_ca_file": Combined(_TLS, "`cafile`. Without it the system's authorities are trusted"),
    "ssl_cert_file": Combined(_TLS, "`certfile`"),
    "ssl_key_file": Combined(_TLS, "`keyfile`"),
    "ssl_version": Combined(_TLS, "`version`"),
    "ssl_enforce_hostname_verification": Combined(_TLS, "`verify_hostname`; true unless set"),
    "ssl_enforce_fips_mode": Ignored("OpenSSL decides that; OpenSSL 3 has no such switch"),
    "rabbit_login_method": Translated(
        ("login_method",), "RABBIT-CR-DEMO is refused, a `DriverLoadFailure`"
    ),
    "heartbeat_timeout_threshold": Translated(
        ("heartbeat_interval",), "0 is `off`", _off_unless_positive
    ),
    "heartbeat_in_pthread": Translated(("heartbeat_in_pthread",)),
    "heartbeat_rate": Ignored("a heartbeat is sent after half of heartbeat_timeout_threshold"),
    "rpc_conn_pool_size": Combined(
        ("pool_max_size", "pool_max_overflow"), "that many connections, and no overflow"
    ),
    "conn_pool_ttl": Translated(("pool_stale",), "at least 1 s", _at_least_a_second),
    "conn_pool_min_size": Ignored(
        "every connection that is idle for conn_pool_ttl is closed when it is next asked for"
    ),
    "rabbit_retry_interval": Combined(("connection_retry_delay",), _PAUSE),
    "kombu_reconnect_delay": Combined(("connection_retry_delay",), _PAUSE),
    "kombu_reconnect_splay": Combined(("connection_retry_delay",), _PAUSE),
    "rabbit_retry_backoff": Ignored("the bound of the pauses doubles with each"),
    "rabbit_interval_max": Ignored("no pause is longer than 30 s"),
    "kombu_failover_strategy": Translated(
        ("hosts_shuffle",),
        "both strategies begin with a random host, as rabbit:// does, then take the next one",
        lambda _strategy: True,
    ),
    "kombu_missing_consumer_retry_timeout": Ignored(
        "a reply is sent for as long as its caller waits"
    ),
    "kombu_compression": Ignored("messages are not compressed"),
    "direct_mandatory_flag": Ignored(
        "a reply whose caller is gone is dropped, without an error for its server"
    ),
    "rabbit_qos_prefetch_count": Translated(("rpc_prefetch_count", "notification_prefetch_count")),
    "rabbit_quorum_queue": Translated(("quorum_queues",)),
    "rabbit_quorum_delivery_limit": Translated(("quorum_delivery_limit",)),
    "rabbit_quorum_max_memory_length": Translated(("quorum_max_memory_length",)),
    "rabbit_quorum_max_memory_bytes": Translated(("quorum_max_memory_bytes",)),
    "rabbit_transient_quorum_queue": Ignored(
        "the queue for fanouts is exclusive to its server's connection, and replies need no queue"
    ),
    "rabbit_transient_queues_ttl": Translated(("rpc_queue_expiration",), "0 is `never`"),
    "rabbit_ha_queues": Ignored(
        "RabbitMQ mirrors by policy since 3.0, and not at all since 4.0; set rabbit_quorum_queue"
    ),
    "rabbit_stream_fanout": Ignored("fanouts do not go through streams"),
    "enable_cancel_on_failover": Ignored(
        "it is for mirrored queues; consumers of quorum queues move to another node by themselves"
    ),
    "use_queue_manager": Ignored(_QUEUE_NAMES),
    "hostname": Ignored(_QUEUE_NAMES),
    "processname": Ignored(_QUEUE_NAMES),
    "amqp_durable_queues": Translated(
        ("notification_persistence",), "shared queues are always durable"
    ),
    "amqp_auto_delete": Ignored("RPC queues are deleted after rabbit_transient_queues_ttl"),
    # hbshim's own, for hbrabbit://.
    "hbshim_worker": Ignored(_PROCESS.format("WORKER")),
    "hbshim_liveness_timeout": Ignored(_PROCESS.format("LIVENESS_TIMEOUT")),
    "hbshim_watch_socket": Ignored(_PROCESS.format("WATCH_SOCKET")),
}

#: Keys of `ssl_options`, each with the option that has its value.
_TLS_KEYS = {
    "cafile": "ssl_ca_file",
    "certfile": "ssl_cert_file",
    "keyfile": "ssl_key_file",
    "version": "ssl_version",
    "verify_hostname": "ssl_enforce_hostname_verification",
}

#: The options that determine a pause between two attempts, each with its default at rabbit://.
_PAUSES = {"rabbit_retry_interval": 1, "kombu_reconnect_delay": 1.0, "kombu_reconnect_splay": 0.0}


def translated(values: Mapping[str, Any]) -> dict[str, object]:
    """Return options of :class:`AmqpOptions`, by name.

    Parameters:
        values: the options of the group that are set, by name.
    """
    own = effects.translated(OPTIONS, values)
    tls = {
        key: values[name] for key, name in _TLS_KEYS.items() if values.get(name) not in (None, "")
    }
    if tls:
        own["ssl_options"] = tls
    if _PAUSES.keys() & values.keys():
        own["connection_retry_delay"] = sum(
            values.get(name, default) for name, default in _PAUSES.items()
        )
    if "rpc_conn_pool_size" in values:
        own["pool_max_size"], own["pool_max_overflow"] = values["rpc_conn_pool_size"], 0
    return own
