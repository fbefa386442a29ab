"""What answers in place of the management API: one clear error, in time."""

from __future__ import annotations

import json
import random
import socket
import threading
from collections.abc import Callable

import pytest

from hbshim.doctor.context import Queues
from hbshim.doctor.deadline import Deadline
from hbshim.doctor.management import list_queues
from hbshim.doctor.target import broker_target, management_target
from hbshim.errors import BrokerError
from tests.doctor.hostile import drips, nothing, peer_that, stalls_after

SECRET = "only-for-tests"


def answer(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 " + status + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def ask(
    behave: Callable[[socket.socket, threading.Event], None] | Callable[..., None],
    timeout: float = 60.0,
) -> Queues:
    with peer_that(behave) as port:
        broker = broker_target(f"amqp://user:{SECRET}@127.0.0.1/")
        target = management_target(f"http://127.0.0.1:{port}", broker)
        return list_queues(target, None, Deadline(timeout))


@pytest.mark.parametrize(
    ("behave", "text"),
    [
        (nothing, "no answer in time"),
        (drips, "no answer in time"),
        (stalls_after(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"), "no answer in time"),
        (stalls_after(answer(b"", b"401 Unauthorized")), "it refuses user 'user'"),
        (stalls_after(answer(b"", b"404 Not Found")), "status 404"),
        (stalls_after(answer(b"[]")), "but not as RabbitMQ does"),
        (stalls_after(answer(b"{}")), "not with a list of queues"),
        (stalls_after(answer(b"no json")), "JSONDecodeError"),
        (stalls_after(b"\x01\x00\x00\x00\x00\x00\x00\xce\r\n"), "BadStatusLine"),
    ],
)
def test_it_is_told_what_is_wrong(
    behave: Callable[[socket.socket, threading.Event], None], text: str
) -> None:
    with pytest.raises(BrokerError) as caught:
        ask(behave, timeout=1.0 if "in time" in text else 60.0)
    assert text in str(caught.value)
    assert SECRET not in str(caught.value)


def test_anything_at_all_is_queues_or_a_broker_error() -> None:
    rng = random.Random(672)
    whole = json.dumps(
        {
            "rabbitmq_version": "4.0.5",
            "filtered_count": 2,
            "items": [
                {"name": "a", "durable": False, "exclusive": False},
                {"name": "b", "durable": True, "exclusive": False},
            ],
        }
    ).encode()
    assert ask(stalls_after(answer(whole))).transient == ("a",)
    refused = 0
    for _ in range(60):
        words = bytearray(answer(whole))
        for _ in range(rng.randrange(1, 8)):
            words[rng.randrange(len(words))] = rng.randrange(256)

        def say(peer: socket.socket, over: threading.Event, words: bytes = bytes(words)) -> None:
            peer.sendall(words)

        try:
            ask(say)
        except BrokerError:
            refused += 1
    assert refused > 10
