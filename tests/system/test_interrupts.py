"""Publishes that are interrupted at random instants, in every model and on both libraries.

For minutes of it: HBSHIM_INTERRUPT_SECONDS=300 pytest tests/system/test_interrupts.py -s
"""

from __future__ import annotations

import json
import os
import random
import struct
import subprocess
import sys
import threading
import uuid
import zlib
from typing import NamedTuple

import amqp
import pytest

from tests.concurrency import needs_os_threads
from wsgi_harness.stack.broker import Broker
from wsgi_harness.wire.events import RelayEvent
from wsgi_harness.wire.relay import Relay

pytestmark = [needs_os_threads, pytest.mark.alone]

SECONDS = float(os.environ.get("HBSHIM_INTERRUPT_SECONDS", "4"))
SEED = int(os.environ.get("HBSHIM_INTERRUPT_SEED", "0")) or random.SystemRandom().randrange(1 << 30)

#: Of each message: its number and the checksum of the rest.
_HEAD = struct.Struct(">QI")


class Messages(threading.Thread):
    """Takes every message off a queue, and keeps what is not as it was published."""

    def __init__(self, broker: Broker, queue: str) -> None:
        super().__init__()
        self.altered: list[str] = []
        self.whole = 0
        self._ending = threading.Event()
        self._connection = amqp.Connection(
            f"{broker.host}:{broker.amqp_port}", broker.user, broker.password
        )
        self._connection.connect()
        channel = self._connection.channel()
        channel.queue_declare(queue, exclusive=True)
        channel.basic_consume(queue, no_ack=True, callback=self._take)

    def _take(self, message: amqp.Message) -> None:
        body = message.body if isinstance(message.body, bytes) else message.body.encode()
        if len(body) < _HEAD.size:
            self.altered.append(f"a message of {len(body)} bytes")
            return
        number, checksum = _HEAD.unpack_from(body)
        if zlib.crc32(body[_HEAD.size :]) == checksum:
            self.whole += 1
        else:
            self.altered.append(f"message {number} of {len(body)} bytes")

    def run(self) -> None:
        while True:
            try:
                self._connection.drain_events(timeout=0.5)
            except TimeoutError:
                if self._ending.is_set():
                    break
        self._connection.close()

    def end(self) -> None:
        self._ending.set()
        self.join()


class Outcome(NamedTuple):
    """The reports of the interrupted process, its frames on the wire, and what its consumer got."""

    faults: list[str]
    counts: dict[str, int]
    malformed: list[RelayEvent]
    messages: Messages


def run(broker: Broker, model: str, library: str, seconds: float, *more: str) -> Outcome:
    queue = f"interrupted-{uuid.uuid4().hex}"
    messages = Messages(broker, queue)
    messages.start()
    try:
        with Relay(broker.host, broker.amqp_port, receive_buffer=8192, send_buffer=8192) as relay:
            relay.slow(4 << 20)
            arguments = [model, library, str(seconds), str(SEED), f"127.0.0.1:{relay.port}"]
            done = subprocess.run(
                [
                    *(sys.executable, "-m", "tests.system.interrupted"),
                    *(*arguments, broker.user, broker.password, queue, *more),
                ],
                capture_output=True,
                text=True,
                timeout=seconds + 180,
            )
    finally:
        messages.end()
    assert done.stdout, done.stderr
    result = json.loads(done.stdout)
    print(f"seed {SEED}, {messages.whole} messages: {result}")  # noqa: T201
    return Outcome(result["faults"], result["counts"], relay.seen("malformed"), messages)


@pytest.mark.parametrize("library", ["amqp", "pika"])
@pytest.mark.parametrize("model", ["native", "eventlet", "gevent"])
def test_an_interrupted_publish_never_harms_a_message_or_a_link(
    broker: Broker, model: str, library: str
) -> None:
    outcome = run(broker, model, library, SECONDS)
    assert outcome.faults == []
    # Whole frames until the end of each stream, and never a heartbeat inside one.
    assert outcome.malformed == []
    assert outcome.messages.altered == []
    # What should be tested did happen. A green pika is interrupted only while it waits for its
    # socket; it then keeps what it has not sent, and goes on with it.
    happened = "interrupted" if library == "pika" and model != "native" else "torn"
    assert outcome.counts.get(happened, 0) > 0
    assert model == "native" or outcome.counts.get("GreenletExit", 0) > 0
    assert outcome.messages.whole > 0


def test_a_torn_stream_that_is_left_open_is_noticed_here(broker: Broker) -> None:
    # Ends with the first fault; how soon an interrupt tears the stream is chance.
    outcome = run(broker, "native", "amqp", 90.0, "blind")
    assert outcome.faults
