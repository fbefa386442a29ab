"""The errors of the engine: one for what the peer does wrong, one for what the caller does."""

from __future__ import annotations

#: Error conditions of AMQP 1.0 (part 2, sections 2.8.15 to 2.8.18) that this side sends.
DECODE_ERROR = "amqp:decode-error"
FRAMING_ERROR = "amqp:connection:framing-error"
ILLEGAL_STATE = "amqp:illegal-state"
INVALID_FIELD = "amqp:invalid-field"
NOT_ALLOWED = "amqp:not-allowed"
RESOURCE_LIMIT_EXCEEDED = "amqp:resource-limit-exceeded"
WINDOW_VIOLATION = "amqp:session:window-violation"
HANDLE_IN_USE = "amqp:session:handle-in-use"
UNATTACHED_HANDLE = "amqp:session:unattached-handle"
TRANSFER_LIMIT_EXCEEDED = "amqp:link:transfer-limit-exceeded"
MESSAGE_SIZE_EXCEEDED = "amqp:link:message-size-exceeded"


class ProtocolError(ValueError):
    """The peer sent what AMQP 1.0 does not allow; no other error leaves the decoder.

    Attributes:
        condition: the error condition to close the connection, session or link with.
    """

    def __init__(self, description: str, condition: str = DECODE_ERROR) -> None:
        super().__init__(description)
        self.condition = condition


class CredentialsError(ProtocolError):
    """The mechanism failed: the peer refuses the login, or must not be trusted."""


class StateError(RuntimeError):
    """The caller asked for what its connection, session, link or delivery does not allow now."""
