"""The driver over AMQP 1.0, to RabbitMQ 4 or to a router."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Sequence

from hbshim.messaging.amqp import patterns
from hbshim.messaging.amqp.patterns import Names
from hbshim.messaging.amqp.retries import Retries
from hbshim.messaging.amqp.topology import Subscription
from hbshim.messaging.amqp1.caller import Caller
from hbshim.messaging.amqp1.connection import Connection
from hbshim.messaging.amqp1.listener import Amqp1Listener
from hbshim.messaging.amqp1.options import Amqp1Options
from hbshim.messaging.amqp1.outcomes import Pattern
from hbshim.messaging.amqp1.profiles import Profile, Profiles
from hbshim.messaging.amqp1.sender import Sender
from hbshim.messaging.amqp1.shared import SharedConnection
from hbshim.messaging.base import Payload, Reply, timeout_of
from hbshim.messaging.callers import Callers
from hbshim.messaging.calling import CallRequest
from hbshim.messaging.capabilities import Capabilities
from hbshim.messaging.connecting import HostConnector
from hbshim.messaging.consuming import Source
from hbshim.messaging.steps import Steps, WaitsInThread
from hbshim.messaging.target import Target
from hbshim.options import DEFAULT, Default
from hbshim.protocol.messages import Message
from hbshim.runtime.weak import members


class Amqp1Driver(WaitsInThread):
    """See :class:`hbshim.messaging.base.Driver`. It connects at its first use.

    Parameters:
        connector: opens connections to the hosts.
        options: see :class:`Amqp1Options`.
        profiles: of its hosts.
    """

    def __init__(
        self, connector: HostConnector[Connection], options: Amqp1Options, profiles: Profiles
    ) -> None:
        self.options = options
        self.rpc_timeout = options.rpc_timeout
        self.payload_limit = options.payload_limit
        self._connector = connector
        self._profiles = profiles
        self._sender = Sender(self._shared, options)
        self._callers = Callers(lambda: Caller(connector, options.reply_prefetch_count))
        self._listeners: weakref.WeakSet[Amqp1Listener] = weakref.WeakSet()

    @property
    def capabilities(self) -> Capabilities:
        """Those that the peer allows.

        Before it is known, they are those over RabbitMQ, unless `addressing_profile` sets
        it.
        """
        return self._profiles.current.capabilities

    def call_steps(self, request: CallRequest) -> Steps[Reply]:
        return self._callers.get().call_steps(request)

    def _shared(self) -> SharedConnection:
        return self._callers.get().shared

    def cast(
        self,
        target: Target,
        payload: Payload,
        timeout: float,
        *,
        attempts: int | Default | None = DEFAULT,
        mandatory: bool = False,
    ) -> None:
        deadline = time.monotonic() + timeout_of(timeout)
        self._sender.send(
            lambda profile: (patterns.cast(profile.names, target, payload, deadline), None),
            Pattern.FANOUT if target.fanout else Pattern.CAST,
            deadline,
            self.options.attempts(attempts),
            wait=mandatory or (self.options.cast_confirm and not target.fanout),
            mandatory=mandatory,
        )

    def notify(
        self,
        target: Target,
        payload: Payload,
        priority: str,
        timeout: float,
        *,
        attempts: int | Default | None = DEFAULT,
    ) -> None:
        deadline = time.monotonic() + timeout_of(timeout)
        persistent = self.options.notification_persistence

        def make(profile: Profile) -> tuple[Message, Subscription]:
            subscription = profile.names.notifications(target, priority, None)
            message = patterns.notification(subscription, payload, persistent=persistent)
            return message, subscription

        self._sender.send(make, Pattern.NOTIFY, deadline, self.options.attempts(attempts))

    def listen(
        self,
        target: Target,
        prefetch: int | Default = DEFAULT,
        *,
        acknowledge_first: bool = True,
        expires: float | Default = DEFAULT,
    ) -> Amqp1Listener:
        count = patterns.prefetch_count(prefetch, self.options.rpc_prefetch_count)
        return self._listener(
            lambda names: patterns.rpc_sources(names, target, expires),
            count,
            acknowledge_first=acknowledge_first,
        )

    def listen_for_notifications(
        self,
        targets: Sequence[tuple[Target, str]],
        pool: str | None = None,
        prefetch: int | Default = DEFAULT,
    ) -> Amqp1Listener:
        count = patterns.prefetch_count(prefetch, self.options.notification_prefetch_count)
        return self._listener(
            lambda names: patterns.notification_sources(names, targets, pool),
            count,
            acknowledge_first=False,
        )

    def _listener(
        self,
        make_sources: Callable[[Names], Sequence[Source]],
        prefetch: int,
        *,
        acknowledge_first: bool,
    ) -> Amqp1Listener:
        self._callers.require_open()
        for source in make_sources(self._profiles.current.names):
            source.subscription()  # a name that cannot be used is an error now
        listener = Amqp1Listener(
            self._connector,
            self._sender,
            make_sources,
            self._profiles.current,
            prefetch,
            acknowledge_first=acknowledge_first,
            retry_delay=self.options.connection_retry_delay,
            retries=Retries(self._sender, self.options),
            reply_retry=self.options.reply_retry,
        )
        self._listeners.add(listener)
        return listener

    def close(self) -> None:
        for listener in members(self._listeners):
            listener.close()
        # After them: their replies use its connection.
        self._callers.close()
        for listener in members(self._listeners):
            listener.close()  # one that was opened meanwhile
