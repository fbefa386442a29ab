"""``hbkombu://``, ``hbpika://`` and ``hbzmq://``: hbshim's messaging drivers in oslo.messaging.

Their messages differ from those of ``rabbit://``, so all services that communicate must change
together. Their exchanges and queues have other names, so that both may use one broker.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from typing import Any

import oslo_messaging

from hbshim.adapters.oslo.base import (
    BaseDriver,
    PollStyleListenerAdapter,
    deserialize_remote_exception,
)
from hbshim.errors import (
    BrokerBlockedError,
    CallTimeoutError,
    ConnectError,
    ConnectionLostError,
    HbshimError,
    MessagingError,
    PayloadError,
    PoolTimeoutError,
    UnroutableError,
)
from hbshim.messaging.backoff import pauses
from hbshim.messaging.base import Listener, Payload
from hbshim.messaging.encoding import Encoding
from hbshim.messaging.hosts import Host
from hbshim.messaging.registry import factory
from hbshim.messaging.target import Target
from hbshim.oslo import settings
from hbshim.oslo.envelopes import OWN, Envelope, Request
from hbshim.oslo.incoming import OsloListener
from hbshim.oslo.joint_listener import JoinableListener, OtherTransports

LOG = logging.getLogger(__name__)

#: Its options have groups of their own, and its URLs may name a directory.
ZMQ_SCHEME, ZMQ_GROUP = "hbzmq", "oslo_messaging_zmq"

#: How many targets are cached.
_target = functools.lru_cache(256)(Target)

#: Seconds that a starting service waits for the broker; after that it starts without it.
OPEN_LIMIT = 10.0

#: Seconds for one attempt of a notification with unlimited retries. Long, because a broker may take
#: its time to confirm, and a second copy is sent only if it did not.
UNLIMITED_LIMIT = 86400.0

#: AMQP 0-9-1, basic.qos: `prefetch-count` is an unsigned short; 0 is unlimited.
LARGEST_PREFETCH = 65535

#: The longest pause between two rounds of attempts, in seconds.
LONGEST_PAUSE = 5.0

#: After these errors a message is not at the broker, and a later attempt may succeed.
NOT_SENT = (ConnectError, ConnectionLostError, BrokerBlockedError, PoolTimeoutError)


class MessagingDriver(BaseDriver):  # type: ignore[misc]
    """oslo.messaging's interface over :class:`hbshim.messaging.base.Driver`.

    Parameters:
        scheme: of a driver, see :mod:`hbshim.messaging.registry`.
        conf, url, default_exchange, allowed_remote_exmods: see oslo.messaging's class.

    Raises:
        OptionError: an option is not valid.
        MissingExtraError: the library is not installed.
    """

    #: How requests are written.
    envelope: Envelope = OWN
    #: Of its options.
    group = settings.GROUP
    #: Whether each use of an exchange has a name of its own.
    suffixes = True

    def __init__(
        self,
        scheme: str,
        conf: Any,
        url: Any,
        default_exchange: str | None = None,
        allowed_remote_exmods: Iterable[str] | None = None,
    ) -> None:
        super().__init__(conf, url, default_exchange, allowed_remote_exmods)
        options, self._chosen = self._load(scheme, conf, url)
        self._options = options
        self._encoding = Encoding(limit=options.payload_limit)
        drivers = factory(scheme)
        if "+" in url.transport:
            hosts = [Host("localhost", drivers.default_port(options), None, None, "")]
        else:
            hosts = self._hosts(url, drivers.default_port(options))
        self._driver = drivers.open(hosts, options)
        group = ZMQ_GROUP if scheme == ZMQ_SCHEME else self.group
        self._others = OtherTransports(conf, group, default_exchange, allowed_remote_exmods)

    def _load(self, scheme: str, conf: Any, url: Any) -> tuple[Any, frozenset[str]]:
        """Return the options of a transport, and the names of those that are set.

        Raises:
            OptionError: a value is not valid.
        """
        if scheme == ZMQ_SCHEME:
            from hbshim.oslo import zmq_settings

            zmq_settings.register(conf)
            return zmq_settings.load(conf, url)
        settings.register(conf)
        return settings.load(conf, url.query, f"{url.transport}://")

    def _hosts(self, url: Any, default_port: int) -> list[Host]:
        return [
            Host(
                host.hostname or "localhost",
                int(host.port or default_port),
                host.username or None,
                None if host.password is None else str(host.password),
                url.virtual_host or "",
            )
            for host in url.hosts or [oslo_messaging.TransportHost(hostname="localhost")]
        ]

    def require_features(self, requeue: bool = False) -> None:
        """Check that the driver has what a server or listener needs.

        Raises:
            NotImplementedError: as oslo.messaging's own class does.
        """
        if requeue and not self._driver.capabilities.requeues:
            raise NotImplementedError(
                "this transport cannot requeue messages; with hbzmq://, set notification_acks=true "
                "here and where the notifications come from"
            )

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
        at_least_once = bool(transport_options and transport_options.at_least_once)
        try:
            own_target = self._rpc_target(target)
            request = Request(ctxt, message, call_monitor_timeout)
            payload = self._payload(self.envelope.request(request))
            if not wait_for_reply:
                cast = functools.partial(
                    self._driver.cast,
                    own_target,
                    payload,
                    limit,
                    # As with rabbit://: a fanout may have no server at all.
                    mandatory=at_least_once and not own_target.fanout,
                )
                if timeout is None:
                    self._persistently(cast, retry)
                else:
                    self._in_time(cast, retry)
                return None
            reply = self._driver.call(
                own_target,
                payload,
                limit,
                call_monitor_timeout=call_monitor_timeout or None,
                mandatory=at_least_once,
                attempts=_attempts(retry),
            )
            result, failure = self.envelope.outcome(reply, self._encoding)
            if failure is None:
                return result
        except HbshimError as error:
            raise _theirs(error, target, message) from error
        raise self._remote(failure)

    def send_notification(
        self, target: Any, ctxt: Any, message: Any, version: float, retry: int | None = None
    ) -> None:
        topic, _, priority = target.topic.rpartition(".")
        try:
            own_target = _target(topic, exchange=self._notification_exchange(target))
            payload = self._payload(self.envelope.notification(Request(ctxt, message), version))
            limit = self._notify_limit(retry)
            notify = functools.partial(self._driver.notify, own_target, payload, priority, limit)
            self._persistently(notify, retry)
        except HbshimError as error:
            raise _theirs(error, target, message) from error

    def listen(self, target: Any, batch_size: int, batch_timeout: float | None) -> Any:
        try:
            listener, prefetch = self._rpc_listener(target, batch_size)
            if not self._others:
                return self._polled(listener, prefetch, batch_size, batch_timeout)
            own = JoinableListener(listener, self._encoding, prefetch)
            return self._others.joined(own, prefetch, target, batch_size, batch_timeout, OPEN_LIMIT)
        except HbshimError as error:
            raise _theirs(error, target) from error

    def listen_alone(self, target: Any, batch_size: int) -> JoinableListener:
        """Return a listener over this transport, for one that joins several."""
        listener, prefetch = self._rpc_listener(target, batch_size)
        return JoinableListener(listener, self._encoding, prefetch)

    def _rpc_listener(self, target: Any, batch_size: int) -> tuple[Listener, int]:
        prefetch = self._prefetch("rpc_prefetch_count", batch_size)
        return self._driver.listen(self._rpc_target(target).to(fanout=False), prefetch), prefetch

    def listen_for_notifications(
        self,
        targets_and_priorities: AbstractSet[tuple[Any, str]],
        pool: str | None,
        batch_size: int,
        batch_timeout: float | None,
    ) -> Any:
        try:
            own_targets = [
                (_target(target.topic, exchange=self._notification_exchange(target)), priority)
                for target, priority in targets_and_priorities
            ]
            prefetch = self._prefetch("notification_prefetch_count", batch_size)
            listener = self._driver.listen_for_notifications(own_targets, pool, prefetch)
            return self._polled(listener, prefetch, batch_size, batch_timeout)
        except HbshimError as error:
            first = next((target for target, _ in targets_and_priorities), None)
            raise _theirs(error, first) from error

    def cleanup(self) -> None:
        self._others.cleanup()
        self._driver.close()

    def _prefetch(self, option: str, batch_size: int) -> int:
        """Return the prefetch of a consumer.

        It is a whole batch, unless the option is set: with a smaller prefetch a larger batch would
        never fill. oslo.messaging has smaller batches then.
        """
        count: int = getattr(self._options, option)
        if option in self._chosen or count == 0:
            return count
        return 0 if batch_size > LARGEST_PREFETCH else max(count, batch_size)

    def _polled(
        self, listener: Listener, prefetch: int, batch_size: int, batch_timeout: float | None
    ) -> Any:
        listener.open(OPEN_LIMIT)
        return PollStyleListenerAdapter(
            OsloListener(listener, self._encoding, prefetch), batch_size, batch_timeout
        )

    def _payload(self, value: Any) -> Payload:
        return Payload(self._encoding.encode(value), self._encoding.content_type)

    def _notify_limit(self, retry: int | None) -> float:
        """Return the seconds for one attempt to send a notification."""
        return UNLIMITED_LIMIT if _unlimited(retry) else self._options.rpc_timeout

    def _remote(self, failure: str) -> Exception:
        """Return the exception of a server that `failure` describes."""
        try:
            return deserialize_remote_exception(failure, self._allowed_remote_exmods)  # type: ignore[no-any-return]
        except Exception as error:
            return oslo_messaging.MessageDeliveryFailure(  # type: ignore[no-any-return]
                f"the server raised an exception, whose description cannot be read: {error!r}"
            )

    def _persistently(self, send: Callable[..., None], retry: int | None) -> None:
        """Send, with as many retries as the caller wants, without a time limit.

        Parameters:
            send: takes the parameter `attempts`; has a time limit of its own.
            retry: None and negative numbers are unlimited.

        Raises:
            ConnectError: it is final: another attempt cannot succeed.
            HbshimError: the last of :data:`NOT_SENT`, after all attempts; any other at once.
        """
        began = time.monotonic()
        # One attempt first, to log at once that an outage has begun.
        attempts: int | None = 1
        for number, pause in enumerate(pauses(self._options.connection_retry_delay)):
            try:
                send(attempts=attempts)
            except NOT_SENT as error:
                if isinstance(error, ConnectError) and error.final:
                    raise
                if retry is not None and 0 <= retry <= number:
                    raise
                LOG.warning(
                    "A message is not sent yet, %.1f s after the first attempt; retrying: %s",
                    time.monotonic() - began,
                    error,
                )
            else:
                if number:
                    LOG.info("The message was sent after %.1f s.", time.monotonic() - began)
                return
            if _unlimited(retry):
                attempts = None
            time.sleep(min(pause, LONGEST_PAUSE))

    def _in_time(self, send: Callable[..., None], retry: int | None) -> None:
        """Send within the caller's timeout.

        Parameters:
            send, retry: as for :meth:`_persistently`.

        Raises:
            MessagingTimeout: of oslo.messaging: with unlimited retries, the time is over.
        """
        try:
            send(attempts=_attempts(retry))
        except NOT_SENT as error:
            if _unlimited(retry) and not (isinstance(error, ConnectError) and error.final):
                raise oslo_messaging.MessagingTimeout(str(error)) from error
            raise

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
        """Return the exchange of a target.

        It is the value of `control_exchange` with a suffix for the use: "openstack" gives the
        defaults of the specification. A suffix, because ``rabbit://`` has an exchange of that name
        and another type.
        """
        if target.exchange is None and option in self._chosen:
            return None
        exchange = target.exchange or self._default_exchange
        return f"{exchange}_{use}" if exchange and self.suffixes else exchange


def _unlimited(retry: int | None) -> bool:
    return retry is None or retry < 0


def _attempts(retry: int | None) -> int | None:
    return None if retry is None or retry < 0 else retry + 1


def _theirs(error: HbshimError, target: Any, message: Any = None) -> Any:
    """Return an error of hbshim as oslo.messaging's own."""
    if isinstance(error, CallTimeoutError):
        return oslo_messaging.MessagingTimeout(str(error))
    if isinstance(error, UnroutableError):
        exchange, topic = (target.exchange, target.topic) if target else (None, None)
        return oslo_messaging.MessageUndeliverable(error, exchange, topic, message)
    if isinstance(error, PayloadError):
        return PayloadFailure(str(error))
    if isinstance(error, MessagingError):
        return oslo_messaging.MessageDeliveryFailure(str(error))
    return oslo_messaging.InvalidTarget(str(error), target)


class PayloadFailure(oslo_messaging.MessagingException, ValueError):  # type: ignore[misc]  # noqa: N818
    """A payload cannot be serialized, or is too large."""
