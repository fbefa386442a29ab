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

    def heartbeats(self) -> list[RelayEvent]:
        """The client's heartbeats so far; each knows how many frames had passed."""
        heartbeats = self._relay.seen("heartbeat", "client")
        return [heartbeat for heartbeat in heartbeats if heartbeat.connection == self._connection]

    def after_next_heartbeat(self) -> RelayEvent:
        """Wait for a heartbeat from now on."""
        self._wait_for_heartbeats(1)
        return self.heartbeats()[-1]

    def check_only_heartbeats_since(self, first: RelayEvent) -> None:
        """Every frame after `first`, up to the next heartbeat from now, was a heartbeat.

        What others have sent by now has gone before that one.
        """
        self._wait_for_heartbeats(1)
        since = [heartbeat for heartbeat in self.heartbeats() if heartbeat.frames >= first.frames]
        expected = list(range(first.frames, first.frames + len(since)))
        assert [heartbeat.frames for heartbeat in since] == expected, "a frame of another sender"
        ends = [event for kind in ("fin", "rst") for event in self._relay.seen(kind)]
        assert not [event for event in ends if event.connection == self._connection]
        assert self._relay.errors == []

    def frames_at_end(self) -> list[int]:
        """How many frames the client had sent when its side ended."""
        ends = self._relay.seen("fin", "client")
        return [end.frames for end in ends if end.connection == self._connection]

    def _wait_for_heartbeats(self, count: int) -> None:
        wanted = len(self.heartbeats()) + count
        # Waits for the relay's news, of whatever connection, until it is enough.
        total = len(self._relay.seen("heartbeat", "client"))
        while len(self.heartbeats()) < wanted:
            total += 1
            self._relay.wait_for("heartbeat", "client", count=total)
