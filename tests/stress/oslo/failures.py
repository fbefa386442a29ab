"""The two ways in which oslo.messaging's own heartbeats failed, each with its control.

* A broker restart under 40 green callers: with 17.3's own ``heartbeat_in_pthread`` the
  service hangs for good.
* A hub that stands still for 4 T: 18.3, which beats from a green thread, loses the connection.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.stress.oslo.processes import Service, configuration, wait_for
from tests.stress.oslo.schemes import STOCK, url
from wsgi_harness.errors import HarnessError
from wsgi_harness.stack.broker import Broker
from wsgi_harness.wire.relay import Relay

CALLERS = 40
_PAUSE = 2.0
_RESTART_T = 1
_BLOCKED_T = 2
_BLOCKED_FOR = 4 * _BLOCKED_T
#: What has answered nobody for so many seconds after the broker's return is taken to hang.
_HANGS_AFTER = 45.0
_START_LIMIT = 120.0
#: What greenlet says when a native thread meets a green lock.
_SWITCHED = "Cannot switch to a different thread"
_numbers = itertools.count()


@dataclass(frozen=True)
class Subject:
    """A service that meets a failure.

    Attributes:
        version: of oslo.messaging, for the table.
        in_pthread: its option `heartbeat_in_pthread`, unless left alone.
        control: it has to fail, or surviving means nothing.
    """

    scheme: str
    version: str
    python: Path = field(repr=False)
    in_pthread: str | None = None
    control: bool = False

    @property
    def name(self) -> str:
        """For people."""
        option = f" heartbeat_in_pthread={self.in_pthread}" if self.in_pthread else ""
        return f"{self.scheme}{option}"

    def lines(self) -> list[str]:
        """Lines of its configuration."""
        return [f"heartbeat_in_pthread = {self.in_pthread}"] if self.in_pthread else []


@dataclass(frozen=True)
class Fate:
    """What became of a subject.

    Attributes:
        after: seconds from the failure's end until all went well again; None without survival.
    """

    subject: Subject
    survived: bool
    what: str
    after: float | None = None


@dataclass
class _Pair:
    subject: Subject
    server: Service
    client: Service


def restart_subjects(schemes: Sequence[str], pythons: dict[str, Path]) -> list[Subject]:
    """Return who meets the restart: each scheme with the option on and, the newest, on `auto`."""
    newest = max(pythons)
    found = [
        Subject(scheme, version, python, "true")
        for scheme in schemes
        for version, python in pythons.items()
    ]
    found += [Subject(scheme, newest, pythons[newest], "auto") for scheme in schemes]
    with_option = [version for version in pythons if int(version.split(".")[0]) < 18]
    return found + [
        Subject(STOCK, version, pythons[version], "true", control=True) for version in with_option
    ]


def blocked_subjects(schemes: Sequence[str], pythons: dict[str, Path]) -> list[Subject]:
    """Return whose hub is blocked: each scheme, and oslo.messaging's own."""
    return [
        Subject(scheme, version, python, control=scheme == STOCK)
        for scheme in (*schemes, STOCK)
        for version, python in pythons.items()
    ]


def restart(
    subjects: Sequence[Subject],
    broker: Broker,
    control: Callable[..., object],
    directory: Path,
    *,
    outage: float = 9.0,
    limit: float = 90.0,
) -> list[Fate]:
    """Stop a broker under 40 green callers of each subject, and start it again.

    Parameters:
        control: calls ``rabbitmqctl`` of that broker.
        outage: seconds that it stays away.
        limit: seconds after its return within which each caller has to be answered.
    """
    with _pairs(subjects, directory, broker.amqp_url(), _RESTART_T) as pairs:
        for pair in pairs:
            pair.client.do("start_callers", number=CALLERS, pause=_PAUSE)
        began = time.time()
        for pair in pairs:
            if not wait_for(functools.partial(_all_called, pair.client, began), _START_LIMIT):
                raise HarnessError(f"{pair.subject.name}: its callers are not answered")
        control("stop_app")
        time.sleep(outage)
        control("start_app")
        back = time.time()
        return [_after_restart(pair, back, limit) for pair in pairs]


def _after_restart(pair: _Pair, back: float, limit: float) -> Fate:
    # The others have had their time, too, once the first was waited for: never less than 5 s.
    left = max(back + (_HANGS_AFTER if pair.subject.control else limit) - time.time(), 5.0)
    try:
        wait_for(lambda: _all_called(pair.client, back), left)
        found = pair.client.do("callers", since=back, limit=10.0)
        replaced = pair.client.do("report", limit=10.0)["replaced"]
    except HarnessError as error:
        return _hung(pair, str(error).splitlines()[0])
    answers = found["answers"]
    if replaced and not pair.subject.control:
        return Fate(pair.subject, False, "modules of oslo.messaging were replaced")
    if len(answers) == CALLERS:
        return Fate(pair.subject, True, f"all {CALLERS} callers answered", max(answers) - back)
    return _hung(pair, f"{len(answers)} of {CALLERS} answered")


def _hung(pair: _Pair, what: str) -> Fate:
    told = f"; '{_SWITCHED}'" if _SWITCHED in pair.client.log() else ""
    return Fate(pair.subject, False, f"hangs: {what}{told}")


def _all_called(client: Service, since: float) -> bool:
    answers: list[float] = client.do("callers", since=since, limit=10.0)["answers"]
    return len(answers) == CALLERS


def blocked(subjects: Sequence[Subject], broker: Broker, directory: Path) -> list[Fate]:
    """Block each subject's hub for 4 T, and look at its connections from outside."""
    with contextlib.ExitStack() as stack:
        relays = [stack.enter_context(Relay(broker.host, broker.amqp_port)) for _ in subjects]
        through = [
            broker.amqp_url().replace(f":{broker.amqp_port}/", f":{relay.port}/", 1)
            for relay in relays
        ]
        pairs = stack.enter_context(
            _pairs(subjects, directory, broker.amqp_url(), _BLOCKED_T, through)
        )
        for pair in pairs:
            pair.client.do("call", value=1)
        for pair in pairs:
            pair.client.send("block", seconds=_BLOCKED_FOR)
        for pair in pairs:
            pair.client.answer(_BLOCKED_FOR + _START_LIMIT)
        return [_after_block(*each) for each in zip(pairs, relays, strict=True)]


def _after_block(pair: _Pair, relay: Relay) -> Fate:
    lost = len(relay.seen("closed"))
    try:
        began = time.monotonic()
        pair.client.do("call", value=2)
    except HarnessError as error:
        return Fate(pair.subject, False, f"the next call fails: {str(error).splitlines()[0]}")
    if lost:
        return Fate(pair.subject, False, f"lost {lost} of {len(relay.seen('opened'))} connections")
    return Fate(pair.subject, True, "kept every connection", time.monotonic() - began)


@contextlib.contextmanager
def _pairs(
    subjects: Sequence[Subject],
    directory: Path,
    amqp_url: str,
    heartbeat: int,
    through: Sequence[str] | None = None,
) -> Iterator[list[_Pair]]:
    """Start a server and a client of each subject; `through` is where the clients connect."""
    directory.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:

        def start(subject: Subject, role: str, number: int) -> Service:
            log = directory / f"{subject.scheme}-{subject.version}-{role}-{number}.log"
            service = stack.enter_context(Service("green", log, subject.python))
            lines = configuration(subject.lines(), heartbeat=heartbeat)
            service.send("configure", lines=lines)
            return service

        pairs = []
        for index, subject in enumerate(subjects):
            number = next(_numbers)
            pair = _Pair(
                subject, start(subject, "server", number), start(subject, "client", number)
            )
            topic = f"failures-{number}"
            there = through[index] if through else amqp_url
            pair.server.send("serve", url=url(amqp_url, subject.scheme), topic=topic)
            pair.client.send("open", url=url(there, subject.scheme), topic=topic)
            pairs.append(pair)
        for pair in pairs:
            for service in (pair.server, pair.client):
                for _ in ("configure", "serve or open"):
                    service.answer(_START_LIMIT)
        yield pairs


def complaints(fates: Sequence[Fate]) -> list[str]:
    """Return what must not be: one of ours that did not survive, and a control that always did."""
    found = [
        f"{fate.subject.name}, oslo.messaging {fate.subject.version}: {fate.what}"
        for fate in fates
        if not fate.subject.control and not fate.survived
    ]
    controls = [fate for fate in fates if fate.subject.control]
    if controls and all(fate.survived for fate in controls):
        found.append("every control survived, so the failure was none")
    return found


def as_data(fate: Fate) -> dict[str, Any]:
    """Return it as JSON takes it."""
    return {
        "scheme": fate.subject.scheme,
        "version": fate.subject.version,
        "heartbeat_in_pthread": fate.subject.in_pthread,
        "control": fate.subject.control,
        "survived": fate.survived,
        "what": fate.what,
        "after": fate.after,
    }
