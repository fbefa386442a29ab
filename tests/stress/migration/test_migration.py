"""A migration under load, there and back; and journals in which something is wrong."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest

from hbshim.messaging.hybrid.phases import NAMES
from tests.messaging.amqp1.routers import HOST, Router, running
from tests.stress.migration.invariant import KINDS, check_invariant
from tests.stress.migration.run import Migration, Urls
from wsgi_harness.stack.broker import Broker

WELL = [f"{word} {kind} 1" for kind in KINDS for word in ("sent", "done", "ran")]


def urls(broker: Broker, vhost: str, router: Router) -> Urls:
    """The backends, in one virtual host."""
    rabbitmq = broker.amqp_url(vhost=vhost).replace("amqp://", "hbpika://")
    login = f"{quote(broker.user)}:{quote(broker.password)}@"
    return Urls(
        rabbitmq,
        f"hbamqp://{HOST}:{router.port}/{vhost}?login_method=ANONYMOUS",
        rabbitmq,
        broker.management_url.replace("://", f"://{login}"),
    )


@pytest.mark.alone
def test_a_migration_and_its_rollback_lose_nothing(
    broker: Broker, vhost: str, tmp_path: Path
) -> None:
    for router in running():
        with Migration(
            urls(broker, vhost, router), tmp_path, clients=1, threads=2, interval=1.5
        ) as migration:
            migration.go("forward", 50)
            migration.go("back", 50)
            result = migration.finish()
    assert result.holds, result
    assert min(result.done[kind] for kind in KINDS) >= 100
    # Each gate was passed, in this order.
    passed = [gate.phase for gate in migration.gates if gate.is_open]
    assert passed == [*NAMES[:-1], *NAMES[:0:-1]]


def test_journals_without_a_fault_hold() -> None:
    result = check_invariant(WELL)
    assert result.holds
    assert dict(result.done) == dict.fromkeys(KINDS, 1)


@pytest.mark.parametrize(
    ("lines", "field"),
    [
        (["sent call 2", "done call 2"], "lost"),
        (["sent cast 2", "done cast 2"], "lost"),
        (["sent notification 2", "done notification 2"], "lost"),
        (["ran call 1"], "twice"),
        (["ran cast 1"], "twice"),
        (["sent call 2", "failed call 2 CallTimeoutError late", "ran call 2"], "failed"),
        (["ran call 3"], "unknown"),
        (["sent cast 4"], "unfinished"),
    ],
)
def test_each_fault_is_found(lines: list[str], field: str) -> None:
    result = check_invariant([*WELL, *lines])
    assert not result.holds
    (found,) = getattr(result, field)
    assert found.split(" ", 1)[0] in KINDS


def test_a_notification_may_be_handled_again() -> None:
    result = check_invariant([*WELL, "ran notification 1"])
    assert result.holds
    assert result.again == ["notification 1"]
