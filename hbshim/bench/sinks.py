"""Starts a sink in a process of its own, and opens idle connections to it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from hbshim.bench.sink import FRAME_MAX


@contextlib.contextmanager
def running_sink(timeout: int) -> Iterator[int]:
    """A sink whose connections have T = `timeout` seconds; gives its port."""
    process = subprocess.Popen(
        [sys.executable, "-m", "hbshim.bench.sink", str(timeout)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.stdin.close()
        process.stdout.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def open_idle(host: str, user: str, password: str, timeout: int) -> Any:
    """One idle py-amqp connection, with the smallest buffers AMQP allows.

    Parameters:
        host: ``address:port``.
        timeout: T to negotiate, in seconds.
    """
    import amqp

    connection = amqp.Connection(
        host, user, password, heartbeat=timeout, frame_max=FRAME_MAX, login_method="PLAIN"
    )
    connection.connect()
    return connection
