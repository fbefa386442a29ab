"""The wire format: what is written is read again, and nothing else passes for it."""

from __future__ import annotations

import math
import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hbshim.messaging.zmq import frames
from hbshim.messaging.zmq.frames import (
    HEADER_LIMIT,
    LONGEST_LEFT,
    NAME_LIMIT,
    PART_LIMIT,
    ForeignVersionError,
    FrameError,
    Header,
    Kind,
    Message,
)
from hbshim.messaging.zmq.parts import Parts

names = st.text(st.characters(exclude_categories=("Cs",)), max_size=NAME_LIMIT).filter(  # type: ignore[arg-type]
    lambda name: len(name.encode()) <= NAME_LIMIT
)
headers = st.builds(
    Header,
    kind=st.sampled_from(Kind),
    id=st.binary(min_size=16, max_size=16),
    flags=st.integers(0, 2**16 - 1),
    sequence=st.integers(0, 2**64 - 1),
    left=st.integers(0, LONGEST_LEFT),
    exchange=names,
    topic=names,
    server=names,
    content_type=names,
)

clients = st.binary(max_size=255)

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
@given(headers, clients, clients, st.integers(0, LONGEST_LEFT))
def test_a_header_gets_another_client_and_another_time(
    header: Header, before: bytes, client: bytes, left: int
) -> None:
    head = frames.readdressed(frames.encode(header, before), client, left)
    assert head == frames.encode(header._replace(left=left), client)
    assert frames.id_of(head) == header.id


@patient
@given(headers, clients, st.binary(max_size=300), st.binary(max_size=30))
def test_a_message_is_read_as_it_was_written(
    header: Header, client: bytes, body: bytes, before: bytes
) -> None:
    (frame,) = frames.pack(header, body, client=client, before=before)
    found = frames.unpack(frame, len(before))
    assert found[:5] == (header, client, 0, 1, frames.encode(header, client))
    assert found.body == found.view == body
    assert frames.unpack(found.head + body)[:5] == found[:5]


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
        message = frames.unpack(damaged)
        assert frames.encode(found, message.client)[8:] == message.head[8:]


def test_another_major_version_is_named_and_another_minor_one_is_read() -> None:
    written = bytearray(frames.encode(Header(Kind.CALL, ID, topic="compute")))
    written[4] = frames.VERSION + 1
    assert frames.decode(bytes(written)).topic == "compute"
    for foreign, name in ((0x10, r"version 1\.0"), (0x35, r"version 3\.5")):
        written[4] = foreign
        with pytest.raises(ForeignVersionError, match=name) as caught:
            frames.decode(bytes(written))
        assert caught.value.id == ID


@pytest.mark.parametrize(
    "header", [Header(Kind.CALL, ID[:15]), Header(Kind.CALL, ID, topic="ö" * 128)]
)
def test_what_does_not_fit_is_not_written(header: Header) -> None:
    with pytest.raises(FrameError):
        frames.encode(header)


SIZES = [
    size + more for size in (0, PART_LIMIT, 2 * PART_LIMIT, 5 * PART_LIMIT) for more in (-1, 0, 1)
][1:]


def whole(written: list[bytes]) -> Message | None:
    """What the last of some frames completes."""
    parts = Parts(lambda _source, _begun: pytest.fail("a message was dropped"), set(Kind))
    *first, last = (parts.whole(b"", frames.unpack(frame)) for frame in written)
    assert first == [None] * (len(written) - 1)
    assert parts.size == 0
    return last


@pytest.mark.parametrize("size", SIZES)
def test_a_body_is_split_and_joined(size: int) -> None:
    header = Header(Kind.CALL, ID, topic="compute")
    body = random.Random(size).randbytes(size)
    written = frames.pack(header, body, client=b"client")
    assert len(written) == max(1, math.ceil(size / PART_LIMIT))
    assert all(len(frame) <= PART_LIMIT + HEADER_LIMIT for frame in written)
    found = whole(written)
    assert found is not None
    assert found[:2] == (header, b"client")
    assert found.body == body


def test_a_released_request_has_any_size() -> None:
    header = Header(Kind.CALL, ID, topic="compute")
    released = frames.encode(header) + bytes(3 * PART_LIMIT)
    found = whole(frames.pack(Header(Kind.RELEASE, ID), released))
    assert found is not None
    inner = frames.unpack_whole(found.body)
    assert (inner.header, inner.body) == (header, bytes(3 * PART_LIMIT))


def altered(part: int, parts: int, size: int) -> bytes:
    head = bytearray(frames.encode(Header(Kind.CALL, ID)))
    head[41:45] = struct.pack("!2H", part, parts)
    return bytes(head) + bytes(size)


@pytest.mark.parametrize(
    ("part", "parts", "size"),
    [
        (0, 0, 0),
        (1, 1, 5),
        (0, 1, PART_LIMIT + 1),
        (0, 2, 5),
        (1, 2, 0),
        (1, 2, PART_LIMIT + 1),
        (0, 2050, PART_LIMIT),
    ],
)
def test_a_part_of_a_wrong_length_or_number_is_refused(part: int, parts: int, size: int) -> None:
    with pytest.raises(FrameError, match=f"part {part} of {parts}"):
        frames.unpack(altered(part, parts, size))


def test_a_body_beyond_the_limit_is_not_written() -> None:
    with pytest.raises(FrameError, match="the limit is"):
        frames.pack(Header(Kind.CALL, ID), bytes(frames.BODY_LIMIT + PART_LIMIT + 1))


def test_a_message_of_several_frames_is_refused_and_its_version_is_named() -> None:
    header = frames.encode(Header(Kind.CALL, ID))
    assert frames.sole([header]) == header
    for message in ([], [header, b"body"], [b"", b"client", b"body"]):
        with pytest.raises(FrameError, match="frames"):
            frames.sole(message)
    former = b"HBZ1\x10\x01\0\0" + ID + bytes(16)
    with pytest.raises(ForeignVersionError) as caught:
        frames.sole([b"client", former, b"body"])
    assert caught.value.id == ID


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


@patient
@given(st.integers(-(2**63), 2**63 - 1), st.lists(st.binary(max_size=800), max_size=5))
def test_the_hello_of_a_server_is_read_as_it_was_written(credit: int, keys: list[bytes]) -> None:
    body = frames.encode_hello(credit, keys)
    assert frames.decode_hello(body) == (credit, keys)
    if body[8:]:
        with pytest.raises(FrameError):
            frames.decode_hello(body[:-1])


def test_the_hello_of_a_server_has_a_limited_number_of_keys() -> None:
    body = frames.encode_hello(1, [b""] * (frames.KEYS_LIMIT + 1))
    with pytest.raises(FrameError, match="keys"):
        frames.decode_hello(body)
