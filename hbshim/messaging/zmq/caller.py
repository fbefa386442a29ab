"""CALL: from a thread of the application to a server, and back.

The caller chooses the host. What the I/O thread reports as certainly not handed over goes to the
next host; after that, to the first again, with pauses, until the caller's time is over. What was
handed over is never sent again.

Longer than others: one state for each call, and every report that changes it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from hbshim.errors import (
    CallTimeoutError,
    ConnectionLostError,
    LostServerError,
    UnroutableError,
)
from hbshim.event_log import log_problems
from hbshim.messaging.base import Payload, Reply
from hbshim.messaging.calling import CallRequest
from hbshim.messaging.role import ReaderRole, Waiter
from hbshim.messaging.steps import Steps, Wait, run
from hbshim.messaging.target import described
from hbshim.messaging.waiting import NoReply, PendingCall, PendingCalls
from hbshim.messaging.zmq import frames
from hbshim.messaging.zmq.curve import Curve
from hbshim.messaging.zmq.directory import HostRecord, Pipeline, Reader, Route
from hbshim.messaging.zmq.frames import Flag, Header, Kind
from hbshim.messaging.zmq.io import io_thread
from hbshim.messaging.zmq.known_pools import KnownPools
from hbshim.messaging.zmq.mailbox import Mailbox
from hbshim.messaging.zmq.outcomes import Outcome
from hbshim.messaging.zmq.peers import Peers, Request
from hbshim.messaging.zmq.publisher import Publication, Publisher
from hbshim.messaging.zmq.pusher import Pusher
from hbshim.messaging.zmq.selection import Rotation, name_of
from hbshim.messaging.zmq.wording import NOTHING_KNOWN, shorter

if TYPE_CHECKING:
    from hbshim.messaging.zmq.options import ZmqOptions
    from hbshim.messaging.zmq.traffic import Traffic

#: Seconds of the first pause after every host was tried, and of the longest.
FIRST_PAUSE, LONGEST_PAUSE = 0.02, 0.5

#: Seconds beyond its own limit that publishing may take.
PUBLISH_ALLOWANCE = 0.4

#: The pipelines whose messages are published.
PUB_SUB: tuple[Pipeline, ...] = ("fanout", "notify")


@dataclass(frozen=True, slots=True)
class Undone(NoReply):
    """What became of a request that has no reply."""

    outcome: Outcome


class Answers(NamedTuple):
    """What proxies have answered.

    Attributes:
        found: each with the body of its answer.
        silent: those that did not answer in time.
        outcomes: why the others did not answer.
    """

    found: list[tuple[HostRecord, bytes]]
    silent: list[HostRecord]
    outcomes: set[Outcome]


#: The reply that stands for a message which was sent.
DONE = Reply("result", Payload(b""))


def reasons_of(outcomes: Collection[Outcome]) -> str:
    """Return what several hosts have answered, for the text of an error."""
    return ", ".join(sorted(each.value for each in outcomes))


class Change(Waiter):
    """Waits until a route may have changed."""

    __slots__ = ("changed",)

    def __init__(self) -> None:
        super().__init__()
        self.changed = False

    @property
    def ready(self) -> bool:
        return self.changed


class Caller:
    """The calls of one process through one driver; a forked child needs another.

    Attributes:
        options, directory, metrics: as given.
        pusher: sends casts that nothing acknowledges.
        rotation: of the hosts that serve a key.
        changes: those that wait until a route may have changed.
        takers: called with what became of a request, by its id or token; in any thread.
        known_pools: of listeners to notifications.
    """

    def __init__(
        self,
        options: ZmqOptions,
        directory: Reader,
        metrics: Traffic,
        curve: Curve | None = None,
    ) -> None:
        self.options = options
        self.directory = directory
        self.metrics = metrics
        self.rotation = Rotation()
        self._mailbox: Mailbox[tuple[bytes, Reply | Outcome] | None] = Mailbox()
        self._role = ReaderRole(self._read)
        self._calls = PendingCalls(self._role)
        self.changes: dict[Change, None] = {}
        self.takers: dict[bytes, Callable[[Reply | Outcome], None]] = {}
        self.known_pools = KnownPools()
        self._loop = io_thread(options.zmq_linger).loop
        settings, server_keys = options.socket_settings(), None
        if curve is not None:
            settings = dataclasses.replace(settings, secret_key=curve.secret_key)
            server_keys = curve.server_keys
        self._peers = Peers(
            self._loop,
            settings,
            b"c" + uuid.uuid4().bytes,
            metrics,
            self.put,
            self._on_change,
            options.zmq_idle_disconnect,
            server_keys,
        )
        self._publishers: dict[Pipeline, Publisher] = {
            pipeline: Publisher(
                self._loop,
                settings,
                pipeline,
                options.zmq_idle_disconnect,
                metrics,
                server_keys,
            )
            for pipeline in PUB_SUB
        }
        self.pusher = Pusher(
            self._loop,
            settings,
            options.zmq_outbox_bytes,
            options.zmq_idle_disconnect,
            metrics,
            server_keys,
        )
        self._loop.post(self._peers.start)
        self._loop.post(self.pusher.start)
        self._end_watch = directory.watch(self._on_change)

    @property
    def connected(self) -> dict[str, int]:
        """The number of hosts that are connected for each pattern; any thread may read it."""
        found = {"call": self._peers.connected, "cast": self.pusher.connected}
        for pipeline, publisher in self._publishers.items():
            found[pipeline] = publisher.connected
        return found

    @property
    def waiting(self) -> int:
        """The number of calls, and of what else waits for an answer; any thread may read it."""
        return len(self._calls)

    def call_steps(self, request: CallRequest) -> Steps[Reply]:
        """See :meth:`hbshim.messaging.base.Driver.call`."""
        return request.naming_its_timeout(Call(self, request).steps())

    def publish(
        self, pipeline: Pipeline, hosts: Sequence[HostRecord], publication: Publication
    ) -> int:
        """Publish over a pipeline; return the number of copies that were sent.

        Raises:
            CallTimeoutError: the I/O thread did not take it in time.
        """
        request = publication.header.id
        sent: list[int] = []

        def done(copies: int) -> None:
            sent.append(copies)
            self.put(request, DONE)

        publication.done = done
        send = functools.partial(self._publishers[pipeline].publish, hosts, publication)
        call = self._calls.begin(None, request.hex())
        try:
            self._loop.post(send)
            # The publisher waits for what is missing; the rest is for a thread that cannot run.
            self._calls.wait(call, publication.until + PUBLISH_ALLOWANCE, None)
            return sent[0]
        finally:
            publication.given_up = True
            self._calls.end(call)

    def question(
        self, kind: Kind, key: bytes, hosts: Sequence[HostRecord], deadline: float
    ) -> Answers:
        """Ask proxies which listeners or pools they have."""
        asked: dict[bytes, HostRecord] = {}
        sends: dict[bytes, Callable[[], None]] = {}
        for host in hosts:
            header = Header(kind, uuid.uuid4().bytes)
            question = Request(header, key, math.inf, patient=True)
            asked[header.id] = host
            sends[header.id] = functools.partial(self._peers.send, host, question)
        replies: Mapping[bytes, Reply] = {}
        with contextlib.suppress(CallTimeoutError):
            replies = self.ask(sends, deadline)
        answers = Answers([], [], set())
        for request, host in asked.items():
            reply = replies.get(request)
            if reply is None:
                answers.silent.append(host)
            elif isinstance(reply, Undone):
                answers.outcomes.add(reply.outcome)
                self.metrics.count("zmq_hosts_left_out")
            else:
                answers.found.append((host, reply.payload.body))
        return answers

    def ask(self, sends: Mapping[bytes, Callable[[], None]], deadline: float) -> dict[bytes, Reply]:
        """See :meth:`ask_steps`."""
        return run(self.ask_steps(sends, deadline))

    def ask_steps(
        self, sends: Mapping[bytes, Callable[[], None]], deadline: float
    ) -> Steps[dict[bytes, Reply]]:
        """Have functions run by the I/O thread; return the answers that come in time.

        Parameters:
            sends: each sends one request, by the id of that.

        Raises:
            CallTimeoutError: no answer came in time, to none of them.
        """
        waiting: dict[bytes, PendingCall] = {}
        answers: dict[bytes, Reply] = {}
        try:
            for request, send in sends.items():
                waiting[request] = self._calls.begin(None, request.hex())
                self._loop.post(send)
            for request, call in waiting.items():
                try:
                    answers[request] = yield from self._calls.wait_steps(call, deadline, None)
                except CallTimeoutError:
                    if not answers:
                        raise
        finally:
            for request, call in waiting.items():
                self._calls.end(call)
                if request not in answers:
                    self.forget(request)
        return answers

    def send(self, record: HostRecord, request: Request) -> None:
        """Have a request sent to the proxy of a host."""
        self._loop.post(functools.partial(self._peers.send, record, request))

    def give_up(self, request: Request) -> None:
        """Have it reported, in order with what else is, that a request is not acknowledged."""
        self._loop.post(functools.partial(self._peers.give_up, request))

    def forget(self, request: bytes) -> None:
        """Wait no more for what becomes of a request."""
        self._loop.post(functools.partial(self._peers.forget, request))

    def wait(self, waiter: Waiter, until: float) -> Steps[None]:
        """Wait until something may have changed for `waiter`, or the time is over.

        Raises:
            ConnectionLostError: the driver was closed.
        """
        with contextlib.suppress(CallTimeoutError):
            yield Wait(self._role, waiter, until, "")

    def put(self, request: bytes, what: Reply | Outcome) -> None:
        """Pass on what became of a request, from the I/O thread."""
        self._mailbox.put((request, what))

    def close(self) -> None:
        """Close the connections; calls that wait fail."""
        self._end_watch()
        self._role.close()
        self._loop.post(self._peers.close)
        self._loop.post(self.pusher.close)
        for publisher in self._publishers.values():
            self._loop.post(publisher.close)
        self._mailbox.close()

    def _on_change(self) -> None:
        self._mailbox.put(None)

    def _read(self, until: float) -> bool:
        self._mailbox.pass_on(max(0.0, until - time.monotonic()), self._take)
        if self._mailbox.inherited:
            raise ConnectionLostError(
                "this process was forked while a call waited; its reply goes to the parent"
            )
        return True

    def _take(self, item: tuple[bytes, Reply | Outcome] | None) -> None:
        if item is None:
            for change in list(self.changes):
                change.changed = True
                change.notify()
            return
        request, what = item
        if (taker := self.takers.get(request)) is not None:
            taker(what)
            return
        if isinstance(what, Outcome):
            what = Undone("error", Payload(b""), what)
        self._calls.receive(request.hex(), what)


class Call:
    """One call, or one cast over the pipeline of calls, with all its attempts."""

    def __init__(
        self,
        caller: Caller,
        request: CallRequest,
        kind: Kind = Kind.CALL,
        flags: int = Flag.NONE,
    ) -> None:
        self._kind = kind
        self._flags = flags | Flag.MANDATORY if request.mandatory else flags
        self._caller = caller
        self._request = request
        self._target = target = request.target
        self._deadline = request.deadline
        self._exchange = target.exchange or caller.options.default_rpc_exchange
        self._server = target.server or ""
        with shorter(target):
            self._key = frames.key_of(self._exchange, target.topic, self._server)
        self._body = request.payload.body

    def steps(self) -> Steps[Reply]:
        """Send it until a server has it, and return the reply.

        Raises:
            CallTimeoutError: there was no reply in time.
            UnroutableError: nothing serves it, with `mandatory`.
            LostServerError: a server may have run it, and will not answer.
        """
        caller = self._caller
        tried: set[str] = set()
        outcomes: set[Outcome] = set()
        pause = FIRST_PAUSE
        change = Change()
        caller.changes[change] = None
        try:
            while True:
                change.changed = False
                routes = caller.directory.routes(self._key, self._deadline)
                route = caller.rotation.choose(self._key, routes, tried)
                if route is not None:
                    reply = yield from self._attempt(route)
                    if not isinstance(reply, Undone):
                        return reply
                    # The threads that record the reason must not log it.
                    log_problems(caller.metrics)
                    if reply.outcome in (Outcome.LOST, Outcome.CUT):
                        raise LostServerError(
                            f"{described(self._target)} may have run the call, and will not "
                            f"answer: {reply.outcome.value}"
                        )
                    if reply.outcome is Outcome.UNKNOWN:
                        caller.directory.forget(self._key, route.record.host)
                    tried.add(name_of(route))
                    outcomes.add(reply.outcome)
                    continue
                if self._request.mandatory and routes.reachable and outcomes <= {Outcome.UNKNOWN}:
                    raise UnroutableError(f"no server of {described(self._target)} is known")
                no_route = "no host serves it" if routes.reachable else NOTHING_KNOWN
                yield from self._wait(change, pause, reasons_of(outcomes) or no_route)
                pause = min(2 * pause, LONGEST_PAUSE)
                tried.clear()
                outcomes.clear()
        finally:
            del caller.changes[change]

    def _wait(self, change: Change, pause: float, reasons: str) -> Steps[None]:
        log_problems(self._caller.metrics)
        end = self._request.monitored_until
        if end < self._deadline:
            reasons = f"no keepalive: {reasons}"
        until = min(time.monotonic() + pause, end)
        try:
            while not change.changed:
                yield Wait(self._caller._role, change, until, reasons)
        except CallTimeoutError:
            if until >= end:
                raise

    def _attempt(self, route: Route) -> Steps[Reply]:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise CallTimeoutError("it was not sent")
        caller = self._caller
        # Another one for each attempt: an answer to an earlier one must not end this one.
        request = uuid.uuid4().bytes
        message = Request(self._header(request), self._body, left)
        waiting = caller._calls.begin(self._request.on_reply, request.hex())
        answered = False
        try:
            caller.send(route.record, message)
            reply = yield from caller._calls.wait_steps(
                waiting, self._deadline, self._request.call_monitor_timeout
            )
            answered = True
            return reply
        finally:
            caller._calls.end(waiting)
            if not answered:
                caller.forget(request)

    def _header(self, request: bytes) -> Header:
        return Header(
            self._kind,
            request,
            self._flags,
            exchange=self._exchange,
            topic=self._target.topic,
            server=self._server,
            content_type=self._request.payload.content_type,
        )
