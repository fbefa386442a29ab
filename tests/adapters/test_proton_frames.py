"""Between which bytes of proton's a heartbeat may be sent."""

from __future__ import annotations

import random

import pytest

from hbshim.adapters.proton.frames import SentFrames

AMQP_HEADER = b"AMQP\x00\x01\x00\x00"
SASL_HEADER = b"AMQP\x03\x01\x00\x00"


def frame(performative: int, payload: bytes = b"", *, type_: int = 0, extended: int = 0) -> bytes:
    body = b"\x00\x53" + bytes([performative]) + payload
    size = 8 + 4 * extended + len(body)
    return size.to_bytes(4, "big") + bytes([2 + extended, type_, 0, 1]) + b"e" * 4 * extended + body


EMPTY = bytes.fromhex("00000008 02 00 0000")
OPEN, BEGIN, TRANSFER, CLOSE = 0x10, 0x11, 0x14, 0x18


def started() -> SentFrames:
    frames = SentFrames()
    frames.synchronize()
    return frames


def boundaries(stream: list[bytes], steps: list[int]) -> tuple[set[int], set[int]]:
    """Where heartbeats are allowed, and where frames end, among the positions after each step."""
    frames, position, allowed = started(), 0, set()
    whole = b"".join(stream)
    for step in steps:
        # The socket accepted only a part of what it was given.
        frames.record(whole[position : position + step + 7], step)
        position += step
        if not frames.may_not_follow:
            allowed.add(position)
    ends = {sum(map(len, stream[: count + 1])) for count in range(len(stream))}
    return allowed, ends


def test_nothing_is_allowed_before_it_is_known_where_the_stream_stands() -> None:
    frames = SentFrames()
    frames.record(frame(TRANSFER), len(frame(TRANSFER)))
    assert frames.may_not_follow
    frames.synchronize()
    assert not frames.may_not_follow


@pytest.mark.parametrize("seed", range(20))
def test_however_the_bytes_are_cut_frames_end_where_they_end(seed: int) -> None:
    chance = random.Random(seed)
    stream = [
        chance.choice([
            EMPTY,
            frame(BEGIN),
            frame(TRANSFER, bytes(chance.randrange(600))),
            frame(TRANSFER, EMPTY * 9, extended=chance.randrange(4)),
            frame(0x40, b"mechanisms", type_=1),
        ])
        for _ in range(50)
    ]  # fmt: skip
    total = sum(map(len, stream))
    steps: list[int] = []
    while sum(steps) < total:
        steps.append(min(chance.choice([1, 2, 5, 50, 5000]), total - sum(steps)))
    allowed, ends = boundaries(stream, steps)
    seen = {sum(steps[: count + 1]) for count in range(len(steps))}
    assert allowed == ends & seen
    assert total in allowed


def test_each_single_byte() -> None:
    stream = [frame(BEGIN), EMPTY, frame(TRANSFER, b"x" * 30, extended=2), EMPTY]
    allowed, ends = boundaries(stream, [1] * sum(map(len, stream)))
    assert allowed == ends


def test_after_close_nothing_is_allowed() -> None:
    frames = started()
    stream = frame(BEGIN) + frame(CLOSE, b"\x45")
    frames.record(stream, len(frame(BEGIN)))
    assert not frames.may_not_follow
    frames.record(stream[len(frame(BEGIN)) :], len(frame(CLOSE, b"\x45")))
    assert frames.may_not_follow


def test_before_open_nothing_is_allowed() -> None:
    frames = started()
    frames._opened = False
    for data in (SASL_HEADER, frame(0x41, b"init", type_=1), AMQP_HEADER):
        frames.record(data, len(data))
        assert frames.may_not_follow
    frames.record(frame(OPEN, b"\x45"), len(frame(OPEN, b"\x45")))
    assert not frames.may_not_follow


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n\r\n\0\0\0\0",
        bytes.fromhex("00000007 02 00 0000"),
        bytes.fromhex("00000008 01 00 0000"),
        bytes.fromhex("00000008 03 00 0000"),
        # A descriptor in another encoding, which might be a Close.
        bytes.fromhex("00000014 02 00 0000 00 80 0000000000000018 45 00"),
        bytes.fromhex("0000000a 02 00 0000 00 53"),
    ],
)
def test_what_is_not_understood_ends_all_heartbeats(data: bytes) -> None:
    frames = started()
    frames.record(data, len(data))
    frames.record(EMPTY, len(EMPTY))
    assert frames.may_not_follow
    assert not frames.known
