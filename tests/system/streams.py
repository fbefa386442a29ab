"""One connection's frames, as the relay before the broker counts them."""

from __future__ import annotations

from wsgi_harness.wire.events import RelayEvent
from wsgi_harness.wire.relay import Relay


class Stream:
    """The client's frames on one connection.

    Parameters:
        connection: its number at the relay, from 1.
    """

    def __init__(self, relay: Relay, connection: int) -> None:
        self._relay = relay
        self._connection = connection

    def beats(self) -> list[RelayEvent]:
        """The client's heartbeats so far; each knows how many frames had passed."""
        beats = self._relay.seen("heartbeat", "client")
        return [beat for beat in beats if beat.connection == self._connection]

    def after_next_beat(self) -> RelayEvent:
        """Wait for a heartbeat from now on."""
        self._wait_for_beats(1)
        return self.beats()[-1]

    def check_only_beats_since(self, first: RelayEvent) -> None:
        """Every frame after `first`, up to the next heartbeat from now, was a heartbeat.

        What somebody else has sent by now has gone before that one.
        """
        self._wait_for_beats(1)
        since = [beat for beat in self.beats() if beat.frames >= first.frames]
        expected = list(range(first.frames, first.frames + len(since)))
        assert [beat.frames for beat in since] == expected, "somebody else's frame"
        ends = [event for kind in ("fin", "rst") for event in self._relay.seen(kind)]
        assert not [event for event in ends if event.connection == self._connection]
        assert self._relay.errors == []

    def frames_at_end(self) -> list[int]:
        """How many frames the client had sent when its side ended."""
        ends = self._relay.seen("fin", "client")
        return [end.frames for end in ends if end.connection == self._connection]

    def _wait_for_beats(self, count: int) -> None:
        wanted = len(self.beats()) + count
        # Waits for the relay's news, of whatever connection, until it is enough.
        total = len(self._relay.seen("heartbeat", "client"))
        while len(self.beats()) < wanted:
            total += 1
            self._relay.wait_for("heartbeat", "client", count=total)
