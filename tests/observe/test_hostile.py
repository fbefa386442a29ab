"""Neither end of a watch socket comes to harm through what the other sends, or does not send."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies._internal.core import DataObject

from hbshim.errors import WatchError
from hbshim.observe import client, listening
from hbshim.observe.answer import ProcessSeen, parse
from hbshim.observe.protocol import ANSWER_LIMIT, REQUEST
from hbshim.observe.server import WatchServer
from hbshim.observe.socketfile import SocketFile
from hbshim.observe.table import render
from tests.concurrency import needs_os_threads
from tests.observe.conftest import CHECKOUT
from tests.waiting import wait_until

pytestmark = needs_os_threads


def connect(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)  # waits while many others do
    sock.settimeout(60)
    return sock


# -- hostile clients -----------------------------------------------------------------


def send_garbage(path: str, rng: random.Random) -> None:
    with connect(path) as sock, contextlib.suppress(OSError):
        sock.sendall(rng.randbytes(rng.choice([15, 16, 1000, 1_000_000])))
        if rng.random() < 0.5:
            while sock.recv(65536):
                pass


def send_half_a_request_and_go(path: str, rng: random.Random) -> None:
    with connect(path) as sock:
        sock.sendall(REQUEST[: rng.randrange(len(REQUEST))])


def go_before_the_answer(path: str, _rng: object) -> None:
    with connect(path) as sock:
        sock.sendall(REQUEST)


def shut_down_and_read(path: str, _rng: object) -> None:
    with connect(path) as sock:
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""


def wait_for_nothing(path: str, _rng: object) -> None:
    # The server ends it: a wait without end is a TimeoutError of this socket.
    with connect(path) as sock, contextlib.suppress(ConnectionResetError):
        while sock.recv(65536):
            pass


HOSTILE = [send_garbage, send_half_a_request_and_go, go_before_the_answer, shut_down_and_read]


def footprint(pid: int) -> tuple[int, int, int]:
    with open(f"/proc/{pid}/statm") as file:
        pages = int(file.read().split()[1])
    threads = len(os.listdir(f"/proc/{pid}/task"))
    return len(os.listdir(f"/proc/{pid}/fd")), threads, pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    "model", ["native", "eventlet", pytest.param("gevent", marks=pytest.mark.extended)]
)
def test_a_process_survives_hostile_clients_and_keeps_nothing_of_them(
    watched: Callable[..., tuple[subprocess.Popen[str], str]], model: str
) -> None:
    process, path = watched(model)
    rng = random.Random(3)
    for _ in range(10):
        rng.choice(HOSTILE)(path, rng)
        client.ask(path)
    descriptors, threads, memory = footprint(process.pid)
    heartbeats = client.ask(path).counters.get("heartbeats_sent", 0)
    for _ in range(150):
        rng.choice(HOSTILE)(path, rng)
    wait_for_nothing(path, rng)
    seen = client.ask(path)
    after = footprint(process.pid)
    assert after[0] == descriptors
    assert after[1] <= threads
    assert after[2] - memory < 4_000_000
    assert process.poll() is None
    assert "event:watch-failed" not in seen.counters
    # The other link, with T = 2 s, got heartbeats until its silent peer had to be called dead.
    assert seen.counters["heartbeats_sent"] > heartbeats or seen.counters["event:link-silent"] == 1


def test_a_client_that_sends_nothing_holds_others_up_for_a_bounded_time(
    watched: Callable[..., tuple[subprocess.Popen[str], str]],
) -> None:
    _, path = watched()
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(connect(path))
        assert client.ask(path, within=60).links_in_all == 2


def test_a_client_that_never_reads_is_given_up(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    failures: list[Any] = []
    server = WatchServer(SocketFile(path), lambda: b"x" * ANSWER_LIMIT, failures.append)
    try:
        with connect(path) as deaf:
            deaf.sendall(REQUEST)
            with connect(path) as other:
                other.sendall(REQUEST)
                assert other.recv(1, socket.MSG_WAITALL) == b"x"
        assert failures == []
    finally:
        server.stop()
    wait_until(lambda: not os.path.exists(path))


def test_an_error_of_ours_is_told_of_and_the_next_client_is_answered(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    failures: list[Any] = []

    def answer() -> bytes:
        if not failures:
            raise ZeroDivisionError
        return b"fine"

    server = WatchServer(SocketFile(path), answer, failures.append)
    try:
        with connect(path) as first:
            first.sendall(REQUEST)
            assert first.recv(10) == b""
        with connect(path) as second:
            second.sendall(REQUEST)
            assert second.recv(10) == b"fine"
        assert [type(error) for error in failures] == [ZeroDivisionError]
    finally:
        server.stop()


def test_other_requests_are_answered_with_what_this_socket_is(
    watched: Callable[..., tuple[subprocess.Popen[str], str]],
) -> None:
    _, path = watched()
    with connect(path) as sock:
        sock.sendall(b"GET / HTTP/1.1\n")
        assert b"this socket answers `hbshim watch`" in sock.recv(1000)


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, which root alone may")
def test_another_user_is_refused_even_where_the_file_would_let_him_in(
    watched: Callable[..., tuple[subprocess.Popen[str], str]], tmp_path: Path
) -> None:
    _, path = watched()
    for directory in (tmp_path, *tmp_path.parents):
        if directory.owner() == "root" and str(directory).startswith("/tmp/"):
            directory.chmod(directory.stat().st_mode | stat.S_IXOTH)
    code = (
        "import os, socket, sys; os.setgid(65534); os.setuid(65534)\n"
        "s = socket.socket(socket.AF_UNIX)\n"
        "try: s.connect(sys.argv[1])\n"
        "except PermissionError: sys.exit('no entry')\n"
        f"s.sendall({REQUEST!r}); print(len(s.recv(100)))"
    )
    refused = [sys.executable, "-I", "-c", code, path]
    done = subprocess.run(refused, capture_output=True, text=True, timeout=120)
    assert "no entry" in done.stderr
    os.chmod(path, 0o666)
    done = subprocess.run(refused, capture_output=True, text=True, timeout=120)
    assert done.stdout == "0\n" or "ConnectionResetError" in done.stderr or "Broken" in done.stderr


# -- hostile servers -----------------------------------------------------------------

GOOD = json.loads(listening.answer())
GOOD["links"] = [
    {
        "name": "127.0.0.1:1 -> 127.0.0.1:5672",
        "peer": "127.0.0.1:5672",
        "state": "alive",
        "heartbeat_timeout": 60.0,
        "heartbeats_sent": 1,
        "worker": "pthread",
        "route": "plain",
        "sent_ago": 1.0,
        "received_ago": None,
        "last_write_ago": 2.0,
        "last_read_ago": 3,
    }
]


def parse_or_refuse(answer: bytes) -> ProcessSeen | None:
    try:
        seen = parse(answer)
    except WatchError:
        return None
    from rich.console import Console

    console = Console(width=100, file=open(os.devnull, "w"), markup=False)  # noqa: SIM115
    with console.file:
        console.print(render([seen], 100, 30))
    return seen


def test_a_proper_answer_is_read() -> None:
    assert isinstance(parse_or_refuse(json.dumps(GOOD).encode()), ProcessSeen)


# No deadline: the machine may be busy. No database: a failure prints what it was.
FUZZ = settings(database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@FUZZ
@given(st.binary(max_size=300))
def test_any_bytes_are_refused_with_one_error(answer: bytes) -> None:
    assert parse_or_refuse(answer) is None


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=10,
)


@FUZZ
@given(st.data())
def test_an_answer_with_anything_in_any_place_is_shown_or_refused(data: DataObject) -> None:
    document = json.loads(json.dumps(GOOD))
    place = data.draw(st.sampled_from([document, document["links"][0]]))
    place[data.draw(st.sampled_from(sorted(place)))] = data.draw(_json)
    parse_or_refuse(json.dumps(document).encode())


@pytest.mark.parametrize(
    "answer",
    [
        b"[" * 1_000_000,
        b'{"a":' * 100_000,
        b"1" * 10_000,
        b"null",
        b"[]",
        b'{"protocol": 2}',
        b'{"error": "not understood"}',
        json.dumps({**GOOD, "pid": 10**400}).encode(),
        json.dumps({**GOOD, "pid": True}).encode(),
        json.dumps({**GOOD, "pid": -1}).encode(),
        json.dumps(GOOD).replace("60.0", "NaN").encode(),
        json.dumps(GOOD).replace("60.0", "1e999").encode(),
        json.dumps(GOOD).encode("utf-16"),
    ],
)
def test_what_is_no_answer_is_refused(answer: bytes) -> None:
    with pytest.raises(WatchError, match="is it the right socket"):
        parse(answer)


def test_nothing_that_steers_a_terminal_reaches_it(
    hbshim: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    evil = {**GOOD["links"][0], "peer": "\x1b]0;owned\x07\x1b[2J", "state": "\u202ealive"}
    document = {**GOOD, "program": "\x1b[31m\r", "links": [evil], "counters": {"event:\x9b2J": 1}}
    answer = json.dumps(document).encode()
    with serve(tmp_path, lambda peer: peer.recv(100) and peer.sendall(answer)) as path:
        table, raw = hbshim("watch", path), hbshim("watch", "--json", path)
    for done in (table, raw):
        assert done.returncode == 0, done.stderr
        assert all(c.isprintable() or c == "\n" for c in done.stdout)
    assert "owned" in table.stdout


@contextlib.contextmanager
def serve(tmp_path: Path, behave: Callable[[socket.socket], object]) -> Iterator[str]:
    """Listen as a process of hbshim's would, and behave otherwise."""
    path = str(tmp_path / "evil.sock")
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()

    def run() -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = server.accept()
                with peer, contextlib.suppress(OSError):
                    peer.settimeout(120)
                    behave(peer)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield path
    finally:
        server.shutdown(socket.SHUT_RDWR)
        thread.join(120)
        server.close()


def drip(peer: socket.socket) -> None:
    peer.recv(100)
    while True:
        peer.sendall(b" ")
        time.sleep(0.05)


def flood(peer: socket.socket) -> None:
    while True:
        peer.sendall(b" " * 65536)


def cut_short(peer: socket.socket) -> None:
    peer.recv(100)
    peer.sendall(json.dumps(GOOD).encode()[:-20])


BEHAVIOUR = {
    "silent": (lambda peer: peer.recv(100) and peer.recv(100), "no answer at"),
    "drip": (drip, "no answer at"),
    "flood": (flood, "the answer has no end"),
    "closes": (lambda peer: peer.recv(100), "closed without an answer"),
    "hangs up": (lambda peer: None, "evil.sock"),
    "cut short": (cut_short, "is it the right socket"),
    "HTTP": (lambda peer: peer.recv(100) and peer.sendall(b"HTTP/1.1 400 \r\n"), "is it the right"),
}


@pytest.mark.parametrize(
    ("kind", "how"), [*((kind, "--once") for kind in BEHAVIOUR), ("cut short", "--json")]
)
def test_a_hostile_server_costs_the_command_one_clear_line(
    hbshim: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, kind: str, how: str
) -> None:
    behave, wanted = BEHAVIOUR[kind]
    with serve(tmp_path, behave) as path:
        done = hbshim("watch", how, path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("hbshim: ")
    assert wanted in done.stderr


@pytest.mark.parametrize(
    ("target", "wanted"),
    [
        ("no/such/path", "no process listens at no/such/path"),
        (__file__, "no process listens at"),
        ("999999999", "there is no process 999999999"),
        ("9" * 500, "there is no process 9"),
        ("1", "process 1 has no watch socket"),
        (str(CHECKOUT / "tests"), "no process can be watched in"),
        ("x" * 200, "cannot be asked"),
    ],
)
def test_a_target_that_is_none_gets_one_clear_line(
    hbshim: Callable[..., subprocess.CompletedProcess[str]],
    target: str,
    wanted: str,
    tmp_path: Path,
) -> None:
    done = hbshim("watch", target, TMPDIR=str(tmp_path))
    assert done.returncode == 2
    assert wanted in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_interval_that_is_none_is_refused(
    hbshim: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = hbshim("watch", "--interval", "0")
    assert done.returncode == 2
    assert "0.1<=x<=3600" in done.stderr
