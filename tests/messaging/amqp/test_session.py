"""What a session does with frames that a broker sends rarely."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sized
from typing import Any

import pytest
from pika import frame, spec

from hbshim.messaging.amqp.confirms import Confirm, Confirms
from hbshim.messaging.amqp.session import DATA, Session
from hbshim.protocol import methods
from hbshim.protocol.messages import DIRECT_REPLY, Message
from tests.concurrency import MODEL
from tests.interrupts import interrupt_everywhere


class Library:
    frame_max = 4096

    def encode_table(self, _values: Any) -> bytes:
        return b"\0\0\0\0"

    def decode_table(self, _data: bytes) -> dict[str, Any]:
        return {}


class Stream:
    """Remembers what was sent."""

    def __init__(self) -> None:
        self.name = "broker"
        self.library = Library()
        self.lock = threading.RLock()
        self.failed = ""
        self.sent: list[bytes] = []
        self.send = self.sent.append
        self.on_frame: Any = None
        self.on_end: Any = None

    def check(self) -> None:
        pass

    def fail(self, error: BaseException) -> None:
        self.failed = str(error)

    def locked(self, work: Callable[[], Any]) -> Any:
        return work()

    def receive_into(self, arrived: Sized, timeout: float) -> None:
        """Nothing more comes."""

    def receives(self, *marshaled: bytes) -> None:
        for each in marshaled:
            self.on_frame(each[0], DATA, each[7:-1])


@pytest.fixture
def stream() -> Stream:
    return Stream()


@pytest.fixture
def session(stream: Stream) -> Session:
    return Session(stream)  # type: ignore[arg-type]


def delivered(consumer_tag: str, tag: int) -> tuple[bytes, bytes]:
    deliver = frame.Method(DATA, spec.Basic.Deliver(consumer_tag, tag, False, "", "q"))
    header = frame.Header(DATA, 0, spec.BasicProperties())
    return deliver.marshal(), header.marshal()


def test_what_comes_behind_the_end_of_a_consumer_is_requeued(
    stream: Stream, session: Session
) -> None:
    got: list[object] = []
    tag = session.start_consumer("q", got.append, on_cancelled=got.append)
    session.stop_consumer(tag, lambda: got.append("stopped"))
    stream.receives(*delivered(tag, 1))
    stream.receives(frame.Method(DATA, spec.Basic.CancelOk(tag)).marshal())
    del stream.sent[:]
    stream.receives(*delivered(tag, 2))
    assert stream.sent == [frame.Method(DATA, spec.Basic.Reject(2, True)).marshal()]
    # Without acknowledgement there is nothing to requeue, and the broker knows no such tag.
    stream.receives(*delivered("hbshim-no-ack.1", 3))
    assert len(stream.sent) == 1


def test_methods_that_were_behind_the_one_that_is_refused_are_asked_again(
    stream: Stream, session: Session
) -> None:
    """The broker ignores what comes on a channel that it has closed."""
    first = session._send_method(DATA, methods.basic_qos(DATA, 1))
    second = session._send_method(DATA, methods.basic_cancel(DATA, "c"), "c")
    stream.receives(frame.Method(DATA, spec.Channel.Close(540, "no", 60, 10)).marshal())
    assert (first.closed_by, first.ignored) == ((540, "no"), False)
    assert (second.closed_by, second.ignored) == (None, True)


def closed_by_broker() -> bytes:
    marshaled: bytes = frame.Method(DATA, spec.Channel.Close(540, "no", 60, 80)).marshal()
    return marshaled


def test_a_channel_that_is_closed_as_a_consumer_starts_does_not_cost_its_route(
    stream: Stream, session: Session
) -> None:
    """Its messages would be requeued, and delivered to it again, without an end."""
    locked = stream.locked
    got: list[Any] = []

    def closed_just_before(work: Callable[[], Any]) -> Any:
        stream.locked = locked
        stream.receives(closed_by_broker())
        return work()

    def answered(settled: Callable[[], object], _deadline: float) -> bool:
        tag = session._answers[DATA][-1].consumer_tag
        stream.receives(frame.Method(DATA, spec.Basic.ConsumeOk(tag)).marshal())
        return bool(settled())

    stream.locked = closed_just_before
    stream.wait_for = answered  # type: ignore[attr-defined]
    tag = session.consume(DIRECT_REPLY, got.append)
    del stream.sent[:]
    stream.receives(*delivered(tag, 1))
    assert stream.sent == []
    session.drain(0)
    assert [message.tag for message in got] == [1]


def test_a_stop_that_is_interrupted_before_it_is_sent_leaves_the_consumer(
    stream: Stream, session: Session
) -> None:
    tag = session.start_consumer("q", print, on_cancelled=print)

    def interrupted(_work: Callable[[], Any]) -> Any:
        raise KeyboardInterrupt

    stream.locked = interrupted  # type: ignore[assignment]
    for stop in (session.stop_consumer, session.cancel):
        with pytest.raises(KeyboardInterrupt):
            stop(tag)
        assert tag in session._consumers


def test_two_threads_that_drain_share_what_has_arrived(stream: Stream, session: Session) -> None:
    got: list[int] = []

    def drains_too(number: int) -> None:
        got.append(number)
        session.drain(0)

    session._arrived.extend((drains_too, number) for number in range(3))
    session.drain(0)
    assert got == [0, 1, 2]


def test_a_message_that_is_taken_back_behind_the_end_of_its_channel_is_not_counted() -> None:
    confirms, first, second = (
        Confirms(),
        Confirm(Message(b"", "", "q")),
        Confirm(Message(b"", "", "q")),
    )
    confirms.published(first, True)
    confirms.end(None)
    confirms.published(first, False)
    confirms.published(second, True)
    confirms.on_confirm(1, False, False)
    assert (first.unknown, second.settled) == (True, True)


@pytest.mark.skipif(MODEL != "native", reason="a signal handler of Python's own")
def test_what_an_interrupt_takes_from_another_thread_comes_over_another_connection(
    stream: Stream, session: Session
) -> None:
    """Else the thread whose reply it was would wait until its timeout."""
    got: list[object] = []
    tag = session.start_consumer("q", got.append, on_cancelled=got.append)
    numbers = itertools.count(1)

    def deliver() -> None:
        del got[:]
        stream.failed = ""
        stream.receives(*delivered(tag, next(numbers)))

    def after() -> None:
        if not stream.failed:
            session.drain(0)
            assert len(got) == 1
        session._arrived.clear()
        deliver()

    deliver()
    assert interrupt_everywhere(lambda: session.drain(0), after)
