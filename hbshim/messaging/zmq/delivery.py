"""Delivers messages that servers acknowledge: each is sent until its acknowledgement has come.

A message is sent again when its server died, or when no acknowledgement has come in time. Each
sending may be begun for a part of that time only: so a slow server does not begin it when another
one has been handed a copy. Where a proxy died its server may still begin the message, so the copy
waits for the same time.
"""

from __future__ import annotations

import functools
import time
import uuid
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hbshim.errors import ConnectError, DeliveryError, MessagingError, UnroutableError
from hbshim.event_log import log_problems
from hbshim.messaging.base import Reply
from hbshim.messaging.steps import Steps
from hbshim.messaging.zmq.caller import FIRST_PAUSE, LONGEST_PAUSE, Caller, Change, reasons_of
from hbshim.messaging.zmq.directory import Route, Routes
from hbshim.messaging.zmq.frames import Flag, Header
from hbshim.messaging.zmq.incoming import LONGEST_RETRY_PAUSE
from hbshim.messaging.zmq.outcomes import Outcome
from hbshim.messaging.zmq.peers import Request
from hbshim.messaging.zmq.selection import name_of

if TYPE_CHECKING:
    from hbshim.messaging.zmq.options import ZmqOptions

#: Of the time for an acknowledgement, the part in which a server may not begin the message any
#: more, and its longest length in seconds: the acknowledgement travels, and threads are late.
LATE_PART, LONGEST_LATE = 0.25, 2.0

#: Seconds in which the I/O thread reports what was given up; then it is asked again.
_REPORTED_WITHIN = 1.0

#: Times that the time for an acknowledgement grows.
_MOST_GROWTH = 50

#: Seconds; with less time left before the deadline, nothing is sent any more.
_TOO_LITTLE = 0.01


@dataclass(frozen=True, slots=True)
class Limits:
    """How often, and when, a message is sent again.

    Attributes:
        first_wait: seconds for the first acknowledgement.
        multiplier: of that time, for each further one.
        retries: how often it is sent again; negative: as often as the deadline allows.
        requeues: how often its listener may have a notification handled, the first time included.
        requeue_delay: seconds until the second time; each further one doubles it.
    """

    first_wait: float
    multiplier: int
    retries: int
    requeues: int = 1
    requeue_delay: float = 0.0

    def wait(self, copies: int) -> float:
        """Return the seconds for an acknowledgement after so many copies that had none."""
        return self.first_wait * float(self.multiplier) ** min(copies, _MOST_GROWTH)

    @classmethod
    def of(cls, options: ZmqOptions) -> Limits:
        """Return those that options set."""
        return cls(
            options.rpc_ack_timeout_base,
            options.rpc_ack_timeout_multiplier,
            options.rpc_retry_attempts,
            options.notification_retry_attempts,
            options.notification_retry_delay,
        )


class News(Change):
    """Waits until something came for one of several deliveries, or a route may have changed."""

    __slots__ = ("came",)

    def __init__(self) -> None:
        super().__init__()
        self.came = False

    @property
    def ready(self) -> bool:
        return self.came or self.changed


class Delivery:
    """One message.

    Parameters:
        header: with the id that all copies have.
        find_routes: returns the hosts that may have a server.
        key: whose hosts take turns.
        on_unknown: called with the name of a host that has no server.
        mandatory: it fails at once where there is no server.
        described: what it is, for errors.

    Attributes:
        due: when it is to be checked next, of ``time.monotonic()``.
        ended: it was acknowledged, or has failed.
        error: why it has failed.
    """

    def __init__(
        self,
        caller: Caller,
        header: Header,
        body: bytes,
        find_routes: Callable[[], Routes],
        key: bytes,
        limits: Limits,
        deadline: float,
        described: str,
        *,
        on_unknown: Callable[[str], None] = lambda host: None,
        mandatory: bool = False,
    ) -> None:
        self._caller = caller
        self._header = header
        self._body = body
        self._find_routes = find_routes
        self._key = key
        self._limits = limits
        self._deadline = deadline
        self._described = described
        self._on_unknown = on_unknown
        self._mandatory = mandatory
        self._came: deque[tuple[bytes, Reply | Outcome]] = deque()
        self._news: News | None = None
        self._request: Request | None = None
        self._route: Route | None = None
        self._tried: set[str] = set()
        self._refusals: set[Outcome] = set()
        self._reachable = True
        self._pause = FIRST_PAUSE
        # How often it was not acknowledged, and how often it was requeued.
        self._copies = self._requeued = 0
        self._reason = ""
        self._not_before = 0.0
        self.due = 0.0
        self.ended = False
        self.error: MessagingError | None = None

    def start(self, news: News) -> None:
        """Note from now on what comes, and wake `news` up."""
        self._news = news
        self._listen(self._header.id)

    def stop(self) -> None:
        """Note nothing more."""
        self._caller.takers.pop(self._header.id, None)
        if self._request is not None:
            self._free()
            self._caller.forget(self._header.id)

    def step(self) -> None:
        """Do what is due."""
        while self._came and not self.ended:
            token, what = self._came.popleft()
            if not isinstance(what, Outcome):
                self.ended = True
            elif self._request is not None and token == self._request.token:
                self._take(what)
        if self.ended or time.monotonic() < self.due:
            return
        if self._request is None:
            self._send()
        else:
            self.due = time.monotonic() + _REPORTED_WITHIN
            self._caller.give_up(self._request)

    def hurry(self) -> None:
        """Try again at once: a host may be reached that could not be before."""
        if self._request is None:
            self.due = self._not_before

    def _listen(self, name: bytes) -> None:
        self._caller.takers[name] = functools.partial(self._note, name)

    def _note(self, name: bytes, what: Reply | Outcome) -> None:
        news = self._news
        assert news is not None
        self._came.append((name, what))
        news.came = True
        news.notify()

    def _take(self, outcome: Outcome) -> None:
        if outcome is Outcome.CUT:
            return
        log_problems(self._caller.metrics)
        if outcome in (Outcome.LOST, Outcome.SILENT):
            self._retry(outcome.value)
            return
        if outcome is Outcome.REQUEUED:
            self._requeue(outcome.value)
            return
        assert self._route is not None
        if outcome is Outcome.UNKNOWN:
            self._on_unknown(self._route.record.host)
        self._refusals.add(outcome)
        self._free()

    def _free(self) -> None:
        """End a sending."""
        assert self._request is not None
        self._caller.takers.pop(self._request.token, None)
        self._request = None
        self.due = 0.0

    def _retry(self, reason: str) -> None:
        """A server may have begun it, and did not acknowledge it."""
        self._caller.metrics.count("zmq_unacknowledged")
        self._free()
        self._copies += 1
        self._reason = reason
        if 0 <= self._limits.retries < self._copies:
            self._fail()

    def _requeue(self, reason: str) -> None:
        """Its listener does not handle it now."""
        limits = self._limits
        delay = limits.requeue_delay * 2.0 ** min(self._requeued, _MOST_GROWTH)
        self._free()
        self._requeued += 1
        self._reason = reason
        self.due = self._not_before = time.monotonic() + min(delay, LONGEST_RETRY_PAUSE)
        if self._requeued >= limits.requeues:
            self._fail()

    def _send(self) -> None:
        routes = self._find_routes()
        self._reachable = routes.reachable
        if not routes.routes:
            self._refusals.clear()
        route = self._caller.rotation.choose(self._key, routes, self._tried)
        now = time.monotonic()
        left = self._deadline - now
        refused = route is None and self._mandatory and self._is_unknown and not self._times
        if refused or left < _TOO_LITTLE:
            self._fail()
        elif route is None:
            self.due = now + min(self._pause, left)
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
            self._tried.clear()
        else:
            self._send_to(route, now, left)

    def _send_to(self, route: Route, now: float, left: float) -> None:
        wait = min(left, self._limits.wait(self._copies))
        if not self._tried:
            self._refusals.clear()
        self._tried.add(name_of(route))
        flags = self._header.flags | Flag.ACKNOWLEDGED
        if self._times:
            flags |= Flag.AGAIN
        header = self._header._replace(flags=flags)
        begin_within = wait - min(LATE_PART * wait, LONGEST_LATE)
        self.due = now + wait
        self._route = route
        self._request = Request(header, self._body, begin_within, token=uuid.uuid4().bytes)
        self._listen(self._request.token)
        self._caller.send(route.record, self._request)

    @property
    def _times(self) -> int:
        """How often it was handed over."""
        return self._copies + self._requeued

    @property
    def _is_unknown(self) -> bool:
        """Whether no host is known to have a server."""
        return self._reachable and self._refusals <= {Outcome.UNKNOWN}

    def _fail(self) -> None:
        self.ended = True
        if self._times:
            self.error = DeliveryError(
                f"{self._described} was sent {self._times} times, and not acknowledged "
                f"({self._reason}); it may have been begun"
            )
        elif self._is_unknown:
            self.error = UnroutableError(f"{self._described}: nothing that takes it is known")
        else:
            reasons = reasons_of(self._refusals)
            self.error = ConnectError(
                f"{self._described}: no host took it in time "
                f"({reasons or 'the directory cannot be reached'})"
            )


def deliver(caller: Caller, deliveries: Collection[Delivery]) -> Steps[None]:
    """Return when each delivery has ended.

    Raises:
        ConnectionLostError: the driver was closed.
    """
    news = News()
    try:
        caller.changes[news] = None
        for each in deliveries:
            each.start(news)
        while True:
            for each in deliveries:
                if not each.ended:
                    each.step()
            due = [each.due for each in deliveries if not each.ended]
            if not due:
                return
            yield from caller.wait(news, min(due))
            changed, news.changed, news.came = news.changed, False, False
            for each in deliveries if changed else ():
                each.hurry()
    finally:
        for each in deliveries:
            each.stop()
        caller.changes.pop(news, None)
