"""What is sent without a reply, without a broker."""

from __future__ import annotations

import time

import pytest

from hbshim.errors import ConnectError
from hbshim.messaging.amqp.connection import Message
from hbshim.messaging.amqp.sender import Sender
from hbshim.messaging.options import MessagingOptions
from tests.messaging.amqp.fakes import FakeConnector


def test_the_first_reason_is_not_hidden_by_a_later_one() -> None:
    """The time is over with the first attempt; there is no second one, for lack of time."""

    def in_vain(deadline: float) -> None:
        time.sleep(max(0.0, deadline - time.monotonic()))
        raise ConnectError("broker: the name cannot be resolved")

    sender = Sender(FakeConnector(in_vain), MessagingOptions())  # type: ignore[arg-type]
    with pytest.raises(ConnectError, match="cannot be resolved"):
        sender.send(Message(b"", "", "queue"), time.monotonic() + 0.1, None)
