"""Whatever arrives, at most a ProtocolError; never an error of Python.

Inputs are mutations of valid ones: plain random bytes seldom get further than their first one.
`HBSHIM_FUZZ_INPUTS=1000000` tries more, `HBSHIM_FUZZ_SEED` others.
"""

from __future__ import annotations

import contextlib
import os
import random
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from hbshim.amqp1.composites import decode_composite, encode_composite
from hbshim.amqp1.connection import Connection
from hbshim.amqp1.decoding import decode
from hbshim.amqp1.encoding import encode
from hbshim.amqp1.errors import ProtocolError, StateError
from hbshim.amqp1.events import (
    AttachRequested,
    Closed,
    CreditChanged,
    Event,
    LoginRefused,
    Opened,
    Received,
)
from hbshim.amqp1.frames import AMQP_HEADER, SASL, SASL_HEADER, FrameSplitter, encode_frame
from hbshim.amqp1.mechanisms import Anonymous
from hbshim.amqp1.messages import Data, Message, Single, decode_message, encode_message
from hbshim.amqp1.performatives import (
    Accepted,
    Attach,
    Begin,
    Close,
    Detach,
    Disposition,
    End,
    Error,
    Flow,
    Header,
    Modified,
    Open,
    Properties,
    Rejected,
    SaslInit,
    SaslMechanisms,
    SaslOutcome,
    Source,
    Target,
    Transfer,
)
from hbshim.amqp1.sasl import SaslClient
from hbshim.amqp1.values import Array, Char, Described, Float, Symbol, Timestamp, UInt, ULong

INPUTS = int(os.environ.get("HBSHIM_FUZZ_INPUTS", "100000"))
SEED = int(os.environ.get("HBSHIM_FUZZ_SEED", "1"))

SOURCE = Source("a", filter={"f": Described(Symbol("f"), ["x"])}, default_outcome=Modified(True))
VALUES = [
    {"a": [1, 2.5, None, True], Symbol("b"): {UInt(3): b"bytes"}, Char("c"): Timestamp(4)},
    [Array(Symbol, (Symbol("a"),)), Array(list, ([1], [])), Array(int, (1,), ULong(5))],
    [Described(ULong(300), [Float(1.5)]), "ä" * 200, list(range(60)), [[[[[[]]]]]]],
]
PERFORMATIVES = [
    Open("c", "h", 512, 9, 1000, ("en",), (), ("A", "B"), (), {"product": "x"}),
    Begin(None, 0, 10, 10, 7),
    Attach("l", 0, False, source=SOURCE, target=Target("b"), unsettled={b"1": Accepted()}),
    Flow(0, 10, 0, 10, 0, 0, 100, None, True, True),
    Transfer(0, 1, b"1", 0, True, True, 1, Rejected(Error("a", "b", {"c": 1}))),
    Disposition(True, 0, 300, True, Modified(True, True, {"x": [1]})),
    Close(Error("amqp:internal-error", "text")),
    SaslMechanisms(("PLAIN", "ANONYMOUS")),
    SaslInit("PLAIN", b"\0a\0b", "h"),
]
MESSAGES = [
    Message(
        Data((b"body", b"more")),
        Header(True, 9, 1000, True, 3),
        {"a": 1},
        {"b": Symbol("c")},
        Properties(ULong(1), b"u", "to", "s", "r", b"c", "t", "e", 1, 2, "g", 3, "h"),
        {"k": "v", "n": 1.5},
        {"f": b"x"},
    ),
    Message(Single(VALUES[0])),
]


def _frames(data: bytes) -> object:
    return list(FrameSplitter(0x10000).split(data))


TARGETS: dict[str, tuple[Callable[[bytes], Any], list[bytes]]] = {
    "values": (decode, [encode(each) for each in VALUES]),
    "performatives": (decode_composite, [encode_composite(each) for each in PERFORMATIVES]),
    "messages": (decode_message, [encode_message(each) for each in MESSAGES]),
    "frames": (_frames, [encode_frame(encode_composite(each), 1) for each in PERFORMATIVES]),
}

#: Constructors, and the largest and smallest sizes.
_CONSTRUCTORS = bytes.fromhex(
    "00 40 41 42 43 44 45 50 51 52 53 54 55 56 60 61 70 71 72 73 74 80 81 82 83 84 94 98"
    "a0 a1 a3 b0 b1 b3 c0 c1 d0 d1 e0 f0"
)


def mutated(data: bytes, chance: random.Random) -> bytes:
    """The input with a few bytes changed, removed, doubled or inserted."""
    found = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(found) + 1)
        match chance.randrange(6):
            case 0:
                found[at : at + 1] = chance.randbytes(1)
            case 1:
                found[at : at + 1] = bytes((chance.choice(_CONSTRUCTORS),))
            case 2:
                found[at : at + 4] = chance.choice((b"\xff" * 4, b"\0" * 4, b"\0\0\0\xff"))
            case 3:
                del found[at : at + chance.randint(1, 8)]
            case 4:
                found[at:at] = found[at : at + chance.randint(1, 30)]
            case _:
                found[at:at] = chance.randbytes(chance.randint(1, 4))
    return bytes(found)


@pytest.mark.parametrize("name", TARGETS)
def test_whatever_arrives_is_a_value_or_one_error(name: str) -> None:
    target, corpus = TARGETS[name]
    chance = random.Random(f"{SEED} {name}")
    accepted = 0
    for _ in range(INPUTS // len(TARGETS)):
        data = mutated(chance.choice(corpus), chance)
        try:
            target(data)
        except ProtocolError:
            continue
        except Exception as error:
            pytest.fail(f"{type(error).__name__}: {error}, for {data.hex()}")
        accepted += 1
    # Otherwise the mutations are too wild to get anywhere.
    assert accepted > INPUTS // len(TARGETS) // 50


@pytest.mark.parametrize(
    "data",
    [
        encode_frame(bytes.fromhex("d0 0000fff0 ffffffff") + b"\x45" * 0xFFEC)[8:],
        bytes.fromhex("d0 0000fff0 00004000") + bytes.fromhex("e0021040") * 0x3FFB,
        bytes.fromhex("f0 0000fff0 ffffffff 45") + bytes(0xFFF0),
        bytes.fromhex("b0 ffffffff") + bytes(0xFFFB),
    ],
    ids=["lists", "arrays of nulls", "array of lists", "binary"],
)
def test_memory_is_bounded_by_what_arrives(data: bytes) -> None:
    """A list takes 64 bytes in Python, and one byte in a frame: nothing multiplies by more."""
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            decode(data)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 100 * len(data)


#: Frames of a peer on channel 7, for a session with a sender and a receiver.
CONVERSATION = [
    Begin(0, 0, 100, 100),
    Attach("to", 3, True, source=Source(), target=Target("a")),
    Attach("from", 4, False, source=Source("a"), target=Target(), initial_delivery_count=0),
    Attach("other", 5, False, source=Source("a"), target=Target(), initial_delivery_count=0),
    Flow(0, 100, 0, 100, 3, 0, 10),
    Transfer(4, 0, b"a", 0, more=True),
    Transfer(4),
    Transfer(4, 1, b"b", 0, True),
    Disposition(True, 0, 3, True, Accepted()),
    Disposition(False, 0, 3, True),
    Flow(0, 100, 0, 100, 4, 2, echo=True),
    Detach(3, True),
    End(),
    Close(),
]


def frames_of_the_peer(*, login: bool) -> list[bytes]:
    """The conversation, from the beginning."""
    sasl = (SaslMechanisms(("ANONYMOUS",)), SaslOutcome(0))
    before = [SASL_HEADER, *(encode_frame(encode_composite(each), kind=SASL) for each in sasl)]
    return [
        *(before if login else []),
        AMQP_HEADER,
        encode_frame(encode_composite(Open("s"))),
        *(
            encode_frame(encode_composite(each) + b"x" * isinstance(each, Transfer), 7)
            for each in CONVERSATION
        ),
    ]


def react(connection: Connection, event: Event) -> None:
    """Do what a driver does."""
    if isinstance(event, Opened):
        session = connection.begin()
        session.attach_receiver("from", Source("a")).grant(5)
        session.attach_sender("to", Target("a"))
    elif isinstance(event, AttachRequested):
        event.link.accept()
    elif isinstance(event, CreditChanged):
        event.link.send(b"x" * 1000)
    elif isinstance(event, Received):
        event.link.settle(event.delivery, Accepted())


@pytest.mark.parametrize("login", [False, True])
def test_whatever_arrives_ends_a_connection_at_most(login: bool) -> None:
    """And what is sent are whole frames that the other side can read."""
    chance = random.Random(f"{SEED} {login}")
    complete, rounds = 0, INPUTS // 50
    for _ in range(rounds):
        connection = Connection("c", sasl=SaslClient([Anonymous()], None) if login else None)
        frames = frames_of_the_peer(login=login)
        at, other = chance.randrange(len(frames)), chance.randrange(len(frames))
        frames[at] = mutated(frames[at], chance)
        if chance.random() < 0.3:
            frames[at], frames[other] = frames[other], frames[at]
        events: list[Event] = []
        for data in filter(None, frames):
            found = connection.receive_data(data, 1.0)
            events += found
            for event in found:
                # What has ended meanwhile refuses it.
                with contextlib.suppress(StateError):
                    react(connection, event)
        events += connection.receive_data(b"", 1.0)
        ends = [event for event in events if isinstance(event, (Closed, LoginRefused))]
        assert len(ends) == 1, ends
        complete += any(isinstance(event, Received) for event in events)
        check_frames(connection.data_to_send(1.0))
    # Otherwise the mutations are too wild to get anywhere.
    assert complete > rounds // 10


def check_frames(data: bytes) -> None:
    """Fail unless these are whole frames, with protocol headers where they may be."""
    while data:
        if data.startswith(b"AMQP"):
            data = data[8:]
            continue
        size = int.from_bytes(data[:4], "big")
        assert 8 <= size <= len(data)
        if size > 8:
            decode_composite(data[8:size])
        data = data[size:]
