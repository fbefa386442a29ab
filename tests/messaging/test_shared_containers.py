"""What one thread reads of a container, while another one changes it without the same lock."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from hbshim.amqp1.messages import Message, Single, encode_message
from hbshim.amqp1.performatives import Properties
from hbshim.amqp1.states import SessionState
from hbshim.errors import PoolError, TopologyError
from hbshim.messaging.aio.notify import Listener as AioListener
from hbshim.messaging.amqp.results import _Stored
from hbshim.messaging.amqp1.attaching import Attaching
from hbshim.messaging.amqp1.management import _MOST_ANSWERS, Management
from hbshim.messaging.backoff import Backoff
from hbshim.messaging.consuming import ConsumingListener
from hbshim.messaging.pool import Pool
from hbshim.messaging.pool.state import Claim, State, Waiter
from hbshim.messaging.reading import BackgroundReader
from hbshim.messaging.role import ReaderRole
from tests.concurrency import MODEL
from tests.interrupts import collect_everywhere, interleave_everywhere
from tests.messaging.test_polling import Listener

pytestmark = pytest.mark.skipif(MODEL != "native", reason="threads that interleave anywhere")

Calls = tuple[Callable[[], object], Callable[[], object]]


class Running:
    """Two calls that interleave: what each of them got, and the errors of both."""

    def __init__(self) -> None:
        self.got: list[Any] = []
        self.errors: list[BaseException] = []

    def call(self, work: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            try:
                self.got.append(work())
            except Exception as error:
                self.errors.append(error)

        return run

    def both(self, one: Callable[[], object], other: Callable[[], object]) -> Calls:
        self.got, self.errors = [], []
        return self.call(one), self.call(other)


def first_of(queue: deque[Any]) -> Any:
    """Take the first, as another thread does."""
    return queue.popleft() if queue else None


def test_two_threads_report_each_error_of_a_listener_once() -> None:
    running = Running()
    reported: list[BaseException] = []

    def prepare() -> Calls:
        listener = Listener()
        reported.clear()
        listener.on_error = reported.append
        listener._errors.extend((OSError("one"), OSError("two")))
        return running.both(listener._after_polling, listener._after_polling)

    def check() -> None:
        assert not running.errors
        assert sorted(map(str, reported)) == ["one", "two"]

    assert interleave_everywhere(prepare, check, opcodes=True) > 10


def test_of_a_stored_request_each_delivery_is_taken_once() -> None:
    """By the thread that waits for it, or by the one that closes."""
    running = Running()
    requeued: list[int] = []

    def prepare() -> Calls:
        stored = _Stored("queue")
        requeued.clear()
        stored.connection = SimpleNamespace(
            is_open=True, stop_consumer=lambda *_: None, requeue=requeued.append
        )
        stored.deliveries.append(SimpleNamespace(tag=1))  # type: ignore[arg-type]
        return running.both(stored.end, lambda: first_of(stored.deliveries))

    def check() -> None:
        assert not running.errors
        taken = [each for each in running.got if isinstance(each, SimpleNamespace)]
        assert len(taken) + len(requeued) == 1

    assert interleave_everywhere(prepare, check, opcodes=True) > 10


def test_of_a_listener_on_an_event_loop_each_notification_is_taken_once() -> None:
    """By the loop, or by the thread that gives back what is left."""
    running = Running()
    returned: list[int] = []

    def prepare() -> Calls:
        listener: Any = object.__new__(AioListener)
        returned.clear()
        listener._current = None
        listener._listener = listener._thread = SimpleNamespace(close=lambda *_: None)
        incoming = SimpleNamespace(return_to_queue=lambda: returned.append(1))
        listener._received = deque([incoming])
        return running.both(lambda: listener._end(0.0, False), lambda: first_of(listener._received))

    def check() -> None:
        assert not running.errors
        taken = [each for each in running.got if each is not None]
        assert len(taken) + len(returned) == 1

    assert interleave_everywhere(prepare, check, opcodes=True) > 10


def test_of_two_releases_at_once_one_is_an_error() -> None:
    running = Running()

    def prepare() -> Calls:
        pool: Pool[object] = Pool(lambda _left: object(), lambda _: None, lambda _: False)
        item = pool.acquire()
        return running.both(lambda: pool.release(item), lambda: pool.release(item))

    def check() -> None:
        assert [type(each) for each in running.errors] == [PoolError]

    assert interleave_everywhere(prepare, check) > 10


def test_statistics_are_read_while_a_waiter_leaves() -> None:
    state: State[object] = State(0, 1, 1, float("inf"))
    state.waiters.extend(Waiter(Claim()) for _ in range(30))
    assert collect_everywhere(state.statistics, lambda: state.waiters.append(Waiter(Claim())))


class Party:
    def fail(self, error: BaseException) -> None: ...


def test_operations_begin_while_late_ones_are_looked_for() -> None:
    reader = BackgroundReader(ReaderRole(lambda _until: True))
    until = reader._parties.until
    until.update({Party(): float("inf") for _ in range(30)})

    def begin() -> None:
        until[Party()] = float("inf")

    assert collect_everywhere(lambda: reader._drop_late(0.0), begin)


def test_an_answer_is_taken_while_old_ones_are_dropped() -> None:
    """An error would end the connection of all callers."""
    running = Running()
    body = encode_message(
        Message(Single(None), properties=Properties(subject="200", correlation_id="new"))
    )

    def prepare() -> Calls:
        management = Management(SimpleNamespace())  # type: ignore[arg-type]
        received: dict[str, Any] = management._received
        received.update({str(number): None for number in range(_MOST_ANSWERS)})
        return running.both(lambda: management._on_answer(body, 1), lambda: received.pop("0", None))

    def check() -> None:
        assert not running.errors

    # Reading the answer takes most of the instants.
    assert interleave_everywhere(prepare, check, every=7, opcodes=True) > 10


def test_of_two_threads_that_wait_for_a_session_one_reports_its_end() -> None:
    running = Running()

    class Session:
        state = SessionState.ENDED

    def prepare() -> Calls:
        session: Any = Session()
        stream: Any = SimpleNamespace(name="peer", work=lambda _: session, wait_for=lambda *_: True)
        attaching = Attaching(stream)
        attaching._ended[session] = None

        def begin() -> object:
            return attaching._session("name", time.monotonic() + 10)

        return running.both(begin, begin)

    def check() -> None:
        assert [type(each) for each in running.errors] == [TopologyError]

    assert interleave_everywhere(prepare, check, opcodes=True) > 10


def test_the_error_of_a_queue_is_reported_while_it_is_raised() -> None:
    """By another thread, which has taken it."""
    running = Running()

    def prepare() -> Calls:
        error = TopologyError("refused", 403)
        consumer = SimpleNamespace(hopeless=True, refused=error, backoff=Backoff(1.0, 1.0))
        listener: Any = SimpleNamespace(
            _consumers=[consumer], _errors=deque([error]), _drop=lambda: None
        )
        check_refusals = ConsumingListener._check_refusals
        return running.both(lambda: check_refusals(listener), listener._errors.clear)

    def check() -> None:
        assert [type(each) for each in running.errors] == [TopologyError]

    assert interleave_everywhere(prepare, check, opcodes=True) > 10
