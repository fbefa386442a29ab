"""The directory's options of oslo.messaging's former ZeroMQ driver, and what becomes of each.

Names, units and defaults are those of oslo.messaging 8.1. An option is mapped to an attribute of
the address or the settings; or it has no effect here, for the reason that is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote

from hbshim.errors import OptionError
from hbshim.messaging.zmq.directory.address import REDIS_PORT, SENTINEL_GROUP
from hbshim.messaging.zmq.directory.settings import DirectorySettings


class Legacy(NamedTuple):
    """One former option.

    Attributes:
        target: what it is here; "": it has no effect.
        doc: how it is used, or why it is not.
    """

    section: str
    name: str
    target: str
    doc: str


REDIS, PROXY, ZMQ = "matchmaker_redis", "zmq_proxy_opts", "oslo_messaging_zmq"

OPTIONS = (
    Legacy("DEFAULT", "fanout_ds_address", "address", "The address of the directory, whole."),
    Legacy(ZMQ, "rpc_zmq_matchmaker", "address", "redis, sentinel or dummy (one process)."),
    Legacy(ZMQ, "zmq_target_expire", "expire", "Seconds that a lease lasts; -1: the default."),
    Legacy(ZMQ, "zmq_target_update", "update", "Seconds between two lookups of known routes."),
    Legacy(REDIS, "host", "address", "Of Redis."),
    Legacy(REDIS, "port", "address", "Of Redis."),
    Legacy(REDIS, "password", "address", "Of Redis."),
    Legacy(REDIS, "sentinel_hosts", "address", "host:port of each Sentinel."),
    Legacy(REDIS, "sentinel_group_name", "address", "The servers that the Sentinels watch."),
    Legacy(REDIS, "wait_timeout", "wait_timeout", "Milliseconds before Redis is tried again."),
    Legacy(REDIS, "socket_timeout", "socket_timeout", "Milliseconds for connecting and answers."),
    Legacy(REDIS, "check_timeout", "", "No operation is repeated until a limit: a deadline is."),
    Legacy(PROXY, "host", "rpc_zmq_host", "Name of the proxy's host in the directory."),
    Legacy(PROXY, "url", "address", "The transport's URL, where it names a directory."),
    Legacy(PROXY, "frontend_port", "zmq_call_port", "Port for calls; 0: the usual one."),
    Legacy(PROXY, "publisher_port", "zmq_fanout_port", "Port for fanouts; 0: the usual one."),
    Legacy(PROXY, "backend_port", "", "Servers connect over local sockets."),
    Legacy(PROXY, "local_publisher", "", "Every host has a publisher."),
    Legacy(PROXY, "ack_pub_sub", "", "Fanouts are not acknowledged."),
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
    if address := sections.get("DEFAULT", {}).get("fanout_ds_address"):
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


def legacy_settings(sections: Sections) -> DirectorySettings:
    """Return the settings that former options make.

    Raises:
        OptionError: a value is no number.
    """
    usual = DirectorySettings()
    return DirectorySettings(
        expire=_seconds(sections, ZMQ, "zmq_target_expire", 1.0, usual.expire),
        update=_seconds(sections, ZMQ, "zmq_target_update", 1.0, usual.update),
        socket_timeout=_seconds(sections, REDIS, "socket_timeout", 1000.0, usual.socket_timeout),
        wait_timeout=_seconds(sections, REDIS, "wait_timeout", 1000.0, usual.wait_timeout),
    )


def without_effect(sections: Sections) -> list[Legacy]:
    """Return the options that are set and have no effect, to be reported once."""
    return [
        each for each in OPTIONS if not each.target and each.name in sections.get(each.section, {})
    ]


def _seconds(sections: Sections, section: str, name: str, unit: float, usual: float) -> float:
    text = sections.get(section, {}).get(name)
    try:
        value = usual if text is None else float(text) / unit
    except ValueError:
        raise OptionError(f"{name}={text!r} is not acceptable; use a number") from None
    if not value < float("inf"):
        raise OptionError(f"{name}={text!r} is not acceptable; use a number")
    # The former driver took -1 for "never".
    return value if value > 0 else usual
