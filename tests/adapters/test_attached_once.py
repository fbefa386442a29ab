"""keep_alive() by two threads at once, or interrupted: one link, and nothing left half done."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import amqp
import kombu
import pytest

import hbshim
from hbshim.adapters.attachment import ATTEMPTS
from hbshim.adapters.kombu import heartbeat as kombu_adapter
from hbshim.adapters.pika import heartbeat as pika_adapter
from hbshim.adapters.pyamqp import heartbeat as amqp_adapter
from hbshim.adapters.sockets import native_socket
from hbshim.errors import WorkerError
from hbshim.heartbeat import service
from hbshim.heartbeat.link import Link
from hbshim.heartbeat.service import HeartbeatService
from hbshim.heartbeat.state import WATCHED
from hbshim.options import Options
from tests.adapters.connecting import connect_pika
from tests.concurrency import needs_os_threads
from tests.interrupts import interleave_everywhere, interrupt_everywhere
from tests.waiting import wait_until
from wsgi_harness.stack.broker import Broker

pytestmark = needs_os_threads

T = 2


class Subject:
    """A connection of one library to the broker, not kept alive yet."""

    def __init__(self, broker: Broker, library: str, ca_file: str | None) -> None:
        port = broker.amqp_port if ca_file is None else broker.tls_port
        self.library = library
        self._options = Options.load()
        self.connection: Any
        if library == "pika":
            self.connection = connect_pika(broker, T, ca_file)
            self.owner = self.connection._impl
            self._attach: Callable[[Any, Options], Link | None] = pika_adapter.attach
        else:
            self.connection = amqp.Connection(
                f"{broker.host}:{port}",
                broker.user,
                broker.password,
                heartbeat=T,
                ssl=ca_file is not None and {"ca_certs": ca_file},
            )
            self.connection.connect()
            self.owner = self.connection
            self._attach = amqp_adapter.attach

    def attach(self) -> None:
        assert self._attach(self.connection, self._options) is not None

    @property
    def sock(self) -> Any:
        if self.library == "pika":
            return self.owner._transport._sock
        return self.owner._transport.sock

    def links(self) -> list[Link]:
        """Return the links of the connection, kept alive or not."""
        native = native_socket(self.sock)
        return [
            link
            for link in service.current().links()
            if link.state in WATCHED and link.wire.native is native
        ]

    def use(self) -> None:
        self.connection.channel().queue_declare("", exclusive=True)

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self.connection.close()


@pytest.fixture
def opened() -> Iterator[list[Subject]]:
    subjects: list[Subject] = []
    yield subjects
    for subject in subjects:
        subject.close()


@pytest.fixture(params=["amqp", "amqp over TLS", "pika", "pika over TLS"])
def connect(
    request: pytest.FixtureRequest, broker: Broker, opened: list[Subject], tmp_path: Path
) -> Callable[[], Subject]:
    library, _, tls = request.param.partition(" over ")
    ca_file = str(tmp_path / "ca.pem") if tls else None
    if ca_file is not None:
        assert broker.read_ca is not None
        Path(ca_file).write_text(broker.read_ca())

    def open_connection() -> Subject:
        opened.append(Subject(broker, library, ca_file))
        return opened[-1]

    return open_connection


def check_kept(subject: Subject) -> None:
    """Check that one link keeps it alive, and that closing leaves nothing of hbshim's."""
    (link,) = subject.links()
    subject.use()
    wait_until(lambda: link.heartbeats_sent)
    check_closing(subject, link)


def check_closing(subject: Subject, link: Link) -> None:
    owner = subject.owner
    subject.close()
    assert link.state not in WATCHED
    assert link not in service.current().links()
    replaced = ("_output_marshaled_frames", "drain_events", "heartbeat_tick", ATTEMPTS)
    assert not set(replaced) & vars(owner).keys()


some_instants = pytest.mark.parametrize(
    "every", [23, pytest.param(1, marks=pytest.mark.extended)], ids=["some", "all"]
)


@some_instants
def test_two_threads_at_any_instant_make_one_link(
    connect: Callable[[], Subject], opened: list[Subject], every: int
) -> None:
    def prepare() -> tuple[Callable[[], object], Callable[[], object]]:
        subject = connect()
        return subject.attach, subject.attach

    def after() -> None:
        subject = opened[-1]
        (link,) = subject.links()
        subject.use()
        check_closing(subject, link)

    assert interleave_everywhere(prepare, after, every) > 100


def test_two_threads_at_once_make_one_link(connect: Callable[[], Subject]) -> None:
    interval = sys.getswitchinterval()
    for _ in range(5):
        subject = connect()
        together = threading.Barrier(2)

        def keep(subject: Subject = subject, together: threading.Barrier = together) -> None:
            together.wait(60)
            hbshim.keep_alive(subject.connection)

        threads = [threading.Thread(target=keep) for _ in range(2)]
        try:
            sys.setswitchinterval(1e-6)
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
        finally:
            sys.setswitchinterval(interval)
        assert len(subject.links()) == 1
        subject.use()
    check_kept(subject)


@some_instants
@pytest.mark.parametrize("library", ["amqp", "pika"])
def test_an_interrupted_call_is_completed_by_the_next_one(
    broker: Broker, opened: list[Subject], library: str, every: int
) -> None:
    def call() -> None:
        opened[-1].attach()

    def after() -> None:
        subject = opened.pop()
        opened.append(Subject(broker, library, None))
        assert len(subject.links()) <= 1
        subject.use()
        subject.attach()
        (link,) = subject.links()
        subject.use()
        check_closing(subject, link)

    opened.append(Subject(broker, library, None))
    assert interrupt_everywhere(call, after, every=every) > 100


@pytest.mark.parametrize("library", ["amqp", "pika"])
def test_a_call_that_fails_leaves_the_link_to_the_one_that_succeeds(
    broker: Broker, opened: list[Subject], library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = HeartbeatService.watch
    subject = Subject(broker, library, None)
    opened.append(subject)
    threads: list[threading.Thread] = []

    def fail_meanwhile(*arguments: Any, **keywords: Any) -> None:
        monkeypatch.setattr(HeartbeatService, "watch", refuse)
        other = threading.Thread(target=attempt)
        other.start()
        other.join(60)
        threads.append(other)
        watch(*arguments, **keywords)

    def refuse(*_arguments: Any, **_keywords: Any) -> NoReturn:
        monkeypatch.setattr(HeartbeatService, "watch", watch)
        raise WorkerError("no thread")

    def attempt() -> None:
        with pytest.raises(WorkerError):
            subject.attach()

    monkeypatch.setattr(HeartbeatService, "watch", fail_meanwhile)
    subject.attach()
    assert threads
    check_kept(subject)


def test_two_threads_at_any_instant_wrap_a_kombu_connection_once(broker: Broker) -> None:
    opened: list[kombu.Connection] = []

    def prepare() -> tuple[Callable[[], object], Callable[[], object]]:
        connection = kombu.Connection(broker.amqp_url(), heartbeat=T)
        connection.connect()
        opened.append(connection)

        def attach() -> None:
            assert kombu_adapter.attach(connection, Options.load()) is not None

        return attach, attach

    def after() -> None:
        connection = opened.pop()
        establish = connection._establish_connection
        assert establish.stock.__func__ is kombu.Connection._establish_connection
        connection.collect()
        connection.connect()
        assert connection.connection.transport.hbshim_link.state in WATCHED
        connection.release()

    try:
        assert interleave_everywhere(prepare, after, every=31) > 100
    finally:
        while opened:
            opened.pop().release()
