"""The two ways in which oslo.messaging's own heartbeats failed, each with its control.

* A broker restart under 40 green callers: with 17.3's own ``heartbeat_in_pthread`` the
  service hangs and never recovers.
* A hub that stands still for 4 T: 18.3, which heartbeats from a green thread, loses the connection.
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
#: A service without an answer for so many seconds after the broker's return is taken to hang.
_HANGS_AFTER = 45.0
_START_LIMIT = 120.0
#: The text of greenlet's error when a native thread meets a green lock.
_SWITCHED = "Cannot switch to a different thread"
_numbers = itertools.count()


@dataclass(frozen=True)
class Target:
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
class TrialResult:
    """What became of a target.

    Attributes:
        after: seconds from the failure's end until all went well again; None without survival.
    """

    target: Target
    survived: bool
    what: str
    after: float | None = None


@dataclass
class _Pair:
    target: Target
    server: Service
    client: Service


def restart_targets(schemes: Sequence[str], pythons: dict[str, Path]) -> list[Target]:
    """Return who meets the restart: each scheme with the option on and, the newest, on `auto`."""
    newest = max(pythons)
    found = [
        Target(scheme, version, python, "true")
        for scheme in schemes
        for version, python in pythons.items()
    ]
    found += [Target(scheme, newest, pythons[newest], "auto") for scheme in schemes]
    with_option = [version for version in pythons if int(version.split(".")[0]) < 18]
    return found + [
        Target(STOCK, version, pythons[version], "true", control=True) for version in with_option
    ]


def blocked_targets(schemes: Sequence[str], pythons: dict[str, Path]) -> list[Target]:
    """Return whose hub is blocked: each scheme, and oslo.messaging's own."""
    return [
        Target(scheme, version, python, control=scheme == STOCK)
        for scheme in (*schemes, STOCK)
        for version, python in pythons.items()
    ]


def restart(
    targets: Sequence[Target],
    broker: Broker,
    control: Callable[..., object],
    directory: Path,
    *,
    outage: float = 9.0,
    limit: float = 90.0,
) -> list[TrialResult]:
    """Stop a broker under 40 green callers of each target, and start it again.

    Parameters:
        control: calls ``rabbitmqctl`` of that broker.
        outage: seconds that it stays away.
        limit: seconds after its return within which each caller has to be answered.
    """
    with _pairs(targets, directory, broker.amqp_url(), _RESTART_T) as pairs:
        for pair in pairs:
            pair.client.do("start_callers", number=CALLERS, pause=_PAUSE)
        began = time.time()
        for pair in pairs:
            if not wait_for(functools.partial(_all_called, pair.client, began), _START_LIMIT):
                raise HarnessError(f"{pair.target.name}: its callers are not answered")
        control("stop_app")
        time.sleep(outage)
        control("start_app")
        back = time.time()
        return [_after_restart(pair, back, limit) for pair in pairs]


def _after_restart(pair: _Pair, back: float, limit: float) -> TrialResult:
    # The others have had their time, too, once the first was waited for: never less than 5 s.
    left = max(back + (_HANGS_AFTER if pair.target.control else limit) - time.time(), 5.0)
    try:
        wait_for(lambda: _all_called(pair.client, back), left)
        found = pair.client.do("callers", since=back, limit=10.0)
        replaced = pair.client.do("report", limit=10.0)["replaced"]
    except HarnessError as error:
        return _hung(pair, str(error).splitlines()[0])
    answers = found["answers"]
    if replaced and not pair.target.control:
        return TrialResult(pair.target, False, "modules of oslo.messaging were replaced")
    if len(answers) == CALLERS:
        return TrialResult(
            pair.target, True, f"all {CALLERS} callers answered", max(answers) - back
        )
    return _hung(pair, f"{len(answers)} of {CALLERS} answered")


def _hung(pair: _Pair, what: str) -> TrialResult:
    reported = f"; '{_SWITCHED}'" if _SWITCHED in pair.client.log() else ""
    return TrialResult(pair.target, False, f"hangs: {what}{reported}")


def _all_called(client: Service, since: float) -> bool:
    answers: list[float] = client.do("callers", since=since, limit=10.0)["answers"]
    return len(answers) == CALLERS


def blocked(targets: Sequence[Target], broker: Broker, directory: Path) -> list[TrialResult]:
    """Block each target's hub for 4 T, and look at its connections from outside."""
    with contextlib.ExitStack() as stack:
        relays = [stack.enter_context(Relay(broker.host, broker.amqp_port)) for _ in targets]
        through = [
            broker.amqp_url().replace(f":{broker.amqp_port}/", f":{relay.port}/", 1)
            for relay in relays
        ]
        pairs = stack.enter_context(
            _pairs(targets, directory, broker.amqp_url(), _BLOCKED_T, through)
        )
        for pair in pairs:
            pair.client.do("call", value=1)
        for pair in pairs:
            pair.client.send("block", seconds=_BLOCKED_FOR)
        for pair in pairs:
            pair.client.answer(_BLOCKED_FOR + _START_LIMIT)
        return [_after_block(*each) for each in zip(pairs, relays, strict=True)]


def _after_block(pair: _Pair, relay: Relay) -> TrialResult:
    lost = len(relay.seen("closed"))
    try:
        began = time.monotonic()
        pair.client.do("call", value=2)
    except HarnessError as error:
        return TrialResult(pair.target, False, f"the next call fails: {str(error).splitlines()[0]}")
    if lost:
        return TrialResult(
            pair.target, False, f"lost {lost} of {len(relay.seen('opened'))} connections"
        )
    return TrialResult(pair.target, True, "kept every connection", time.monotonic() - began)


@contextlib.contextmanager
def _pairs(
    targets: Sequence[Target],
    directory: Path,
    amqp_url: str,
    heartbeat: int,
    through: Sequence[str] | None = None,
) -> Iterator[list[_Pair]]:
    """Start a server and a client of each target; `through` is where the clients connect."""
    directory.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:

        def start(target: Target, role: str, number: int) -> Service:
            log = directory / f"{target.scheme}-{target.version}-{role}-{number}.log"
            service = stack.enter_context(Service("green", log, target.python))
            lines = configuration(target.lines(), heartbeat=heartbeat)
            service.send("configure", lines=lines)
            return service

        pairs = []
        for index, target in enumerate(targets):
            number = next(_numbers)
            pair = _Pair(target, start(target, "server", number), start(target, "client", number))
            topic = f"failures-{number}"
            there = through[index] if through else amqp_url
            pair.server.send("serve", url=url(amqp_url, target.scheme), topic=topic)
            pair.client.send("open", url=url(there, target.scheme), topic=topic)
            pairs.append(pair)
        for pair in pairs:
            for service in (pair.server, pair.client):
                for _ in ("configure", "serve or open"):
                    service.answer(_START_LIMIT)
        yield pairs


def complaints(trial_results: Sequence[TrialResult]) -> list[str]:
    """Return what must not be: one of ours that did not survive, and a control that always did."""
    found = [
        f"{each.target.name}, oslo.messaging {each.target.version}: {each.what}"
        for each in trial_results
        if not each.target.control and not each.survived
    ]
    controls = [trial_result for trial_result in trial_results if trial_result.target.control]
    if controls and all(trial_result.survived for trial_result in controls):
        found.append("every control survived, so the failure was none")
    return found


def as_data(trial_result: TrialResult) -> dict[str, Any]:
    """Return it as JSON takes it."""
    return {
        "scheme": trial_result.target.scheme,
        "version": trial_result.target.version,
        "heartbeat_in_pthread": trial_result.target.in_pthread,
        "control": trial_result.target.control,
        "survived": trial_result.survived,
        "what": trial_result.what,
        "after": trial_result.after,
    }
