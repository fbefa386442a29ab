"""The contract of the drivers that store requests and results until a process takes them."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable

import pytest

from hbshim.errors import (
    CallTimeoutError,
    MessagingError,
    OptionError,
    ResultGoneError,
    UnroutableError,
)
from hbshim.messaging import DEFAULT, NEVER, Client, Driver, Server, StoringDriver, Target
from tests.messaging.conftest import LIMIT
from tests.messaging.contract.laboratory import Laboratory, require_features
from tests.messaging.endpoints import Endpoint
from tests.waiting import wait_until

Drivers = Callable[..., Driver]
Serve = Callable[..., Server]


@pytest.fixture
def submitter(storing: StoringDriver, target: Target) -> Client:
    """A client of a target that has neither a queue nor a server yet."""
    return Client(storing, target, timeout=LIMIT)


def test_a_cast_that_no_server_takes_expires(
    storing: StoringDriver, submitter: Client, serve: Serve, endpoint: Endpoint
) -> None:
    storing.declare_queue(submitter.target, DEFAULT)
    with contextlib.suppress(MessagingError):
        # On a busy machine its time may be over before it is sent.
        submitter.prepare(timeout=0.2).cast("echo", value="expired")
    submitter.cast("echo", value="there")
    time.sleep(0.5)
    serve(storing, submitter.target, endpoint)
    assert submitter.call("echo", value="last") == "last"
    wait_until(lambda: len(endpoint.asked) == 2, LIMIT)
    assert sorted(endpoint.asked) == ["last", "there"]


def test_a_request_stored_before_its_server_starts(
    laboratory: Laboratory,
    storing: StoringDriver,
    submitter: Client,
    serve: Serve,
    endpoint: Endpoint,
) -> None:
    """Progress and result arrive, though the connections of the client were cut in between."""
    storing.declare_queue(submitter.target)
    plain, progressing, held = (
        submitter.submit("count", to=2),
        submitter.submit("count", to=3),
        submitter.submit("hold", value="held"),
    )
    laboratory.cut()
    serve(laboratory.start_uncut(), submitter.target, endpoint, expires=NEVER)
    assert list(plain.progress(LIMIT)) == [0, 1]
    assert plain.result(0) == "counted"
    assert list(progressing.progress(LIMIT)) == [0, 1, 2]
    wait_until(lambda: endpoint.asked, LIMIT)
    with pytest.raises(CallTimeoutError):
        held.result(0.2)
    laboratory.cut()
    endpoint.release.set()
    assert held.result(LIMIT) == "held"
    assert storing.delete_queue(submitter.target) == 0


def test_nothing_is_stored_where_no_queue_was_declared(
    storing: StoringDriver, submitter: Client
) -> None:
    with pytest.raises(UnroutableError, match=submitter.target.topic):
        submitter.submit("echo", value=1)
    storing.declare_queue(submitter.target)
    submitter.submit("echo", value=1).close()
    assert storing.delete_queue(submitter.target) == 1
    assert storing.delete_queue(submitter.target) == 0
    with pytest.raises(UnroutableError):
        submitter.submit("echo", value=1)


def test_a_result_is_fetched_by_another_driver(
    storing: StoringDriver, drivers: Drivers, submitter: Client, serve: Serve, endpoint: Endpoint
) -> None:
    """The one that submitted is closed before the server starts."""
    second, serving = drivers(), drivers()
    storing.declare_queue(submitter.target, 30)
    task_id = submitter.submit("count", to=3).id
    storing.close()
    client = Client(second, submitter.target, timeout=LIMIT)
    waiting = client.attach(task_id)
    with pytest.raises(CallTimeoutError):
        waiting.result(0.1)
    serve(serving, submitter.target, endpoint, expires=30)
    assert list(waiting.progress(LIMIT)) == [0, 1, 2]
    assert waiting.result(LIMIT) == "counted"
    # It is received once; what was received stays with the task.
    assert waiting.result(0) == "counted"
    with pytest.raises(ResultGoneError, match=task_id):
        client.attach(task_id).result(LIMIT)


def test_a_task_that_is_closed_leaves_its_replies_to_others(
    drivers: Drivers, submitter: Client, serve: Serve, endpoint: Endpoint
) -> None:
    serve(drivers(), submitter.target, endpoint)
    task = submitter.submit("count", to=3)
    assert next(task.progress(LIMIT)) == 0
    task.close()
    again = Client(drivers(), submitter.target, timeout=LIMIT).attach(task.id)
    assert list(again.progress(LIMIT)) == [1, 2]
    assert again.result(LIMIT) == "counted"


def test_without_a_result(
    storing: StoringDriver, submitter: Client, serve: Serve, endpoint: Endpoint
) -> None:
    serve(storing, submitter.target, endpoint)
    task = submitter.prepare(ignore_result=True).submit("echo", value=1)
    wait_until(lambda: endpoint.asked == [1], LIMIT)
    for use in (lambda: task.id, lambda: task.result(LIMIT), lambda: next(task.progress(LIMIT))):
        with pytest.raises(OptionError, match="ignore_result"):
            use()
    task.close()


def test_a_queue_without_a_server_expires(storing: StoringDriver, submitter: Client) -> None:
    storing.declare_queue(submitter.target, 2)

    def is_gone() -> bool:
        try:
            submitter.submit("echo", value=1).close()
        except UnroutableError:
            return True
        time.sleep(0.1)
        return False

    wait_until(is_gone, LIMIT)


def test_a_queue_is_deleted_under_its_server(
    storing: StoringDriver, submitter: Client, serve: Serve, endpoint: Endpoint
) -> None:
    """Its server declares it again."""
    require_features(storing, "mandatory")
    server = submitter.target.to(server="one")
    serve(storing, server, endpoint)
    assert submitter.call("echo", value=1) == 1
    for target in (submitter.target, server):
        storing.delete_queue(target)
        again = submitter.prepare(target=target, timeout=2, mandatory=True)
        wait_until(lambda again=again: _is_served(again), LIMIT)  # type: ignore[misc]


def _is_served(client: Client) -> bool:
    try:
        return bool(client.call("echo", value=1) == 1)
    except (CallTimeoutError, UnroutableError):
        return False


def test_a_stored_request_outlives_its_servers_connection(
    laboratory: Laboratory,
    storing: StoringDriver,
    submitter: Client,
    serve: Serve,
    endpoint: Endpoint,
) -> None:
    """It has no time limit: one that was handed over and not begun is not lost."""
    storing.declare_queue(submitter.target, DEFAULT)
    uncut = Client(laboratory.start_uncut(), submitter.target, timeout=LIMIT)
    tasks = [uncut.submit("hold", value=number) for number in range(4)]
    serve(storing, submitter.target, endpoint, workers=1, prefetch=10)
    wait_until(lambda: endpoint.asked, LIMIT)
    laboratory.cut()
    endpoint.release.set()
    assert [task.result(LIMIT) for task in tasks] == list(range(4))
    assert Counter(endpoint.asked) == Counter(range(4))
