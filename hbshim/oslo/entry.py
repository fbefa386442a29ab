"""The functions that stevedore calls, by the entry points ``oslo.messaging.drivers``.

Functions, not the drivers' classes: importing a driver may fail with a version that hbshim does not
know, and stevedore would let hbshim's own error through.
"""

from __future__ import annotations

from typing import Any

from oslo_messaging.transport import DriverLoadFailure

from hbshim.adapters import stevedore
from hbshim.errors import HbshimError


def hbrabbit(conf: Any, url: Any, **arguments: Any) -> Any:
    """The driver of ``hbrabbit://``, see :mod:`hbshim.oslo.rabbit`.

    Raises:
        oslo_messaging.DriverLoadFailure: an option is not valid, or oslo.messaging,
            kombu or py-amqp is of a version hbshim does not know.
    """
    try:
        from hbshim.oslo.rabbit import RabbitDriver

        return RabbitDriver(conf, url, **arguments)
    except HbshimError as error:
        raise DriverLoadFailure("hbrabbit", error) from error


def hbkombu(conf: Any, url: Any, **arguments: Any) -> Any:
    """The driver of ``hbkombu://``, see :mod:`hbshim.oslo.driver`.

    Raises:
        oslo_messaging.DriverLoadFailure: as above.
    """
    return _messaging_driver("hbkombu", conf, url, arguments)


def hbpika(conf: Any, url: Any, **arguments: Any) -> Any:
    """The driver of ``hbpika://``, see :mod:`hbshim.oslo.driver`.

    Raises:
        oslo_messaging.DriverLoadFailure: as above.
    """
    return _messaging_driver("hbpika", conf, url, arguments)


def hbzmq(conf: Any, url: Any, **arguments: Any) -> Any:
    """The driver of ``hbzmq://``, see :mod:`hbshim.oslo.driver`.

    Raises:
        oslo_messaging.DriverLoadFailure: as above.
    """
    return _messaging_driver("hbzmq", conf, url, arguments)


def hbamqp(conf: Any, url: Any, **arguments: Any) -> Any:
    """The driver of ``hbamqp://``, see :mod:`hbshim.oslo.amqp1_driver`.

    Raises:
        oslo_messaging.DriverLoadFailure: as above.
    """
    try:
        from hbshim.oslo.amqp1_driver import Amqp1MessagingDriver

        return Amqp1MessagingDriver("hbamqp", conf, url, **arguments)
    except HbshimError as error:
        raise DriverLoadFailure(url.transport, error) from error


def amqp(conf: Any, url: Any, **arguments: Any) -> Any:
    """The same driver, for ``amqp://``; oslo.messaging's own where it has one (until 14.9).

    Raises:
        oslo_messaging.DriverLoadFailure: as above.
    """
    if stevedore.is_taken("oslo.messaging.drivers", "amqp"):
        stevedore.give_way(amqp)
        return None
    return hbamqp(conf, url, **arguments)


def _messaging_driver(scheme: str, conf: Any, url: Any, arguments: dict[str, Any]) -> Any:
    try:
        from hbshim.oslo.driver import MessagingDriver

        return MessagingDriver(scheme, conf, url, **arguments)
    except HbshimError as error:
        raise DriverLoadFailure(scheme, error) from error
