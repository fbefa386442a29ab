"""The frame parser: pieces of any size, and everything that is no frame."""

from __future__ import annotations

import struct

import pytest

from wsgi_harness.wire.frame import HEARTBEAT, Frame, MalformedFrameError
from wsgi_harness.wire.frames import BODY, HEARTBEAT_FRAME, METHOD, FrameParser
from wsgi_harness.wire.frames1 import EMPTY_FRAME

PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
CLOSE = struct.pack(">BHIHH", METHOD, 0, 4, 10, 50) + b"\xce"


def body_frame(payload: bytes) -> bytes:
    return struct.pack(">BHI", BODY, 1, len(payload)) + payload + b"\xce"


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 8, 9, 1000])
def test_frames_are_found_whatever_the_pieces(piece: int) -> None:
    stream = PROTOCOL_HEADER + HEARTBEAT_FRAME + body_frame(b"\xce" * 200) + CLOSE
    parser = FrameParser()
    frames = [
        frame
        for start in range(0, len(stream), piece)
        for frame in parser.feed(stream[start : start + piece])
    ]
    assert frames == [
        Frame(HEARTBEAT, 0, 8),
        Frame(BODY, 1, 208),
        Frame(METHOD, 0, 12, "close"),
    ]
    assert (parser.frames, parser.byte_count, parser.inside_frame) == (3, len(stream), False)


def test_stream_of_a_server_has_no_protocol_header() -> None:
    assert list(FrameParser().feed(HEARTBEAT_FRAME)) == [Frame(HEARTBEAT, 0, 8)]


def test_half_a_frame_is_reported() -> None:
    parser = FrameParser()
    assert list(parser.feed(PROTOCOL_HEADER + HEARTBEAT_FRAME[:5])) == []
    assert parser.inside_frame


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        # A heartbeat written into the middle of a body frame.
        (body_frame(b"x" * 50)[:30] + HEARTBEAT_FRAME + body_frame(b"x" * 50)[30:], "frame-end"),
        (HEARTBEAT_FRAME[:-1] + b"\x00", "frame-end is 0x00"),
        (b"HTTP/1.1 400 Bad Request\r\n", "frame type 72"),
        (bytes.fromhex("08 0001 00000000 CE"), "heartbeat on channel 1"),
        (bytes.fromhex("03 0001 FFFFFFFF"), "4294967295 bytes"),
    ],
)
def test_what_is_no_frame_is_reported_once(stream: bytes, message: str) -> None:
    parser = FrameParser()
    with pytest.raises(MalformedFrameError, match=message):
        list(parser.feed(stream))
    assert parser.opaque
    assert list(parser.feed(b"more")) == []


def test_tls_is_passed_over() -> None:
    parser = FrameParser()
    assert list(parser.feed(bytes.fromhex("16 0301 00F8 01"))) == []
    assert parser.opaque
    assert not parser.inside_frame


SASL_HEADER, AMQP_HEADER = b"AMQP\x03\x01\x00\x00", b"AMQP\x00\x01\x00\x00"
OUTCOME = bytes.fromhex("00000010 02 01 0000 00 53 44 c0 03 01 50 00")
CLOSE_1 = bytes.fromhex("0000000c 02 00 0000 00 53 18 45")
# With an extended header of four bytes, on channel 5.
BEGIN = bytes.fromhex("00000010 03 00 0005 00000000 00 53 11 45")


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 8, 9, 1000])
def test_frames_of_amqp_1_0_are_found_whatever_the_pieces(piece: int) -> None:
    stream = SASL_HEADER + OUTCOME + AMQP_HEADER + EMPTY_FRAME + BEGIN + CLOSE_1
    parser = FrameParser()
    frames = [
        frame
        for start in range(0, len(stream), piece)
        for frame in parser.feed(stream[start : start + piece])
    ]
    assert frames == [
        Frame(1, 0, 16),
        Frame(HEARTBEAT, 0, 8),
        Frame(0, 5, 16),
        Frame(0, 0, 12, "close"),
    ]
    assert (parser.frames, parser.byte_count, parser.inside_frame) == (4, len(stream), False)
    assert parser.heartbeat == EMPTY_FRAME


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (BEGIN[:11] + EMPTY_FRAME + BEGIN[11:], "a frame of 0 bytes|data offset|frame type"),
        (bytes.fromhex("00000007 02 00 0000"), "a frame of 7 bytes"),
        (bytes.fromhex("40000000 02 00 0000"), "a frame of 1073741824 bytes"),
        (bytes.fromhex("00000010 01 00 0000"), "data offset 1"),
        (bytes.fromhex("00000008 02 07 0000"), "frame type 7"),
        (HEARTBEAT_FRAME, "a frame of 134217728 bytes"),
    ],
)
def test_what_is_no_frame_of_amqp_1_0_is_reported(stream: bytes, message: str) -> None:
    parser = FrameParser()
    with pytest.raises(MalformedFrameError, match=message):
        list(parser.feed(AMQP_HEADER + stream))
    assert parser.opaque
