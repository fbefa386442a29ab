"""Frames are cut as they were sent, wherever the network cut them."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbshim.protocol.frames import BODY, HEADER, HEARTBEAT, METHOD, Splitter, joined

frames = st.lists(
    st.tuples(
        st.sampled_from((METHOD, HEADER, BODY, HEARTBEAT)),
        st.integers(0, 0xFFFF),
        st.binary(max_size=40),
    )
)


@given(frames, st.lists(st.integers(1, 30)))
def test_frames_come_out_as_they_went_in(
    sent: list[tuple[int, int, bytes]], cuts: list[int]
) -> None:
    data, splitter, got = b"".join(map(joined, sent)), Splitter(), []
    for cut in [*cuts, len(data)]:
        part, data = data[:cut], data[cut:]
        if part:
            got += splitter.split(part)
    assert got == sent
    assert splitter.missing == 0


def test_what_is_missing_is_known() -> None:
    splitter = Splitter()
    data = joined((BODY, 1, b"x" * 100))
    assert splitter.split(data[:3]) == []
    assert splitter.missing == 8 - 3
    assert splitter.split(data[3:20]) == []
    assert splitter.missing == 108 - 20
    assert splitter.split(data[20:]) == [(BODY, 1, b"x" * 100)]


@pytest.mark.parametrize("data", [b"HTTP/1.1", b"AMQP\0\0\x09\1", joined((1, 0, b""))[:-1] + b"!"])
def test_what_is_not_amqp_is_refused(data: bytes) -> None:
    with pytest.raises(OSError, match="not AMQP") as raised:
        Splitter().split(data)
    assert raised.value.errno == errno.EPROTO
