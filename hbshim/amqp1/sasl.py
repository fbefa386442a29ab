"""SASL (AMQP 1.0, part 5): the login of a client, before the connection is opened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from hbshim.amqp1.composites import decode_composite, encode_composite
from hbshim.amqp1.errors import ILLEGAL_STATE, NOT_ALLOWED, ProtocolError
from hbshim.amqp1.frames import SASL, SASL_HEADER, encode_frame
from hbshim.amqp1.mechanisms import Mechanism
from hbshim.amqp1.performatives import (
    SASL_AUTH,
    SASL_OK,
    SASL_SYS_PERM,
    SASL_SYS_TEMP,
    SaslChallenge,
    SaslInit,
    SaslMechanisms,
    SaslOutcome,
    SaslResponse,
)

_REASONS = {
    SASL_AUTH: "the peer refused the credentials",
    SASL_SYS_PERM: "the peer cannot check credentials until it is repaired",
    SASL_SYS_TEMP: "the peer cannot check credentials for now",
}


class LoginRefused(NamedTuple):
    """Event: the client is not let in. The connection is over.

    Attributes:
        code: of the server's `SaslOutcome`; None if it offers none of the mechanisms.
        reason: as text, without credentials.
    """

    code: int | None
    reason: str


#: A frame to send; that the client is logged in, as the server said; or that it is not.
ClientStep: TypeAlias = SaslInit | SaslResponse | SaslOutcome | LoginRefused


class SaslClient:
    """The client's side.

    Parameters:
        mechanisms: those that may be used, the best first.
        hostname: of the server, as in `Open`.
    """

    def __init__(self, mechanisms: Sequence[Mechanism], hostname: str | None) -> None:
        self._mechanisms = mechanisms
        self._hostname = hostname
        self._chosen: Mechanism | None = None

    def receive(self, frame: Any) -> ClientStep:
        """Handle a frame of the server.

        Raises:
            ProtocolError: it is not allowed now.
        """
        if isinstance(frame, SaslMechanisms) and self._chosen is None:
            return self._choose(frame.sasl_server_mechanisms)
        if isinstance(frame, SaslChallenge) and self._chosen is not None:
            return SaslResponse(self._chosen.respond(frame.challenge))
        if isinstance(frame, SaslOutcome) and self._chosen is not None:
            if frame.code == SASL_OK:
                return frame
            reason = _REASONS.get(frame.code, "the peer failed to check the credentials")
            return LoginRefused(frame.code, f"{reason} (SASL {self._chosen.name})")
        raise ProtocolError(f"{type(frame).__name__} is not allowed now", ILLEGAL_STATE)

    def _choose(self, offered: Sequence[str]) -> ClientStep:
        for mechanism in self._mechanisms:
            if mechanism.name in offered:
                self._chosen = mechanism
                return SaslInit(mechanism.name, mechanism.initial_response(), self._hostname)
        names = ", ".join(mechanism.name for mechanism in self._mechanisms)
        found = ", ".join(offered)
        return LoginRefused(None, f"the peer offers the SASL mechanisms {found:.200}; not {names}")


class SaslServer:
    """The server's side, for mechanisms without challenges.

    Parameters:
        mechanisms: the names of those that are offered, the best first.
        accepts: returns whether a client may log in, by its mechanism and its response (see
            :func:`hbshim.amqp1.mechanisms.plain_credentials`).
    """

    def __init__(self, mechanisms: Sequence[str], accepts: Callable[[str, bytes], bool]) -> None:
        self.offer = SaslMechanisms(tuple(mechanisms))
        self._accepts = accepts

    def receive(self, frame: Any) -> SaslOutcome:
        """Handle a frame of the client.

        Raises:
            ProtocolError: it is not allowed now.
        """
        if not isinstance(frame, SaslInit):
            raise ProtocolError(f"{type(frame).__name__} is not allowed now", ILLEGAL_STATE)
        if frame.mechanism not in self.offer.sasl_server_mechanisms:
            raise ProtocolError(f"SASL {frame.mechanism:.40} was not offered", NOT_ALLOWED)
        accepted = self._accepts(frame.mechanism, frame.initial_response or b"")
        return SaslOutcome(SASL_OK if accepted else SASL_AUTH)


class SaslLayer:
    """The frames before the protocol header of AMQP.

    Attributes:
        first: what is sent before anything arrives.
        done: the client is logged in; the protocol header of AMQP follows.
    """

    def __init__(self, side: SaslClient | SaslServer) -> None:
        self._side = side
        self.first = SASL_HEADER if isinstance(side, SaslClient) else b""
        self.done = False

    def receive_header(self) -> bytes:
        """Return the answer to the peer's protocol header."""
        if isinstance(self._side, SaslClient):
            return b""
        return SASL_HEADER + _frame(self._side.offer)

    def receive(self, body: bytes) -> tuple[bytes, LoginRefused | None]:
        """Handle a frame; return the answer, and that the client is refused if it is.

        Raises:
            ProtocolError: it is not allowed now.
        """
        performative, end = decode_composite(body)
        if type(performative) not in _PERFORMATIVES or end != len(body):
            raise ProtocolError("what a frame of SASL holds is none of its performatives")
        step = self._side.receive(performative)
        if isinstance(step, LoginRefused):
            return b"", step
        if not isinstance(step, SaslOutcome):
            return _frame(step), None
        self.done = step.code == SASL_OK
        if isinstance(self._side, SaslClient):
            return b"", None
        reason = None if self.done else LoginRefused(step.code, "this side refused the credentials")
        return _frame(step), reason


_PERFORMATIVES = frozenset({SaslMechanisms, SaslInit, SaslChallenge, SaslResponse, SaslOutcome})


def _frame(performative: Any) -> bytes:
    return encode_frame(encode_composite(performative), kind=SASL)
