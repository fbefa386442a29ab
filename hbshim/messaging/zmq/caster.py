"""CAST: from a thread of the application to a server that does not answer.

Where the directory has the server of a host, and the address at which it takes casts, the cast
goes over a one-way connection. A host of which only an address is known may not have the server,
and over one way the cast would be lost silently; so there its proxy acknowledges it. With the
option `rpc_use_acks` the server does.
"""

from __future__ import annotations

import functools
import time
import uuid

from hbshim.errors import CallTimeoutError, ConnectError, LostServerError, UnconfirmedError
from hbshim.messaging.base import Reply
from hbshim.messaging.calling import CallRequest
from hbshim.messaging.steps import Steps
from hbshim.messaging.target import described
from hbshim.messaging.zmq.caller import DONE, Call, Caller
from hbshim.messaging.zmq.delivery import Delivery, Limits, deliver
from hbshim.messaging.zmq.directory import Route
from hbshim.messaging.zmq.frames import Flag, Header, Kind
from hbshim.messaging.zmq.outcomes import Outcome
from hbshim.messaging.zmq.pusher import Cast
from hbshim.messaging.zmq.wording import shorter


def cast_steps(caller: Caller, request: CallRequest) -> Steps[None]:
    """Return when a live connection, or with `mandatory` a proxy, has taken a message.

    With `rpc_use_acks`, return when a server has begun it.

    Raises:
        UnconfirmedError: the connection or the proxy was lost before the cast was confirmed.
        ConnectError: no host took it in time.
        UnroutableError: with `mandatory` or `rpc_use_acks`, no server is known.
        DeliveryError: with `rpc_use_acks`, no server acknowledged it.
    """
    if caller.options.rpc_use_acks:
        yield from _cast_acknowledged(caller, request)
        return
    way = Confirmed if request.mandatory else OneWay
    name = described(request.target)
    try:
        yield from way(caller, request).steps()
    except CallTimeoutError as error:
        raise ConnectError(
            f"{name}: no host took the cast within {request.timeout:g} s ({error})"
        ) from None
    except LostServerError:
        raise UnconfirmedError(
            f"{name}: the connection or the proxy was lost before the confirmation"
        ) from None


def _cast_acknowledged(caller: Caller, request: CallRequest) -> Steps[None]:
    options, directory = caller.options, caller.directory
    target, payload, deadline = request.target, request.payload, request.deadline
    header = Header(
        Kind.CAST,
        uuid.uuid4().bytes,
        exchange=target.exchange or options.default_rpc_exchange,
        topic=target.topic,
        server=target.server or "",
        content_type=payload.content_type,
    )
    with shorter(target):
        key = header.key
    delivery = Delivery(
        caller,
        header,
        payload.body,
        functools.partial(directory.routes, key, deadline),
        key,
        Limits.of(options),
        deadline,
        f"the cast to {described(target)}",
        on_unknown=functools.partial(directory.forget, key),
        mandatory=request.mandatory,
    )
    yield from deliver(caller, [delivery])
    if delivery.error is not None:
        raise delivery.error


class Confirmed(Call):
    """A cast that a proxy acknowledges."""

    def __init__(self, caller: Caller, request: CallRequest) -> None:
        super().__init__(caller, request, Kind.CAST, Flag.WANTS_ACK)


class OneWay(Confirmed):
    """A cast that nothing acknowledges, where the directory knows enough of the host."""

    def _attempt(self, route: Route) -> Steps[Reply]:
        if not (route.instances and "cast" in route.record.addresses):
            return (yield from super()._attempt(route))
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise CallTimeoutError("it was not sent")
        caller, request = self._caller, uuid.uuid4().bytes
        header = self._header(request)._replace(flags=Flag.NONE)
        if caller.pusher.offer(route.record, Cast(header, self._body, left)):
            return DONE

        def done(why: Outcome | None) -> None:
            caller.put(request, why or DONE)

        message = Cast(header, self._body, left, done)
        send = functools.partial(caller.pusher.send, route.record, message)
        return (yield from caller.ask_steps({request: send}, self._deadline))[request]
