"""The sessions of a connection by their numbers, which each side chooses for itself."""

from __future__ import annotations

from hbshim.amqp1.errors import ILLEGAL_STATE, ProtocolError
from hbshim.amqp1.session import Session


class Channels:
    """The sessions, by the number on this side and by that on the peer's."""

    def __init__(self) -> None:
        self._sessions: dict[int, Session] = {}
        self._by_remote: dict[int, Session] = {}
        self._latest = -1

    def __len__(self) -> int:
        return len(self._sessions)

    def free(self, most: int) -> int | None:
        """Return a free number up to `most`; None if there is none.

        RabbitMQ 4.0 loses a begin on a channel whose end it has answered a moment ago, so that all
        others are used first.
        """
        for offset in range(1, most + 2):
            channel = (self._latest + offset) % (most + 1)
            if channel not in self._sessions:
                self._latest = channel
                return channel
        return None

    def add(self, session: Session) -> None:
        """Add a session, with its number on this side."""
        self._sessions[session.channel] = session

    def waiting(self, channel: int) -> Session:
        """Return the session with this number, whose begin the peer answers.

        Raises:
            ProtocolError: there is none.
        """
        session = self._sessions.get(channel)
        if session is None or session.remote is not None:
            raise ProtocolError(f"begin: channel {channel} waits for no answer", ILLEGAL_STATE)
        return session

    def bind(self, remote_channel: int, session: Session) -> None:
        """Note the number of a session on the peer's side.

        Raises:
            ProtocolError: another one has it.
        """
        if self._by_remote.setdefault(remote_channel, session) is not session:
            raise ProtocolError(f"begin: channel {remote_channel} has a session", ILLEGAL_STATE)

    def of_peer(self, remote_channel: int) -> Session:
        """Return the session with this number on the peer's side.

        Raises:
            ProtocolError: there is none.
        """
        session = self._by_remote.get(remote_channel)
        if session is None:
            raise ProtocolError(f"channel {remote_channel} has no session", ILLEGAL_STATE)
        return session

    def remove(self, remote_channel: int) -> None:
        """Remove a session that has ended."""
        session = self._by_remote.pop(remote_channel)
        del self._sessions[session.channel]

    def lose(self) -> None:
        """Remove all: the connection has ended."""
        for session in self._sessions.values():
            session.lose()
        self._sessions.clear()
        self._by_remote.clear()
