"""NOTIFY with acknowledgements: to one listener of each pool, and again until one has handled it.

It goes over the pipeline of calls. A copy is a message of its own in each pool.
"""

from __future__ import annotations

import functools
import time
import uuid
from collections.abc import Sequence

from hbshim.errors import ConnectError, DeliveryError, MessagingError, UnroutableError
from hbshim.event_log import log_problems
from hbshim.messaging.base import Payload, timeout_of
from hbshim.messaging.steps import run
from hbshim.messaging.target import Target, described
from hbshim.messaging.zmq import frames
from hbshim.messaging.zmq.caller import Caller
from hbshim.messaging.zmq.delivery import Delivery, Limits, deliver
from hbshim.messaging.zmq.frames import Header, Kind
from hbshim.messaging.zmq.pools import Pools
from hbshim.messaging.zmq.wording import shorter


def notify_acknowledged(
    caller: Caller, target: Target, payload: Payload, priority: str, timeout: float
) -> None:
    """Return when a listener of each pool has handled a notification.

    Raises:
        UnroutableError: there is no listener.
        DeliveryError: the listeners of a pool did not handle it in time.
        ConnectError: no host could be reached, or the directory, so no listener has it.
    """
    deadline = time.monotonic() + timeout_of(timeout)
    exchange = target.exchange or caller.options.default_notification_exchange
    topic = f"{target.topic}.{priority}"
    with shorter(target):
        key = frames.notification_key(exchange, target.topic, priority)
    pools = Pools(caller, target, key, deadline)
    try:
        names = pools.find()
    finally:
        # The thread that records a reason must not log it.
        log_problems(caller.metrics)
    limits = Limits.of(caller.options)
    deliveries = [
        Delivery(
            caller,
            Header(
                *(Kind.NOTIFY, uuid.uuid4().bytes),
                exchange=exchange,
                topic=topic,
                server=pool,
                content_type=payload.content_type,
            ),
            payload.body,
            functools.partial(pools.routes, pool),
            frames.pool_key(exchange, topic, pool),
            limits,
            deadline,
            f"the notification to {described(target)}, pool {pool!r},",
            mandatory=True,
        )
        for pool in names
    ]
    run(deliver(caller, deliveries))
    # A pool without listeners has ended since.
    errors = [each.error for each in deliveries if not isinstance(each.error, UnroutableError)]
    if not errors:
        raise UnroutableError(
            f"{described(target)}: no listener to {priority!r} is known, and nothing stores the "
            "notification; start a listener, or use a driver that stores it: hbkombu:// or "
            "hbpika://"
        )
    _raise_failures(errors)


def _raise_failures(errors: Sequence[MessagingError | None]) -> None:
    """Raise what went wrong.

    Parameters:
        errors: of each pool; None: it has the notification.
    """
    failures = [each for each in errors if each is not None]
    text = "; ".join(map(str, failures))
    if len(failures) < len(errors):
        text = f"{text}; {len(errors) - len(failures)} of {len(errors)} pools have it"
    elif all(isinstance(each, ConnectError) for each in failures):
        # It reached no pool, so it may be sent again as a whole.
        raise ConnectError(text)
    if failures:
        raise DeliveryError(text)
