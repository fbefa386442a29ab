"""The contract of the drivers, servers: which server gets a message, and what its end changes."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hbshim.errors import CallTimeoutError, LostServerError
from hbshim.messaging import Client, Driver, Server
from tests.messaging.conftest import LIMIT, at_once
from tests.messaging.contract.laboratory import Laboratory, require_features
from tests.messaging.endpoints import Endpoint
from tests.waiting import wait_until

Serve = Callable[..., Server]
Drivers = Callable[..., Driver]

CHECKOUT = Path(__file__).parents[3]


# -- CAST and FANOUT -----------------------------------------------------------


def test_cast(asker: Client, serve: Serve, endpoints: list[Endpoint]) -> None:
    for endpoint in endpoints:
        serve(asker.driver, asker.target.to(server=endpoint.name), endpoint)
    for number in range(20):
        asker.cast("echo", value=number)
        asker.prepare(server="two").cast("echo", value=100 + number)
    one, two = endpoints
    wait_until(lambda: len(one.asked + two.asked) == 40, LIMIT)
    assert sorted(one.asked + two.asked) == [*range(20), *range(100, 120)]
    assert max(one.asked) < 100


def test_fanout(asker: Client, serve: Serve, endpoints: list[Endpoint]) -> None:
    for endpoint in endpoints:
        serve(asker.driver, asker.target.to(server=endpoint.name), endpoint)
    everywhere = asker.prepare(fanout=True)
    for number in range(10):
        everywhere.cast("echo", value=number)
    for endpoint in endpoints:
        wait_until(lambda endpoint=endpoint: len(endpoint.asked) == 10, LIMIT)  # type: ignore[misc]
        assert sorted(endpoint.asked) == list(range(10))


def test_a_cast_without_a_server_is_lost_and_no_error(
    asker: Client, serve: Serve, endpoints: list[Endpoint]
) -> None:
    """No queue keeps it for a server that starts later."""
    asker.cast("echo", value="lost")
    asker.prepare(fanout=True).cast("echo", value="lost")
    serve(asker.driver, asker.target, endpoints[0])
    assert asker.call("echo", value="call") == "call"
    everywhere = asker.prepare(fanout=True)
    everywhere.cast("echo", value="fanout")
    wait_until(lambda: "fanout" in endpoints[0].asked, LIMIT)
    assert endpoints[0].asked == ["call", "fanout"]


# -- stopping, pausing, bounds -------------------------------------------------


def test_a_server_that_stops_ends_what_it_has_begun(
    asker: Client, serve: Serve, endpoints: list[Endpoint]
) -> None:
    server = serve(asker.driver, asker.target, endpoints[0])
    results: list[Any] = []
    called = threading.Thread(target=lambda: results.append(asker.call("hold", value="done")))
    called.start()
    wait_until(lambda: endpoints[0].asked, LIMIT)
    stopping = threading.Thread(target=lambda: results.append(server.stop(LIMIT)))
    stopping.start()
    endpoints[0].release.set()
    called.join(LIMIT)
    stopping.join(LIMIT)
    assert sorted(results, key=str) == [True, "done"]


def test_pausing(asker: Client, serve: Serve, endpoint: Endpoint) -> None:
    server = serve(asker.driver, asker.target, endpoint)
    assert asker.call("echo", value=1) == 1
    server.pause()
    with pytest.raises(CallTimeoutError):
        asker.prepare(timeout=0.5).call("echo", value="timed out")
    asker.cast("echo", value="waits")
    assert endpoint.asked == [1]
    server.resume()
    wait_until(lambda: "waits" in endpoint.asked, LIMIT)
    assert asker.call("echo", value=2) == 2
    # What was under way to the server for long may be younger to it than to its client.
    assert [value for value in endpoint.asked if value != "timed out"] == [1, "waits", 2]


def test_bounded_workers(asker: Client, serve: Serve, endpoints: list[Endpoint]) -> None:
    endpoint = endpoints[0]
    serve(asker.driver, asker.target, endpoint, workers=3)
    for _ in range(9):
        asker.cast("hold")
    wait_until(lambda: len(endpoint.asked) == 3, LIMIT)
    endpoint.release.set()
    wait_until(lambda: len(endpoint.asked) == 9, LIMIT)
    assert endpoint.most == 3


def test_two_servers_share_the_work(asker: Client, serve: Serve, endpoints: list[Endpoint]) -> None:
    for endpoint in endpoints:
        serve(asker.driver, asker.target, endpoint, workers=2)
    outcomes = at_once(*[lambda: [asker.call("who") for _ in range(10)]] * 6)
    assert {name for names in outcomes for name in names} == {"one", "two"}


def test_a_driver_is_closed_before_its_server(
    asker: Client, drivers: Drivers, serve: Serve, endpoints: list[Endpoint]
) -> None:
    driver = drivers()
    server = serve(driver, asker.target, endpoints[0])
    assert asker.call("echo", value=1) == 1
    driver.close()
    assert server.stop(LIMIT)


# -- a server process that is killed -------------------------------------------


class Process:
    """A server in a process of its own, to be killed."""

    def __init__(self, url: str, topic: str, acknowledge: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.messaging.contract.server_process", topic, acknowledge],
            cwd=CHECKOUT,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT), "URL": url},
            stdout=subprocess.PIPE,
            text=True,
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.strip())

    def wait_for(self, line: str) -> None:
        assert self._lines.get(timeout=LIMIT) == line

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(LIMIT)
        self._reader.join(LIMIT)
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.mark.parametrize("acknowledge", ["before", "after"])
def test_a_server_is_killed_at_work(
    acknowledge: str,
    laboratory: Laboratory,
    asker: Client,
    serve: Serve,
    endpoints: list[Endpoint],
) -> None:
    if acknowledge == "after":
        require_features(asker.driver, "stores")
    killed = Process(laboratory.url, asker.target.topic, acknowledge)
    try:
        killed.wait_for("started")
        results: list[Any] = []

        # With acknowledge="before" the request is lost: the call ends without a keepalive, or
        # earlier where the driver learns of the server's death.
        patient = asker if acknowledge == "after" else asker.prepare(call_monitor_timeout=2)

        def call() -> None:
            try:
                results.append(patient.call("echo", value="work"))
            except CallTimeoutError as error:
                results.append("lost" if "no keepalive" in str(error) else error)
            except LostServerError:
                results.append("lost")

        called = threading.Thread(target=call)
        called.start()
        killed.wait_for("begun")
    finally:
        killed.kill()
    serve(asker.driver, asker.target, endpoints[0], acknowledge=acknowledge)
    assert asker.call("echo", value="another") == "another"
    called.join(LIMIT)
    if acknowledge == "before":
        assert (endpoints[0].asked, results) == (["another"], ["lost"])
    else:
        assert sorted(endpoints[0].asked) == ["another", "work"]
        assert results == ["work"]
