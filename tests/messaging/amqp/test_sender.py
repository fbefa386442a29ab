"""What is sent without a reply, without a broker."""

from __future__ import annotations

import time

import pytest

from hbshim.errors import ConnectError, RejectedError
from hbshim.messaging.amqp.options import AmqpOptions
from hbshim.messaging.amqp.sender import Sender
from hbshim.protocol.messages import Message
from tests.messaging.amqp.fakes import FakeConnector


def test_the_first_reason_is_not_hidden_by_a_later_one() -> None:
    """The time is over with the first attempt; there is no second one, for lack of time."""

    def in_vain(deadline: float) -> None:
        time.sleep(max(0.0, deadline - time.monotonic()))
        raise ConnectError("broker: the name cannot be resolved")

    sender = Sender(FakeConnector(in_vain), AmqpOptions())  # type: ignore[arg-type]
    with pytest.raises(ConnectError, match="cannot be resolved"):
        sender.send(Message(b"", "", "queue"), time.monotonic() + 0.1, None, resend=False)


@pytest.mark.parametrize("attempts", [1, 3])
def test_attempts_count_the_first_one(attempts: int) -> None:
    connector = FakeConnector()
    options = AmqpOptions(
        rejected_message_retry_attempts=attempts, rejected_message_retry_delay=0.0
    )
    sender = Sender(connector, options)  # type: ignore[arg-type]
    published: list[Message] = []

    def reject(message: Message, _timeout: float) -> None:
        published.append(message)
        raise RejectedError("full")

    with sender.pool.lease() as sending:
        sending.connection.publish_confirmed = reject  # type: ignore[assignment]
    with pytest.raises(RejectedError):
        sender.send_confirmed(Message(b"", "", "queue"), None, time.monotonic() + 10, None)
    assert len(published) == attempts


@pytest.mark.parametrize("attempts", [1, 3])
def test_attempts_to_connect_are_counted_the_same_way(attempts: int) -> None:
    opened: list[float] = []

    def refuse(deadline: float) -> None:
        opened.append(deadline)
        raise ConnectError("refused")

    options = AmqpOptions(connection_retry_delay=0.0)
    sender = Sender(FakeConnector(refuse), options)  # type: ignore[arg-type]
    with pytest.raises(ConnectError):
        sender.send(Message(b"", "", "queue"), time.monotonic() + 10, attempts, resend=False)
    assert len(opened) == attempts
