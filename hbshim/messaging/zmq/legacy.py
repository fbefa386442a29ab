"""The options of oslo.messaging's former ZeroMQ driver and its proxy, and what becomes of each.

Names, units and defaults are those of oslo.messaging 8.1. An option becomes one of this driver, is
part of the directory's address, stands for something that is always on here, or has no effect, for
the reason that is given.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import quote

from hbshim.errors import OptionError
from hbshim.messaging.zmq.directory.address import REDIS_PORT, SENTINEL_GROUP
from hbshim.messaging.zmq.options import ZmqOptions


class Legacy(NamedTuple):
    """One former option.

    Attributes:
        target: the option that it becomes; or :data:`ADDRESS`, :data:`ALWAYS` or :data:`NOTHING`.
        doc: how it is used, or why it is not.
        unit: one of this driver's units has so many of the former one.
    """

    section: str
    name: str
    target: str
    doc: str
    unit: float = 0.0


#: It is part of the directory's address; always on; without effect.
ADDRESS: Final = "(address)"
ALWAYS: Final = "(always)"
NOTHING: Final = ""

REDIS, PROXY, ZMQ = "matchmaker_redis", "zmq_proxy_opts", "oslo_messaging_zmq"

_SERVERS_HERE = "Servers are reached by local sockets and the fixed ports."
_ONE_CONTEXT = "One thread of a process owns all sockets."

OPTIONS = (
    Legacy("DEFAULT", "fanout_ds_address", ADDRESS, "The address of the directory, whole."),
    Legacy(ZMQ, "rpc_zmq_matchmaker", ADDRESS, "redis, sentinel or dummy (one process)."),
    Legacy(ZMQ, "rpc_zmq_host", "rpc_zmq_host", "Name of this host in the directory."),
    Legacy(ZMQ, "rpc_zmq_bind_address", "rpc_zmq_bind_address", "Where the proxy listens."),
    Legacy(ZMQ, "rpc_zmq_ipc_dir", "rpc_zmq_ipc_dir", "Directory of the local sockets."),
    Legacy(ZMQ, "rpc_zmq_topic_backlog", "rpc_zmq_topic_backlog", "Of each target."),
    Legacy(ZMQ, "zmq_target_expire", "zmq_target_expire", "Seconds; -1: the default.", 1.0),
    Legacy(ZMQ, "zmq_target_update", "zmq_target_update", "Seconds; -1: the default.", 1.0),
    Legacy(ZMQ, "zmq_linger", "zmq_linger", "Seconds; -1: the default.", 1.0),
    Legacy(ZMQ, "rpc_cast_timeout", "zmq_linger", "Seconds; -1: the default.", 1.0),
    Legacy(ZMQ, "zmq_tcp_keepalive", "zmq_tcp_keepalive", "As there."),
    Legacy(ZMQ, "zmq_tcp_keepalive_idle", "zmq_tcp_keepalive_idle", "As there."),
    Legacy(ZMQ, "zmq_tcp_keepalive_cnt", "zmq_tcp_keepalive_cnt", "As there."),
    Legacy(ZMQ, "zmq_tcp_keepalive_intvl", "zmq_tcp_keepalive_intvl", "As there."),
    Legacy(ZMQ, "rpc_use_acks", "rpc_use_acks", "For casts; a cast waits. Not for calls."),
    Legacy(ZMQ, "rpc_ack_timeout_base", "rpc_ack_timeout_base", "As there."),
    Legacy(ZMQ, "rpc_ack_timeout_multiplier", "rpc_ack_timeout_multiplier", "As there."),
    Legacy(ZMQ, "rpc_retry_attempts", "rpc_retry_attempts", "As there; then DeliveryError."),
    Legacy(ZMQ, "rpc_message_ttl", "rpc_message_ttl", "As there."),
    Legacy(ZMQ, "rpc_zmq_serialization", ALWAYS, "json; msgpack is refused."),
    Legacy(ZMQ, "use_pub_sub", ALWAYS, "Fanouts and notifications are published."),
    Legacy(ZMQ, "use_router_proxy", ALWAYS, "Every message passes the proxy of a host."),
    Legacy(ZMQ, "zmq_immediate", ALWAYS, "Nothing waits for a host that is down."),
    Legacy(ZMQ, "use_dynamic_connections", NOTHING, "A connection serves all calls to a host."),
    Legacy(ZMQ, "zmq_failover_connections", NOTHING, "Every host that serves a target is used."),
    Legacy(ZMQ, "rpc_zmq_min_port", NOTHING, _SERVERS_HERE),
    Legacy(ZMQ, "rpc_zmq_max_port", NOTHING, _SERVERS_HERE),
    Legacy(ZMQ, "rpc_zmq_bind_port_retries", NOTHING, _SERVERS_HERE),
    Legacy(ZMQ, "rpc_zmq_contexts", NOTHING, _ONE_CONTEXT),
    Legacy(ZMQ, "rpc_poll_timeout", NOTHING, _ONE_CONTEXT),
    Legacy(ZMQ, "rpc_thread_pool_size", NOTHING, "The executor of oslo.messaging has the threads."),
    Legacy(ZMQ, "subscribe_on", NOTHING, "The directory names the publishers."),
    Legacy(REDIS, "host", ADDRESS, "Of Redis."),
    Legacy(REDIS, "port", ADDRESS, "Of Redis."),
    Legacy(REDIS, "password", ADDRESS, "Of Redis."),
    Legacy(REDIS, "sentinel_hosts", ADDRESS, "host:port of each Sentinel."),
    Legacy(REDIS, "sentinel_group_name", ADDRESS, "The servers that the Sentinels watch."),
    Legacy(REDIS, "wait_timeout", "directory_retry_delay", "Milliseconds.", 1000.0),
    Legacy(REDIS, "socket_timeout", "directory_timeout", "Milliseconds.", 1000.0),
    Legacy(REDIS, "check_timeout", NOTHING, "Attempts end with the deadline of each call."),
    Legacy(PROXY, "host", "rpc_zmq_host", "Name of the proxy's host in the directory."),
    Legacy(PROXY, "url", ADDRESS, "The transport's URL, where it names a directory."),
    Legacy(PROXY, "frontend_port", "zmq_call_port", "Port for calls; 0: the usual one.", 1.0),
    Legacy(PROXY, "publisher_port", "zmq_fanout_port", "Port for fanouts; 0: the usual one.", 1.0),
    Legacy(PROXY, "backend_port", NOTHING, "Servers connect over local sockets."),
    Legacy(PROXY, "local_publisher", NOTHING, "Every host has a publisher."),
    Legacy(PROXY, "ack_pub_sub", NOTHING, "Fanouts are not acknowledged."),
)

#: What is in use of them, by section.
Sections = Mapping[str, Mapping[str, str]]


def legacy_address(sections: Sections) -> str | None:
    """Return the address of the directory that former options name; None: they name none.

    Parameters:
        sections: what a configuration file sets, by section and name; ``DEFAULT`` holds what is
            in no other one.

    Raises:
        OptionError: a value cannot be used; the message holds no password.
    """
    for section in (ZMQ, "DEFAULT"):
        if address := sections.get(section, {}).get("fanout_ds_address"):
            return address
    redis = sections.get(REDIS, {})
    kind = sections.get(ZMQ, {}).get("rpc_zmq_matchmaker", "")
    if kind not in ("", "redis", "sentinel", "dummy"):
        raise OptionError(
            f"rpc_zmq_matchmaker={kind!r} is not acceptable; use one of: redis, sentinel, dummy"
        )
    if kind == "dummy":
        return "memory://"
    if not redis and not kind:
        return None
    login = f":{quote(redis['password'], safe='')}@" if redis.get("password") else ""
    names = [name.strip() for name in redis.get("sentinel_hosts", "").strip("[] ").split(",")]
    sentinels = [name for name in names if name]
    if kind == "sentinel" or (sentinels and not kind):
        hosts = ",".join(f"{login}{name}" for name in sentinels or ["localhost"])
        group = quote(redis.get("sentinel_group_name", SENTINEL_GROUP), safe="")
        return f"sentinel://{hosts}/{group}"
    return f"redis://{login}{redis.get('host', '127.0.0.1')}:{redis.get('port', REDIS_PORT)}/0"


def legacy_options(sections: Sections) -> dict[str, object]:
    """Return the options of this driver that former ones become, without the directory.

    Raises:
        OptionError: a value cannot be used.
    """
    found: dict[str, object] = {}
    for each in OPTIONS:
        text = sections.get(each.section, {}).get(each.name)
        if text is None or each.target in (ADDRESS, ALWAYS, NOTHING):
            continue
        if not each.unit:
            found[each.target] = text
            continue
        value = _number(each.name, text) / each.unit
        # The former driver took -1 for "never", and 0 for a port of its choice.
        if value > 0 or (value == 0 and each.target == "zmq_linger"):
            found[each.target] = int(value) if each.target.endswith("_port") else value
    serialization = sections.get(ZMQ, {}).get("rpc_zmq_serialization", "json")
    if serialization != "json":
        raise OptionError(
            f"rpc_zmq_serialization={serialization!r} is not supported; use json, everywhere"
        )
    return found


def driver_options(sections: Sections) -> dict[str, object]:
    """Return the options of this driver that a configuration file sets, under either name.

    Raises:
        OptionError: a value of a former option cannot be used.
    """
    fields = {field.name for field in dataclasses.fields(ZmqOptions)}
    # They have this driver's names, but another unit or another "never".
    former = {each.name for each in OPTIONS if each.section == ZMQ and each.unit}
    own = {
        name: text
        for name, text in sections.get(ZMQ, {}).items()
        if name in fields and name not in former
    }
    address = legacy_address(sections)
    directory = {} if address is None else {"fanout_ds_address": address}
    return {**legacy_options(sections), **own, **directory}


def warnings(sections: Sections) -> list[str]:
    """Return a sentence for each former option that is set and has another effect here."""
    found = []
    for each in OPTIONS:
        text = sections.get(each.section, {}).get(each.name)
        if text is None:
            continue
        if each.target == NOTHING:
            found.append(f"{each.name} of [{each.section}] has no effect with hbzmq://: {each.doc}")
        elif each.target == ALWAYS and text.strip().lower() in ("false", "0", "no", "off"):
            found.append(
                f"{each.name}={text} of [{each.section}] has no effect with hbzmq://, where it is "
                f"always on: {each.doc}"
            )
    return found


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not abs(value) < float("inf"):
        raise OptionError(f"{name}={text!r} is not acceptable; use a number")
    return value
