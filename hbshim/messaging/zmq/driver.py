"""The driver over ZeroMQ."""

from __future__ import annotations

import time
import weakref
from collections.abc import Sequence

from hbshim.errors import OptionError
from hbshim.heartbeat import service
from hbshim.messaging.base import Listener, Payload, Reply
from hbshim.messaging.callers import Callers
from hbshim.messaging.calling import CallRequest
from hbshim.messaging.capabilities import Capabilities
from hbshim.messaging.steps import Steps, WaitsInThread, at_once, run
from hbshim.messaging.target import Target
from hbshim.messaging.zmq import broadcast, caster, frames, io
from hbshim.messaging.zmq.acknowledged import notify_acknowledged
from hbshim.messaging.zmq.caller import Caller
from hbshim.messaging.zmq.connection import Subscription
from hbshim.messaging.zmq.curve import Curve
from hbshim.messaging.zmq.directory import Reader
from hbshim.messaging.zmq.embedded import EmbeddedProxy, EmbeddedSettings
from hbshim.messaging.zmq.listener import ZmqListener
from hbshim.messaging.zmq.local_sockets import check_ipc_directory
from hbshim.messaging.zmq.options import ZmqOptions
from hbshim.messaging.zmq.status import status_of
from hbshim.messaging.zmq.traffic import Traffic
from hbshim.messaging.zmq.wording import shorter
from hbshim.observe import drivers
from hbshim.observe.drivers import ZmqStatus
from hbshim.options import DEFAULT, Default
from hbshim.runtime.fork import PerProcess
from hbshim.runtime.weak import members


class ZmqDriver(WaitsInThread):
    """See :class:`hbshim.messaging.base.Driver`. It connects when it is first used.

    Parameters:
        directory: knows which hosts serve a target.
        curve: the keys, for encrypted connections to proxies.
        name: of its hosts or its directory, for people, without credentials.
        proxy: of this machine, which a process with a listener runs; None: it is a command.
    """

    def __init__(
        self,
        options: ZmqOptions,
        directory: Reader,
        name: str,
        curve: Curve | None = None,
        proxy: EmbeddedSettings | None = None,
    ) -> None:
        self.options = options
        self.capabilities = Capabilities(
            mandatory=True, pools=True, requeues=options.notification_acks
        )
        self.rpc_timeout = options.rpc_timeout
        self.payload_limit = options.payload_limit
        self._directory = directory
        self._curve = curve
        self._name = name
        self._callers = Callers(self._make_caller)
        self._traffic = PerProcess(lambda: Traffic(service.current().metrics))
        self._proxy = None if proxy is None else PerProcess(lambda: _embed(proxy), _leave)
        self._listeners: weakref.WeakSet[ZmqListener] = weakref.WeakSet()
        drivers.register(self)

    def call_steps(self, request: CallRequest) -> Steps[Reply]:
        return self._callers.get().call_steps(request)

    def cast(
        self,
        target: Target,
        payload: Payload,
        timeout: float,
        *,
        attempts: int | Default | None = DEFAULT,
        mandatory: bool = False,
    ) -> None:
        run(self.cast_steps(target, payload, timeout, mandatory=mandatory))

    def cast_steps(
        self, target: Target, payload: Payload, timeout: float, *, mandatory: bool = False
    ) -> Steps[None]:
        caller = self._callers.get()
        request = CallRequest(target, payload, timeout, mandatory=mandatory)
        if target.fanout:

            def fanout() -> None:
                left = max(0.0, request.deadline - time.monotonic())
                broadcast.fanout(caller, target, payload, left, mandatory=mandatory)

            return at_once(fanout)
        return caster.cast_steps(caller, request)

    def notify(
        self,
        target: Target,
        payload: Payload,
        priority: str,
        timeout: float,
        *,
        attempts: int | Default | None = DEFAULT,
    ) -> None:
        if self.options.notification_acks:
            notify_acknowledged(self._callers.get(), target, payload, priority, timeout)
        else:
            broadcast.notify(self._callers.get(), target, payload, priority, timeout)

    def listen(
        self,
        target: Target,
        prefetch: int | Default = DEFAULT,
        *,
        acknowledge_first: bool = True,
        expires: float | Default = DEFAULT,
    ) -> Listener:
        self._callers.require_open()
        exchange = target.exchange or self.options.default_rpc_exchange
        names = [""] if target.server is None else ["", target.server]
        with shorter(target):
            keys = [frames.key_of(exchange, target.topic, name) for name in names]
        if prefetch is DEFAULT:
            prefetch = self.options.rpc_prefetch_count
        subscription = Subscription([keys[0]])
        return self._listener(keys, subscription, prefetch, acknowledge_first=acknowledge_first)

    def listen_for_notifications(
        self,
        targets: Sequence[tuple[Target, str]],
        pool: str | None = None,
        prefetch: int | Default = DEFAULT,
    ) -> Listener:
        self._callers.require_open()
        default = self.options.default_notification_exchange
        pool = pool or ""
        if len(pool.encode()) > frames.NAME_LIMIT:
            raise OptionError(f"pool={pool!r} is too long: {frames.NAME_LIMIT} bytes are allowed")
        keys, pool_keys = [], []
        for target, priority in targets:
            exchange = target.exchange or default
            with shorter(target):
                keys.append(frames.notification_key(exchange, target.topic, priority))
                topic = f"{target.topic}.{priority}"
                pool_keys.append(frames.pool_key(exchange, topic, pool))
        if len(keys) + len(pool_keys) > frames.KEYS_LIMIT:
            raise OptionError(
                f"{len(keys)} topics with a priority are too many for one listener: "
                f"{frames.KEYS_LIMIT // 2} are allowed; use several listeners"
            )
        if prefetch is DEFAULT:
            prefetch = self.options.notification_prefetch_count
        subscription = Subscription(keys, pool)
        return self._listener([*keys, *pool_keys], subscription, prefetch, acknowledge_first=False)

    def _listener(
        self,
        keys: Sequence[bytes],
        subscription: Subscription,
        prefetch: int,
        *,
        acknowledge_first: bool,
    ) -> Listener:
        check_ipc_directory(self.options.rpc_zmq_ipc_dir, self.options.ipc_group())
        made = ZmqListener(
            self.options,
            keys,
            subscription,
            prefetch,
            self._traffic.get(),
            None if self._proxy is None else self._proxy.get(),
            acknowledge_first=acknowledge_first,
        )
        self._listeners.add(made)
        return made

    def close(self) -> None:
        """Close every connection; return when all was sent, or the linger time is over.

        A second call, also one of another thread, does the same.
        """
        deadline = time.monotonic() + self.options.zmq_linger
        self._callers.close()
        for listener in members(self._listeners):
            listener.close()
        self._directory.close()
        io.wait_until_sent(deadline)
        # Last, so that it forwards what was sent.
        if self._proxy is not None and (proxy := self._proxy.peek()) is not None:
            proxy.leave(deadline)

    def zmq_status(self) -> ZmqStatus | None:
        """Return what this process does with the driver; None: nothing."""
        traffic = self._traffic.peek()
        if traffic is None or self._callers.closed:
            return None
        listeners = [each for each in members(self._listeners) if each.metrics is traffic]
        return status_of(self._name, traffic, self._callers.peek(), listeners)

    def _make_caller(self) -> Caller:
        return Caller(self.options, self._directory, self._traffic.get(), self._curve)


def _embed(settings: EmbeddedSettings) -> EmbeddedProxy:
    return EmbeddedProxy(settings, service.current().metrics)


def _leave(superseded: EmbeddedProxy) -> None:
    superseded.leave(0.0)
