"""The options of ``hbkombu://`` and ``hbpika://``.

Those of the specification of oslo.messaging's pika driver are in the group
``[oslo_messaging_pika]``, by their names there. What is not set there is taken from
``[oslo_messaging_rabbit]``, where oslo.messaging has an option for the same. A URL's query
wins over both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

from oslo_config import cfg

from hbshim.adapters.oslo_base import RABBIT_GROUP, RABBIT_OPTIONS
from hbshim.messaging.options import MessagingOptions
from hbshim.oslo import options
from hbshim.oslo.option_type import OptionType

GROUP = "oslo_messaging_pika"

_FIELDS = {field.name: field for field in dataclasses.fields(MessagingOptions)}

#: Options of the rabbit driver, each with what it is called here.
FROM_RABBIT = {
    "ssl": "ssl",
    "heartbeat_timeout_threshold": "heartbeat_interval",
    "heartbeat_in_pthread": "heartbeat_in_pthread",
    "rabbit_quorum_queue": "quorum_queues",
    "rabbit_transient_queues_ttl": "rpc_queue_expiration",
    "rabbit_qos_prefetch_count": "rpc_prefetch_count",
}

#: Files and the like of TLS, each with its key in `ssl_options`.
TLS_FROM_RABBIT = {
    "ssl_ca_file": "cafile",
    "ssl_cert_file": "certfile",
    "ssl_key_file": "keyfile",
}


#: Without defaults of oslo.config's own: what is not set leaves the word to the other group.
OPTIONS = [
    cfg.Opt(
        name,
        type=OptionType(name, field),
        sample_default=str(field.default),
        help=field.metadata["doc"],
        secret=name == "ssl_options",
    )
    for name, field in _FIELDS.items()
]


def register(conf: Any) -> None:
    """Make both groups known to `conf`."""
    conf.register_group(cfg.OptGroup(GROUP, title="hbshim's messaging drivers"))
    conf.register_opts(OPTIONS, group=GROUP)
    # First, because oslo.messaging may have an option of the same name, or none.
    options.register(conf)
    conf.register_opts(RABBIT_OPTIONS, group=RABBIT_GROUP)


def load(conf: Any, query: Mapping[str, str]) -> tuple[MessagingOptions, frozenset[str]]:
    """The options of a transport, and the names of those that somebody set.

    Parameters:
        conf: with the options registered.
        query: of the transport's URL.

    Raises:
        OptionError: a value is not acceptable, or an option in the query is unknown.
    """
    configured = {**dict(_from_rabbit(conf)), **dict(_configured(conf))}
    options = MessagingOptions.load(config=configured, url="?" + urlencode(query))
    return options, frozenset(configured) | frozenset(query)


def _configured(conf: Any) -> Iterator[tuple[str, object]]:
    for name in _FIELDS:
        value = conf[GROUP][name]
        if value is not None:
            yield name, value


def _from_rabbit(conf: Any) -> Iterator[tuple[str, object]]:
    for theirs, ours in FROM_RABBIT.items():
        if _is_set(conf, theirs):
            yield ours, conf[RABBIT_GROUP][theirs]
    tls = {
        key: conf[RABBIT_GROUP][name]
        for name, key in TLS_FROM_RABBIT.items()
        if _is_set(conf, name)
    }
    if tls:
        yield "ssl_options", tls
    if _is_set(conf, "kombu_failover_strategy"):
        yield "hosts_shuffle", conf[RABBIT_GROUP].kombu_failover_strategy == "shuffle"


def _is_set(conf: Any, name: str) -> bool:
    """Whether a service set an option of the rabbit driver: its defaults are not ours."""
    if name not in conf[RABBIT_GROUP]:
        return False  # some were removed in 18.0
    location = conf.get_location(name, RABBIT_GROUP)
    return location is not None and location.location not in (
        cfg.Locations.opt_default,
        cfg.Locations.set_default,
    )
