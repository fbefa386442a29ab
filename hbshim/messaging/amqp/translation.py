"""Messages to the octets of frames, and back, whichever library the connection is of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hbshim.adapters.frames import publication
from hbshim.adapters.intake import Arrived
from hbshim.messaging.amqp.connection import Connection, Delivery, Message


def frames_of(
    message: Message,
    channel: int,
    frame_max: int,
    table: Callable[[Mapping[str, Any]], bytes],
    *,
    mandatory: bool = False,
) -> bytes:
    """The frames of `message`; see :func:`hbshim.adapters.frames.publication`.

    Parameters:
        table: the library's own encoder of headers.

    Raises:
        PayloadError: AMQP has no form for a name, a property or a header of it.
    """
    return publication(
        channel,
        frame_max,
        message.exchange,
        message.routing_key,
        message.body,
        table=table,
        content_type=message.content_type,
        headers=message.headers,
        delivery_mode=message.delivery_mode,
        correlation_id=message.correlation_id,
        reply_to=message.reply_to,
        expiration=message.expiration_text(),
        message_id=message.message_id,
        kind=message.type,
        mandatory=mandatory,
    )


def delivery_of(message: Arrived, connection: Connection, tag: int) -> Delivery:
    """What arrived, as a delivery.

    Parameters:
        tag: as `connection` is to be told of it.
    """
    return Delivery(
        connection,
        tag,
        message.body,
        message.routing_key,
        message.redelivered,
        message.content_type,
        message.message_id,
        message.correlation_id,
        message.reply_to,
        _seconds(message.expiration),
        message.kind,
        message.headers or {},
    )


def _seconds(milliseconds: str | None) -> float | None:
    # The sender's text: what is no number is no limit.
    try:
        return None if milliseconds is None else int(milliseconds) / 1000
    except ValueError:
        return None
