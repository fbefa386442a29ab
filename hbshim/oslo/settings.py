"""The options of ``hbkombu://`` and ``hbpika://``.

Those of the specification of oslo.messaging's pika driver are in the group
``[oslo_messaging_pika]``, under their names there. An option that is not set there is taken from
``[oslo_messaging_rabbit]``, see :mod:`hbshim.oslo.rabbit_options`. A URL's query takes precedence
over both, and may set options of both.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from oslo_config import cfg

from hbshim.adapters.oslo.base import RABBIT_GROUP, RABBIT_OPTIONS, rabbit_option
from hbshim.errors import OptionError
from hbshim.messaging.amqp.options import AmqpOptions
from hbshim.oslo import effects, heartbeat_options, rabbit_options
from hbshim.oslo.option_type import OptionType

LOG = logging.getLogger(__name__)

GROUP = "oslo_messaging_pika"

#: hbshim's own options in the other group.
_OF_HBSHIM = frozenset(each.dest for each in heartbeat_options.RABBIT_OPTIONS)

#: oslo.messaging has options of these names in the other group.
_OF_RABBIT = ("ssl_version", "ssl_ca_file")

_FIELDS = {
    field.name: field for field in dataclasses.fields(AmqpOptions) if field.name not in _OF_RABBIT
}

#: Without defaults of oslo.config: an option that is not set is taken from the other group.
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
    """Register both groups with `conf`."""
    conf.register_group(cfg.OptGroup(GROUP, title="hbshim's messaging drivers"))
    conf.register_opts(OPTIONS, group=GROUP)
    # First, because oslo.messaging may have an option of the same name, or none.
    heartbeat_options.register(conf)
    conf.register_opts(RABBIT_OPTIONS, group=RABBIT_GROUP)


def load(
    conf: Any, query: Mapping[str, str], scheme: str = "this transport"
) -> tuple[AmqpOptions, frozenset[str]]:
    """Return the options of a transport, and the names of those that are set.

    Parameters:
        conf: with the options registered.
        query: of the transport's URL; names of either group.
        scheme: of the URL, for warnings.

    Raises:
        OptionError: a value is not valid, or an option in the query is unknown.
    """
    own_query = {name: text for name, text in query.items() if not _is_rabbits(conf, name)}
    rabbit = {name: _value(conf, RABBIT_GROUP, name) for name in _set_by_the_service(conf)}
    from_query = {
        name: _parsed(conf, name, text) for name, text in query.items() if name not in own_query
    }
    effective = {**rabbit, **from_query}
    unusual = _unusual(conf, effective)
    for text in effects.warnings(rabbit_options.OPTIONS, unusual, RABBIT_GROUP, scheme):
        LOG.warning("%s.", text)
    merged = _translated(effective)
    # The query takes precedence over the other group, and over the environment.
    asked = {name: merged[name] for name in rabbit_options.translated(from_query)}
    asked.update(AmqpOptions.from_query(own_query))
    configured = {**merged, **dict(_configured(conf))}
    options = AmqpOptions.load(config=configured, url=asked)
    environment = AmqpOptions.names_in_environment()
    return options, frozenset(configured) | frozenset(asked) | environment


def _configured(conf: Any) -> Iterator[tuple[str, object]]:
    for name in _FIELDS:
        value = _value(conf, GROUP, name)
        if value is not None:
            yield name, value


def _value(conf: Any, group: str, name: str) -> Any:
    try:
        return conf[group][name]
    except ValueError as error:
        # oslo.config's own error, which names the option and its file.
        raise OptionError(str(error)) from error


def _is_rabbits(conf: Any, name: str) -> bool:
    """Return whether an option belongs only to the other group."""
    return name not in _FIELDS and name not in _OF_HBSHIM and name in conf[RABBIT_GROUP]


def _set_by_the_service(conf: Any) -> Iterator[str]:
    """Return the options of the rabbit driver that are set; its defaults do not count."""
    for name in conf[RABBIT_GROUP]:
        try:
            location = conf.get_location(name, RABBIT_GROUP)
        except ValueError as error:
            raise OptionError(str(error)) from error
        if location is not None and location.location not in (
            cfg.Locations.opt_default,
            cfg.Locations.set_default,
        ):
            yield name


def _parsed(conf: Any, name: str, text: str) -> Any:
    option = rabbit_option(conf, name)
    try:
        return option.type(text)
    except ValueError as error:
        raise OptionError(f"{name}={text!r} in the URL is not valid: {error}") from None


def _unusual(conf: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that differ from their defaults, without hbshim's."""
    return {
        name: value for name, value in values.items() if value != rabbit_option(conf, name).default
    }


def _translated(values: Mapping[str, Any]) -> dict[str, object]:
    """Call :func:`rabbit_options.translated`; an error names the options that are set."""
    own = rabbit_options.translated(values)
    effects.check(own, _FIELDS, rabbit_options.OPTIONS, values, RABBIT_GROUP)
    return own
