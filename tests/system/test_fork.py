"""A forked child must leave its parent's stream alone, whatever it does.

Every parent is an agent behind a relay of its own, and all of them go through their
acts side by side. What a child does is checked where it would show: at the relay, by
the frames that its parent's connection carried meanwhile. The controls, last, show
what happens there without hbshim. Pre-forking servers: test_fork_hosts.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.system.conftest import RemoteClient
from tests.system.streams import Stream
from tests.waiting import wait_until
from wsgi_harness.stack.broker import Broker
from wsgi_harness.wire.relay import Relay

# A fleet of processes on two cores.
pytestmark = pytest.mark.alone

#: Below, the relays that share this process come too late on a busy machine.
T = 2
PARENTS = [
    *((model, library) for model in ("native", "eventlet") for library in ("kombu", "pika")),
    ("native", "amqp"),
    ("gevent", "kombu"),
    ("gevent", "pika"),
]
#: In C, as uWSGI and mod_wsgi fork. Without gevent, which has to be notified of a fork.
WAYS = ["os", "multiprocessing", "c"]
ROWS = [
    (model, library, way)
    for model, library in PARENTS
    for way in WAYS
    if (model, way) != ("gevent", "c")
]
#: Seconds that a child may take; beyond, it hangs.
LIMIT = 30.0


def acts_of(model: str, way: str) -> list[str]:
    """What the children do, in this order, each in a process of its own."""
    acts = ["connect_beside", "write", "write at once", "close", "clean_up", "collect", "reconnect"]
    if way != "c":
        # Behind Python's back, the child's copy is dropped when hbshim is next asked.
        acts.append("idle")
    if (model, way) == ("native", "os"):
        acts.append("forkserver")
    return [*acts, "outlive"]


class Story:
    """One parent with its relay, and what became of each of its children."""

    def __init__(self, broker: Broker, model: str, library: str, way: str) -> None:
        self.client = RemoteClient(broker, model, library)
        self.relay = Relay(broker.host, broker.amqp_port)
        self.way = way
        self.outcomes: dict[str, Any] = {}
        self.error: Exception | None = None
        self.published = 0

    def run(self) -> None:
        attempts = {
            "connect_beside": self._fork_then_connect,
            "write at once": self._write_at_once,
            "forkserver": self._forkserver,
            "outlive": self._parent_closes_first,
        }
        with self.relay:
            try:
                for act in acts_of(self.client.model, self.way):
                    self.outcomes[act] = attempts.get(act, self._connect_then_fork)(act)
            except Exception as error:
                self.error = error
            finally:
                self.client.end()

    def _child(self, act: str) -> Any:
        self.client.do("fork", act=act, way=self.way)
        return self.client.do("child_answer", limit=LIMIT)

    def _fork_then_connect(self, act: str) -> Any:
        client = self.client
        client.do("prepare", **self._opening())
        client.do("fork", act=act, way=self.way)
        self.relay.wait_for("heartbeat", "client")
        client.do("open", **self._opening())
        self.stream = Stream(self.relay, self.relay.seen("opened")[-1].connection)
        self._parent_goes_on()
        return client.do("child_answer", limit=LIMIT)

    def _connect_then_fork(self, act: str) -> Any:
        """The child acts while the parent is idle: only the parent's heartbeats may pass."""
        before = self.stream.after_next_heartbeat()
        answer = self._child(act)
        self.stream.check_only_heartbeats_since(before)
        self._parent_goes_on()
        return answer

    def _write_at_once(self, _act: str) -> Any:
        """The child writes while its parent's last write is too fresh for the stale rule."""
        self.client.do("fork", act="write", way=self.way, publish=True)
        answer = self.client.do("child_answer", limit=LIMIT)
        self.published += 1
        self._parent_goes_on()
        return answer

    def _forkserver(self, _act: str) -> Any:
        before = self.stream.after_next_heartbeat()
        answer = self.client.do("forkserver", limit=LIMIT)
        self.stream.check_only_heartbeats_since(before)
        self._parent_goes_on()
        return answer

    def _parent_closes_first(self, act: str) -> Any:
        self.client.do("fork", act=act, way=self.way)
        self.client.do("close")
        wait_until(self.stream.frames_at_end, LIMIT)
        ended = self.stream.frames_at_end()
        answer = self.client.do("child_answer", limit=LIMIT)
        assert self.stream.frames_at_end() == ended
        assert self.relay.errors == []
        return answer

    def _parent_goes_on(self) -> None:
        """Only the parent sends heartbeats on its stream, and it can be used."""
        self.client.do("publish")
        self.published += 1
        self.client.wait_for_messages(self.published)
        heartbeats = len(self.stream.heartbeats())
        link = self.client.link
        assert link["state"] == "alive"
        assert heartbeats <= link["heartbeats_sent"], "the heartbeat of another process"

    def _opening(self) -> dict[str, Any]:
        broker = self.client.broker
        return {
            "host": "127.0.0.1",
            "port": self.relay.port,
            "user": broker.user,
            "password": broker.password,
            "name": self.client.name,
            "heartbeat": T,
        }


@pytest.fixture(scope="module")
def stories(broker: Broker) -> dict[tuple[str, str, str], Story]:
    """Every parent after all its children."""
    found = {row: Story(broker, *row) for row in ROWS}
    with ThreadPoolExecutor(len(found)) as reporters:
        for job in [reporters.submit(story.run) for story in found.values()]:
            job.result()
    return found


def in_rows(act: str) -> Any:
    """Run a test for each parent that has a child do `act`, with what that child said."""
    rows = [row for row in ROWS if act in acts_of(row[0], row[2])]
    return pytest.mark.parametrize(
        "answer", [(row, act) for row in rows], ids=map("-".join, rows), indirect=True
    )


@pytest.fixture
def answer(request: Any, stories: dict[tuple[str, str, str], Story]) -> Any:
    row, act = request.param
    story = stories[row]
    if act not in story.outcomes:
        # This act went wrong, or one before it.
        raise AssertionError(f"got as far as {list(story.outcomes)}") from story.error
    outcome = story.outcomes[act]
    assert "error" not in outcome, outcome["error"]
    return outcome


@in_rows("connect_beside")  # type: ignore[untyped-decorator]
def test_fork_then_connect(answer: Any) -> None:
    assert answer["state"] == "alive"
    assert answer["heartbeats_sent"] >= 1


@in_rows("write")  # type: ignore[untyped-decorator]
def test_a_child_that_writes_gets_the_librarys_recoverable_error(answer: Any) -> None:
    assert answer["recoverable"] is True, answer
    assert "belongs to the parent process" in answer["message"]


@in_rows("write at once")  # type: ignore[untyped-decorator]
def test_a_child_that_writes_right_after_its_parent(answer: Any) -> None:
    assert answer["recoverable"] is True, answer


@in_rows("close")  # type: ignore[untyped-decorator]
def test_a_child_that_closes_first(answer: Any) -> None:
    assert answer["recoverable"]


@in_rows("clean_up")  # type: ignore[untyped-decorator]
def test_a_child_whose_library_drops_the_connection(answer: Any) -> None:
    assert answer == {"sockets": 0}


@in_rows("collect")  # type: ignore[untyped-decorator]
def test_a_child_that_collects_garbage(answer: Any) -> None:
    assert answer == {"links": 0}


@in_rows("idle")  # type: ignore[untyped-decorator]
def test_a_child_that_does_nothing_holds_no_socket(answer: Any) -> None:
    assert answer == {"sockets": 0}


@in_rows("reconnect")  # type: ignore[untyped-decorator]
def test_a_child_that_connects_anew(answer: Any) -> None:
    assert answer == {"state": "alive"}


@in_rows("outlive")  # type: ignore[untyped-decorator]
def test_a_parent_that_closes_first(answer: Any) -> None:
    assert answer["recoverable"] is True, answer


@in_rows("forkserver")  # type: ignore[untyped-decorator]
def test_a_child_of_a_fork_server_inherits_nothing(answer: Any) -> None:
    assert answer == {"inherited": 0, "state": "alive"}


@pytest.fixture
def control(broker: Broker) -> Iterator[Any]:
    """A parent without hbshim; its T is so long that no heartbeat is due."""
    with Relay(broker.host, broker.amqp_port) as relay:
        clients = []

        def start(library: str) -> tuple[RemoteClient, Relay]:
            clients.append(RemoteClient(broker, "native", library))
            clients[0].open(relay, shim="none", heartbeat=30)
            clients[0].do("publish")
            return clients[0], relay

        yield start
        for client in clients:
            client.end()


@pytest.mark.parametrize("library", ["kombu", "pika"])
def test_without_hbshim_a_child_writes_into_its_parents_stream(control: Any, library: str) -> None:
    client, _relay = control(library)
    client.do("fork", act="write", way="os")
    assert client.do("child_answer")["message"] == "accepted"
    client.wait_for_messages(2)


@pytest.mark.parametrize("library", ["kombu", "pika"])
def test_without_hbshim_a_child_closes_its_parents_connection(control: Any, library: str) -> None:
    client, relay = control(library)
    client.do("fork", act="close", way="os")
    client.do("child_answer")
    relay.wait_for("close", "client")
    client.fails("publish", times=50, pause=0.05)


@pytest.mark.parametrize("library", ["kombu", "pika"])
def test_without_hbshim_a_childs_library_shuts_its_parents_stream_down(
    control: Any, library: str
) -> None:
    client, _relay = control(library)
    client.do("fork", act="clean_up", way="os")
    client.do("child_answer")
    client.fails("publish", times=50, pause=0.05)


@pytest.mark.parametrize("library", ["kombu", "pika"])
def test_without_hbshim_a_childs_garbage_spares_its_parent_too(control: Any, library: str) -> None:
    """A control that survives: these versions close the child's copy without a word."""
    client, _relay = control(library)
    client.do("fork", act="collect", way="os")
    client.do("child_answer")
    client.do("publish")
    client.wait_for_messages(2)
