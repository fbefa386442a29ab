"""Runs the matrix: from the images to the verdicts, and removes everything again."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import pika
import requests

from wsgi_harness.engine.bases import default_rabbitmq
from wsgi_harness.engine.engine import Engine
from wsgi_harness.engine.images import Images, prepare
from wsgi_harness.errors import CommandError, HarnessError
from wsgi_harness.matrix import answering, routing
from wsgi_harness.matrix.brokers import brokers_of, images_of
from wsgi_harness.matrix.matrix import Display, Matrix
from wsgi_harness.matrix.scenarios import HYBRID, Scenario, orders
from wsgi_harness.matrix.verdict import Verdict, evaluate
from wsgi_harness.observe import wiretap
from wsgi_harness.observe.observation import Observation
from wsgi_harness.observe.observer import BrokerUnobservableError
from wsgi_harness.stack.stack import CellService, Stack, project_name


@dataclass(frozen=True)
class Results:
    """A whole run.

    Attributes:
        began: ``time.time()`` in seconds.
        heartbeat: T, in seconds.
        broker: RabbitMQ's version, that of most cells first.
        engine: the container engine and its version.
        durations: seconds that each stage took, in order.
    """

    began: float
    heartbeat: int
    broker: str
    engine: str
    durations: Mapping[str, float]
    scenarios: tuple[Scenario, ...]
    observations: tuple[Observation, ...]
    verdicts: tuple[Verdict, ...]


def run(
    scenarios: Sequence[Scenario],
    *,
    heartbeat: int,
    display: Display,
    rabbitmq_image: str | None = None,
    prepared: tuple[Engine, Images] | None = None,
) -> Results:
    """Run `scenarios` in parallel and return the verdict on each.

    Parameters:
        scenarios: the cells.
        heartbeat: T, in whole seconds.
        display: shows progress.
        rabbitmq_image: an image to use as the broker instead of hbshim's own; the cells
            over TLS and on other versions are left out then.
        prepared: an engine and images that are ready, if the caller has them.

    Raises:
        HarnessError: the containers cannot be started, or the broker cannot be observed.
    """
    scenarios = that_can_run(scenarios, rabbitmq_image, display)
    clock = _Stopwatch()
    engine, images = prepared or prepare(rabbitmq_image=rabbitmq_image, progress=display.note)
    further, scenarios = images_of(scenarios, engine, display.note)
    display.note(f"RabbitMQ: {', '.join([images.rabbitmq, *further.values()])}")
    clock.lap("images")
    stack = Stack(
        project_name("regression"),
        services_of(scenarios, heartbeat),
        rabbitmq_image=rabbitmq_image,
        further_brokers=further,
        heartbeat=heartbeat,
        prepared=(engine, images),
        progress=display.note,
    )
    measured: _Measured | None = None
    try:
        with stack:
            clock.lap("start")
            measured = _measure(stack, scenarios, heartbeat, display, clock)
    except CommandError as error:
        # An engine that does not remove everything deserves a message, but the results are kept.
        if measured is None:
            raise
        display.note(f"not everything could be removed: {error}")
    clock.lap("remove")
    return Results(
        began=clock.began,
        heartbeat=heartbeat,
        broker=f"RabbitMQ {measured.rabbitmq}",
        engine=f"{engine.kind} {engine.version}",
        durations=clock.laps,
        scenarios=tuple(scenarios),
        observations=tuple(measured.observations),
        verdicts=tuple(measured.verdicts),
    )


def that_can_run(
    scenarios: Sequence[Scenario], rabbitmq_image: str | None, display: Display
) -> Sequence[Scenario]:
    """Return the scenarios that the broker of this run can take.

    Another image than hbshim's own takes neither TLS nor another version, and may not have AMQP
    1.0, which RabbitMQ speaks without a plugin since 4.0.

    Raises:
        HarnessError: none is left.
    """
    old = rabbitmq_image is None and default_rabbitmq().startswith("3.")
    if rabbitmq_image is None and not old:
        return scenarios
    possible = [
        each
        for each in scenarios
        if not (
            _on_rabbitmq_with_amqp1(each)
            or (rabbitmq_image and (each.deployment.tls or each.deployment.rabbitmq))
        )
    ]
    image = rabbitmq_image or f"of RabbitMQ {default_rabbitmq()}"
    if not possible:
        raise HarnessError(
            f"the image {image} has no TLS listener that the cells know, one version, and maybe no "
            "AMQP 1.0; run these cells without --rabbitmq-image and HBSHIM_RABBITMQ"
        )
    if len(possible) < len(scenarios):
        display.note(
            f"left out: {len(scenarios) - len(possible)} cells over TLS, on other versions or over "
            f"AMQP 1.0, which the image {image} cannot take"
        )
    return possible


def _on_rabbitmq_with_amqp1(scenario: Scenario) -> bool:
    over_amqp1 = scenario.deployment.protocol == "1.0" or scenario.library == HYBRID
    return over_amqp1 and not scenario.deployment.router


class _Measured(NamedTuple):
    rabbitmq: str
    observations: list[Observation]
    verdicts: list[Verdict]


def _measure(
    stack: Stack,
    scenarios: Sequence[Scenario],
    heartbeat: int,
    display: Display,
    clock: _Stopwatch,
) -> _Measured:
    matrix = Matrix(stack, scenarios, heartbeat, display, clock.lap)
    try:
        observations = matrix.measure()
        found = [each.management.overview() for each in stack.brokers.values()]
        versions = ", ".join(str(each["rabbitmq_version"]) for each in found)
    except (requests.RequestException, pika.exceptions.AMQPError) as error:
        raise BrokerUnobservableError(
            f"RabbitMQ stopped answering the harness ({type(error).__name__}); is the machine "
            "overloaded, or its disk full?"
        ) from error
    verdicts = [evaluate(*pair, heartbeat) for pair in zip(scenarios, observations, strict=True)]
    observations = [
        seen if verdict.outcome.ok else replace(seen, log=matrix.log_tail(seen.scenario))
        for seen, verdict in zip(observations, verdicts, strict=True)
    ]
    clock.lap("collect")
    return _Measured(versions, observations, verdicts)


def services_of(scenarios: Sequence[Scenario], heartbeat: int) -> list[CellService]:
    """Return a container for each cell, the relays that cells use, and their peers."""
    relayed: dict[str, list[str]] = {}
    for scenario in scenarios:
        if not scenario.deployment.tls:
            for broker in brokers_of(scenario):
                relayed.setdefault(broker, []).append(scenario.name)
    addresses = {broker: wiretap.addresses(names, broker) for broker, names in relayed.items()}

    def cell(scenario: Scenario) -> str:
        first, *further = (
            wiretap.ENCRYPTED if scenario.deployment.tls else addresses[broker][scenario.name]
            for broker in brokers_of(scenario)
        )
        return json.dumps(orders(scenario, heartbeat, first, *further))

    services = [
        CellService(
            scenario.name,
            {
                "SERVER": scenario.deployment.server,
                "ASGI_LOOP": scenario.deployment.loop,
                "MPM": scenario.deployment.mpm,
                "WSGI_MODE": scenario.deployment.mode,
                "WSGI_INTERPRETER": scenario.deployment.interpreter,
                "WSGI_THREADS": str(scenario.deployment.threads),
                "CELL": cell(scenario),
            },
        )
        for scenario in scenarios
    ]
    services = [
        *routing.services(scenarios, heartbeat),
        *answering.services(scenarios),
        *services,
    ]
    return [*(wiretap.service(names, broker) for broker, names in relayed.items()), *services]


class _Stopwatch:
    """Measures the seconds of each stage."""

    def __init__(self) -> None:
        self.began = time.time()
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name], self._last = now - self._last, now
