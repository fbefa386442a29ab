"""RabbitMQ's management over AMQP 1.0: HTTP requests and answers over a pair of links.

It declares, binds and deletes, as :class:`hbshim.messaging.amqp.topology.Declaring` has it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from hbshim.amqp1.errors import ProtocolError
from hbshim.amqp1.messages import Message, Single, decode_message, encode_message
from hbshim.amqp1.performatives import SETTLED, Properties, Source, Target
from hbshim.amqp1.session import Session
from hbshim.errors import TopologyError
from hbshim.messaging.amqp.addresses import exchange_address, queue_address
from hbshim.messaging.amqp.connection import Queue, answer_by
from hbshim.messaging.amqp.queued import count_in
from hbshim.messaging.amqp.topology import Declaring
from hbshim.messaging.amqp1.connection import Connection
from hbshim.messaging.amqp1.links import IncomingLink, OutgoingLink
from hbshim.protocol.reply_codes import (
    ACCESS_REFUSED,
    INTERNAL_ERROR,
    NOT_FOUND,
    PRECONDITION_FAILED,
    is_missing,
    topology_refused,
)

_NODE = "/management"
_SESSION = "management"

#: Answers that are not taken yet; of requests whose caller has given up, they are dropped.
_MOST_ANSWERS = 100

_STATUS = re.compile("[0-9]{3}")

#: How the answer begins to a binding of what does not exist; its status is 400.
_MISSING = ("no exchange", "no queue")

#: Status codes of answers as reply codes of AMQP 0-9-1, which errors have.
_CODES = {400: PRECONDITION_FAILED, 403: ACCESS_REFUSED, 404: NOT_FOUND, 409: PRECONDITION_FAILED}


class Declares(Declaring, Protocol):
    """Declares and deletes."""

    def delete_queue(self, name: str, deadline: float | None = None) -> int: ...


class Nothing:
    """In place of :class:`Management` for a router, which has neither exchanges nor queues."""

    def declare_exchange(self, name: str, kind: str, deadline: float | None = None) -> None:
        """Do nothing."""

    def declare_queue(self, queue: Queue, deadline: float | None = None) -> None:
        """Do nothing."""

    def bind(
        self, queue: str, exchange: str, routing_key: str, deadline: float | None = None
    ) -> None:
        """Do nothing."""

    def delete_queue(self, name: str, deadline: float | None = None) -> int:
        """Return 0: nothing waited in it."""
        return 0


def declaring(connection: Connection) -> Declares:
    """Return what declares over a connection."""
    return Nothing() if connection.profile.routes else Management(connection)


class _Answer(NamedTuple):
    status: int
    body: Any


class Management:
    """The management of one connection; any thread may use it.

    Parameters:
        connection: to RabbitMQ.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._requests: OutgoingLink | None = None
        self._answers: IncomingLink | None = None
        self._received: dict[str, _Answer] = {}
        self._numbers = itertools.count(1)

    def declare_exchange(self, name: str, kind: str, deadline: float | None = None) -> None:
        """Declare a durable exchange.

        Raises:
            TopologyError: it exists with another type.
        """
        body = {"type": kind, "durable": True, "auto_delete": False, "internal": False}
        self._ask(f"declare exchange {name!r}", "PUT", exchange_address(name), body, deadline)

    def declare_queue(self, queue: Queue, deadline: float | None = None) -> None:
        """Declare `queue`.

        Raises:
            TopologyError: it exists with other properties, or is exclusive to another connection.
        """
        body = {
            "durable": not queue.exclusive,
            "exclusive": queue.exclusive,
            "auto_delete": False,
            "arguments": queue.declaration(),
        }
        doing, address = f"declare queue {queue.name!r}", queue_address(queue.name)
        try:
            self._ask(doing, "PUT", address, body, deadline)
        except TopologyError as error:
            # RabbitMQ 4 fails if another connection declares the queue at the same moment. Then it
            # is there.
            if error.code != INTERNAL_ERROR:
                raise
            self._ask(doing, "PUT", address, body, deadline)

    def bind(
        self, queue: str, exchange: str, routing_key: str, deadline: float | None = None
    ) -> None:
        """Bind a queue to an exchange.

        Raises:
            TopologyError: one of the two does not exist.
        """
        body = {
            "source": exchange,
            "destination_queue": queue,
            "binding_key": routing_key,
            "arguments": {},
        }
        doing = f"bind queue {queue!r} to exchange {exchange!r}"
        self._ask(doing, "POST", "/bindings", body, deadline)

    def queue_exists(self, name: str, deadline: float | None = None) -> bool:
        """Return whether a queue exists."""
        try:
            self._ask(f"look up queue {name!r}", "GET", queue_address(name), None, deadline)
        except TopologyError as error:
            if is_missing(error):
                return False
            raise
        return True

    def delete_queue(self, name: str, deadline: float | None = None) -> int:
        """Delete a queue; no error if it does not exist.

        Returns:
            The number of messages that were in it.
        """
        doing = f"delete queue {name!r}"
        body = self._ask(doing, "DELETE", queue_address(name), None, deadline)
        return count_in(body.get("message_count")) if isinstance(body, dict) else 0

    def _ask(
        self,
        doing: str,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        deadline: float | None,
    ) -> Any:
        """Send a request; return the body of the answer.

        Raises:
            TopologyError: it is refused.
            BrokerBlockedError: it is not answered by `deadline`.
            ConnectionLostError: the connection has ended.
        """
        until = answer_by(deadline)
        number = str(next(self._numbers))
        request = encode_message(
            Message(
                Single(body),
                properties=Properties(number, to=path, subject=method, reply_to="$me"),
            )
        )
        connection, attaching = self._connection, self._connection.attaching
        links = self._links(until)
        sent = False
        while not sent:
            attaching.wait_for_answer(lambda: links.ended or links.ready, doing, until)
            sent = connection.work(lambda _: self._send(links, request))
        attaching.wait_for_answer(lambda: links.ended or number in self._received, doing, until)
        answer = self._received.pop(number, None)
        if answer is None:
            connection.check()
            # RabbitMQ ends the session over a request that it does not understand or allow.
            raise attaching.refused(doing, links.error)
        if answer.status >= 300:
            text = str(answer.body)
            code = _CODES.get(answer.status, answer.status)
            if text.startswith(_MISSING):
                code = NOT_FOUND
            raise topology_refused(doing, code, text)
        return answer.body

    @staticmethod
    def _send(links: OutgoingLink, request: bytes) -> bool:
        """Send a request; return False if another thread has used the credit."""
        if not links.ended and links.ready:
            links.send(request, _ignore)
            return True
        return links.ended

    def _links(self, deadline: float) -> OutgoingLink:
        """Return the link for requests; the one for answers has credit.

        RabbitMQ ends the session over a request whose answer has none.
        """
        found = self._requests
        if found is None or found.ended:
            self._answers = self._connection.attaching.attach(
                _SESSION, self._attach_answers, "answer requests", deadline
            )
            found = self._connection.attaching.attach(
                _SESSION, self._attach_requests, "accept requests", deadline
            )
        if self._answers is not None:
            self._connection.attaching.wait_until_attached(
                self._answers, "answer requests", deadline
            )
        return self._connection.attaching.wait_until_attached(found, "accept requests", deadline)

    def _attach_answers(self, session: Session, name: str) -> IncomingLink:
        found = self._answers
        if found is not None and not found.ended:
            return found
        link = session.attach_receiver(
            "hbshim-management",
            Source(_NODE),
            target=Target(_NODE),
            snd_settle_mode=SETTLED,
            properties={"paired": True},
        )
        found = IncomingLink(link, session, 0, self._on_answer, _ignore, immediate=True)
        self._answers = found
        found.replenish()
        return found

    def _attach_requests(self, session: Session, name: str) -> OutgoingLink:
        found = self._requests
        if found is not None and not found.ended:
            return found
        link = session.attach_sender(
            "hbshim-management",
            Target(_NODE),
            source=Source(_NODE),
            snd_settle_mode=SETTLED,
            properties={"paired": True},
        )
        self._requests = OutgoingLink(link, session)
        return self._requests

    def _on_answer(self, data: bytes, _tag: int) -> None:
        answer = decode_message(data)
        properties, body = answer.properties, answer.body
        status = _STATUS.fullmatch("" if properties is None else str(properties.subject))
        if properties is None or status is None:
            raise ProtocolError("an answer to a request for management has no status")
        if len(self._received) >= _MOST_ANSWERS:
            # Of a copy: threads that ask take their answers without the lock.
            for oldest in list(self._received)[: 1 - _MOST_ANSWERS]:
                self._received.pop(oldest, None)
        found = body.value if isinstance(body, Single) else None
        self._received[str(properties.correlation_id)] = _Answer(int(status[0]), found)


def _ignore(*_arguments: Any) -> None:
    return None
