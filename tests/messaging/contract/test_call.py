"""The contract of the drivers, CALL: the same for every driver, in every concurrency model."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from hbshim.errors import (
    CallTimeoutError,
    NoSuchMethodError,
    OptionError,
    PayloadError,
    RemoteError,
    UnroutableError,
)
from hbshim.messaging import (
    Client,
    Driver,
    Encoding,
    Notifier,
    Payload,
    Request,
    Server,
    StoringDriver,
    Target,
)
from tests.messaging.conftest import LIMIT, at_once
from tests.messaging.contract.laboratory import require_features
from tests.messaging.endpoints import Endpoint, OddError
from tests.waiting import holds_at_some_scale, wait_until

#: Seconds by which a server may misjudge the age of a request.
LATE = 0.5

Serve = Callable[..., Server]
Drivers = Callable[..., Driver]


# -- results and errors --------------------------------------------------------


def test_result(client: Client, endpoint: Endpoint) -> None:
    value = {"number": 1, "text": "wörd", "list": [None, True, 1.5]}
    assert client.call("echo", value=value) == value
    assert client.prepare(server="one").call("echo", value=2) == 2
    assert endpoint.asked == [value, 2]


def test_context_goes_along(client: Client, endpoint: Endpoint) -> None:
    client.prepare(context={"user": "me"}).call("echo", value=0)
    assert endpoint.contexts == [{"user": "me"}]


def test_an_error_keeps_its_type(client: Client) -> None:
    with pytest.raises(ValueError, match="a value") as caught:
        client.call("raise_builtin")
    assert caught.value.args == ("a value", 7)
    assert isinstance(caught.value.__cause__, RemoteError)
    assert "in raise_builtin" in caught.value.__cause__.trace


def test_an_error_of_another_module(client: Client) -> None:
    with pytest.raises(RemoteError, match="an oddity") as caught:
        client.call("raise_odd")
    assert caught.value.kind == f"{OddError.__module__}.OddError"
    assert "in raise_odd" in caught.value.trace
    with pytest.raises(OddError, match="an oddity"):
        client.prepare(allowed_errors=[OddError.__module__]).call("raise_odd")


def test_what_is_not_offered(client: Client) -> None:
    for method in ("missing", "_hidden", "asked", "__init__"):
        with pytest.raises(NoSuchMethodError, match=method):
            client.call(method)
    with pytest.raises(TypeError, match="unexpected"):
        client.call("echo", unexpected=1)


def test_namespace_and_version(client: Client) -> None:
    admin = client.prepare(namespace="admin", version="2.1")
    assert admin.call("ping") == "pong"
    for other in ({"version": "2.4"}, {"version": "1.0"}, {"namespace": "other"}):
        with pytest.raises(NoSuchMethodError, match="serves"):
            admin.prepare(**other).call("ping")


def test_a_result_that_cannot_be_sent(client: Client) -> None:
    with pytest.raises(PayloadError, match="result"):
        client.call("give_an_object")
    assert client.call("echo", value=1) == 1


def test_an_argument_that_cannot_be_sent(client: Client, endpoint: Endpoint) -> None:
    with pytest.raises(PayloadError, match="encoded"):
        client.call("echo", value=object())
    small = client.prepare(encoding=Encoding(limit=1000))
    with pytest.raises(PayloadError, match="payload_limit"):
        small.call("echo", value="x" * 1000)
    assert endpoint.asked == []


def test_a_result_that_is_too_large(driver: Driver, target: Target, serve: Serve) -> None:
    serve(driver, target, Endpoint(), encoding=Encoding(limit=500))
    with pytest.raises(PayloadError, match="the method's result: the payload has 503 bytes"):
        Client(driver, target, timeout=LIMIT).call("repeat", times=501)


def test_the_drivers_own_limit(drivers: Drivers, target: Target, serve: Serve) -> None:
    """The option holds for every pattern, in both directions."""
    small, large = drivers(payload_limit=500), drivers()
    serve(small, target, Endpoint())
    client = Client(small, target, timeout=LIMIT)
    stores = small.capabilities.stores
    for send in (client.call, client.cast, *([client.submit] if stores else [])):
        with pytest.raises(PayloadError, match="payload_limit is 500"):
            send("echo", value="x" * 500)
    with pytest.raises(PayloadError, match="payload_limit is 500"):
        Notifier(small, target.topic, "here").info("event", "x" * 500)
    # What is received has the same limit as what is sent.
    endpoint = Endpoint()
    topic = target.to(topic=f"{target.topic}-more")
    serve(small, topic, endpoint)
    with pytest.raises(PayloadError, match="was received, and payload_limit is 500"):
        Client(large, topic, timeout=LIMIT).call("echo", value="x" * 500)
    assert endpoint.asked == []
    elsewhere = target.to(topic=f"{target.topic}-large")
    serve(large, elsewhere, Endpoint())
    with pytest.raises(PayloadError, match="was received, and payload_limit is 500"):
        Client(small, elsewhere, timeout=LIMIT).call("repeat", times=500)


def test_a_request_that_is_none(client: Client) -> None:
    for body in (b"no JSON", b"[1]", b'{"method": "echo", "args": 1}'):
        reply = client.driver.call(client.target, Payload(body), LIMIT)
        assert (reply.kind, b"PayloadError" in reply.payload.body) == ("error", True)


def test_large_payloads(client: Client) -> None:
    value = "x" * 2_000_000
    assert client.call("echo", value=value) == value


# -- time ----------------------------------------------------------------------


def test_a_call_without_a_server_times_out(driver: Driver, target: Target) -> None:
    began = time.monotonic()
    with pytest.raises(CallTimeoutError, match=target.topic):
        Client(driver, target, timeout=0.5).call("echo", value=1)
    assert time.monotonic() - began >= 0.5


@pytest.mark.parametrize("timeout", [float("inf"), 30 * 86400.0, 1e12])
def test_very_long_timeouts(client: Client, endpoint: Endpoint, timeout: float) -> None:
    patient = client.prepare(timeout=timeout)
    assert patient.call("echo", value=1) == 1
    patient.cast("echo", value=2)
    wait_until(lambda: endpoint.asked == [1, 2], LIMIT)
    if client.driver.capabilities.stores:
        task = patient.submit("echo", value=3)
        assert task.result(timeout) == 3
    # Nor do they harm what comes after them.
    assert client.call("echo", value=4) == 4


def test_a_timeout_that_is_none(client: Client) -> None:
    for timeout in (float("nan"), "soon"):
        with pytest.raises(OptionError, match="number of seconds"):
            client.prepare(timeout=timeout).call("echo", value=1)


def test_one_server_is_not_all_of_them(client: Client) -> None:
    everywhere = client.prepare(fanout=True)
    for way in (everywhere.call, everywhere.submit):
        with pytest.raises(OptionError, match="is a fanout; use cast"):
            way("echo", value=1)


def test_mandatory(driver: Driver, target: Target, serve: Serve) -> None:
    require_features(driver, "mandatory")
    client = Client(driver, target, timeout=LIMIT, mandatory=True)
    with pytest.raises(UnroutableError, match=target.topic):
        client.call("echo", value=1)
    serve(driver, target, Endpoint())
    assert client.call("echo", value=1) == 1


def test_an_expired_request_is_not_run_late(
    driver: Driver, target: Target, serve: Serve, endpoint: Endpoint
) -> None:
    """Not what the broker had handed over already while its server was busy, either."""
    serve(driver, target, endpoint, workers=1)
    client = Client(driver, target, timeout=LIMIT)
    client.cast("hold", value="busy")
    wait_until(lambda: endpoint.asked, LIMIT)
    brief = client.prepare(timeout=0.5)
    late = [lambda number=number: brief.call("echo", value=number) for number in range(3)]
    assert {type(outcome) for outcome in at_once(*late)} == {CallTimeoutError}
    time.sleep(LATE)
    endpoint.release.set()
    assert client.call("echo", value="last") == "last"
    assert endpoint.asked == ["busy", "last"]


def test_many_callers_at_once(client: Client) -> None:
    def caller(number: int) -> list[int]:
        return [client.call("echo", value=1000 * number + each) for each in range(20)]

    outcomes = at_once(*(lambda number=number: caller(number) for number in range(30)))
    assert outcomes == [[1000 * number + each for each in range(20)] for number in range(30)]


def test_slow_callers_do_not_delay_others(client: Client, endpoint: Endpoint) -> None:
    require_features(client.driver, "mandatory")
    held = threading.Thread(target=client.call, args=("hold",), daemon=True)
    held.start()
    wait_until(lambda: endpoint.asked, LIMIT)
    # Another exchange has to be declared, and a queue looked for, while another caller reads.
    assert client.prepare(mandatory=True).call("echo", value=1) == 1
    with pytest.raises(UnroutableError):
        client.prepare(mandatory=True, exchange="another", topic="none").call("echo", value=1)
    endpoint.release.set()
    held.join(LIMIT)
    assert not held.is_alive()


def test_calls_beside_a_task_that_no_caller_waits_for(
    storing: StoringDriver, client: Client, endpoint: Endpoint
) -> None:
    """Its caller is not there to read for the others."""
    task = client.submit("hold", value="task")
    wait_until(lambda: endpoint.asked, LIMIT)
    for _ in range(5):
        outcomes = at_once(
            *(lambda number=number: client.call("echo", value=number) for number in range(4))
        )
        assert outcomes == list(range(4))
    endpoint.release.set()
    assert task.result(LIMIT) == "task"


# -- signs before the end ------------------------------------------------------


def test_progress(client: Client) -> None:
    reported: list[int] = []
    assert client.prepare(on_progress=reported.append).call("count", to=3) == "counted"
    assert reported == [0, 1, 2]
    assert client.call("count", to=3) == "counted"


class Reporting:
    def report(self, request: Request) -> str:
        request.progress("begun")
        time.sleep(0.3)
        return "done"


def test_progress_that_is_not_asked_for(driver: Driver, target: Target, serve: Serve) -> None:
    serve(driver, target, Reporting())
    # It comes alone, and the result long after it.
    assert Client(driver, target, timeout=LIMIT).call("report") == "done"


def test_a_server_that_works_is_not_silent(client: Client) -> None:
    """However long it works: its signs of life come three times in each `call_monitor_timeout`."""

    def check(call_monitor_timeout: float) -> None:
        assert (
            client.prepare(call_monitor_timeout=call_monitor_timeout).call(
                "last", seconds=3 * call_monitor_timeout
            )
            == "at last"
        )

    holds_at_some_scale(check, 0.6, 2, 6)


def test_a_server_that_is_gone_is_silent(driver: Driver, target: Target) -> None:
    began = time.monotonic()
    with pytest.raises(CallTimeoutError, match="no keepalive"):
        Client(driver, target, timeout=LIMIT, call_monitor_timeout=0.5).call("echo", value=1)
    assert time.monotonic() - began < LIMIT / 2


def test_a_server_with_options_that_are_none(driver: Driver, target: Target) -> None:
    with pytest.raises(OptionError, match="acknowledge"):
        Server(driver, target, [], acknowledge="later")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="workers"):
        Server(driver, target, [], workers=0)
