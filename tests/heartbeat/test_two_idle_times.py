"""AMQP 1.0: the time within which the peer wants bytes is not the one after which it is dead."""

from __future__ import annotations

import itertools
import math
import socket
import time
from typing import Any

import pytest

from hbshim.adapters.sockets import native_socket, wire_for
from hbshim.heartbeat import wire as wire_module
from hbshim.heartbeat.link import Link
from hbshim.heartbeat.state import EARLY, Event, Sample, State, classify, due_after, next_check
from hbshim.heartbeat.wire import AMQP_0_9_1, AMQP_1_0, HEARTBEAT_FRAME, Wire
from hbshim.metrics import Metrics
from tests.permits import always
from tests.waiting import wait_until

#: An empty frame, as the specification draws it: size, data offset, type, channel.
EMPTY_FRAME = bytes.fromhex("00000008 02 00 0000")
ON_CHANNEL_5 = bytes.fromhex("00000008 02 00 0005")
#: What is no heartbeat, and as short: a larger data offset, and another type.
OTHERS = [bytes.fromhex("00000008 03 00 0000"), bytes.fromhex("00000008 02 01 0000")]

T = 10.0
QUIET = Sample(
    sent_ago=1,
    received_ago=1,
    acked_ago=1,
    queued=0,
    in_flight=0,
    unread=0,
    unread_ago=1e9,
    writing=False,
    peer_closed=False,
)


@pytest.mark.parametrize(
    ("change", "silence", "event"),
    [
        # One T for both directions, as in AMQP 0-9-1, cuts a peer that was asked for nothing.
        ({"received_ago": 20.0, "sent_ago": 5.0}, None, Event.SILENT),
        ({"received_ago": 20.0, "sent_ago": 5.0}, math.inf, Event.DUE),
        ({"received_ago": 1e8}, math.inf, Event.FRESH),
        ({"received_ago": 59.9}, 60.0, Event.FRESH),
        ({"received_ago": 60.0}, 60.0, Event.SILENT),
        # A client that waits longer than 2 T also survives a network that is down for 2 T.
        (
            {"received_ago": 59.9, "queued": 1, "in_flight": 1, "acked_ago": 59.9},
            60.0,
            Event.MOVING,
        ),
        (
            {
                "received_ago": 60.0,
                "queued": 1,
                "in_flight": 1,
                "acked_ago": 60.0,
                "unread": 8,
                "unread_ago": 0,
            },
            60.0,
            Event.SILENT,
        ),
        # The shorter of the two.
        ({"received_ago": 2.9}, 3.0, Event.FRESH),
        ({"received_ago": 3.0}, 3.0, Event.SILENT),
        # Unread bytes may be the reason, and once they are read the peer has as long again.
        ({"received_ago": 3.0, "unread": 8, "unread_ago": 0}, 3.0, Event.FRESH),
        ({"received_ago": 9.0, "unread_ago": 2.9}, 3.0, Event.FRESH),
        # Bytes that the peer's kernel does not acknowledge, even if it need not send any.
        (
            {"received_ago": 20.0, "queued": 1, "in_flight": 1, "acked_ago": 20.0},
            math.inf,
            Event.SILENT,
        ),
        (
            {"received_ago": 20.0, "queued": 1, "in_flight": 1, "acked_ago": 19.9},
            math.inf,
            Event.MOVING,
        ),
        (
            {"received_ago": 20.0, "queued": 1, "in_flight": 1, "acked_ago": None},
            math.inf,
            Event.MOVING,
        ),
        (
            {"received_ago": 99.0, "queued": 1, "in_flight": 0, "acked_ago": 99.0},
            math.inf,
            Event.MOVING,
        ),
    ],
)
def test_silence_is_measured_by_what_this_side_advertised(
    change: dict[str, Any], silence: float | None, event: Event
) -> None:
    assert classify(QUIET._replace(**change), T, silence=silence) is event


@pytest.mark.parametrize(
    ("change", "silence", "pause"),
    [
        ({"sent_ago": 2.0}, math.inf, 3.0),
        ({"sent_ago": 2.0, "received_ago": 1e8}, math.inf, 3.0),
        ({"sent_ago": 2.0, "received_ago": 58.0}, 60.0, 2.0),
        ({"sent_ago": 2.0, "received_ago": 1.0}, 3.0, 2.0),
        ({"sent_ago": 2.0, "received_ago": 1.0}, None, 3.0),
    ],
)
def test_the_next_check_is_when_either_time_is_over(
    change: dict[str, Any], silence: float | None, pause: float
) -> None:
    found = next_check(Event.FRESH, QUIET._replace(**change), T, silence=silence)
    assert found == pytest.approx(pause)


@pytest.mark.parametrize("silence", [None, 3.0, 40.0, math.inf])
def test_what_is_sent_quickly_is_due_by_the_table(
    connected: tuple[socket.socket, socket.socket],
    monkeypatch: pytest.MonkeyPatch,
    silence: float | None,
) -> None:
    link = Link(Wire(native_socket(connected[0])), 8.0, "test", Metrics(), silence=silence)
    asked: list[bool] = []

    def sends(_wire: Wire, sent_ago: float, received_ago: float, *_guard: object) -> bool:
        asked.append(_wire.plainly_idle(sent_ago, received_ago))
        return asked[-1]

    monkeypatch.setattr(Wire, "send_if_idle", sends)
    ages = (0, 1400, 2900, 3800, 3860, 7999, 8000, 16000, 19999, 20000, 60000)
    for sent, received in itertools.product(ages, ages):
        raw = wire_module._TCP_INFO.pack(1, 0, sent, 0, received, 0, 0)
        monkeypatch.setattr(wire_module, "_getsockopt", lambda *_, raw=raw: raw)
        link._checks = 0
        if link._send_quickly(0.0):
            sample = QUIET._replace(sent_ago=sent / 1000, received_ago=received / 1000)
            assert classify(sample, 8.0, silence=silence) is Event.DUE
            assert next_check(Event.DUE, sample, 8.0, silence=silence) == pytest.approx(
                min(4.0, link.silence - received / 1000)
            )
    assert set(asked) == {True, False}


def test_the_formats() -> None:
    assert AMQP_0_9_1.frame == HEARTBEAT_FRAME
    assert AMQP_1_0.frame == EMPTY_FRAME
    assert AMQP_0_9_1.count_in_front(HEARTBEAT_FRAME * 3) == 3
    assert AMQP_0_9_1.count_in_front(EMPTY_FRAME) == 0
    assert AMQP_1_0.count_in_front(EMPTY_FRAME + ON_CHANNEL_5 + EMPTY_FRAME[:7]) == 2
    assert AMQP_1_0.count_in_front(HEARTBEAT_FRAME) == 0
    for other in OTHERS:
        assert AMQP_1_0.count_in_front(EMPTY_FRAME + other) == 1
    assert AMQP_1_0.matches(ON_CHANNEL_5)
    assert not AMQP_1_0.matches(EMPTY_FRAME * 2)
    assert not AMQP_1_0.matches(EMPTY_FRAME[:7])


def test_empty_frames_are_taken_whatever_their_channel_is(
    connected: tuple[socket.socket, socket.socket],
) -> None:
    client, peer = connected
    wire = wire_for(client, AMQP_1_0)
    peer.sendall(EMPTY_FRAME * 2 + ON_CHANNEL_5 + OTHERS[0] + EMPTY_FRAME)
    wait_until(lambda: wire.unread() == 40)
    assert wire.take_heartbeats(always()) == 3
    assert client.recv(100) == OTHERS[0] + EMPTY_FRAME


def test_a_link_sends_the_heartbeat_of_its_protocol_on_both_paths(
    connected: tuple[socket.socket, socket.socket],
) -> None:
    client, peer = connected
    link = Link(wire_for(client, AMQP_1_0), 2 * EARLY, "test", Metrics(), silence=math.inf)
    link._checks = 0
    link.check(time.monotonic())
    wait_until(lambda: not link.wire.queued())
    link._checks = 15  # the next check is a regular one
    wait_until(lambda: link.wire.kernel_view().sent_ago > due_after(link.timeout))
    link.check(time.monotonic())
    assert link.heartbeats_sent == 2
    assert peer.recv(16, socket.MSG_WAITALL) == EMPTY_FRAME * 2


def test_a_peer_that_was_asked_for_nothing_is_not_cut(
    connected: tuple[socket.socket, socket.socket],
) -> None:
    """The control is the same link with one T."""
    client, peer = connected
    timeout = 0.3
    link = Link(wire_for(client, AMQP_1_0), timeout, "test", Metrics(), silence=math.inf)
    control = Link(wire_for(client, AMQP_1_0), timeout, "control", Metrics())
    long_ago = time.monotonic() - 60
    link._last_unread = control._last_unread = long_ago
    wait_until(lambda: link.wire.kernel_view().received_ago > 3 * timeout)
    link.check(time.monotonic())
    assert link.state is State.ALIVE
    assert peer.recv(8) == EMPTY_FRAME
    wait_until(lambda: not control.wire.queued())
    control.check(time.monotonic())
    assert control.state is State.LOST


def test_a_silent_peer_is_reported_with_both_times(
    connected: tuple[socket.socket, socket.socket],
) -> None:
    metrics = Metrics()
    link = Link(wire_for(connected[0], AMQP_1_0), 60, "test", metrics, silence=0.2)
    assert link.silence == 0.2

    def lost() -> bool:
        link.check(time.monotonic())
        return link.state is State.LOST

    # The silence of the link begins with it, that of its socket before.
    wait_until(lost)
    (event,) = metrics.take_events()
    assert (event.kind, "T = 60 s, silence = 0.2 s" in event.detail) == ("link-silent", True)
