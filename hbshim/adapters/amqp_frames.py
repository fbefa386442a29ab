"""What is sent most, as octets, with py-amqp's encoding of the headers."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from amqp.exceptions import FrameSyntaxError
from amqp.serialization import dumps

from hbshim.adapters import frames
from hbshim.adapters.frames import acknowledgement, rejection

__all__ = ["acknowledgement", "publication", "rejection"]


def _table(headers: Mapping[str, Any]) -> bytes:
    try:
        encoded: bytes = dumps("F", [headers])
    except FrameSyntaxError as error:
        raise ValueError(str(error)) from None
    return encoded


#: See :func:`hbshim.adapters.frames.publication`.
publication = functools.partial(frames.publication, table=_table)
