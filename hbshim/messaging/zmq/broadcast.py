"""FANOUT and NOTIFY: from a thread of the application to every listener that is known.

The directory names the hosts, and the listeners on each. Where it knows only hosts, as a URL does,
their proxies are asked. So the publisher knows for whose subscriptions it has to wait.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hbshim.errors import CallTimeoutError, ConnectError, UnroutableError
from hbshim.event_log import log_problems
from hbshim.messaging.base import Payload, timeout_of
from hbshim.messaging.target import Target
from hbshim.messaging.zmq import frames
from hbshim.messaging.zmq.caller import FIRST_PAUSE, LONGEST_PAUSE, Caller
from hbshim.messaging.zmq.directory import HostRecord, Pipeline, Reader
from hbshim.messaging.zmq.frames import Header, Kind
from hbshim.messaging.zmq.publisher import Publication
from hbshim.messaging.zmq.wording import described, shorter

if TYPE_CHECKING:
    from hbshim.messaging.zmq.options import ZmqOptions
    from hbshim.metrics import Metrics

#: Seconds that a publisher waits for subscriptions, at most.
SUBSCRIBE_WITHIN = 1.0

#: Seconds that a proxy may take to say which listeners it has; then those of the others are used.
ANSWER_WITHIN = 1.0


class Broadcaster:
    """Publishes for one driver; any thread may use it."""

    def __init__(self, options: ZmqOptions, directory: Reader, metrics: Metrics) -> None:
        self._options = options
        self._directory = directory
        self._metrics = metrics

    def fanout(
        self, caller: Caller, target: Target, payload: Payload, timeout: float, *, mandatory: bool
    ) -> None:
        """Send to every listener of a topic; return when it is sent.

        Raises:
            UnroutableError: with `mandatory`, no listener is known.
            ConnectError: the directory cannot be reached, and nothing is known of the topic; or
                no host that is known answers.
        """
        exchange = target.exchange or self._options.default_rpc_exchange
        with shorter(target):
            key = frames.key_of(exchange, target.topic)
        deadline = time.monotonic() + timeout_of(timeout)
        left = frames.milliseconds(deadline - time.monotonic())
        header = Header(
            Kind.FANOUT,
            uuid.uuid4().bytes,
            0,
            0,
            left,
            exchange,
            target.topic,
            "",
            payload.content_type,
        )
        copies = self._publish(caller, "fanout", target, key, header, payload, deadline)
        if mandatory and not copies:
            raise UnroutableError(f"no listener of {described(target)} is known")

    def notify(
        self, caller: Caller, target: Target, payload: Payload, priority: str, timeout: float
    ) -> None:
        """Send to one listener of each pool; return when it is sent.

        Raises:
            ConnectError: as :meth:`fanout`.
        """
        exchange = target.exchange or self._options.default_notification_exchange
        with shorter(target):
            key = frames.notification_key(exchange, target.topic, priority)
        deadline = time.monotonic() + timeout_of(timeout)
        topic = f"{target.topic}.{priority}"
        header = Header(
            Kind.NOTIFY, uuid.uuid4().bytes, 0, 0, 0, exchange, topic, "", payload.content_type
        )
        copies = self._publish(caller, "notify", target, key, header, payload, deadline)
        if not copies:
            self._metrics.count("zmq_notifications_without_listener")

    def _publish(
        self,
        caller: Caller,
        pipeline: Pipeline,
        target: Target,
        key: bytes,
        header: Header,
        payload: Payload,
        deadline: float,
    ) -> int:
        try:
            found = self._listeners(caller, target, key, deadline)
            instances = [instance for _, listeners in found for instance in listeners]
            hosts = [host for host, listeners in found if listeners]
            until = min(deadline, time.monotonic() + SUBSCRIBE_WITHIN)
            body = frames.split(payload.body)
            publication = Publication(key, header, body, instances, until)
            return caller.publish(pipeline, hosts, publication)
        except CallTimeoutError as error:
            raise ConnectError(f"{described(target)}: nothing was sent in time ({error})") from None
        finally:
            # The thread that records the reason must not log it.
            log_problems(self._metrics)

    def _listeners(
        self, caller: Caller, target: Target, key: bytes, deadline: float
    ) -> Sequence[tuple[HostRecord, list[bytes]]]:
        """Return the hosts that have listeners, and the ids of these."""
        routes = self._directory.routes(key, deadline)
        if not routes.routes and not routes.reachable:
            raise ConnectError(
                f"{described(target)}: the directory cannot be reached, and nothing is known of it"
            )
        found = [
            (route.record, [bytes.fromhex(each) for each in route.instances])
            for route in routes.routes
            if route.instances
        ]
        unknown = [route.record for route in routes.routes if not route.instances]
        pause = FIRST_PAUSE
        while unknown:
            # A proxy that hangs must not keep the others waiting.
            until = min(deadline, time.monotonic() + ANSWER_WITHIN)
            with contextlib.suppress(CallTimeoutError):
                found += caller.listeners(key, unknown, until)
            left = deadline - time.monotonic()
            if found:
                break
            if left <= 0:
                raise ConnectError(f"{described(target)}: none of its hosts can be reached")
            time.sleep(min(pause, left))
            pause = min(2 * pause, LONGEST_PAUSE)
        return found
