"""The options of ``hbamqp://`` and ``amqp://``.

They are in the group of oslo.messaging's former driver ``amqp://``, under their names there, so
that a configuration file of it loads unchanged; see :mod:`hbshim.oslo.amqp1_options`. hbshim's own
ones are in that group, too. A URL's query takes precedence, and may set options of both.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from oslo_config import cfg

from hbshim.errors import OptionError
from hbshim.messaging.amqp1.options import Amqp1Options
from hbshim.oslo import amqp1_options, effects
from hbshim.oslo.effects import Ignored
from hbshim.oslo.option_type import OptionType

LOG = logging.getLogger(__name__)

GROUP = "oslo_messaging_amqp"

#: The group of that driver's first versions.
_FORMER_GROUP = "amqp1"

_FIELDS = {field.name: field for field in dataclasses.fields(Amqp1Options)}

#: The type of each former option, and its default there: a value that is the default is no reason
#: for a warning. Options that are not here are text, empty unless set.
_TYPES: Mapping[str, tuple[Any, Any]] = {
    "idle_timeout": (cfg.types.Integer(min=0), 0),
    "trace": (cfg.types.Boolean(), False),
    "ssl": (cfg.types.Boolean(), False),
    "ssl_verify_vhost": (cfg.types.Boolean(), False),
    "connection_retry_interval": (cfg.types.Integer(min=1), 1),
    "connection_retry_backoff": (cfg.types.Integer(min=0), 2),
    "connection_retry_interval_max": (cfg.types.Integer(min=1), 30),
    "link_retry_delay": (cfg.types.Integer(min=1), 10),
    "default_reply_retry": (cfg.types.Integer(min=-1), 0),
    "default_reply_timeout": (cfg.types.Integer(min=5), 30),
    "default_send_timeout": (cfg.types.Integer(min=5), 30),
    "default_notify_timeout": (cfg.types.Integer(min=5), 30),
    "default_sender_link_timeout": (cfg.types.Integer(min=1), 600),
    "pseudo_vhost": (cfg.types.Boolean(), True),
    "reply_link_credit": (cfg.types.Integer(min=1), 200),
    "rpc_server_credit": (cfg.types.Integer(min=1), 100),
    "notify_server_credit": (cfg.types.Integer(min=1), 100),
    "pre_settled": (cfg.types.MultiString(), ["rpc-cast", "rpc-reply"]),
}

_SECRET = frozenset(("ssl_key_password", "ssl_options"))


def _help(effect: effects.Effect) -> str:
    if isinstance(effect, Ignored):
        return f"No effect: {effect.reason}."
    names = ", ".join(effect.names)
    return f"Sets {names}. {effect.meaning}" if names else effect.meaning


def _former(name: str) -> Any:
    kind, _ = _TYPES.get(name, (cfg.types.String(), ""))
    settings = {
        "help": _help(amqp1_options.EFFECTS[name]),
        "secret": name in _SECRET,
        "deprecated_group": _FORMER_GROUP,
    }
    if name == "pre_settled":
        return cfg.MultiStrOpt(name, **settings)
    return cfg.Opt(name, type=kind, **settings)


#: Without defaults of oslo.config, so that an option that is not set has this driver's own default.
OPTIONS = [
    *map(_former, amqp1_options.EFFECTS),
    *(
        cfg.Opt(
            name,
            type=OptionType(name, field),
            sample_default=str(field.default),
            help=field.metadata["doc"],
            secret=name in _SECRET,
        )
        for name, field in _FIELDS.items()
        if name not in amqp1_options.EFFECTS
    ),
]


@dataclass(frozen=True)
class ServiceOptions(Amqp1Options):
    """The options of a driver whose targets are those of oslo.messaging."""

    one_exchange = True


@dataclass(frozen=True)
class Settings:
    """The options of one transport.

    Attributes:
        options: those of the driver.
        chosen: the names of those that are set.
        realm: of users that have none.
        notify_timeout: seconds for one attempt to send a notification; None: no limit.
    """

    options: Amqp1Options
    chosen: frozenset[str]
    realm: str
    notify_timeout: float | None


def register(conf: Any) -> None:
    """Register the group with `conf`."""
    conf.register_group(cfg.OptGroup(GROUP, title="hbshim's driver over AMQP 1.0"))
    conf.register_opts(OPTIONS, group=GROUP)


def load(conf: Any, url: Any) -> Settings:
    """Return the options of a transport.

    Parameters:
        conf: with the options registered.
        url: of the transport.

    Raises:
        OptionError: a value is not valid, or an option in the query is unknown.
    """
    scheme = f"{url.transport}://"
    set_in_file = dict(_configured(conf))
    query = dict(url.query)
    former_query = {name: _parsed(name, query.pop(name)) for name in [*query] if _is_former(name)}
    former_file = {name: value for name, value in set_in_file.items() if _is_former(name)}
    former = {**former_file, **former_query}
    for text in (
        *effects.warnings(amqp1_options.EFFECTS, _unusual(former), GROUP, scheme),
        *amqp1_options.notices(former),
    ):
        LOG.warning("%s.", text)
    has_user = any(host.username for host in url.hosts)
    merged = _translated(former, has_user, url.virtual_host or "")
    # The query takes precedence over the file's own options, and over the environment.
    asked = {
        name: value
        for name, value in merged.items()
        if effects.sources(amqp1_options.EFFECTS, name, former_query)
    }
    asked.update(Amqp1Options.from_query(query))
    own = {name: value for name, value in set_in_file.items() if not _is_former(name)}
    configured = {**merged, **own}
    if not has_user:
        # As the former driver: no user, no password.
        configured.setdefault("login_method", "ANONYMOUS")
    # As the former driver: a notification waits for its listener.
    configured.setdefault("direct_notifications", True)
    return Settings(
        ServiceOptions.load(config=configured, url=asked),
        frozenset(configured) | frozenset(asked) | Amqp1Options.names_in_environment(),
        former.get("sasl_default_realm") or "",
        former.get("default_notify_timeout"),
    )


def _is_former(name: str) -> bool:
    return name in amqp1_options.EFFECTS


def _configured(conf: Any) -> Iterator[tuple[str, Any]]:
    for option in OPTIONS:
        try:
            value = conf[GROUP][option.dest]
        except ValueError as error:
            # oslo.config's own error, which names the option and its file.
            raise OptionError(str(error)) from error
        if value is not None:
            yield option.dest, value


def _parsed(name: str, text: str) -> Any:
    if name == "pre_settled":
        return [each.strip() for each in text.split(",")]
    kind, _ = _TYPES.get(name, (cfg.types.String(), ""))
    try:
        return kind(text)
    except ValueError as error:
        raise OptionError(f"{name}={text!r} in the URL is not valid: {error}") from None


def _unusual(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that differ from their defaults in the former driver."""
    return {
        name: value for name, value in values.items() if value != _TYPES.get(name, (None, ""))[1]
    }


def _translated(values: Mapping[str, Any], has_user: bool, path: str) -> dict[str, object]:
    """Call :func:`amqp1_options.translated`; an error names the options that are set."""
    own = amqp1_options.translated(values, has_user=has_user, path=path)
    effects.check(own, _FIELDS, amqp1_options.EFFECTS, values, GROUP, hidden=_SECRET)
    return own
