"""oslo.messaging: its RabbitDriver, with heartbeats by hbshim instead of its own.

The driver's classes are private (``oslo_messaging._drivers``), so subclasses of them are in this
package, where private attributes may be used. Its connections are kombu's; they get kombu's
transport ``hbshim``, which keeps each alive from its opening and after every reconnection.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any, TypeAlias

# First: it checks the version, before the private modules are imported here.
from hbshim.adapters.oslo.base import IN_PTHREAD, LIBRARY, RABBIT_GROUP, SUPPORTED

# isort: split
from kombu.exceptions import OperationalError
from oslo_messaging._drivers import common, impl_rabbit
from oslo_messaging.exceptions import MessageDeliveryFailure

from hbshim.adapters.kombu import heartbeat as kombu_adapter
from hbshim.adapters.pyamqp.heartbeat import KOMBU_OPTION
from hbshim.adapters.versions import require_attributes
from hbshim.errors import HbshimError

OF_CONNECTION = (
    "_heartbeat_start",
    "_heartbeat_stop",
    "_set_current_channel",
    "_transform_transport_url",
    "ensure",
    "ensure_connection",
    "set_transport_socket_timeout",
)
require_attributes(LIBRARY, version(LIBRARY), SUPPORTED, impl_rabbit.Connection, OF_CONNECTION)

#: Returns hbshim's options, by name, for a connection that is being opened.
OptionsFor: TypeAlias = Callable[[], Mapping[str, object]]


class Connection(impl_rabbit.Connection):  # type: ignore[misc]
    """The driver's connection, kept alive by hbshim.

    The driver's own heartbeat thread runs only if hbshim had to leave a connection alone.
    """

    def __init__(
        self,
        options_for: OptionsFor,
        announced: Mapping[str, str],
        conf: Any,
        url: Any,
        purpose: str,
        retry: int | None = None,
    ) -> None:
        self._options_for = options_for
        self._announced = announced
        super().__init__(_OptionOff(conf), url, purpose, retry=retry)

    def ensure_connection(self) -> None:
        """Connect, unless connected.

        Raises:
            oslo_messaging.MessageDeliveryFailure: hbshim cannot keep it alive; it is closed.
        """
        try:
            options = self.connection.transport_options
            options[KOMBU_OPTION] = dict(self._options_for())
            # As connections of hbshim's own drivers announce it.
            options["client_properties"] = {
                **options.get("client_properties", {}),
                **self._announced,
            }
            super().ensure_connection()
        except HbshimError as error:
            raise MessageDeliveryFailure(str(error)) from error

    def ensure(self, method: Any, *args: Any, **kwargs: Any) -> Any:
        """Call `method`, with retries. A connection that is known to be dead is replaced first.

        The driver's own heartbeat thread did so in the background. Otherwise the first use after a
        loss logs an error and waits for ``kombu_reconnect_delay``.
        """
        if self.purpose == common.PURPOSE_SEND and kombu_adapter.is_dead(
            self.connection, "replaced before oslo.messaging used it again"
        ):
            self._replace()
        return super().ensure(method, *args, **kwargs)

    def _replace(self) -> None:
        # One attempt: if it fails, the driver finds the connection lost, and retries.
        if not kombu_adapter.replace_dead(self.connection):
            return
        try:
            channel = self.connection.channel()
        except (*self.connection.recoverable_connection_errors, OperationalError, HbshimError):
            return
        self._set_current_channel(channel)
        self.set_transport_socket_timeout()

    def _transform_transport_url(self, *args: Any, **kwargs: Any) -> str:
        url: str = super()._transform_transport_url(*args, **kwargs)
        scheme, _, rest = url.partition("://")
        return f"{scheme.replace('amqp', 'hbshim')}://{rest}"

    def _set_current_channel(self, new_channel: Any) -> None:
        super()._set_current_channel(new_channel)
        # After a reconnection. In the constructor the attribute does not exist yet.
        if (
            new_channel is not None
            and self.purpose == common.PURPOSE_SEND
            and vars(self).get("_heartbeat_thread", self) is None
        ):
            self._heartbeat_start()

    def _heartbeat_start(self) -> None:
        self._heartbeat_thread = None
        if kombu_adapter.is_kept_alive(self.connection):
            return
        try:
            super()._heartbeat_start()
        except RuntimeError:
            # No thread can be started: the event `not-kept-alive` reports it.
            self._heartbeat_thread = None


class _OptionOff:
    """A configuration in which 17.3's own ``heartbeat_in_pthread`` is off.

    When it is on, it replaces `threading` and `queue` in two modules of oslo.messaging, for the
    whole process, which made the process hang.
    """

    def __init__(self, conf: Any) -> None:
        self._conf = conf

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._conf, name)
        return _GroupOff(found) if name == RABBIT_GROUP else found


class _GroupOff:
    def __init__(self, group: Any) -> None:
        self._group = group

    def __getattr__(self, name: str) -> Any:
        return False if name == IN_PTHREAD else getattr(self._group, name)


class RabbitDriver(impl_rabbit.RabbitDriver):  # type: ignore[misc]
    """oslo.messaging's driver, over connections of the class above."""

    def __init__(
        self, options_for: OptionsFor, announced: Mapping[str, str], *args: Any, **kwargs: Any
    ) -> None:
        kombu_adapter.register_transport()
        super().__init__(*args, **kwargs)
        # None is open yet; the driver has no other way to set the class.
        self._connection_pool.connection_cls = functools.partial(Connection, options_for, announced)
