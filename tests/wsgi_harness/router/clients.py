"""Clients of a router, of two implementations that have no code in common.

Each has the commands of :class:`Client`, which return at once, and a snapshot of what it knows.
What waits is here.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from tests.waiting import wait_until

#: Of what takes long on a busy machine.
LIMIT = 30.0


class Backend(Protocol):
    """An implementation."""

    def do(self, command: str, **arguments: Any) -> Any:
        """Carry out a command; their names and arguments are those that `Client` gives."""

    def snapshot(self) -> dict[str, Any]:
        """Return what is known: `connection`, `links`, `sent` and `received`."""

    def end(self) -> None:
        """End what is left of it."""


class RefusedError(Exception):
    """The router refuses a connection or a link; the arguments are condition and description."""


class Client:
    """A connection to a router.

    Attributes:
        opened: what the router said about itself.
    """

    def __init__(self, backend: Backend, port: int, **options: Any) -> None:
        self._backend = backend
        self._numbers = itertools.count(1)
        backend.do("connect", port=port, **options)
        self._wait(lambda state: state["connection"]["open"] or state["connection"]["closed"])
        self.opened = self._backend.snapshot()["connection"]

    def sender(self, address: str | None = None, **options: Any) -> str:
        """Attach a link that sends; None: each message has its address."""
        return self._attach("sender", address=address, **options)

    def receiver(self, address: str | None, credit: int = 0, **options: Any) -> str:
        """Attach a link that receives; None: the router chooses the address."""
        return self._attach("receiver", address=address, credit=credit, **options)

    def address(self, link: str) -> str:
        return str(self._link(link)["address"])

    def credit(self, link: str) -> int:
        return int(self._link(link)["credit"])

    def drains(self, link: str) -> int:
        """How often a sender was asked to return its credit, or a receiver got its back."""
        return int(self._link(link)["drains"])

    def detached(self, link: str) -> Any:
        """The error with which the router has detached a link; None: it has not."""
        return self._link(link)["error"]

    def send(self, link: str, body: str = "", **options: Any) -> int:
        """Send a message once there is credit; return its number here.

        Options: `to`, `reply_to`, `settled`, `ttl` in milliseconds.
        """
        wait_until(lambda: self.credit(link) > 0, LIMIT)
        return self.send_at_once(link, body, **options)

    def send_many(self, link: str, bodies: Iterable[str], **options: Any) -> None:
        """Send messages as fast as there is credit.

        Another client's heartbeats are sent only when it is asked for something: what takes long
        here ends its connection.
        """
        credit = 0
        for body in bodies:
            if not credit:
                wait_until(lambda: self.credit(link) > 0, LIMIT)
                credit = self.credit(link)
            self.send_at_once(link, body, **options)
            credit -= 1

    def send_at_once(self, link: str, body: str = "", **options: Any) -> int:
        """Send a message; there must be credit."""
        number = next(self._numbers)
        self._backend.do("send", link=link, number=number, body=body, **options)
        return number

    def fate(self, number: int) -> tuple[str | None, bool]:
        """What the router reports of a message: its state, and whether it is settled."""
        sent = self._backend.snapshot()["sent"][str(number)]
        return sent["state"], sent["settled"]

    def fates(self, *numbers: int) -> list[tuple[str | None, bool]]:
        """The same of several messages, at one moment."""
        sent = self._backend.snapshot()["sent"]
        return [(sent[str(each)]["state"], sent[str(each)]["settled"]) for each in numbers]

    def failed(self, number: int) -> bool:
        """Whether a message is `modified` with delivery-failed."""
        return bool(self._backend.snapshot()["sent"][str(number)]["failed"])

    def error(self, number: int) -> Any:
        """Why a message is `rejected`."""
        return self._backend.snapshot()["sent"][str(number)]["error"]

    def outcome(self, number: int) -> str | None:
        """Wait until a message is settled; return its outcome."""
        wait_until(lambda: self.fate(number)[1], LIMIT)
        return self.fate(number)[0]

    def wait_state(self, number: int, state: str) -> None:
        """Wait until the router reports this state of a message."""
        wait_until(lambda: self.fate(number)[0] == state, LIMIT)

    def received(self, link: str) -> list[dict[str, Any]]:
        """What has arrived on a link: `number`, `body`, `settled`, `state` and `reply_to`."""
        messages: list[dict[str, Any]] = self._backend.snapshot()["received"]
        return [each for each in messages if each["link"] == link]

    def message(self, link: str, index: int = 0) -> dict[str, Any]:
        """Wait for a message; the first that has arrived on a link has the index 0."""
        wait_until(lambda: len(self.received(link)) > index, LIMIT)
        return self.received(link)[index]

    def answer(self, message: dict[str, Any], state: str, *, settled: bool = True) -> None:
        """Send the state of a message that has arrived."""
        self._backend.do("answer", number=message["number"], state=state, settled=settled)

    def settle(self, number: int) -> None:
        """Settle a message that was sent."""
        self._backend.do("settle", number=number)

    def grant(self, link: str, credit: int) -> None:
        self._backend.do("grant", link=link, credit=credit)

    def drain(self, link: str) -> None:
        self._backend.do("drain", link=link)

    def detach(self, link: str, *, waits: bool = True) -> None:
        self._backend.do("detach", link=link)
        if waits:
            self._wait(lambda state: state["links"][link]["closed"])

    def silence(self, seconds: float) -> None:
        """Neither read nor write for some time."""
        self._backend.do("silence", seconds=seconds)

    def closed(self) -> Any:
        """The error with which the connection has ended; None: it has not."""
        connection = self._backend.snapshot()["connection"]
        return (connection["error"] or [None, None]) if connection["closed"] else None

    def wait_closed(self) -> Any:
        wait_until(lambda: self.closed() is not None, LIMIT)
        return self.closed()

    def end(self) -> None:
        """End the connection as a process that is killed does."""
        self._backend.end()

    def manage(self, operation: str, body: dict[str, Any], **properties: Any) -> Any:
        """Ask the router's management; return the status, and the body of the answer."""
        answers = self.receiver(None, 10)
        requests = self.sender("$management")
        self.send(
            requests,
            json.dumps(body),
            reply_to=self.address(answers),
            properties={"operation": operation, **properties},
        )
        answer = self.message(answers)
        return answer["status"], json.loads(answer["body"])

    def query(self, entity: str, *names: str) -> list[Any]:
        """Return attributes of the router's entities of a type."""
        status, body = self.manage(
            "QUERY",
            {"attributeNames": list(names)},
            type="org.amqp.management",
            name="self",
            entityType=f"io.skupper.router.{entity}",
        )
        assert status == 200, body
        results: list[Any] = body["results"]
        return results

    def _attach(self, command: str, **options: Any) -> str:
        name = f"link-{next(self._numbers)}"
        self._backend.do(command, name=name, **options)
        self._wait(lambda state: state["links"][name]["open"] or state["links"][name]["closed"])
        link = self._link(name)
        if link["closed"]:
            raise RefusedError(*(link["error"] or (None, None)))
        return name

    def _link(self, name: str) -> dict[str, Any]:
        link: dict[str, Any] = self._backend.snapshot()["links"][name]
        return link

    def _wait(self, condition: Callable[[dict[str, Any]], object]) -> None:
        wait_until(lambda: condition(self._backend.snapshot()), LIMIT)
