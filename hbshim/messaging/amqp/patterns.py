"""What each pattern sends, and where a listener receives it.

Both versions of AMQP use the same exchanges, queues and messages. A router of AMQP 1.0 has
addresses in their place: see :class:`Names`.
"""

from __future__ import annotations

import functools
import uuid
from collections.abc import Sequence
from typing import Protocol

from hbshim.errors import OptionError
from hbshim.messaging.amqp.connection import FORMAT
from hbshim.messaging.amqp.topology import Subscription
from hbshim.messaging.base import NEVER, Payload
from hbshim.messaging.consuming import Source
from hbshim.messaging.target import Target
from hbshim.options import DEFAULT, Default
from hbshim.protocol.messages import PERSISTENT, TRANSIENT, Message


class Names(Protocol):
    """Where messages are sent to, and received from.

    :class:`hbshim.messaging.amqp.topology.Topology` has the exchanges and queues of a broker.
    """

    def rpc_exchange(self, target: Target) -> str: ...
    def rpc_key(self, target: Target) -> str: ...
    def fanout_exchange(self, target: Target) -> str: ...
    def fanout_key(self, target: Target) -> str: ...
    def rpc(self, target: Target, expires: float | Default = DEFAULT) -> Subscription: ...
    def fanout(self, target: Target, unique: str) -> Subscription: ...
    def notifications(self, target: Target, priority: str, pool: str | None, /) -> Subscription: ...
    def replies(self, client: str, number: int = 0) -> Subscription: ...


def cast(topology: Names, target: Target, payload: Payload, deadline: float) -> Message:
    """Return the message of a cast, or of a fanout if the target is one.

    Parameters:
        topology: the names.
        target: of the cast.
        payload: encoded.
        deadline: of ``time.monotonic()``; no server begins it afterwards.
    """
    if target.fanout:
        exchange, key = topology.fanout_exchange(target), topology.fanout_key(target)
    else:
        exchange, key = topology.rpc_exchange(target), topology.rpc_key(target)
    return Message(
        payload.body,
        exchange,
        key,
        content_type=payload.content_type,
        message_id=uuid.uuid4().hex,
        deadline=deadline,
        type=FORMAT,
    )


def notification(subscription: Subscription, payload: Payload, *, persistent: bool) -> Message:
    """Return the message of a notification.

    Parameters:
        subscription: where it is stored.
        payload: encoded.
        persistent: it survives a restart of the broker.
    """
    return Message(
        payload.body,
        subscription.exchange,
        subscription.routing_key,
        content_type=payload.content_type,
        message_id=uuid.uuid4().hex,
        delivery_mode=PERSISTENT if persistent else TRANSIENT,
    )


def rpc_sources(topology: Names, target: Target, expires: float | Default) -> list[Source]:
    """Return what a server of `target` receives from.

    Parameters:
        topology: the names.
        target: with the server, if it has a queue of its own.
        expires: seconds after which an unused queue of the topic expires.
    """
    shared = topology.rpc(target.to(server=None, fanout=False), expires)
    sources = [
        Source(lambda: shared),
        # A new name for each connection: the broker may not have noticed that the old one ended.
        Source(lambda: topology.fanout(target, uuid.uuid4().hex), kept=False),
    ]
    if target.server is not None:
        # Useless without its server: it expires, even if the queue of the topic does not.
        own = topology.rpc(target, DEFAULT if expires == NEVER else expires)
        sources.insert(1, Source(lambda: own))
    return sources


def notification_sources(
    topology: Names, targets: Sequence[tuple[Target, str]], pool: str | None
) -> list[Source]:
    """Return what a listener to notifications receives from.

    Parameters:
        topology: the names.
        targets: each with a priority.
        pool: the listeners that share the notifications; None: those without a pool.
    """
    return [
        Source(
            functools.partial(topology.notifications, target, priority, pool),
            priority=priority,
            later=True,
        )
        for target, priority in targets
    ]


def prefetch_count(prefetch: int | Default, option: int) -> int:
    """Return the prefetch of a listener.

    Parameters:
        prefetch: what its caller asks for.
        option: the value for DEFAULT.

    Raises:
        OptionError: it is no number.
    """
    count = option if prefetch is DEFAULT else prefetch
    if not isinstance(count, int):
        raise OptionError(
            f"prefetch must be a number of messages, got {count!r}; leave it out, or give DEFAULT, "
            "for the option's value"
        )
    return count
