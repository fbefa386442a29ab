"""A publisher, a reader and heartbeats at one TLS connection at once, interrupted at random.

py-amqp: one thread publishes and another one reads; its publisher would read, too, if the client
offered `connection.blocked`. pika lets one thread use a connection: another one gives it what it is
to publish. For minutes of it: HBSHIM_INTERRUPT_SECONDS=300 pytest tests/system/test_tls_threads.py
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import struct
import sys
import threading
import time
import traceback
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import amqp
import pika
import pytest
from pika.exceptions import AMQPError

from hbshim.heartbeat.link import Link
from hbshim.heartbeat.state import WATCHED
from tests.concurrency import needs_os_threads
from tests.stress.clients import CLIENTS
from tests.system.ssl_witness import WatchedSslObject, Witness
from tests.waiting import wait_until
from wsgi_harness.observe import observer
from wsgi_harness.stack.broker import Broker

pytestmark = [needs_os_threads, pytest.mark.alone]

SECONDS = float(os.environ.get("HBSHIM_INTERRUPT_SECONDS", "3"))
SEED = int(os.environ.get("HBSHIM_INTERRUPT_SEED", "0")) or random.SystemRandom().randrange(1 << 30)
#: Bytes of a body: within one record, several records, and several frames.
SIZES = (100, 20_000, 400_000)
#: Seconds between two interruptions, at most.
EVERY = 0.05
#: What a broker logs, and a client reports, of bytes that are not what was written.
BROKEN = ("FRAME_ERROR", "bad_record_mac", "BAD_RECORD_MAC", "decode_error", "decryption")

_HEAD = struct.Struct(">QI")

ERRORS = (
    *amqp.Connection.connection_errors,
    *amqp.Connection.channel_errors,
    AMQPError,
    AssertionError,  # of pika
    OSError,
)


def stack_of(thread: threading.Thread) -> str:
    frame = sys._current_frames().get(thread.ident or 0)
    return "".join(traceback.format_stack(frame))


class TimeLimitError(Exception):
    """As Celery's SoftTimeLimitExceeded: raised by a signal handler."""


class Session:
    """One connection, with a thread that sends heartbeats whenever hbshim lets it."""

    def __init__(self, broker: Broker, library: str, ca_file: str, witness: Witness) -> None:
        self.altered: list[str] = []
        self.errors: list[str] = []
        self.received = self.sent = 0
        self.ended = threading.Event()
        self.name = f"threads-{uuid.uuid4().hex}"
        self.client: Any = CLIENTS[library](
            {
                "host": "localhost",
                "port": broker.tls_port,
                "user": broker.user,
                "password": broker.password,
                "heartbeat": 600,
                "name": self.name,
                "ca_file": ca_file,
            }
        )
        self.client.connect()
        sock = self.client.sock()
        sock._sslobj = WatchedSslObject(sock._sslobj, witness)
        link = self.client.link()
        assert link is not None
        self.link: Link = link
        view = link.wire.kernel_view
        link.wire.kernel_view = lambda: view()._replace(sent_ago=600, received_ago=0)
        self.threads = [threading.Thread(target=self._keep_alive, daemon=True)]

    def _keep_alive(self) -> None:
        while not self.ended.is_set() and self.link.state in WATCHED:
            self.link.check(time.monotonic())
            time.sleep(0.001)

    def body(self, choose: random.Random) -> bytes:
        self.sent += 1
        rest = choose.randbytes(choose.choice(SIZES))
        return _HEAD.pack(self.sent, zlib.crc32(rest)) + rest

    def on_body(self, body: bytes) -> None:
        self.received += 1
        number, checksum = _HEAD.unpack_from(body)
        if zlib.crc32(body[_HEAD.size :]) != checksum:
            self.altered.append(f"message {number} of {len(body)} bytes")

    def start(self) -> None:
        for thread in self.threads:
            thread.start()

    def turn(self, choose: random.Random) -> None:
        """What the thread that is interrupted does."""
        raise NotImplementedError

    def end(self) -> None:
        self.ended.set()
        with contextlib.suppress(Exception):
            self.link.wire.shut_both()  # a thread may be blocked in a read
        for thread in self.threads:
            thread.join(30)
            assert not thread.is_alive(), stack_of(thread)
        with contextlib.suppress(Exception):
            self.client.abandon()


class AmqpSession(Session):
    """The main thread publishes, another one reads."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.client.connection.client_properties["capabilities"] = {}  # no connection.blocked
        self.client.subscribe(self.on_body, acks=False)
        self.threads.append(threading.Thread(target=self._read, daemon=True))

    def _read(self) -> None:
        try:
            while not self.ended.is_set():
                self.client.connection.drain_events()
        except Exception as error:
            self.errors.append(repr(error))

    def turn(self, choose: random.Random) -> None:
        self.client.send(self.body(choose))


class PikaSession(Session):
    """The main thread runs pika, another one gives it what it is to publish."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.client.subscribe(self.on_body, acks=False)
        self._published = threading.Semaphore(4)
        self.threads.append(threading.Thread(target=self._publish, daemon=True))

    def _publish(self) -> None:
        choose = random.Random(SEED)

        def publish(body: bytes) -> None:
            try:
                self.client.send(body)
            finally:
                self._published.release()

        with contextlib.suppress(pika.exceptions.ConnectionWrongStateError):
            while not self.ended.is_set():
                if self._published.acquire(timeout=0.1):
                    body = self.body(choose)
                    self.client.connection.add_callback_threadsafe(lambda body=body: publish(body))

    def turn(self, _choose: random.Random) -> None:
        self.client.connection.process_data_events(time_limit=0.05)


SESSIONS = {"amqp": AmqpSession, "pika": PikaSession}


@contextlib.contextmanager
def interrupting(choose: random.Random) -> Iterator[None]:
    """Raise TimeLimitError inside the block, at a random instant."""

    def on_alarm(*_arguments: object) -> None:
        raise TimeLimitError

    before = signal.signal(signal.SIGALRM, on_alarm)
    try:
        signal.setitimer(signal.ITIMER_REAL, choose.uniform(1e-4, EVERY))
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("library", list(SESSIONS))
def test_three_threads_at_one_connection(broker: Broker, library: str, tmp_path: Path) -> None:
    assert broker.read_ca is not None
    (tmp_path / "ca.pem").write_text(broker.read_ca())
    witness, choose = Witness(), random.Random(SEED)
    sessions: list[Session] = []
    interrupted = 0
    end = time.monotonic() + SECONDS

    def lacks_anything() -> bool:
        """A busy machine may need longer."""
        return not (
            interrupted > 5
            and sum(session.received for session in sessions) > 5
            and sum(session.link.heartbeats_sent for session in sessions) > 5
        )

    while time.monotonic() < end or (lacks_anything() and time.monotonic() < end + 60):
        session = SESSIONS[library](broker, library, str(tmp_path / "ca.pem"), witness)
        sessions.append(session)
        session.start()
        try:
            session.turn(choose)  # so that each connection does something
            until = time.monotonic() + choose.uniform(0, 1)
            while time.monotonic() < until and session.link.state in WATCHED:
                try:
                    with interrupting(choose):
                        while True:
                            session.turn(choose)
                except TimeLimitError:
                    interrupted += 1
        except ERRORS as error:
            # The stream was torn; or a message was left without its rest, and the broker objects.
            session.errors.append(repr(error))
        finally:
            session.end()
    assert not lacks_anything(), f"seed {SEED}"
    assert [each for session in sessions for each in session.altered] == [], f"seed {SEED}"
    assert witness.report()["overlaps"] == 0, f"seed {SEED}: {witness.report()}"
    errors = [error for session in sessions for error in session.errors]
    assert not [error for error in errors if any(word in error for word in BROKEN)], errors

    def views() -> list[Any]:
        log = observer.read_log(observer.without_colour(broker.log()))
        return [log.get(session.name) for session in sessions]

    wait_until(lambda: all(view is not None for view in views()), 30)
    reasons = [view.reason for view in views()]
    assert not [reason for reason in reasons if any(word in reason for word in BROKEN)]
    print(  # noqa: T201
        f"seed {SEED}: {len(sessions)} connections, {interrupted} interruptions, "
        f"{sum(session.received for session in sessions)} messages, "
        f"{sum(session.link.heartbeats_sent for session in sessions)} heartbeats"
    )
