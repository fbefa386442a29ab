"""The cells of one run in parallel: open, wait, publish, collect what was observed."""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import pika

from wsgi_harness.matrix import answering, routing
from wsgi_harness.matrix.brokers import ROUTER, brokers_of, queues_at
from wsgi_harness.matrix.scenarios import MESSAGES, SILENCE, Scenario, queue_of
from wsgi_harness.observe import cells, observer, router_log, wiretap
from wsgi_harness.observe.cells import Answer, Cell
from wsgi_harness.observe.observation import BrokerView, Messages, Observation, Request, WireView
from wsgi_harness.observe.observer import BrokerWatch
from wsgi_harness.stack.stack import Stack

Result = TypeVar("Result")
Exchange = tuple[Request, Answer]

# Requests under way at once: more would make the cells wait for each other on two cores.
_AT_ONCE = 6
#: Seconds that messages may take from the client's socket to the queue.
_ARRIVAL_LIMIT = 5.0
_LOG_LINES = 25


class Display(Protocol):
    """Shows progress."""

    def note(self, line: str) -> None:
        """Show one line; from any thread."""

    def stage(self, title: str, total: float) -> AbstractContextManager[Callable[[float], None]]:
        """Show a bar; yields a function that takes the progress."""


class Matrix:
    """The cells of one run, while their containers run.

    Parameters:
        stack: running, with a cell for each scenario, and the relay.
        heartbeat: T, in seconds.
        lap: called with the name of each stage when it ends.
    """

    def __init__(
        self,
        stack: Stack,
        scenarios: Sequence[Scenario],
        heartbeat: int,
        display: Display,
        lap: Callable[[str], None],
    ) -> None:
        self._stack = stack
        self._scenarios = scenarios
        self._heartbeat = heartbeat
        self._display = display
        self._lap = lap
        self._routed = {each.name: each for each in routing.routed(scenarios)}
        self._at_router = {each.name for each in scenarios if ROUTER in brokers_of(each)}
        secret = stack.broker.password
        tls = any(scenario.deployment.tls for scenario in scenarios)
        ca_pem = (stack.broker.ca_pem if tls else None) or ""
        self._cells = {
            each.name: Cell(
                stack.cell_url(each.name), secret, ca_pem=ca_pem if each.deployment.tls else ""
            )
            for each in scenarios
        }

    def measure(self) -> list[Observation]:
        """Take every cell through open, wait and publish.

        Raises:
            BrokerUnobservableError: the management API does not answer.
        """
        self._declare_queues()
        self._wait_for_peers()
        with BrokerWatch(self._connections) as watch:
            opened = self._each("opening connections", Cell.open, self._cells)
            self._lap("open")
            self._keep_silent()
            listed = watch.listed_now()
            self._lap("silence")
            # A cell without a connection cannot publish.
            ready = {name: self._cells[name] for name in opened if not opened[name][0].failed}
            published = self._each("publishing", lambda cell: cell.publish(MESSAGES), ready)
            reports = self._each("collecting", Cell.report, ready)
        arrived = self._arrived({name: answer for name, (_, answer) in published.items()})
        from_log: dict[str, BrokerView] = {}
        for broker in self._stack.brokers:
            from_log.update(observer.read_log(self._log(broker)))
        from_router = router_log.read(self._log(ROUTER)) if self._at_router else {}
        wire = self._wire()
        several = {scenario.name for scenario in self._scenarios if scenario.deployment.oslo}

        def observation(name: str) -> Observation:
            if name not in ready:
                failure = f"it did not open its connection: {opened[name][0].error}"
                return Observation(name, problems=(failure,), requests=(opened[name][0],))
            view = watch.add_to(from_log.get(name, BrokerView()), name)
            seen = _observation(name, opened[name], published[name], reports[name])
            is_listed = name in self._routed or listed[name] >= (
                _kept_at(view, seen.silence) if name in several else 1
            )
            if name in self._at_router:
                at_router = from_router.get(name, BrokerView())
                # A router has no list to be sampled: the relay is the second witness.
                ended = wire[name].ended
                is_listed = is_listed and at_router.opened is not None
                is_listed = is_listed and not (ended and ended <= seen.silence[1])
                view = view.joined(at_router)
            kept = _kept_at(view, seen.silence) if name in several else 1
            seen = replace(
                seen,
                broker=replace(view, kept=kept, listed_after_silence=is_listed),
                wire=wire[name],
                messages=replace(seen.messages, arrived=arrived[name]),
            )
            return replace(seen, problems=self._problems(seen))

        return [observation(scenario.name) for scenario in self._scenarios]

    def _wait_for_peers(self) -> None:
        names = [each.name for each in answering.services(self._scenarios)]
        for name in [*names, *([routing.SINK] if self._routed else [])]:
            answering.wait_for(name, functools.partial(self._log, name))

    def log_tail(self, name: str) -> tuple[str, ...]:
        """Return the end of a cell's Apache log."""
        return tuple(self._log(name)[-_LOG_LINES:])

    def _connections(self) -> list[dict[str, Any]]:
        brokers = self._stack.brokers.values()
        return [each for broker in brokers for each in broker.management.connections()]

    def _wire(self) -> Mapping[str, WireView]:
        relays = {
            wiretap.relay_to(broker)
            for each in self._scenarios
            if not each.deployment.tls
            for broker in brokers_of(each)
        }
        seen = wiretap.read([line for relay in sorted(relays) for line in self._log(relay)])
        unseen = WireView(visible=False)
        return {
            each.name: unseen if each.deployment.tls else seen[each.name]
            for each in self._scenarios
        }

    def _log(self, service: str) -> list[str]:
        text = self._stack.logs(service).replace(self._stack.broker.password, "***")
        return observer.without_colour(text)

    def _each(
        self, title: str, function: Callable[[Cell], Result], wanted: Mapping[str, Cell]
    ) -> dict[str, Result]:
        pool = ThreadPoolExecutor(_AT_ONCE)
        try:
            with self._display.stage(title, len(wanted)) as progress:
                jobs = {name: pool.submit(function, cell) for name, cell in wanted.items()}
                answers = {}
                for name, job in jobs.items():
                    answers[name] = job.result()
                    progress(len(answers))
                return answers
        finally:
            # Ctrl-C must not wait for requests: removing the containers ends them.
            pool.shutdown(wait=False, cancel_futures=True)

    def _keep_silent(self) -> None:
        length = SILENCE * self._heartbeat
        began = time.monotonic()
        with self._display.stage(f"silence, {SILENCE} T = {length} s", length) as progress:
            while (passed := time.monotonic() - began) < length:
                progress(passed)
                time.sleep(min(0.25, length - passed))

    def _declare_queues(self) -> None:
        # Not by the cells: an exclusive queue would be deleted with the connection that is to be
        # closed.
        expiry = (SILENCE * self._heartbeat + 600) * 1000
        with self._channels() as channels:
            for scenario in self._scenarios:
                if scenario.deployment.oslo or scenario.deployment.router:
                    continue  # a driver declares its queues itself, and a router has none
                channels[queues_at(scenario)].queue_declare(
                    queue_of(scenario), durable=True, arguments={"x-expires": expiry}
                )

    def _arrived(self, published: Mapping[str, Answer]) -> dict[str, int]:
        """Return how many different messages of each cell reached its queue."""
        found: dict[str, set[bytes]] = {name: set() for name in published}
        for name, bodies in self._received().items():
            if name in found:
                found[name].update(bodies)
        queues = self._queues([name for name in published if name not in self._routed])
        limit = time.monotonic() + _ARRIVAL_LIMIT

        def awaited(name: str) -> bool:
            accepted: int = published[name].get("accepted", 0)
            return len(found[name]) < accepted

        with self._channels() as channels:
            waiting = list(queues)
            while waiting:
                for name in waiting:
                    broker, queue = queues[name]
                    for body in _take_all(channels[broker], queue):
                        found[name].update(_own_messages(name, body))
                waiting = [name for name in waiting if awaited(name)]
                if time.monotonic() > limit:
                    break
                time.sleep(0.1 if waiting else 0)
        return {name: len(bodies) for name, bodies in found.items()}

    def _received(self) -> Mapping[str, set[bytes]]:
        """Return what arrived through the router; each message was accepted when it had."""
        if not self._routed:
            return {}
        bodies = routing.received(self._log(routing.SINK))
        return {
            name: {
                message
                for body in bodies.get(routing.address_of(scenario), ())
                for message in _own_messages(name, body.encode())
            }
            for name, scenario in self._routed.items()
        }

    def _queues(self, names: Collection[str]) -> dict[str, tuple[str, str]]:
        """Return broker and queue of each cell; a queue that is not declared is left out."""
        declared = {
            name: [queue["name"] for queue in broker.management.get("queues")]
            for name, broker in self._stack.brokers.items()
        }
        found = {}
        for scenario in self._scenarios:
            if scenario.name not in names:
                continue
            queue = queue_of(scenario)
            # oslo.messaging's drivers add the priority, and some the exchange before it.
            pattern = (
                rf"(.*\.)?{re.escape(queue)}\.info"
                if scenario.deployment.oslo
                else re.escape(queue)
            )
            broker = queues_at(scenario)
            matching = [each for each in declared[broker] if re.fullmatch(pattern, each)]
            if matching:
                found[scenario.name] = (broker, matching[0])
        return found

    @contextmanager
    def _channels(self) -> Iterator[Mapping[str, Any]]:
        """Open a channel to each broker; yield them by the names of the services."""
        with ExitStack() as connections:
            channels = {}
            for name, broker in self._stack.brokers.items():
                connection = pika.BlockingConnection(pika.URLParameters(broker.amqp_url()))
                channels[name] = connections.enter_context(connection).channel()
            yield channels

    def _problems(self, seen: Observation) -> tuple[str, ...]:
        """Return why a cell cannot be evaluated, beyond what the cell itself reported."""
        problems = list(seen.problems)
        if seen.broker.heartbeat is None:
            problems.append("the broker never listed its connection")
        elif seen.broker.heartbeat != self._heartbeat:
            problems.append(
                f"it negotiated T = {seen.broker.heartbeat} s instead of {self._heartbeat} s"
            )
        return tuple(problems)


def _kept_at(view: BrokerView, silence: tuple[float, float]) -> int:
    """Return how many connections there were when the silence began, at least one."""
    return max(1, sum(life.opened <= silence[0] for life in view.lives))


def _observation(name: str, opened: Exchange, published: Exchange, report: Answer) -> Observation:
    """Return what the cell itself reports, in its two requests and its report."""
    (first, greeting), (second, answer) = opened, published
    silence = (first.ended, second.began)
    pids = {each.get("pid") for each in (greeting, answer, report)}
    problems = []
    if not report:
        problems.append("the cell did not report its measurements")
    elif len(pids) > 1:
        problems.append(f"different processes answered its requests ({sorted(map(str, pids))})")
    return Observation(
        name,
        problems=tuple(problems),
        silence=silence,
        requests=(first, second),
        green=cells.probe(report, "green", silence),
        native=cells.probe(report, "native", silence),
        messages=Messages(asked=MESSAGES, accepted=answer.get("accepted", 0)),
        keepalive=report.get("keepalive", {}),
        shim=report.get("shim"),
        versions={"python": greeting["python"], **greeting["versions"]},
    )


def _own_messages(name: str, body: bytes) -> list[bytes]:
    # oslo.messaging wraps what was sent; each driver does so differently.
    return re.findall(rf"{name}/\d+".encode(), body)


def _take_all(channel: Any, queue: str) -> Iterator[bytes]:
    while True:
        method, _, body = channel.basic_get(queue, auto_ack=True)
        if method is None:
            return
        yield body
