"""What servers of calls and of notifications have in common, without a broker."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from hbshim.errors import ConnectionLostError, MessagingError, OptionError
from hbshim.messaging.base import Incoming, Payload
from hbshim.messaging.keepalive import Keepalive
from hbshim.messaging.notify import REQUEUE, NotificationServer
from hbshim.messaging.reporting import log_error, reporting_to
from hbshim.messaging.server import Server
from hbshim.messaging.serving import Serving, Workers
from hbshim.messaging.target import Target
from tests.waiting import wait_until

LIMIT = 30.0


class FakeListener:
    """Gives out what it is given; raises errors that stand in between."""

    def __init__(self, *steps: Any) -> None:
        self.steps = list(steps)
        self.on_error: Callable[[BaseException], None] = log_error
        self.timeouts: list[float | None] = []
        self._stopped = threading.Event()
        self._lock = threading.Lock()

    def open(self, _timeout: float) -> bool:
        return True

    def poll(
        self, _timeout: float | None = None, _size: int = 1, _batch_timeout: float | None = None
    ) -> Sequence[Any]:
        with self._lock:
            step = self.steps.pop(0) if self.steps else None
        if step is None:
            self._stopped.wait(LIMIT)
            return []
        if isinstance(step, BaseException):
            raise step
        return [step]

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def stop(self, timeout: float = 5.0) -> None:
        self.timeouts.append(timeout)
        self._stopped.set()

    def close(self, timeout: float = 5.0) -> None:
        self.timeouts.append(timeout)


class Driver:
    """Listens as the test decides."""

    rpc_timeout, payload_limit = 60.0, 1024

    def __init__(self, listener: FakeListener) -> None:
        self.listener = listener
        self.prefetch: int | None = None

    def listen(self, _target: Target, prefetch: int, **_how: Any) -> FakeListener:
        self.prefetch = prefetch
        return self.listener

    def listen_for_notifications(
        self, _targets: Any, _pool: str | None, prefetch: int
    ) -> FakeListener:
        self.prefetch = prefetch
        return self.listener


def serving(
    listener: FakeListener, work: Callable[[Any], None], on_error: Any, count: int = 1
) -> Serving:
    workers = Workers(listener, work, count, reporting_to(on_error))
    return Serving(listener, workers)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hbshim.messaging.serving.PAUSE_AFTER_ERROR", 0.01)


def test_no_error_ends_a_worker() -> None:
    """Of the listener's, of the work's, and of the callback that is called with them."""
    worked: list[Any] = []
    errors: list[BaseException] = []

    def work(batch: Sequence[Any]) -> None:
        worked.extend(batch)
        if batch == [1]:
            raise KeyError("of the work")
        if batch == [2]:
            sys.exit("of the work")

    def failed(error: BaseException) -> None:
        errors.append(error)
        raise RuntimeError("of the callback")

    steps = (ConnectionLostError("lost"), OptionError("no file"), OSError("disk"), 1, 2, 3)
    server = serving(FakeListener(*steps), work, failed)
    server.start()
    wait_until(lambda: worked == [1, 2, 3], LIMIT)
    assert server.stop(LIMIT)
    kinds = [type(error) for error in errors]
    assert kinds == [ConnectionLostError, OptionError, OSError, KeyError, SystemExit]


@pytest.mark.parametrize("raised", [SystemExit(1), BaseException("a green timeout")])
def test_no_callback_ends_a_worker(raised: BaseException) -> None:
    worked: list[Any] = []

    def failed(_error: BaseException) -> None:
        raise raised

    server = serving(FakeListener(OSError("disk"), 1), worked.extend, failed)
    server.start()
    wait_until(lambda: worked == [1], LIMIT)
    assert server.stop(LIMIT)


def test_workers_that_stop_their_server_do_not_wait_for_each_other() -> None:
    stopped: list[Any] = []
    both = threading.Barrier(2)

    def work(batch: Sequence[Any]) -> None:
        both.wait(LIMIT)
        server.stop()
        stopped.extend(batch)

    server = serving(FakeListener(1, 2), work, None, count=2)
    server.start()
    wait_until(lambda: sorted(stopped) == [1, 2], LIMIT)
    assert server.stop(LIMIT)


def test_errors_are_logged_unless_a_callback_takes_them(caplog: pytest.LogCaptureFixture) -> None:
    """With their traceback, unless they are hbshim's own, which name a remedy."""

    def work(_batch: Sequence[Any]) -> None:
        raise ValueError("of the method")

    with caplog.at_level(logging.ERROR, logger="hbshim.messaging"):
        server = serving(FakeListener(1, ConnectionLostError("lost; open a new one")), work, None)
        server.start()
        wait_until(lambda: len(caplog.records) == 2, LIMIT)
        assert server.stop(LIMIT)
    first, second = caplog.records
    assert (first.name, first.levelname) == ("hbshim.messaging", "ERROR")
    assert "ValueError: of the method" in first.getMessage()
    assert first.exc_info is not None
    assert "lost; open a new one" in second.getMessage()
    assert not second.exc_info


def test_the_listeners_own_reports_go_where_errors_go() -> None:
    listener, errors = FakeListener(), list[BaseException]()
    server = serving(listener, lambda _batch: None, errors.append)
    listener.on_error(ConnectionLostError("reported"))
    assert [str(error) for error in errors] == ["reported"]
    assert server.stop(0.1)


def test_a_server_starts_once() -> None:
    server = serving(FakeListener(), lambda _batch: None, None)
    server.start()
    with pytest.raises(MessagingError, match="started already"):
        server.start()
    assert server.stop(LIMIT)
    with pytest.raises(MessagingError, match="create a new one"):
        server.start()
    assert server.stop(LIMIT)


def test_the_timeout_of_stop_is_for_all_of_it() -> None:
    listener = FakeListener(1)
    held = threading.Event()
    server = serving(listener, lambda _batch: assert_waited(held), None)
    server.start()
    assert server.stop(0.2) is False
    held.set()
    assert listener.timeouts == [0.2, 0.0]


def assert_waited(event: threading.Event) -> None:
    assert event.wait(LIMIT)


class Endpoint:
    def warning(self, _notification: Any) -> None: ...

    def info(self, _notification: Any) -> None: ...


class Nothing:
    def warning(self, _notification: Any) -> None: ...


@pytest.mark.parametrize(
    ("topics", "endpoints", "words"),
    [
        (["events"], [Nothing()], "named as a priority"),
        (["events"], [], "named as a priority"),
        ([], [Endpoint()], "at least one topic"),
        ("events", [Endpoint()], "must be a list"),
    ],
)
def test_a_server_that_could_never_receive_anything_is_an_error(
    topics: Any, endpoints: Any, words: str
) -> None:
    driver: Any = Driver(FakeListener())
    with pytest.raises(OptionError, match=words):
        NotificationServer(driver, topics, endpoints)


@pytest.mark.parametrize("changes", [{"version": "2.3"}, {"namespace": "admin"}])
def test_a_servers_target_has_no_version_and_no_namespace(changes: dict[str, Any]) -> None:
    """Its endpoints have: the target's would be ignored."""
    driver: Any = Driver(FakeListener())
    with pytest.raises(OptionError, match="attributes `namespace` and `version`"):
        Server(driver, Target("topic", **changes), [Endpoint()])


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({}, 2),
        ({"workers": 4}, 8),
        ({"workers": 2, "batch_size": 50}, 200),
        ({"prefetch": 7}, 7),
    ],
)
def test_notifications_that_a_server_holds(how: dict[str, int], expected: int) -> None:
    """As many wait as are worked on: others are left for idle servers."""
    driver: Any = Driver(FakeListener())
    server = NotificationServer(driver, ["events"], [Endpoint()], **how)  # type: ignore[arg-type]
    assert driver.prefetch == expected
    assert server.stop(0.1)


class Odd:
    """An outcome that cannot be compared."""

    def __eq__(self, _other: object) -> bool:
        raise ValueError("no truth value")

    __hash__ = None  # type: ignore[assignment]


class Message:
    """A notification that arrived."""

    priority = "info"

    def __init__(self) -> None:
        value = dict.fromkeys(("event_type", "payload", "publisher_id", "message_id", "timestamp"))
        self.payload = Payload(json.dumps(value).encode())
        self.settled = ""

    def acknowledge(self) -> bool:
        self.settled += "ack"
        return True

    def requeue(self) -> None:
        self.settled += "requeue"

    def reject(self, reason: str) -> None:
        self.settled += "reject"

    def return_to_queue(self) -> None:
        if not self.settled:
            self.settled += "back"


@pytest.mark.parametrize("outcome", [Odd(), SystemExit(1), REQUEUE], ids=["odd", "exit", "requeue"])
def test_each_notification_is_settled_whatever_an_endpoint_does(outcome: Any) -> None:
    class Returning:
        def info(self, _notification: Any) -> Any:
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

    message = Message()
    driver: Any = Driver(FakeListener(message))
    errors: list[BaseException] = []
    with NotificationServer(driver, ["events"], [Returning()], on_error=errors.append):
        wait_until(lambda: message.settled, LIMIT)
    assert message.settled == "requeue"
    assert len(errors) == (0 if outcome is REQUEUE else 1)


class GreenletExit(BaseException):
    """As gevent and eventlet raise it in a green thread that is killed."""


class Killed:
    def info(self, _notification: Any) -> Any:
        raise GreenletExit

    def run(self, _request: Any) -> None:
        raise GreenletExit


def test_a_notification_whose_thread_is_killed_is_given_back() -> None:
    message = Message()
    driver: Any = Driver(FakeListener())
    server = NotificationServer(driver, ["events"], [Killed()])
    with pytest.raises(GreenletExit):
        server._handler.work([message])  # type: ignore[list-item]
    assert message.settled == "back"
    assert server.stop(0.1)


def test_a_request_whose_thread_is_killed_is_given_back() -> None:
    """It has not ended, so that it must not be acknowledged at its end."""

    class Request(Message):
        expects_reply, message_id, may_have_run = False, "1", False

        def __init__(self) -> None:
            super().__init__()
            self.payload = Payload(json.dumps({"method": "run", "args": {}}).encode())

    request = Request()
    driver: Any = Driver(FakeListener())
    server = Server(driver, Target("topic", server="one"), [Killed()], acknowledge="after")
    with pytest.raises(GreenletExit):
        server._handler.work([request])  # type: ignore[list-item]
    assert request.settled == "back"
    assert server.stop(0.1)


class Silent:
    """Cannot be answered, for an unforeseen reason."""

    def __init__(self) -> None:
        self.signs = 0

    def reply(self, _payload: Payload, _kind: str) -> None:
        self.signs += 1
        raise KeyError("not thought of")


def test_signs_of_life_go_on_after_an_error() -> None:
    errors: list[BaseException] = []
    keepalive, silent = Keepalive(reporting_to(errors.append)), Silent()
    incoming: Incoming = silent  # type: ignore[assignment]
    with keepalive.during(incoming, 0.15):
        wait_until(lambda: silent.signs >= 3, LIMIT)
    keepalive.end()
    assert {type(error) for error in errors} == {KeyError}


class Noting:
    """Notes the signs of life that it gives."""

    def __init__(self) -> None:
        self.signs = 0

    def reply(self, _payload: Payload, _kind: str) -> None:
        self.signs += 1


def test_signs_of_life_go_on_while_a_request_runs_that_outlasts_its_server() -> None:
    """``server.stop(timeout)`` leaves it running, and its caller waits."""
    keepalive, noting = Keepalive(log_error), Noting()
    incoming: Incoming = noting  # type: ignore[assignment]
    with keepalive.during(incoming, 0.15):
        keepalive.end()
        wait_until(lambda: noting.signs >= 3, LIMIT)
    thread = keepalive._thread
    assert thread is not None
    thread.join(LIMIT)
    assert not thread.is_alive()


def test_a_request_is_worked_on_where_no_thread_can_be_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    errors: list[BaseException] = []
    keepalive, noting = Keepalive(errors.append), Noting()
    incoming: Incoming = noting  # type: ignore[assignment]
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with keepalive.during(incoming, 0.15):
            pass
    assert [str(error) for error in errors] == ["can't start new thread"]
    with keepalive.during(incoming, 0.15):
        wait_until(lambda: noting.signs, LIMIT)
    keepalive.end()
