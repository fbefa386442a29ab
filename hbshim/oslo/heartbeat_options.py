"""hbshim's options of ``[oslo_messaging_rabbit]``, which are options of a URL's query too.

oslo.messaging removed ``heartbeat_in_pthread`` in 18.0.0, because its way to a native
thread hung the process; here it is back, with hbshim's engine behind it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from oslo_config import cfg

from hbshim.adapters.oslo.base import RABBIT_GROUP, register_rabbit_option
from hbshim.errors import OptionError
from hbshim.options import Options
from hbshim.oslo.option_type import OptionType

#: The options of hbshim that a service may set, each under its key of a URL's query.
#: Not `heartbeat`: here that is ``heartbeat_timeout_threshold``.
_OFFERED = ("heartbeat_in_pthread", "worker", "liveness_timeout", "watch_socket")
_FIELDS = {
    field.metadata["url_key"]: field
    for field in dataclasses.fields(Options)
    if field.name in _OFFERED
}


class _Auto:
    """``auto``, which is not true: oslo.messaging 17.3 asks its option whether it is.

    No string either: oslo.config would make a plain one of it.
    """

    def __bool__(self) -> bool:
        return False

    def __str__(self) -> str:
        return "auto"


_AUTO = _Auto()


class _OptionType(OptionType):
    def __call__(self, value: object) -> object:
        parsed = super().__call__(value)
        return _AUTO if parsed == "auto" else parsed


#: Without defaults of oslo.config's own, so that what was not set here leaves the word to
#: hbshim's other sources of options.
RABBIT_OPTIONS = [
    cfg.Opt(
        key,
        type=_OptionType(key, field),
        sample_default=str(field.default),
        help=field.metadata["doc"],
    )
    for key, field in _FIELDS.items()
]


def register(conf: Any) -> None:
    """Make them known to `conf`, beside oslo.messaging's own or before them."""
    for option in RABBIT_OPTIONS:
        register_rabbit_option(conf, option)


def load(conf: Any, query: dict[str, str]) -> Options:
    """The options of a transport.

    Parameters:
        conf: with the options registered; below the environment, as any configuration.
        query: of the transport's URL; above the environment.

    Raises:
        OptionError: a value is not valid, or two options contradict each other.
    """
    from_url = {field.name: query[key] for key, field in _FIELDS.items() if key in query}
    configured = dict(_configured(conf))
    return Options.load(config=configured or None, url=from_url)


def _configured(conf: Any) -> Iterator[tuple[str, object]]:
    for key, field in _FIELDS.items():
        try:
            value = conf[RABBIT_GROUP][key]
        except ValueError as error:
            # oslo.config's own: it names the option and its file.
            raise OptionError(str(error)) from error
        if value is not None:
            yield field.name, value
