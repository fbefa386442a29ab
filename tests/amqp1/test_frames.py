"""Frames are cut as they were sent, wherever the network cut them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbshim.amqp1.errors import ProtocolError
from hbshim.amqp1.frames import (
    AMQP,
    AMQP_HEADER,
    EMPTY_FRAME,
    PROTOCOL_HEADER,
    SASL,
    SASL_HEADER,
    Frame,
    FrameSplitter,
    encode_frame,
)

frames = st.lists(
    st.builds(Frame, st.sampled_from((AMQP, SASL)), st.integers(0, 0xFFFF), st.binary(max_size=40))
)


@given(frames, st.lists(st.integers(1, 30)))
def test_frames_come_out_as_they_went_in(sent: list[Frame], cuts: list[int]) -> None:
    data = b"".join(encode_frame(each.body, each.channel, each.type) for each in sent)
    splitter, got = FrameSplitter(512), list[Frame]()
    for cut in [*cuts, len(data)]:
        part, data = data[:cut], data[cut:]
        if part:
            got += splitter.split(part)
    assert got == sent
    assert splitter.missing == 0


def test_what_is_missing_is_known() -> None:
    data, splitter = encode_frame(b"x" * 100, 1), FrameSplitter(512)
    assert list(splitter.split(data[:3])) == []
    assert splitter.missing == 8 - 3
    assert list(splitter.split(data[3:20])) == []
    assert splitter.missing == 108 - 20
    assert list(splitter.split(data[20:] + EMPTY_FRAME)) == [(AMQP, 1, b"x" * 100), (AMQP, 0, b"")]


def test_an_extended_header_is_skipped() -> None:
    assert list(FrameSplitter(512).split(bytes.fromhex("0000000e 03 00 0001 ffffffff 6162"))) == [
        (AMQP, 1, b"ab")
    ]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("00000201 02 00 0000", "a frame has 513 bytes; the largest that was agreed has 512"),
        ("ffffffff 02 00 0000", "a frame has 4294967295 bytes"),
        ("00000007 02 00 0000", "a frame of 7 bytes has its body at 8"),
        ("00000008 03 00 0000", "a frame of 8 bytes has its body at 12"),
        ("00000008 01 00 0000", "has its body at 4"),
        ("00000008 02 02 0000", "the unknown type 2"),
        (b"AMQP\0\1\0\0".hex(), "has its body at 0"),
        (b"HTTP/1.1".hex(), "unknown type"),
    ],
)
def test_what_is_no_frame_is_refused_before_it_is_stored(data: str, message: str) -> None:
    splitter = FrameSplitter(512)
    with pytest.raises(ProtocolError, match=message) as raised:
        list(splitter.split(bytes.fromhex(data)))
    assert raised.value.condition == "amqp:connection:framing-error"


def test_a_frame_before_one_that_is_refused_is_not_lost() -> None:
    got = []
    with pytest.raises(ProtocolError):
        for each in FrameSplitter(512).split(encode_frame(b"ab") + bytes(8)):
            got.append(each.body)
    assert got == [b"ab"]


def test_protocol_headers_are_cut_where_they_are_expected() -> None:
    splitter = FrameSplitter(512, expects_header=True)
    got = list(splitter.split(SASL_HEADER[:5])) + list(splitter.split(SASL_HEADER[5:]))
    assert got == [(PROTOCOL_HEADER, 0, SASL_HEADER)]
    got.clear()
    for each in splitter.split(encode_frame(b"ab", kind=SASL) + AMQP_HEADER + EMPTY_FRAME):
        # As after the outcome of a login.
        splitter.expects_header = each.type == SASL
        got.append(each)
    assert got == [(SASL, 0, b"ab"), (PROTOCOL_HEADER, 0, AMQP_HEADER), (AMQP, 0, b"")]
