"""The wire format: what is written is read again, and nothing else passes for it."""

from __future__ import annotations

import math
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hbshim.messaging.zmq import frames
from hbshim.messaging.zmq.frames import (
    FRAME_LIMIT,
    HEADER_LIMIT,
    LONGEST_LEFT,
    NAME_LIMIT,
    ForeignVersionError,
    FrameError,
    Header,
    Kind,
)

names = st.text(st.characters(exclude_categories=("Cs",)), max_size=NAME_LIMIT).filter(  # type: ignore[arg-type]
    lambda name: len(name.encode()) <= NAME_LIMIT
)
headers = st.builds(
    Header,
    kind=st.sampled_from(Kind),
    id=st.binary(min_size=16, max_size=16),
    flags=st.integers(0, 7),
    sequence=st.integers(0, 2**64 - 1),
    left=st.integers(0, LONGEST_LEFT),
    exchange=names,
    topic=names,
    server=names,
    content_type=names,
)

ID = bytes(range(16))

#: The machine may be busy.
patient = settings(database=None, max_examples=60)


@patient
@given(headers)
def test_a_header_is_read_as_it_was_written(header: Header) -> None:
    written = frames.encode(header)
    assert len(written) <= HEADER_LIMIT
    assert frames.decode(written) == header


@patient
@given(names, names, names)
def test_the_key_of_a_pool_is_that_of_no_other_target(exchange: str, topic: str, pool: str) -> None:
    try:
        notified = frames.notification_key(exchange, topic, "info")
        key = frames.pool_key(exchange, f"{topic}.info", pool)
    except FrameError:
        return  # together they are too long
    assert frames.split_pool_key(key) == (notified, pool.encode())
    assert frames.split_pool_key(notified) is None
    assert frames.split_pool_key(frames.key_of(exchange, topic, pool)) is None
    header = Header(Kind.NOTIFY, ID, exchange=exchange, topic=f"{topic}.info", server=pool)
    assert (header.key, header.dispatch_key) == (notified, key)


@patient
@given(st.binary())
def test_any_key_may_be_split(key: bytes) -> None:
    found = frames.split_pool_key(key)
    assert found is None or key.endswith(frames.POOL)


@patient
@given(st.lists(st.tuples(st.binary(min_size=16, max_size=16), names)))
def test_pools_are_read_as_they_were_written(listeners: list[tuple[bytes, str]]) -> None:
    body = frames.encode_pools((instance, pool.encode()) for instance, pool in listeners)
    assert frames.decode_pools(body) == listeners


@patient
@given(st.binary(max_size=100))
def test_pools_that_are_none_are_refused(body: bytes) -> None:
    try:
        found = frames.decode_pools(body)
    except FrameError:
        return
    assert frames.encode_pools((each, pool.encode()) for each, pool in found) == body


@patient
@given(headers, st.integers(0, 2**64 - 1))
def test_a_header_is_numbered_as_it_is(header: Header, sequence: int) -> None:
    numbered = frames.numbered(frames.encode(header), sequence)
    assert frames.decode(numbered) == header._replace(sequence=sequence)
    assert frames.id_of(numbered) == header.id


@patient
@given(st.lists(st.tuples(st.binary(min_size=16, max_size=16), st.integers(0, 2**64 - 1))))
def test_outstanding_requests_are_read_as_they_were_written(
    requests: list[tuple[bytes, int]],
) -> None:
    body = b"".join(frames.encode_outstanding(requests))
    assert frames.decode_outstanding(body) == requests
    with pytest.raises(FrameError, match="24 bytes"):
        frames.decode_outstanding(body + b"x")


@patient
@given(st.binary(max_size=2000))
def test_random_bytes_are_no_header(data: bytes) -> None:
    with pytest.raises(FrameError):
        frames.decode(data)


@patient
@given(headers, st.data())
def test_a_damaged_header_is_refused_or_read(header: Header, data: st.DataObject) -> None:
    """Never another exception than the format's own."""
    written = bytearray(frames.encode(header))
    for _ in range(data.draw(st.integers(1, 5))):
        written[data.draw(st.integers(0, len(written) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(written[: data.draw(st.integers(0, len(written)))])
    for damaged in (bytes(written), cut):
        try:
            found = frames.decode(damaged)
        except FrameError:
            continue
        assert frames.encode(found)[8:] == damaged[8:]


def test_another_major_version_is_named_and_another_minor_one_is_read() -> None:
    written = bytearray(frames.encode(Header(Kind.CALL, ID, topic="compute")))
    written[4] = frames.VERSION + 1
    assert frames.decode(bytes(written)).topic == "compute"
    written[4] = 0x25
    with pytest.raises(ForeignVersionError, match=r"version 2\.5") as caught:
        frames.decode(bytes(written))
    assert caught.value.id == ID


@pytest.mark.parametrize(
    "header", [Header(Kind.CALL, ID[:15]), Header(Kind.CALL, ID, topic="ö" * 128)]
)
def test_what_does_not_fit_is_not_written(header: Header) -> None:
    with pytest.raises(FrameError):
        frames.encode(header)


@patient
@given(st.integers(0, 5 * FRAME_LIMIT))
def test_a_body_is_split_and_joined(size: int) -> None:
    body = b"x" * size
    pieces = frames.split(body)
    assert all(0 < len(piece) <= FRAME_LIMIT for piece in pieces)
    assert frames.join(pieces, size) == body
    if size:
        with pytest.raises(FrameError, match="the limit is"):
            frames.join(pieces, size - 1)


@pytest.mark.parametrize("wrong", [b"", b"x" * (FRAME_LIMIT + 1)])
def test_a_frame_of_a_wrong_length_is_no_body(wrong: bytes) -> None:
    with pytest.raises(FrameError):
        frames.join([b"right", wrong], 10 * FRAME_LIMIT)


def test_a_body_beyond_the_limit_is_refused_before_it_is_copied() -> None:
    pieces = [b"x" * FRAME_LIMIT] * 64
    tracemalloc.start()
    try:
        with pytest.raises(FrameError):
            frames.join(pieces, 1000)
        assert tracemalloc.get_traced_memory()[1] < FRAME_LIMIT
    finally:
        tracemalloc.stop()


@patient
@given(st.tuples(names, names, names), st.tuples(names, names, names))
def test_two_addresses_never_have_one_key(
    one: tuple[str, str, str], other: tuple[str, str, str]
) -> None:
    assert (frames.key_of(*one) == frames.key_of(*other)) == (one == other)


def test_a_dot_in_a_name_does_not_make_another_key() -> None:
    assert frames.key_of("a.b", "c") != frames.key_of("a", "b.c")
    with pytest.raises(FrameError):
        frames.key_of("", "x" * (NAME_LIMIT + 1))


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        (None, 0),
        (math.inf, 0),
        (0.0, 1),
        (-1.0, 1),
        (0.0004, 1),
        (1.5, 1500),
        (1e12, LONGEST_LEFT),
    ],
)
def test_time_left(left: float | None, expected: int) -> None:
    assert frames.milliseconds(left) == expected


@patient
@given(st.integers(-(2**63), 2**63 - 1))
def test_a_credit_is_read_as_it_was_written(credit: int) -> None:
    assert frames.decode_credit(frames.encode_credit(credit)) == credit


@patient
@given(st.binary(max_size=20).filter(lambda data: len(data) != 8))
def test_a_credit_of_a_wrong_length_is_refused(data: bytes) -> None:
    with pytest.raises(FrameError):
        frames.decode_credit(data)
