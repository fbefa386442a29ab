"""hbshim's options of ``[oslo_messaging_rabbit]``, which a URL's query may also set.

oslo.messaging removed ``heartbeat_in_pthread`` in 18.0.0, because its native thread made the
process hang; here it is available again, with hbshim's engine.
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
    """``auto`` as a false value: oslo.messaging 17.3 tests whether its option is true.

    It is not a string, because oslo.config would make a plain string of it.
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


#: Without defaults of oslo.config, so that an option that is not set here is taken from hbshim's
#: other sources.
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
    """Register the options with `conf`, in addition to oslo.messaging's own or before them."""
    for option in RABBIT_OPTIONS:
        register_rabbit_option(conf, option)


def load(conf: Any, query: dict[str, str]) -> Options:
    """Return the options of a transport.

    Parameters:
        conf: with the options registered; lower precedence than the environment.
        query: of the transport's URL; higher precedence than the environment.

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
            # oslo.config's own error, which names the option and its file.
            raise OptionError(str(error)) from error
        if value is not None:
            yield field.name, value
