"""A request whose outcome is unknown is never sent again, and a call gets its reply."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

import pytest

from hbshim import messaging
from hbshim.messaging.amqp1.driver import Amqp1Driver
from hbshim.messaging.amqp1.outcomes import TABLE, Action, Outcome, Pattern
from tests.messaging.conftest import LIMIT, at_once
from tests.messaging.endpoints import Endpoint
from tests.waiting import wait_until
from wsgi_harness.wire.relay import Relay

Drivers = Callable[..., messaging.Driver]
Serve = Callable[..., messaging.Server]

CUTS = 40


class Counting:
    """Counts how often it runs each request."""

    def __init__(self) -> None:
        self.runs: Counter[str] = Counter()
        self._lock = threading.Lock()

    def work(self, _request: messaging.Request, name: str) -> str:
        with self._lock:
            self.runs[name] += 1
        return name


def cut_between_request_and_outcome(
    client: messaging.Client, counting: Counting, relay: Relay
) -> None:
    """Have a call and a cast arrive whose outcomes are lost with the client's connection."""
    for number in range(CUTS):
        names = [f"call-{number}", f"cast-{number}"]
        assert client.call("work", name="connected") == "connected"
        # Outcomes and replies do not reach the client.
        relay.deaf(sides=("server",))

        def cut(names: list[str] = names) -> None:
            wait_until(lambda: all(counting.runs[name] for name in names), LIMIT)
            relay.reset()
            relay.resume()

        call, cast, cutting = at_once(
            lambda names=names: client.call("work", name=names[0]),  # type: ignore[misc]
            lambda names=names: client.cast("work", name=names[1]),  # type: ignore[misc]
            cut,
        )
        assert (call, cast, cutting) == (names[0], None, None)
    # Whatever was sent before has arrived, too.
    assert client.call("work", name="last") == "last"


@pytest.fixture
def counting(router_drivers: Drivers, target: messaging.Target, serve: Serve) -> Counting:
    """What a server offers whose connection is not cut."""
    found = Counting()
    serve(router_drivers(), target, found)
    return found


@pytest.fixture
def client(router_drivers: Drivers, relay: Relay, target: messaging.Target) -> messaging.Client:
    """A client whose connection is cut."""
    return messaging.Client(router_drivers(port=relay.port), target, timeout=LIMIT)


def twice(counting: Counting) -> list[str]:
    del counting.runs["connected"]
    return [name for name, runs in counting.runs.items() if runs != 1]


def test_what_is_in_doubt_is_not_sent_again(
    client: messaging.Client, counting: Counting, relay: Relay
) -> None:
    cut_between_request_and_outcome(client, counting, relay)
    assert twice(counting) == []
    assert len(counting.runs) == 2 * CUTS + 1


def test_control_a_driver_that_sends_it_again_has_it_run_twice(
    client: messaging.Client, counting: Counting, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pattern in (Pattern.CALL, Pattern.CAST):
        monkeypatch.setitem(TABLE[Outcome.UNKNOWN], pattern, Action.RESEND)
    cut_between_request_and_outcome(client, counting, relay)
    again = twice(counting)
    assert any(name.startswith("call") for name in again)
    assert any(name.startswith("cast") for name in again)


def test_what_waits_in_a_server_is_run_after_the_router_is_gone(
    router_drivers: Drivers, relay: Relay, target: messaging.Target, serve: Serve
) -> None:
    """Nothing redelivers it, and its caller waits: both have lost their connections."""
    endpoint, driver = Endpoint(), router_drivers(port=relay.port)
    assert isinstance(driver, Amqp1Driver)
    serve(driver, target, endpoint, workers=1)
    client = messaging.Client(router_drivers(port=relay.port), target, timeout=LIMIT)
    client.cast("hold", value="busy")
    (listener,) = driver._listeners

    def cut() -> None:
        wait_until(lambda: len(listener._inbox) == 1, LIMIT)
        before = len(relay.seen("opened"))
        relay.reset()
        wait_until(lambda: len(relay.seen("opened")) > before, LIMIT)
        endpoint.release.set()

    call, _ = at_once(lambda: client.call("echo", value="waits"), cut)
    assert call == "waits"
    assert endpoint.asked == ["busy", "waits"]


def test_a_call_that_is_sent_again_marked_gets_the_reply_to_the_first(
    router_drivers: Drivers, relay: Relay, target: messaging.Target, serve: Serve
) -> None:
    """Only the server's connection is lost, and the router reports what was on it as failed."""
    endpoint, driver = Endpoint(), router_drivers(port=relay.port)
    assert isinstance(driver, Amqp1Driver)
    serve(driver, target, endpoint, workers=1)
    client = messaging.Client(router_drivers(), target, timeout=LIMIT)
    client.cast("hold", value="busy")
    (listener,) = driver._listeners

    def cut() -> None:
        wait_until(lambda: len(listener._inbox) == 1, LIMIT)
        before = len(relay.seen("opened"))
        relay.reset()
        endpoint.release.set()
        wait_until(lambda: len(relay.seen("opened")) > before, LIMIT)

    call, _ = at_once(lambda: client.call("echo", value="waits"), cut)
    assert call == "waits"
    assert endpoint.asked == ["busy", "waits"]
