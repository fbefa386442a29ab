"""oslo.messaging's classes for drivers, which it keeps private (``oslo_messaging._drivers``)."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from hbshim.adapters.versions import require_attributes, require_version

LIBRARY = "oslo.messaging"
SUPPORTED = ">=17.3,<19"

# Before the private modules are imported, which another version may not have.
require_version(LIBRARY, version(LIBRARY), SUPPORTED)

from oslo_messaging import TransportURL  # noqa: E402
from oslo_messaging._drivers import amqp, base, common, impl_rabbit  # noqa: E402
from oslo_messaging.notify import notifier  # noqa: E402
from stevedore import driver  # noqa: E402

require_attributes(
    LIBRARY,
    version(LIBRARY),
    SUPPORTED,
    base,
    ("BaseDriver", "PollStyleListener", "PollStyleListenerAdapter", "RpcIncomingMessage"),
)
require_attributes(
    LIBRARY,
    version(LIBRARY),
    SUPPORTED,
    common,
    (
        "deserialize_msg",
        "deserialize_remote_exception",
        "serialize_msg",
        "serialize_remote_exception",
    ),
)
require_attributes(LIBRARY, version(LIBRARY), SUPPORTED, impl_rabbit, ("rabbit_opts",))
require_attributes(LIBRARY, version(LIBRARY), SUPPORTED, amqp, ("amqp_opts",))

BaseDriver = base.BaseDriver
PollStyleListener = base.PollStyleListener
PollStyleListenerAdapter = base.PollStyleListenerAdapter
RpcIncomingMessage = base.RpcIncomingMessage
deserialize_remote_exception = common.deserialize_remote_exception
serialize_remote_exception = common.serialize_remote_exception
#: The envelope of oslo.messaging 2.0 around the content of a notification.
deserialize_message = common.deserialize_msg
serialize_message = common.serialize_msg
#: The options of the group ``oslo_messaging_rabbit``.
RABBIT_OPTIONS = [*impl_rabbit.rabbit_opts, *amqp.amqp_opts]

RABBIT_GROUP = "oslo_messaging_rabbit"
IN_PTHREAD = "heartbeat_in_pthread"


def register_rabbit_option(conf: Any, option: Any) -> None:
    """Register an option of that group, also if oslo.messaging has one of the same name.

    17.3 has ``heartbeat_in_pthread``. oslo.config refuses two different options of one name, and a
    process may also use ``rabbit://``, before or after. So the object that both register is itself
    changed; and so is a copy of it, if one is registered.
    """
    for known in RABBIT_OPTIONS:
        if known.dest == option.dest:
            vars(known).update(vars(option))
    group = conf._groups.get(RABBIT_GROUP)
    registered = group._opts.get(option.dest) if group is not None else None
    if registered is not None:
        vars(registered["opt"]).update(vars(option))
    conf.register_opt(option, group=RABBIT_GROUP)


def rabbit_option(conf: Any, name: str) -> Any:
    """Return the definition of a registered option of that group."""
    return conf._get_opt_info(name, RABBIT_GROUP)["opt"]


def load_driver(conf: Any, url: str, **arguments: Any) -> Any:
    """Return the driver of a transport URL, as oslo.messaging loads it.

    Parameters:
        conf: of the service.
        url: of the transport.
        arguments: of the driver.

    Raises:
        Exception: of oslo.messaging and stevedore; the message may have the URL.
    """
    parsed = TransportURL.parse(conf, url)
    return driver.DriverManager(
        "oslo.messaging.drivers",
        parsed.transport.partition("+")[0],
        invoke_on_load=True,
        invoke_args=(conf, parsed),
        invoke_kwds=arguments,
    ).driver


def parsed_url(conf: Any, url: str) -> Any:
    """Return a transport URL; None if it is malformed, which its own driver reports."""
    try:
        return TransportURL.parse(conf, url)
    except Exception:
        return None


def notifications_url(conf: Any) -> str | None:
    """Return ``[oslo_messaging_notifications] transport_url``; None if it is not set."""
    group = "oslo_messaging_notifications"
    conf.register_opts(notifier._notifier_opts, group=group)
    found: str | None = conf[group].transport_url
    return found


def polled_by(adapter: Any) -> Any:
    """Return the listener that a driver's ``listen`` has put an adapter around."""
    return adapter._poll_style_listener
