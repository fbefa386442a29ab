"""Messages of AMQP 0-9-1, published and delivered."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

#: Delivery modes of AMQP 0-9-1, basic.properties: `delivery-mode`.
TRANSIENT, PERSISTENT = 1, 2

#: Seconds; RabbitMQ closes the channel of a message whose `expiration` is above ten years.
MAX_EXPIRATION = 10 * 365 * 24 * 3600.0

#: RabbitMQ's direct reply-to: consume from it without acknowledgement, then publish on the
#: same channel with it as `reply_to`.
DIRECT_REPLY = "amq.rabbitmq.reply-to"


@dataclass(slots=True, eq=False, kw_only=True)
class Properties:
    """The properties that messages of both directions have; None if absent.

    The other fields of AMQP's basic.properties are neither sent nor read. How `expiration` is
    stored depends on the direction.
    """

    content_type: str | None = None
    headers: dict[str, Any] | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    message_id: str | None = None
    type: str | None = None


@dataclass(slots=True, eq=False)
class Message(Properties):
    """A message to publish.

    Attributes:
        deadline: of ``time.monotonic()``, after which no server may start to process it; None:
            no deadline.
    """

    body: bytes
    exchange: str
    routing_key: str
    content_type: str = field(default="application/json", kw_only=True)
    deadline: float | None = field(default=None, kw_only=True)
    delivery_mode: int = field(default=TRANSIENT, kw_only=True)

    def expiration_text(self) -> str | None:
        """Return the remaining milliseconds as the property `expiration` has them, a string.

        Computed when the frames are made, because the time spent waiting for the broker counts.
        """
        if self.deadline is None:
            return None
        left = min(self.deadline - time.monotonic(), MAX_EXPIRATION)
        return str(max(0, int(left * 1000)))


@dataclass(slots=True, eq=False)
class Delivery(Properties):
    """A delivered message.

    Attributes:
        connection: the connection on which to acknowledge or requeue it.
        tag: the delivery tag, for `connection.acknowledge` and `connection.requeue`.
        headers: an empty mapping if absent.
        expiration: seconds that it had when it was published; None: unlimited.
    """

    connection: Any
    tag: int
    body: bytes
    routing_key: str
    redelivered: bool = False
    headers: dict[str, Any] = field(default_factory=dict, kw_only=True)
    expiration: float | None = field(default=None, kw_only=True)
