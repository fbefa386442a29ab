"""``hbkombu://`` and ``hbpika://``: hbshim's messaging drivers in oslo.messaging.

Their messages are not those of ``rabbit://``: all services that talk to each other change
together. Their exchanges and queues have other names, so that both may use one broker.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import oslo_messaging

from hbshim.adapters.oslo_base import (
    BaseDriver,
    PollStyleListenerAdapter,
    deserialize_remote_exception,
)
from hbshim.errors import (
    CallTimeoutError,
    HbshimError,
    MessagingError,
    PayloadError,
    UnroutableError,
)
from hbshim.messaging.base import UNLIMITED, Listener, Payload
from hbshim.messaging.drivers import driver_over
from hbshim.messaging.encoding import Encoding
from hbshim.messaging.hosts import PORT, TLS_PORT, Host
from hbshim.messaging.options import MessagingOptions
from hbshim.messaging.target import Target
from hbshim.oslo import settings
from hbshim.oslo.incoming import CONTEXT, MESSAGE, SILENCE, OsloListener

#: Targets that are not made, and looked at, anew for each message.
_target = functools.lru_cache(256)(Target)

#: Seconds that a service which starts waits for the broker; it starts without it, too.
OPEN_LIMIT = 10.0


class MessagingDriver(BaseDriver):  # type: ignore[misc]
    """oslo.messaging's interface over :class:`hbshim.messaging.base.Driver`.

    Parameters:
        library: "kombu" or "pika".
        conf, url, default_exchange, allowed_remote_exmods: see oslo.messaging's class.

    Raises:
        OptionError: an option is not acceptable.
        MissingExtraError: the library is not installed.
    """

    def __init__(
        self,
        library: str,
        conf: Any,
        url: Any,
        default_exchange: str | None = None,
        allowed_remote_exmods: Sequence[str] | None = None,
    ) -> None:
        super().__init__(conf, url, default_exchange, allowed_remote_exmods)
        settings.register(conf)
        options, self._chosen = settings.load(conf, url.query)
        self._options = options
        self.prefetch_size = options.rpc_prefetch_count
        self._encoding = Encoding(limit=options.payload_limit)
        self._driver = driver_over(library, tuple(_hosts(url, options)), options)

    def require_features(self, requeue: bool = False) -> None:
        """Everything is supported."""

    def send(
        self,
        target: Any,
        ctxt: Any,
        message: Any,
        wait_for_reply: bool | None = None,
        timeout: float | None = None,
        call_monitor_timeout: float | None = None,
        retry: int | None = None,
        transport_options: Any = None,
    ) -> Any:
        limit = self._options.rpc_timeout if timeout is None else timeout
        try:
            ours = self._rpc_target(target)
            payload = self._payload(ctxt, message, call_monitor_timeout)
            if not wait_for_reply:
                self._driver.cast(ours, payload, limit, attempts=_attempts(retry))
                return None
            reply = self._driver.call(
                ours,
                payload,
                limit,
                silence=call_monitor_timeout or None,
                mandatory=bool(transport_options and transport_options.at_least_once),
                attempts=_attempts(retry) or None,
            )
            if reply.kind != "error":
                return self._encoding.decode(reply.payload.body, reply.payload.content_type)
        except HbshimError as error:
            raise _theirs(error, target) from error
        raise deserialize_remote_exception(reply.payload.body.decode(), self._allowed_remote_exmods)

    def send_notification(
        self, target: Any, ctxt: Any, message: Any, version: float, retry: int | None = None
    ) -> None:
        topic, _, priority = target.topic.rpartition(".")
        try:
            ours = _target(topic, exchange=self._notification_exchange(target))
            payload = self._payload(ctxt, message, None)
            self._driver.notify(
                ours, payload, priority, self._options.rpc_timeout, attempts=_attempts(retry)
            )
        except HbshimError as error:
            raise _theirs(error, target) from error

    def listen(self, target: Any, batch_size: int, batch_timeout: float | None) -> Any:
        try:
            listener = self._driver.listen(self._rpc_target(target).to(fanout=False))
            return self._polled(listener, batch_size, batch_timeout)
        except HbshimError as error:
            raise _theirs(error, target) from error

    def listen_for_notifications(
        self,
        targets_and_priorities: Sequence[tuple[Any, str]],
        pool: str | None,
        batch_size: int,
        batch_timeout: float | None,
    ) -> Any:
        try:
            ours = [
                (_target(target.topic, exchange=self._notification_exchange(target)), priority)
                for target, priority in targets_and_priorities
            ]
            listener = self._driver.listen_for_notifications(ours, pool)
            return self._polled(listener, batch_size, batch_timeout)
        except HbshimError as error:
            first = targets_and_priorities[0][0] if targets_and_priorities else None
            raise _theirs(error, first) from error

    def cleanup(self) -> None:
        self._driver.close()

    def _polled(self, listener: Listener, batch_size: int, batch_timeout: float | None) -> Any:
        listener.open(OPEN_LIMIT)
        return PollStyleListenerAdapter(
            OsloListener(listener, self._encoding, self.prefetch_size), batch_size, batch_timeout
        )

    def _payload(self, ctxt: Any, message: Any, silence: float | None) -> Payload:
        value = {CONTEXT: ctxt, MESSAGE: message}
        if silence:
            value[SILENCE] = silence
        return Payload(self._encoding.encode(value), self._encoding.content_type)

    def _rpc_target(self, target: Any) -> Target:
        return _target(
            target.topic,
            server=None if target.fanout else target.server,
            exchange=self._exchange(target, "default_rpc_exchange", "rpc"),
            fanout=bool(target.fanout),
        )

    def _notification_exchange(self, target: Any) -> str | None:
        return self._exchange(target, "default_notification_exchange", "notification")

    def _exchange(self, target: Any, option: str, use: str) -> str | None:
        """The exchange of a target.

        What `control_exchange` says, with the use behind it: "openstack" gives the defaults
        of the specification. Not that name alone, because ``rabbit://`` has an exchange of
        that name and another type.
        """
        if target.exchange is None and option in self._chosen:
            return None
        exchange = target.exchange or self._default_exchange
        return f"{exchange}_{use}" if exchange else None


def _attempts(retry: int | None) -> int:
    # None and -1: for ever; here, until the timeout.
    return UNLIMITED if retry is None or retry < 0 else retry + 1


def _hosts(url: Any, options: MessagingOptions) -> Iterator[Host]:
    port = TLS_PORT if options.ssl else PORT
    for host in url.hosts or [oslo_messaging.TransportHost(hostname="localhost")]:
        yield Host(
            host.hostname or "localhost",
            int(host.port or port),
            host.username or "guest",
            "guest" if host.password is None else host.password,
            url.virtual_host or "/",
        )


def _theirs(error: HbshimError, target: Any) -> Any:
    """An error of hbshim's as oslo.messaging's own."""
    if isinstance(error, CallTimeoutError):
        return oslo_messaging.MessagingTimeout(str(error))
    if isinstance(error, UnroutableError):
        exchange, topic = (target.exchange, target.topic) if target else (None, None)
        return oslo_messaging.MessageUndeliverable(error, exchange, topic, None)
    if isinstance(error, PayloadError):
        return PayloadFailure(str(error))
    if isinstance(error, MessagingError):
        return oslo_messaging.MessageDeliveryFailure(str(error))
    return oslo_messaging.InvalidTarget(str(error), target)


class PayloadFailure(oslo_messaging.MessagingException, ValueError):  # type: ignore[misc]  # noqa: N818
    """A payload cannot be serialised, or is too large."""
