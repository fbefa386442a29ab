"""FANOUT and NOTIFY: from a thread of the application to every listener that is known.

The directory names the hosts, and the listeners on each. Where it knows only hosts, as a URL does,
their proxies are asked. So the publisher knows for whose subscriptions it has to wait.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Sequence

from hbshim.errors import CallTimeoutError, ConnectError, UnroutableError
from hbshim.event_log import log_problems
from hbshim.messaging.base import Payload, timeout_of
from hbshim.messaging.target import Target, described
from hbshim.messaging.zmq import frames
from hbshim.messaging.zmq.caller import FIRST_PAUSE, LONGEST_PAUSE, Caller, reasons_of
from hbshim.messaging.zmq.directory import HostRecord, Pipeline
from hbshim.messaging.zmq.frames import Header, Kind
from hbshim.messaging.zmq.publisher import Publication
from hbshim.messaging.zmq.questions import ANSWER_WITHIN, known_routes
from hbshim.messaging.zmq.wording import shorter

#: Seconds that a publisher waits for subscriptions, at most.
SUBSCRIBE_WITHIN = 1.0


def fanout(
    caller: Caller, target: Target, payload: Payload, timeout: float, *, mandatory: bool
) -> None:
    """Send to every listener of a topic; return when it is sent.

    Raises:
        UnroutableError: with `mandatory`, no listener is known.
        ConnectError: the directory cannot be reached, and nothing is known of the topic; or no
            host that is known answers.
    """
    deadline = time.monotonic() + timeout_of(timeout)
    header = Header(
        Kind.FANOUT,
        uuid.uuid4().bytes,
        left=frames.milliseconds(deadline - time.monotonic()),
        exchange=target.exchange or caller.options.default_rpc_exchange,
        topic=target.topic,
        content_type=payload.content_type,
    )
    copies = _publish(caller, "fanout", target, header, payload, deadline)
    if mandatory and not copies:
        raise UnroutableError(f"no listener of {described(target)} is known")


def notify(caller: Caller, target: Target, payload: Payload, priority: str, timeout: float) -> None:
    """Send to one listener of each pool; return when it is sent.

    Raises:
        ConnectError: as :func:`fanout`.
    """
    header = Header(
        Kind.NOTIFY,
        uuid.uuid4().bytes,
        exchange=target.exchange or caller.options.default_notification_exchange,
        topic=f"{target.topic}.{priority}",
        content_type=payload.content_type,
    )
    deadline = time.monotonic() + timeout_of(timeout)
    if not _publish(caller, "notify", target, header, payload, deadline):
        caller.metrics.count("zmq_notifications_without_listener")


def _publish(
    caller: Caller,
    pipeline: Pipeline,
    target: Target,
    header: Header,
    payload: Payload,
    deadline: float,
) -> int:
    with shorter(target):
        key = header.key
    try:
        found = _listeners(caller, target, key, deadline)
        instances = [instance for _, listeners in found for instance in listeners]
        hosts = [host for host, listeners in found if listeners]
        until = min(deadline, time.monotonic() + SUBSCRIBE_WITHIN)
        publication = Publication(key, header, payload.body, instances, until)
        return caller.publish(pipeline, hosts, publication)
    except CallTimeoutError as error:
        raise ConnectError(f"{described(target)}: nothing was sent in time ({error})") from None
    finally:
        # The thread that records the reason must not log it.
        log_problems(caller.metrics)


def _listeners(
    caller: Caller, target: Target, key: bytes, deadline: float
) -> Sequence[tuple[HostRecord, list[bytes]]]:
    """Return the hosts that have listeners, and the ids of these."""
    routes = known_routes(caller, target, key, deadline)
    found: list[tuple[HostRecord, list[bytes]]] = []
    unknown: list[HostRecord] = []
    for route in routes.routes:
        instances = frames.instances_of(route.instances)
        if instances:
            found.append((route.record, instances))
        else:
            unknown.append(route.record)
    pause = FIRST_PAUSE
    reasons = ""
    while unknown:
        # A proxy that hangs must not keep the others waiting.
        until = min(deadline, time.monotonic() + ANSWER_WITHIN)
        answers = caller.question(Kind.LISTENERS, key, unknown, until)
        for host, body in answers.found:
            with contextlib.suppress(frames.FrameError):
                found.append((host, frames.split_instances(body)))
        if answers.outcomes:
            reasons = f" ({reasons_of(answers.outcomes)})"
        left = deadline - time.monotonic()
        if found:
            break
        if left <= 0:
            raise ConnectError(f"{described(target)}: none of its hosts can be reached{reasons}")
        time.sleep(min(pause, left))
        pause = min(2 * pause, LONGEST_PAUSE)
    return found
