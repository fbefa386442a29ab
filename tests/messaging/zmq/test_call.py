"""CALL and CAST from end to end: a client, the proxy in a process of its own, and servers."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hbshim import messaging
from hbshim.errors import (
    CallTimeoutError,
    ConnectError,
    LostServerError,
    OptionError,
    UnroutableError,
)
from hbshim.messaging import Client, Payload, Server, Target
from tests.messaging.endpoints import Endpoint
from tests.messaging.zmq.nodes import (
    LIMIT,
    InBackground,
    Node,
    figure,
    listening_ports,
    refused,
    server_process,
)
from tests.waiting import wait_until

Serve = Callable[..., Server]
Nodes = Callable[[], Node]

TARGET = Target("compute")

#: Seconds within which a call that nothing will answer ends; its own timeout is much longer.
EARLY = 60.0


def test_a_call_and_its_result(node: Node, serve: Serve, endpoint: Endpoint) -> None:
    serve(node.driver(), TARGET.to(server="one"), endpoint)
    client = Client(node.driver(), TARGET, timeout=LIMIT)
    value = {"text": "wörd", "list": [None, True, 1.5], "long": "x" * 1_000_000}
    assert client.call("echo", value=value) == value
    assert client.prepare(server="one").call("echo", value=2) == 2
    assert endpoint.asked == [value, 2]


def test_progress_comes_before_the_result(node: Node, serve: Serve, endpoint: Endpoint) -> None:
    serve(node.driver(), TARGET, endpoint)
    reported: list[int] = []
    client = Client(node.driver(), TARGET, timeout=LIMIT, on_progress=reported.append)
    assert client.call("count", to=3) == "counted"
    assert reported == [0, 1, 2]


def test_nothing_but_the_port_is_open(node: Node, serve: Serve, endpoint: Endpoint) -> None:
    if not Path("/proc/net/tcp").exists():
        pytest.skip("no /proc here")
    before = listening_ports(os.getpid())
    serve(node.driver(), TARGET, endpoint)
    assert Client(node.driver(), TARGET, timeout=LIMIT).call("echo", value=1) == 1
    assert listening_ports(node.pid) == {9501, 9504}
    assert listening_ports(os.getpid()) == before


def test_a_call_waits_for_a_proxy_and_a_server_that_start_later(
    nodes: Nodes, serve: Serve, endpoint: Endpoint
) -> None:
    node = nodes()
    call = InBackground(
        lambda: Client(node.driver(), TARGET, timeout=LIMIT).call("echo", value="early")
    )
    node.start()
    serve(node.driver(), TARGET, endpoint)
    assert call.join() == "early"


def test_without_a_server_it_times_out_or_fails_at_once(node: Node) -> None:
    # Long enough for its host to answer that there is none, on a busy machine too.
    client = Client(node.driver(), TARGET, timeout=3)
    with pytest.raises(CallTimeoutError, match=r"topic 'compute' .* no such server"):
        client.call("echo", value=1)
    with pytest.raises(UnroutableError, match="compute"):
        client.prepare(timeout=LIMIT, mandatory=True).call("echo", value=1)


def test_a_call_that_is_monitored_ends_early_without_a_server(node: Node) -> None:
    client = Client(node.driver(), TARGET, timeout=600, call_monitor_timeout=0.5)
    call = InBackground(lambda: client.call("echo", value=1))
    outcome = call.join(EARLY)
    assert isinstance(outcome, CallTimeoutError)
    assert "no keepalive: its host has no such server" in str(outcome)


def test_without_a_proxy_it_times_out_and_says_why(nodes: Nodes) -> None:
    with pytest.raises(CallTimeoutError, match="cannot be reached"):
        Client(nodes().driver(), TARGET, timeout=2).call("echo", value=1)


def test_hosts_that_have_no_server_or_are_down_are_passed_over(
    nodes: Nodes, serve: Serve, endpoint: Endpoint
) -> None:
    down, empty, serving = nodes(), nodes(), nodes()
    empty.start()
    serving.start()
    serve(serving.driver(), TARGET, endpoint)
    client = Client(down.driver(empty, serving), TARGET, timeout=LIMIT)
    assert [client.call("echo", value=number) for number in range(5)] == list(range(5))


def test_calls_are_spread_over_hosts_and_over_the_servers_of_one(
    nodes: Nodes, serve: Serve
) -> None:
    one, other = nodes(), nodes()
    names: list[Any] = []
    for node in (one, one, other):
        if not names or node is other:
            node.start()
        names.append(f"server-{len(names)}")
        serve(node.driver(), TARGET, Endpoint(names[-1]), workers=1)
    client = Client(one.driver(other), TARGET, timeout=LIMIT)
    wait_until(lambda: {client.call("who") for _ in range(8)} == set(names), LIMIT)


def test_the_death_of_a_server_is_known_long_before_the_timeout(node: Node) -> None:
    client = Client(node.driver(), TARGET, timeout=600)
    with server_process(node, TARGET.topic) as process:
        call = InBackground(lambda: client.call("hold"))
        assert process.stdout is not None
        assert process.stdout.readline() == "holding\n"
        process.kill()
        assert isinstance(call.join(EARLY), LostServerError)


def test_the_death_of_a_proxy_is_known_long_before_the_timeout(
    node: Node, serve: Serve, endpoint: Endpoint
) -> None:
    serve(node.driver(), TARGET, endpoint)
    client = Client(node.driver(), TARGET, timeout=600)
    call = InBackground(lambda: client.call("hold"))
    wait_until(lambda: endpoint.asked, LIMIT)
    node.end(signal.SIGKILL)
    assert isinstance(call.join(EARLY), LostServerError)


def test_a_proxy_that_restarts_learns_its_servers_again_and_runs_nothing_twice(
    node: Node, serve: Serve, endpoint: Endpoint
) -> None:
    serve(node.driver(), TARGET, endpoint)
    client = Client(node.driver(), TARGET, timeout=600)
    call = InBackground(lambda: client.call("hold", value="held"))
    wait_until(lambda: endpoint.asked, LIMIT)
    node.end(signal.SIGKILL)
    node.start()
    assert client.prepare(timeout=LIMIT).call("echo", value=1) == 1
    assert isinstance(call.join(EARLY), LostServerError)
    endpoint.release.set()
    assert client.prepare(timeout=LIMIT).call("echo", value=2) == 2
    assert endpoint.asked == ["held", 1, 2]


def test_a_paused_server_gives_back_what_it_has_not_begun(node: Node, serve: Serve) -> None:
    first, second = Endpoint("first"), Endpoint("second")
    paused = serve(node.driver(), TARGET, first, workers=1, prefetch=10)
    client = Client(node.driver(), TARGET, timeout=LIMIT)
    held = InBackground(lambda: client.call("hold", value="held"))
    wait_until(lambda: first.asked, LIMIT)
    calls = [InBackground(lambda n=n: client.call("echo", value=n)) for n in range(5)]  # type: ignore[misc]
    serve(node.driver(), TARGET, second)
    paused.pause()
    assert sorted(call.join() for call in calls) == list(range(5))  # type: ignore[type-var]
    assert sorted(second.asked) == list(range(5))
    first.release.set()
    assert held.join() == "held"
    paused.resume()
    wait_until(lambda: client.call("echo", value="more") and "more" in first.asked, LIMIT)


def test_a_server_that_stops_leaves_its_requests_to_others(node: Node, serve: Serve) -> None:
    first, second = Endpoint("first"), Endpoint("second")
    stopped = serve(node.driver(), TARGET, first, workers=1, prefetch=10)
    client = Client(node.driver(), TARGET, timeout=LIMIT)
    held = InBackground(lambda: client.call("hold", value="held"))
    wait_until(lambda: first.asked, LIMIT)
    calls = [InBackground(lambda n=n: client.call("echo", value=n)) for n in range(5)]  # type: ignore[misc]
    serve(node.driver(), TARGET, second)
    stopping = InBackground(lambda: stopped.stop(LIMIT))
    assert sorted(call.join() for call in calls) == list(range(5))  # type: ignore[type-var]
    first.release.set()
    assert held.join() == "held"
    assert stopping.join() is True
    assert sorted(first.asked[1:] + second.asked) == list(range(5))


def test_a_proxy_that_is_told_to_stop_forwards_the_replies_first(
    node: Node, serve: Serve, endpoint: Endpoint
) -> None:
    serve(node.driver(), TARGET, endpoint)
    client = Client(node.driver(), TARGET, timeout=LIMIT)
    held = InBackground(lambda: client.call("hold", value="held"))
    wait_until(lambda: endpoint.asked, LIMIT)
    ending = InBackground(node.end)
    wait_until(lambda: refused(client), LIMIT)
    endpoint.release.set()
    assert held.join() == "held"
    assert ending.join() == 0


def test_a_second_signal_ends_a_proxy_at_once(node: Node, serve: Serve, endpoint: Endpoint) -> None:
    serve(node.driver(), TARGET, endpoint)
    client = Client(node.driver(), TARGET, timeout=600)
    held = InBackground(lambda: client.call("hold"))
    wait_until(lambda: endpoint.asked, LIMIT)
    node.send_signal(signal.SIGTERM)
    wait_until(lambda: refused(client), LIMIT)
    assert node.end(signal.SIGTERM) == 1
    assert isinstance(held.join(EARLY), LostServerError)


def test_requests_beyond_the_credit_wait_and_those_that_are_late_are_not_run(
    node: Node, serve: Serve, endpoint: Endpoint
) -> None:
    serve(node.driver(), TARGET, endpoint, workers=1, prefetch=1)
    client = Client(node.driver(), TARGET, timeout=LIMIT)
    held = InBackground(lambda: client.call("hold", value="held"))
    wait_until(lambda: endpoint.asked, LIMIT)
    brief = client.prepare(timeout=0.5)
    late = [InBackground(lambda: brief.call("echo", value="late")) for _ in range(4)]
    assert {type(call.join()) for call in late} == {CallTimeoutError}
    # Time left is counted from the arrival, which a busy machine delays.
    # The first one waits in the server, and has expired before the others.
    wait_until(lambda: figure(node, "expired") == 3, LIMIT)
    endpoint.release.set()
    assert held.join() == "held"
    assert client.call("echo", value="last") == "last"
    assert endpoint.asked == ["held", "last"]
    # The proxy does not wait for the reply to the one that expired in the server.
    wait_until(lambda: figure(node, "outstanding") == 0, LIMIT)


def test_a_cast_is_run_once_and_reaches_a_server_that_starts_later(
    node: Node, serve: Serve, endpoint: Endpoint
) -> None:
    client = Client(node.driver(), TARGET, timeout=LIMIT)
    cast = InBackground(lambda: client.cast("echo", value="early"))
    serve(node.driver(), TARGET.to(server="one"), endpoint)
    assert cast.join() is None
    client.prepare(server="one").cast("echo", value="x" * 600_000)
    client.cast("raise_builtin")
    client.cast("echo", value="last")
    wait_until(lambda: endpoint.asked[-1:] == ["last"], LIMIT)
    assert endpoint.asked == ["early", "x" * 600_000, "last"]


def test_a_cast_that_no_host_takes_is_an_error(node: Node) -> None:
    client = Client(node.driver(), TARGET, timeout=0.5)
    with pytest.raises(ConnectError, match="no host took the cast within"):
        client.cast("echo", value=1)
    with pytest.raises(UnroutableError, match="compute"):
        node.driver().cast(TARGET, Payload(b"{}"), LIMIT, mandatory=True)


def test_a_cast_that_waits_too_long_is_not_run(
    node: Node, serve: Serve, endpoint: Endpoint
) -> None:
    serve(node.driver(), TARGET, endpoint, workers=1, prefetch=1)
    client = Client(node.driver(), TARGET, timeout=LIMIT)
    client.cast("hold", value="held")
    wait_until(lambda: endpoint.asked, LIMIT)
    for _ in range(3):
        client.prepare(timeout=3).cast("echo", value="late")
    client.cast("echo", value="patient")
    wait_until(lambda: figure(node, "expired") == 2, LIMIT)
    endpoint.release.set()
    assert client.call("echo", value="last") == "last"
    assert endpoint.asked == ["held", "patient", "last"]


def test_what_needs_a_store_is_refused_by_name(node: Node) -> None:
    client = Client(node.driver(), TARGET)
    for unsupported in (lambda: client.submit("echo", value=1), lambda: client.attach("1")):
        with pytest.raises(OptionError, match="hbkombu:// or hbpika://"):
            unsupported()  # type: ignore[no-untyped-call]


def test_a_driver_that_is_closed_ends_its_calls(
    node: Node, serve: Serve, endpoint: Endpoint
) -> None:
    serve(node.driver(), TARGET, endpoint)
    driver = node.driver()
    call = InBackground(lambda: Client(driver, TARGET, timeout=600).call("hold"))
    wait_until(lambda: endpoint.asked, LIMIT)
    driver.close()
    assert "closed" in str(call.join(EARLY))


def test_a_caller_logs_why_its_host_is_not_reached(caplog: pytest.LogCaptureFixture) -> None:
    """The directory's thread records the reason, and must not log."""
    url = "redis://127.0.0.1:1/0"
    driver = messaging.connect("hbzmq://", fanout_ds_address=url)
    try:
        with pytest.raises(CallTimeoutError):
            Client(driver, TARGET, timeout=2).call("echo", value=1)
    finally:
        driver.close()
    assert any("directory-lost" in each.getMessage() for each in caplog.records)
