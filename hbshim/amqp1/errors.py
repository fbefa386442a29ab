"""The error for bytes and frames that AMQP 1.0 does not allow."""

from __future__ import annotations

#: Error conditions of AMQP 1.0 (part 2, sections 2.8.15 to 2.8.18) that this side sends.
DECODE_ERROR = "amqp:decode-error"
FRAMING_ERROR = "amqp:connection:framing-error"


class ProtocolError(ValueError):
    """The peer sent what AMQP 1.0 does not allow; no other error leaves the decoder.

    Attributes:
        condition: the error condition to close the connection, session or link with.
    """

    def __init__(self, description: str, condition: str = DECODE_ERROR) -> None:
        super().__init__(description)
        self.condition = condition
