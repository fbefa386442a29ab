"""A process consumes from the queue of a request while a caller waits, and not longer."""

from __future__ import annotations

from typing import Any

import pytest

from hbshim.errors import CallTimeoutError
from hbshim.messaging.amqp.results import StoredReplies, _forgotten, _Stored
from hbshim.messaging.steps import Wait
from hbshim.protocol.messages import Delivery


class Connection:
    """Records the commands that it gets."""

    is_open = True

    def __init__(self) -> None:
        self.commands: list[Any] = []

    def start_consumer(self, queue: str, _on_delivery: Any, **_: Any) -> str:
        self.commands.append(f"consume {queue}")
        return "tag"

    def stop_consumer(self, tag: str, on_stopped: Any) -> None:
        self.commands.append(f"stop {tag}")
        on_stopped()

    def requeue(self, tag: int) -> bool:
        self.commands.append(f"requeue {tag}")
        return True


class Caller:
    """One that never gets a reply."""

    def __init__(self) -> None:
        self.connection = Connection()

    def connected(self, *_: Any) -> Any:
        return self

    def with_connection(self, *_: Any) -> bool:
        return True

    def wait(self, waiter: Any, until: float, otherwise: str) -> Wait:
        return Wait(self, waiter, until, otherwise)  # type: ignore[arg-type]

    def hand_over(self) -> None: ...

    def wait_once(self, _waiting: Any, _until: float, otherwise: str) -> None:
        raise CallTimeoutError(otherwise)


def test_after_a_wait_in_vain_another_process_can_get_the_result() -> None:
    caller = Caller()
    replies = StoredReplies(lambda: caller, "request", "queue")  # type: ignore[arg-type, return-value]
    for _ in range(2):
        with pytest.raises(CallTimeoutError):
            replies.receive(0.1)
    assert caller.connection.commands == ["consume queue", "stop tag"] * 2


def test_a_forgotten_consumer_is_stopped_before_a_delivery_goes_back() -> None:
    connection, stored = Connection(), _Stored("queue")
    stored.connection, stored.tag = connection, "tag"  # type: ignore[assignment]
    _forgotten(stored)
    for tag in (1, 2):
        stored.arrived(Delivery(connection, tag, b"1", "queue"))
    assert connection.commands == ["stop tag", "requeue 1", "requeue 2"]
