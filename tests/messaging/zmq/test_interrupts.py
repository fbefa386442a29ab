"""An exception, as a signal handler raises it, before each line of a close."""

from __future__ import annotations

import gc
import itertools
import sys
from collections.abc import Callable
from types import FrameType

import pytest

import hbshim
from hbshim.messaging import Client, Driver, Server, Target
from hbshim.messaging.zmq import io
from hbshim.messaging.zmq.driver import ZmqDriver
from tests.messaging.endpoints import Endpoint
from tests.messaging.zmq.nodes import LIMIT, Node
from tests.waiting import wait_until

Serve = Callable[..., Server]

TARGET = Target("compute")

_SOURCE = hbshim.__file__.rpartition("/")[0]

#: What an interrupted constructor has opened, the garbage collector closes.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


def is_interrupted(work: Callable[[], object], number: int) -> bool:
    """Interrupt a function before a line of hbshim's; return whether it has so many."""
    left = number

    def trace(frame: FrameType, event: str, _: object) -> object:
        nonlocal left
        if not frame.f_code.co_filename.startswith(_SOURCE):
            return None
        if event == "line":
            left -= 1
            if not left:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    try:
        sys.settrace(trace)  # type: ignore[arg-type]
        work()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.fixture
def drivers(node: Node) -> Callable[[], ZmqDriver]:
    def make() -> ZmqDriver:
        made: Driver = node.driver()
        assert isinstance(made, ZmqDriver)
        return made

    return make


def test_a_close_that_is_interrupted_anywhere_is_finished_by_the_next(
    drivers: Callable[[], ZmqDriver], serve: Serve, endpoint: Endpoint
) -> None:
    serve(drivers(), TARGET, endpoint)
    thread = io._threads.peek()
    assert thread is not None
    before = len(thread.loop._sockets)
    numbers = itertools.count(1)
    interrupted = True
    while interrupted:
        driver = drivers()
        assert Client(driver, TARGET, timeout=LIMIT).call("echo", value=0) == 0
        listener = driver.listen(Target("other"))
        assert listener.open(LIMIT)
        interrupted = is_interrupted(driver.close, next(numbers))
        driver.close()
    wait_until(lambda: len(thread.loop._sockets) == before, LIMIT)
    gc.collect()
