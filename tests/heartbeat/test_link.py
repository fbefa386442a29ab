"""One link, its socket pair, and what a forked child makes of it."""

import os
import signal
import socket
import threading

import pytest

from hbshim.adapters.sockets import native_socket
from hbshim.heartbeat.link import Link
from hbshim.heartbeat.state import State
from hbshim.heartbeat.wire import Wire
from hbshim.metrics import Metrics


@pytest.fixture
def link():
    server = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(server.getsockname())
    peer, _ = server.accept()
    server.close()
    with client, peer:
        yield Link(Wire(native_socket(client)), 60, "test", Metrics())


def outcome_in_child(action):
    """The exit status of a forked child that does this; a child that hangs is ended."""
    pid = os.fork()
    if not pid:
        signal.alarm(10)
        os._exit(action())
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_child_forked_in_the_middle_of_a_look_is_refused_its_write(link):
    def write():
        try:
            link.before_idle_write()
        except ConnectionError:
            return 42 if link.state is State.ORPHANED and link.wire.closed else 43
        return 44

    taken, let_go = threading.Event(), threading.Event()

    def look():
        with link.guard.books:
            taken.set()
            let_go.wait(30)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        assert taken.wait(10)
        # In the child no thread is left that would ever give the books back.
        assert outcome_in_child(write) == 42
    finally:
        let_go.set()
        looking.join()
    assert link.state is State.ALIVE
    link.before_idle_write()
