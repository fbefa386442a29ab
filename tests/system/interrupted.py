"""Publishes, and interrupts its own publishes at random instants; started by test_interrupts.

python -m tests.system.interrupted MODEL LIBRARY SECONDS SEED HOST:PORT USER PASSWORD QUEUE [blind]

After each interruption it checks what hbshim promises: a torn stream is shut down and reported
at once, and its next publish fails with the library's error; otherwise the connection is as good
as before. No lock stays held, and no link without heartbeats. The result is one line of JSON.
With `blind` a torn stream is left open, so that the test can be seen to notice.
"""
# ruff: noqa: E402, T201 - patch first, import later; the result is printed.

from __future__ import annotations

import sys
import warnings

MODEL, LIBRARY, SECONDS, SEED, ADDRESS, USER, PASSWORD, QUEUE = sys.argv[1:9]
BLIND = "blind" in sys.argv[9:]
warnings.simplefilter("ignore")  # eventlet's deprecation
if MODEL == "eventlet":
    import eventlet

    eventlet.monkey_patch()
    from eventlet import Timeout
elif MODEL == "gevent":
    import gevent
    from gevent import Timeout, monkey

    monkey.patch_all()

import collections
import contextlib
import importlib
import json
import logging
import os
import random
import signal
import socket
import struct
import time
import traceback
import zlib
from collections.abc import Iterator
from typing import Any

import amqp
from pika.exceptions import AMQPError

import hbshim
from hbshim.heartbeat.link import Link
from hbshim.heartbeat.state import WATCHED
from tests.stress.clients import CLIENTS, AmqpClient

#: T in seconds: the smallest makes the most heartbeats.
T = 1
OPENING = {
    "host": ADDRESS.partition(":")[0],
    "port": int(ADDRESS.partition(":")[2]),
    "user": USER,
    "password": PASSWORD,
    "heartbeat": T,
    "name": "interrupted",
    "queue": QUEUE,
}
SEND_BUFFER = 8192
#: Bytes of a body: one frame, several, and more than every buffer on the way holds.
SIZES = (100, 20_000, 400_000)
#: An interruption comes within so many seconds of the begin of a publish of each size.
WITHIN = {100: 0.0005, 20_000: 0.02, 400_000: 0.2}
#: Seconds after which a call that is not interrupted hangs.
HANGS = 20.0
#: A connection that was interrupted, and is as good as before, is left idle this often.
IDLE_EVERY = 25


#: A green pika keeps what an interrupted publish has not sent. With more bytes than this the
#: connection is given up: on a busy machine, all that is left would take longer than `HANGS`.
BACKLOG = int(os.environ.get("HBSHIM_INTERRUPT_BACKLOG", "500000"))


class TimeLimitError(Exception):
    """As Celery's SoftTimeLimitExceeded: an ordinary Exception, raised by a signal handler."""


class HangError(BaseException):
    """A call that should have returned did not."""


KINDS: tuple[type[BaseException], ...] = (TimeLimitError, KeyboardInterrupt, MemoryError)
if MODEL != "native":
    GreenletExit: type[BaseException] = importlib.import_module("greenlet").GreenletExit

    #: What `kill` raises in a green thread.
    KINDS = (*KINDS, GreenletExit)


def make_body(number: int, size: int, choose: random.Random) -> bytes:
    """A body that shows whether it is whole: its number, a checksum, and the rest."""
    # Eight bytes as a heartbeat has them, over and over: what may pass for one is in here.
    rest = (number.to_bytes(8, "big") + b"\x08\x00\x00\x00\x00\x00\x00\xce") * (size // 16)
    rest = rest[choose.randrange(8) :]
    return struct.pack(">QI", number, zlib.crc32(rest)) + rest


#: What a publish may raise.
ERRORS: tuple[type[BaseException], ...] = {
    "amqp": (*amqp.Connection.connection_errors, *amqp.Connection.channel_errors, OSError),
    "pika": (AMQPError, AssertionError, OSError),
}[LIBRARY]


@contextlib.contextmanager
def limit(seconds: float, error: type[BaseException]) -> Iterator[None]:
    """Raise `error` inside the block once the time has passed, in the model's own way."""
    if MODEL != "native":
        with Timeout(seconds, error):
            yield
        return

    def on_alarm(*_: object) -> None:
        raise error

    signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def send_and_kill(client: AmqpClient, body: bytes, seconds: float) -> None:
    """Publish in a green thread of its own, which is killed once the time has passed.

    Raises what the green thread has raised.
    """
    raised: list[BaseException] = []

    def send() -> None:
        try:
            client.send(body)
        except BaseException as error:
            raised.append(error)

    if MODEL == "eventlet":
        publishing = eventlet.spawn(send)
        eventlet.sleep(seconds)
    else:
        publishing = gevent.spawn(send)
        gevent.sleep(seconds)
    # It may not have begun, or have ended.
    publishing.kill()
    if raised:
        raise raised[0]


def unsent(client: AmqpClient) -> int:
    """Return the bytes that pika has buffered; 0 for py-amqp, which buffers none."""
    return int(getattr(client.transport(), "_tx_buffered_byte_count", 0))


class Run:
    """One run; `faults` holds what should not have happened."""

    def __init__(self) -> None:
        self.choose = random.Random(int(SEED))
        self.counts: collections.Counter[str] = collections.Counter()
        self.faults: list[str] = []
        self.number = 0
        self.to_send = 0
        self.client: AmqpClient | None = None
        self.link: Link

    def open(self) -> AmqpClient:
        with limit(HANGS, HangError):
            client = CLIENTS[LIBRARY](OPENING)
            client.connect()
            link = client.link()
            assert link is not None
            self.link = link
            client.sock().setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self.counts["opened"] += 1
        return client

    def publish_once(self) -> None:
        """One publish, most of them interrupted, and what must hold after it."""
        client = self.client = self.client or self.open()
        size = self.choose.choice(SIZES)
        self.number += 1
        body = make_body(self.number, size, self.choose)
        kind = self.choose.choice(KINDS)
        seconds = self.choose.uniform(1e-5, WITHIN[size])
        try:
            if kind.__name__ == "GreenletExit":
                send_and_kill(client, body, seconds)
            else:
                with limit(seconds, kind):
                    client.send(body)
        except kind:
            self.counts["interrupted"] += 1
            self.counts[kind.__name__] += 1
        except ERRORS as error:
            # pika wraps an ordinary Exception; and a connection broken off between two frames
            # of a message is closed by the broker.
            self.counts["failed"] += 1
            self.counts[type(error).__name__] += 1
        self.check(client)

    def check(self, client: AmqpClient) -> None:
        link, guard = self.link, self.link.guard
        if guard.writers.occupied or guard.readers.occupied:
            self.faults.append(f"a lock stays held after publish {self.number}")
        if link.state in WATCHED and not guard.torn:
            if unsent(client) > BACKLOG:
                self.counts["given up"] += 1
                self.drop(client)
                return
            if self.choose.randrange(IDLE_EVERY) == 0:
                self.leave_idle(client)
            return
        if guard.torn:
            self.counts["torn"] += 1
            ended = {"write-broken-off", "peer-closed", "link-silent"}
            if not ended & {event.kind for event in hbshim.take_events()}:
                self.faults.append(f"no event after publish {self.number}")
        try:
            with limit(HANGS, HangError):
                client.send(b"never")
            self.faults.append(f"publish {self.number}: the next one does not fail")
        except ERRORS:
            pass
        self.drop(client)

    def leave_idle(self, client: AmqpClient) -> None:
        """An idle connection gets its heartbeats, whatever interrupted it before."""
        self.to_send = unsent(client)
        try:
            with limit(HANGS, HangError):
                client.send(make_body(0, 100, self.choose))  # sends what pika has buffered
        except ERRORS:
            # The broker has closed it: a message without its rest.
            self.drop(client)
            return
        link = self.link
        before, end = link.heartbeats_sent, time.monotonic() + HANGS
        while link.heartbeats_sent == before and link.state in WATCHED:
            if time.monotonic() > end:
                self.faults.append(f"no heartbeat after publish {self.number}")
                return
            time.sleep(0.05)
        self.counts["idle"] += 1

    def lacks_anything(self, end: float) -> bool:
        green_pika = LIBRARY == "pika" and MODEL != "native"
        if any(self.counts[kind.__name__] == 0 for kind in KINDS) and time.monotonic() < end + 60:
            return True
        return (
            self.counts["interrupted"] < 5 or not (green_pika or self.counts["torn"])
        ) and time.monotonic() < end + 60

    def drop(self, client: AmqpClient) -> None:
        with limit(HANGS, HangError), contextlib.suppress(Exception):
            client.abandon()
        self.client = None

    def __call__(self) -> dict[str, Any]:
        end = time.monotonic() + float(SECONDS)
        try:
            # On a busy machine the time may be over before anything has happened.
            while not self.faults and (time.monotonic() < end or self.lacks_anything(end)):
                self.publish_once()
            if self.client is not None:
                self.drop(self.client)
            with limit(HANGS, HangError):
                last = self.open()
                last.send(make_body(0, 100, self.choose))
                last.connection.close()
        except HangError:
            left = 0 if self.client is None else unsent(self.client)
            self.faults.append(
                f"a call hangs after publish {self.number}; of {self.to_send} buffered bytes, "
                f"{left} are left: {traceback.format_exc(limit=-12)}"
            )
        return {"faults": self.faults, "counts": dict(self.counts), "published": self.number}


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    hbshim.install()
    if BLIND:
        Link.tear = lambda self: None
    print(json.dumps(Run()()), flush=True)
