"""The brokers of a run: that of most cells, one for each further version of RabbitMQ, a router."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from wsgi_harness.engine.engine import Engine
from wsgi_harness.engine.images import ensure_broker_image
from wsgi_harness.errors import ImageError
from wsgi_harness.matrix.scenarios import HYBRID, Scenario
from wsgi_harness.paths import set_up_lock
from wsgi_harness.stack.stack import BROKER

Progress = Callable[[str], None]

#: Name of the service of the test router.
ROUTER = "router"


def broker_of(scenario: Scenario) -> str:
    """Return the name of the service that a cell connects to: a broker's, or the router's.

    Of a hybrid cell it is that of RPC.
    """
    if scenario.deployment.router:
        return ROUTER
    return scenario.deployment.key if scenario.deployment.rabbitmq else BROKER


def queues_at(scenario: Scenario) -> str:
    """Return the name of the service at which a cell's messages arrive."""
    return BROKER if scenario.library == HYBRID else broker_of(scenario)


def brokers_of(scenario: Scenario) -> tuple[str, ...]:
    """Return the names of all services that a cell connects to."""
    return tuple(dict.fromkeys((broker_of(scenario), queues_at(scenario))))


def images_of(
    scenarios: Sequence[Scenario], engine: Engine, progress: Progress
) -> tuple[dict[str, str], tuple[Scenario, ...]]:
    """Return the image of each further broker, by service, and the scenarios that have a broker.

    A version that cannot be had costs its cells, not the run.

    Raises:
        ImageError: then no cell is left.
    """
    versions = {
        broker_of(each): each.deployment.rabbitmq for each in scenarios if each.deployment.rabbitmq
    }
    images: dict[str, str] = {}
    missing: set[str] = set()
    for service, version in versions.items():
        try:
            with set_up_lock(progress):
                images[service] = ensure_broker_image(engine, version, progress=progress)
        except ImageError as error:
            if all(broker_of(each) in {service, *missing} for each in scenarios):
                raise
            missing.add(service)
            progress(f"left out: the cells on RabbitMQ {version}, which cannot be had: {error}")
    return images, tuple(each for each in scenarios if broker_of(each) not in missing)
