"""The sessions and links of a connection: they are begun and attached when they are needed.

RabbitMQ ends a whole session over an address or a permission that is missing. So what may fail has
a session of its own.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from hbshim.amqp1.connection import Connection as Engine
from hbshim.amqp1.link import Link
from hbshim.amqp1.performatives import Error
from hbshim.amqp1.session import Session
from hbshim.amqp1.states import SessionState
from hbshim.errors import BrokerBlockedError, TopologyError
from hbshim.messaging.amqp1.links import OpenLink
from hbshim.messaging.amqp1.stream import EngineStream, described
from hbshim.protocol.reply_codes import (
    ACCESS_REFUSED,
    INTERNAL_ERROR,
    NOT_FOUND,
    PRECONDITION_FAILED,
    RESOURCE_LOCKED,
)

L = TypeVar("L", bound=OpenLink[Any])

#: Seconds that the peer may take to answer what it answers at once; then the connection is lost.
ANSWER_LIMIT = 10.0

#: The conditions of peers as reply codes of AMQP 0-9-1, which errors have.
CODES = {
    "amqp:unauthorized-access": ACCESS_REFUSED,
    "amqp:not-found": NOT_FOUND,
    "amqp:resource-deleted": NOT_FOUND,
    "amqp:resource-locked": RESOURCE_LOCKED,
    "amqp:precondition-failed": PRECONDITION_FAILED,
    "amqp:internal-error": INTERNAL_ERROR,
}

_ANSWERED = (SessionState.MAPPED, SessionState.ENDED)

#: Another thread has reported why a session has ended.
_REPORTED: Any = object()

_monotonic = time.monotonic


class Attaching:
    """See the module. Any thread may call any method, unless its docstring restricts that.

    Parameters:
        stream: open.

    Attributes:
        by_link: the links that have not ended, by those of the engine.
    """

    def __init__(self, stream: EngineStream) -> None:
        self.by_link: dict[Link, OpenLink[Any]] = {}
        self._stream = stream
        self._name = stream.name
        self._sessions: dict[str, Session] = {}
        self._ended: WeakKeyDictionary[Session, Error | None] = WeakKeyDictionary()
        self._numbers = itertools.count(1)

    # -- what arrives: under the stream's lock -------------------------------------

    def end_link(self, link: Link, error: Error | None) -> OpenLink[Any] | None:
        """Note that a link has ended; return it, unless that is known."""
        found = self.by_link.pop(link, None)
        if found is not None:
            found.end(error)
        return found

    def end_session(self, session: Session, error: Error | None) -> list[OpenLink[Any]]:
        """Note that a session has ended; return its links, which have ended with it."""
        self._ended[session] = error
        for name in [name for name, each in self._sessions.items() if each is session]:
            del self._sessions[name]
        links = [each for each in self.by_link.values() if each.session is session]
        for each in links:
            self.end_link(each.link, error)
        return links

    def end(self) -> None:
        """Note that the connection has ended."""
        for link in list(self.by_link):
            self.end_link(link, None)

    # -- what is done ----------------------------------------------------------------

    def _session(self, name: str, deadline: float) -> Session:
        """Return the session of a name; begin it if there is none.

        Raises:
            BrokerBlockedError: the peer did not answer by `deadline`.
            TopologyError: it ended the session at once.
            ConnectionLostError: the connection has ended.
        """

        def begin(engine: Engine) -> Session:
            found = self._sessions.get(name)
            if found is None:
                found = self._sessions[name] = engine.begin()
            return found

        session = self._stream.work(begin)
        self.wait_for_answer(lambda: session.state in _ANSWERED, "begin a session", deadline)
        if session.state is SessionState.ENDED:
            # Of several threads that wait for it, the first one reports the error.
            error = self._ended.pop(session, _REPORTED)
            if error is not _REPORTED:
                raise self.refused("begin a session", error)
        return session

    def attach(
        self, session_name: str, make: Callable[[Session, str], L], doing: str, deadline: float
    ) -> L:
        """Attach a link, and wait for the peer's answer.

        Parameters:
            session_name: names the session; it is begun if there is none.
            make: makes the link in the session, with this name.
            doing: what it is for, for errors.
            deadline: of ``time.monotonic()``.

        Raises:
            TopologyError: the peer refuses it.
            BrokerBlockedError: the peer did not answer by `deadline`.
            ConnectionLostError: the connection has ended.
        """
        link: L | None = None
        while link is None:
            session = self._session(session_name, deadline)

            def attach(_engine: Engine, session: Session = session) -> L | None:
                if session.state is not SessionState.MAPPED:
                    return None
                found = make(session, f"hbshim-{next(self._numbers)}")
                self.by_link[found.link] = found
                return found

            link = self._stream.work(attach)
        return self.wait_until_attached(link, doing, deadline)

    def wait_until_attached(self, link: L, doing: str, deadline: float) -> L:
        """Wait for the peer's answer to a link; errors as for :meth:`attach`."""
        self.wait_for_answer(lambda: link.answered, doing, deadline)
        # A router attaches a link that its policy disallows, and detaches it at once.
        if link.ended:
            self._stream.check()
            raise self.refused(doing, link.error)
        return link

    def refused(self, doing: str, error: Error | None) -> TopologyError:
        """Return the error for what the peer refused to do."""
        reason = "no reason given" if error is None else described(error)
        code = None if error is None else CODES.get(str(error.condition))
        return TopologyError(f"{self._name}: the peer refused to {doing}: {reason}", code)

    def wait_for_answer(self, answered: Callable[[], object], doing: str, deadline: float) -> None:
        """Wait for the peer's answer to what it answers at once.

        Raises:
            BrokerBlockedError: there is none by `deadline`.
            ConnectionLostError: there is none for longer than a healthy peer takes.
        """
        limit = _monotonic() + ANSWER_LIMIT
        if self._stream.wait_for(answered, min(deadline, limit)):
            return
        if deadline < limit:
            raise BrokerBlockedError(
                f"{self._name}: the peer did not {doing} in time; is it overloaded, or does it "
                "accept nothing for now (a memory or disk alarm)? Try again later"
            )
        raise self._stream.fail(TimeoutError(f"the peer did not {doing} in {ANSWER_LIMIT:g} s"))
