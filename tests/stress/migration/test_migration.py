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

#: One message of each kind, and a second fanout; one listener.
WELL = [
    "up listener host.1 5",
    *(f"{word} {kind} c.1.0.1 10 " for kind in KINDS for word in ("sent", "done")),
    *(f"ran {kind} c.1.0.1 host.1" for kind in KINDS),
    "sent fanout c.1.0.2 20",
    "done fanout c.1.0.2",
    "ran fanout c.1.0.2 host.1",
]


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
    assert dict(result.done) == {**dict.fromkeys(KINDS, 1), "fanout": 2}


@pytest.mark.parametrize(
    ("lines", "field"),
    [
        (["sent call c.1.0.2 1", "done call c.1.0.2"], "lost"),
        (["sent cast c.1.0.2 1", "done cast c.1.0.2"], "lost"),
        (["sent notification c.1.0.2 1", "done notification c.1.0.2"], "lost"),
        (["ran call c.1.0.1"], "twice"),
        (["ran cast c.1.0.1"], "twice"),
        (["ran fanout c.1.0.1 host.1"], "twice"),
        (["sent call c.1.0.2 1", "failed call c.1.0.2 CallTimeoutError late"], "failed"),
        (["ran call c.1.0.3"], "unknown"),
        (["sent cast c.1.0.4 1"], "unfinished"),
        # It listened before the first one was sent, and to the end.
        (["up listener other.1 5", "ran fanout c.1.0.2 other.1"], "missed"),
        (["up listener other.1 5", "ran fanout c.1.0.1 other.1"], "missed"),
        # It has heard the client's next start, so it listened at the end of this one.
        (
            [
                *("up listener other.1 15", "up listener other.2 90", "sent fanout c.2.0.1 80"),
                *("done fanout c.2.0.1", "ran fanout c.2.0.1 host.1", "ran fanout c.2.0.1 other.1"),
                *("sent fanout c.1.0.3 30", "done fanout c.1.0.3", "ran fanout c.1.0.3 host.1"),
                "ran fanout c.1.0.2 other.1",
            ],
            "missed",
        ),
    ],
)
def test_each_fault_is_found(lines: list[str], field: str) -> None:
    result = check_invariant([*WELL, *lines])
    assert not result.holds
    (found,) = getattr(result, field)
    assert found.split(" ", 1)[0] in KINDS


@pytest.mark.parametrize(
    "lines",
    [
        # It has started between the two fanouts.
        ["up listener other.1 15", "ran fanout c.1.0.2 other.1"],
        # It has ended between them, and started again after them.
        ["up listener other.1 5", "up listener other.2 25", "ran fanout c.1.0.1 other.1"],
        ["up listener other.1 25"],
    ],
)
def test_a_listener_hears_what_is_sent_while_it_listens(lines: list[str]) -> None:
    result = check_invariant([*WELL, *lines])
    assert result.holds, result
    assert not result.again


def test_a_notification_may_be_handled_again() -> None:
    result = check_invariant([*WELL, "ran notification c.1.0.1"])
    assert result.holds
    assert result.again == ["notification c.1.0.1"]
