"""One driver over several backends."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence

from hbshim.messaging.base import NEVER, Driver, Listener, Payload, Reply
from hbshim.messaging.calling import CallRequest
from hbshim.messaging.capabilities import Capabilities
from hbshim.messaging.hybrid.foreign import as_member
from hbshim.messaging.hybrid.joint_listener import JointListener
from hbshim.messaging.hybrid.replying import ReplyingMember
from hbshim.messaging.hybrid.together import together
from hbshim.messaging.steps import CastsInSteps, Steps, WaitsInThread, at_once, steps_of
from hbshim.messaging.storing import PendingReply, StoringDriver, require_store
from hbshim.messaging.target import Target
from hbshim.options import DEFAULT, Default


class HybridDriver(WaitsInThread):
    """See :class:`hbshim.messaging.storing.StoringDriver`.

    Calls, casts and fanouts go to `rpc`, notifications to `notifications`. Requests are stored by
    the first driver that stores; it is among the drivers that :meth:`listen` listens to. A reply
    goes over the driver that delivered the request.

    Parameters:
        rpc: sends calls, casts and fanouts, and receives them.
        notifications: sends and receives notifications.
        listen_also: receive calls, casts and fanouts, too.
        stored_requests: servers listen for submitted requests. Otherwise nothing is submitted.
        shares_backend: returns whether two drivers have the same backend. :meth:`listen` uses one
            of them, or each fanout would be received twice.
    """

    def __init__(
        self,
        rpc: Driver,
        notifications: Driver,
        listen_also: Sequence[Driver] = (),
        *,
        stored_requests: bool = True,
        shares_backend: Callable[[Driver, Driver], bool] = operator.is_,
    ) -> None:
        self._rpc = rpc
        self._notifications = notifications
        self._all = _distinct((rpc, notifications, *listen_also))
        stores = [each for each in self._all if each.capabilities.stores]
        self._store = stores[0] if stores and stored_requests else rpc
        self._listening = [self._store]
        for each in _distinct((rpc, *listen_also)):
            if each is not self._store and not shares_backend(each, self._store):
                self._listening.append(each)
        self.rpc_timeout = rpc.rpc_timeout
        # A request that a server of either accepts.
        self.payload_limit = min(each.payload_limit for each in self._all)

    @property
    def capabilities(self) -> Capabilities:
        """Those of the driver that has each task; they may change when it connects."""
        notifications = self._notifications.capabilities
        return Capabilities(
            stores=self._store.capabilities.stores,
            requeues=notifications.requeues,
            pools=notifications.pools,
            mandatory=self._rpc.capabilities.mandatory,
            survives_restart=notifications.survives_restart,
        )

    def cast(
        self,
        target: Target,
        payload: Payload,
        timeout: float,
        *,
        attempts: int | Default | None = DEFAULT,
        mandatory: bool = False,
    ) -> None:
        self._rpc.cast(target, payload, timeout, attempts=attempts, mandatory=mandatory)

    def call_steps(self, request: CallRequest) -> Steps[Reply]:
        return steps_of(self._rpc, request)

    def cast_steps(
        self, target: Target, payload: Payload, timeout: float, *, mandatory: bool = False
    ) -> Steps[None]:
        rpc = self._rpc
        if isinstance(rpc, CastsInSteps):
            return rpc.cast_steps(target, payload, timeout, mandatory=mandatory)
        return at_once(lambda: rpc.cast(target, payload, timeout, mandatory=mandatory))

    def notify(
        self,
        target: Target,
        payload: Payload,
        priority: str,
        timeout: float,
        *,
        attempts: int | Default | None = DEFAULT,
    ) -> None:
        self._notifications.notify(target, payload, priority, timeout, attempts=attempts)

    def listen(
        self,
        target: Target,
        prefetch: int | Default = DEFAULT,
        *,
        acknowledge_first: bool = True,
        expires: float | Default = DEFAULT,
    ) -> Listener:
        listeners = [
            each.listen(target, prefetch, acknowledge_first=acknowledge_first, expires=expires)
            for each in self._listening
        ]
        if len(listeners) == 1:
            return listeners[0]
        members = [ReplyingMember(as_member(each)) for each in listeners]

        def finish() -> None:
            for member in members:
                member.finish()

        return JointListener(members, finish)

    def listen_for_notifications(
        self,
        targets: Sequence[tuple[Target, str]],
        pool: str | None = None,
        prefetch: int | Default = DEFAULT,
    ) -> Listener:
        return self._notifications.listen_for_notifications(targets, pool, prefetch)

    # -- the operations of the store ---------------------------------------------

    def submit(
        self,
        target: Target,
        payload: Payload,
        timeout: float,
        *,
        ignore_result: bool = False,
        result_lifetime: float | Default = DEFAULT,
    ) -> PendingReply | None:
        return self._storing().submit(
            target,
            payload,
            timeout,
            ignore_result=ignore_result,
            result_lifetime=result_lifetime,
        )

    def attach(self, request: str) -> PendingReply:
        return self._storing().attach(request)

    def declare_queue(self, target: Target, expires: float | Default = NEVER) -> None:
        self._storing().declare_queue(target, expires)

    def delete_queue(self, target: Target) -> int:
        return self._storing().delete_queue(target)

    def _storing(self) -> StoringDriver:
        return require_store(self._store)

    def close(self) -> None:
        together([driver.close for driver in self._all])


def _distinct(drivers: Sequence[Driver]) -> list[Driver]:
    return list(dict.fromkeys(drivers))
