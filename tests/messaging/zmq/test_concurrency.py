"""Messages in programs of each concurrency model, and across a fork."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hbshim.messaging import Server, Target
from tests.messaging.endpoints import Endpoint
from tests.messaging.wires import Wires
from tests.messaging.zmq.nodes import LIMIT, InBackground, Node, own_address, run_program
from tests.waiting import wait_until


@pytest.mark.parametrize("model", ["native", "eventlet", "gevent"])
def test_a_program_of_each_concurrency_model(nodes: Callable[[], Node], model: str) -> None:
    """It calls, while a thread lets no other run; casts; publishes; and has both acknowledged."""
    node = nodes()
    node.start(whole=True)
    published = str(["fanout", "notification", "notification"])
    assert run_program(node, model, "calls,casts,publish,acknowledged") == [
        *("True", "waited", "ended"),
        *("True", "ended"),
        *(published, "ended"),
        *(published, "ended"),
    ]


@pytest.mark.parametrize("model", ["native", "eventlet", "gevent"])
def test_a_forked_child_calls_over_connections_of_its_own(
    node: Node, serve: Callable[..., Server], endpoint: Endpoint, model: str
) -> None:
    serve(node.driver(), Target("elsewhere"), endpoint)
    assert run_program(node, model, "fork") == ["before", "child", "0", "parent", "ended"]
    assert endpoint.asked == ["before", "child", "parent"]


def test_the_copies_of_green_callers_in_a_forked_child_take_nothing_from_its_parent(
    node: Node, serve: Callable[..., Server], endpoint: Endpoint
) -> None:
    """Under gevent: a child of an eventlet program shares its hub's epoll, and needs a new one."""
    serve(node.driver(), Target("elsewhere"), endpoint)
    assert run_program(node, "gevent", "copied") == [
        "child: ['ConnectionLostError', 'ConnectionLostError']",
        "parent: ['at last', 'at last'] True",
        "ended",
    ]


def test_a_fork_in_c_leaves_calls_and_fanouts_to_both_processes(
    nodes: Callable[[], Node], serve: Callable[..., Server], endpoint: Endpoint
) -> None:
    node = nodes()
    node.start(whole=True)
    serve(node.driver(), Target("elsewhere"), endpoint)
    said = run_program(node, "native", "fork-c")
    assert said == ["before", "child", "0", "parent", "ended"]
    sent = {f"{who}{what}" for who in ("before", "child", "parent") for what in ("", "'s fanout")}
    wait_until(lambda: len(endpoint.asked) >= len(sent), LIMIT)
    assert sorted(endpoint.asked) == sorted(sent)


@pytest.mark.parametrize(
    ("model", "what", "processes"),
    [
        ("native", "exit", 2),
        ("eventlet", "exit", 2),
        pytest.param("gevent", "exit", 2, marks=pytest.mark.extended),
        ("native", "child", 1),
    ],
)
def test_what_was_sent_leaves_a_process_before_its_end(
    nodes: Callable[[], Node],
    serve: Callable[..., Server],
    endpoint: Endpoint,
    tmp_path: Path,
    model: str,
    what: str,
    processes: int,
) -> None:
    """It ends by os._exit(): closing the driver waits, and so does a child of multiprocessing."""
    node, directory = nodes(), f"file://{tmp_path}/directory"
    node.start("--host", "one", "--directory", directory, whole=True)
    serve(node.driver(), Target("elsewhere", server="one"), endpoint)
    environment = {"HBSHIM_ZMQ_FANOUT_DS_ADDRESS": directory, "HBSHIM_ZMQ_ZMQ_LINGER": str(LIMIT)}
    said = run_program(node, model, what, "hbzmq://", environment)
    assert said == (["0"] if what == "exit" else ["0", "ended"])
    expected = processes * ["x" * 5_000_000, *map(str, range(300))]
    wait_until(lambda: len(endpoint.asked) >= len(expected), LIMIT)
    assert sorted(map(str, endpoint.asked)) == sorted(expected)


@pytest.mark.parametrize("library", ["eventlet", "gevent"])
def test_a_program_that_is_patched_after_its_first_call(
    node: Node, serve: Callable[..., Server], endpoint: Endpoint, library: str
) -> None:
    serve(node.driver(), Target("elsewhere"), endpoint, workers=10)
    said = run_program(node, "native", f"late-{library}")
    assert said == ["before", "True after", "ended"]


def test_a_hub_that_is_blocked_for_four_heartbeat_intervals_loses_no_connection(
    nodes: Callable[[], Node], serve: Callable[..., Server], endpoint: Endpoint
) -> None:
    """The control is stopped as a whole: its proxy ends the connection, and it makes another."""
    heartbeats = {"HBSHIM_ZMQ_HEARTBEAT_INTERVAL": "1"}
    node = nodes()
    node.start(environment=heartbeats)
    serve(node.driver(), Target("elsewhere"), endpoint)
    cases = [("eventlet", "blocked"), ("gevent", "blocked"), ("native", "stopped")]
    wires: dict[tuple[str, str], Wires] = {}
    running: dict[tuple[str, str], InBackground] = {}
    try:
        for case in cases:
            here = own_address()
            wires[case] = Wires({(here, 9501): (node.address, 9501)})

            def run(case: tuple[str, str] = case, url: str = f"hbzmq://{here}/") -> list[str]:
                return run_program(node, *case, url, heartbeats)

            running[case] = InBackground(run)
        for case in cases:
            assert running[case].join(120) == ["before", "after", "ended"], case
        opened = {case: wires[case].opened for case in cases}
    finally:
        for each in wires.values():
            each.close()
    assert opened.pop(cases[-1]) > 1
    assert set(opened.values()) == {1}
