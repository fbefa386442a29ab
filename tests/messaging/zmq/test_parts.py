"""Messages that arrive in several parts, some of which are lost with a connection."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from hbshim.messaging.zmq import frames, parts
from hbshim.messaging.zmq.frames import PART_LIMIT, FrameError, Header, Kind, Message
from hbshim.messaging.zmq.parts import STALE_AFTER, Parts


def message(number: int, count: int = 3) -> list[Message]:
    """The parts of a message."""
    header = Header(Kind.CALL, bytes((number,)) * 16)
    body = bytes((number,)) * (count * PART_LIMIT)
    return [frames.unpack(frame) for frame in frames.pack(header, body)]


@pytest.fixture
def dropped() -> list[tuple[bytes, bytes]]:
    return []


@pytest.fixture
def received(dropped: list[tuple[bytes, bytes]]) -> Parts:
    return Parts(
        lambda source, begun: dropped.append((source, begun.header.id)),
        frames.REQUESTS,
        limit=6 * PART_LIMIT,
    )


def test_messages_of_several_senders_arrive_at_the_same_time(received: Parts) -> None:
    """Two of them with the same id: what counts is where they come from, too."""
    begun = {(b"a", 1): message(1), (b"b", 1): message(1), (b"a", 2): message(2)}
    completed = []
    while any(begun.values()):
        for (source, number), rest in begun.items():
            found = received.whole(source, rest.pop(0))
            if found is not None:
                completed.append((source, number))
                assert found.body == bytes((number,)) * (3 * PART_LIMIT)
    assert completed == list(begun)
    assert received.size == 0


@pytest.mark.parametrize("kind", set(Kind) - frames.REQUESTS)
def test_nothing_is_kept_of_a_kind_that_has_one_part(kind: Kind, received: Parts) -> None:
    first, *_ = frames.pack(Header(kind, bytes(16)), bytes(3 * PART_LIMIT))
    with pytest.raises(FrameError, match=f"{kind.name} in 3 parts"):
        received.whole(b"", frames.unpack(first))
    assert received.size == 0


def test_what_was_begun_survives_a_refused_kind_with_its_id(received: Parts) -> None:
    first, *rest = message(1)
    assert received.whole(b"", first) is None
    wrong, *_ = frames.pack(Header(Kind.PING, first.header.id), bytes(2 * PART_LIMIT))
    with pytest.raises(FrameError, match="PING"):
        received.whole(b"", frames.unpack(wrong))
    assert [received.whole(b"", part) for part in rest][-1] is not None


def test_a_part_without_those_before_it_is_refused(received: Parts) -> None:
    first, second, third = message(1)
    with pytest.raises(FrameError):
        received.whole(b"", second)
    received.whole(b"", first)
    with pytest.raises(FrameError):
        received.whole(b"", third)
    with pytest.raises(FrameError):
        received.whole(b"", second)
    assert received.size == 0


def test_a_message_that_is_sent_again_replaces_what_had_arrived(
    received: Parts, dropped: list[tuple[bytes, bytes]]
) -> None:
    first, second, third = message(1)
    received.whole(b"", first)
    received.whole(b"", second)
    short = message(1, 1)[0]
    received.whole(b"", first)
    assert received.size == PART_LIMIT
    assert received.whole(b"", short) == short
    assert received.size == 0
    for each in (first, second):
        received.whole(b"", each)
    assert received.whole(b"", third) is not None
    assert dropped == []


def test_the_oldest_message_is_dropped_beyond_the_limit(
    received: Parts, dropped: list[tuple[bytes, bytes]]
) -> None:
    for number in range(1, 5):
        for part in message(number)[:2]:
            received.whole(b"source", part)
    assert received.size == 6 * PART_LIMIT
    assert dropped == [(b"source", bytes((1,)) * 16)]
    assert received.whole(b"source", message(4)[2]) is not None


def test_a_message_whose_next_part_is_late_is_dropped(
    received: Parts, dropped: list[tuple[bytes, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(parts, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    received.whole(b"", message(1)[0])
    clock[0] += STALE_AFTER / 2
    received.whole(b"", message(2)[0])
    clock[0] += STALE_AFTER / 2 + 1
    received.drop_stale()
    assert dropped == [(b"", bytes((1,)) * 16)]
    assert received.size == PART_LIMIT
