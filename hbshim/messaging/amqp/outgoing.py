"""A message as the octets of its frames, whichever library the connection is of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hbshim.adapters.frames import publication
from hbshim.messaging.amqp.connection import Message


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
