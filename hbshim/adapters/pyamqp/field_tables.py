"""py-amqp's encoding of headers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amqp.exceptions import FrameSyntaxError
from amqp.serialization import dumps


def field_table(headers: Mapping[str, Any]) -> bytes:
    """`headers` as an AMQP field table, length and all.

    Raises:
        ValueError: AMQP has no type for a value.
    """
    try:
        encoded: bytes = dumps("F", [headers])
    except FrameSyntaxError as error:
        raise ValueError(str(error)) from None
    return encoded
