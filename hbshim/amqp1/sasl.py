"""SASL (AMQP 1.0, part 5): the login of a client, before the connection is opened."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

from hbshim.amqp1.composites import decode_composite, encode_composite
from hbshim.amqp1.errors import ILLEGAL_STATE, NOT_ALLOWED, CredentialsError, ProtocolError
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
        code: of the server's `SaslOutcome`; None if there was none: it offers none of the
            mechanisms, or the client gave up.
        reason: as text, without credentials.
    """

    code: int | None
    reason: str


#: A frame to send; the server's outcome: the client is logged in; or it is not.
ClientStep: TypeAlias = SaslInit | SaslResponse | SaslOutcome | LoginRefused


class SaslClient:
    """The client's side.

    Parameters:
        mechanisms: those that may be used, the best first.
        hostname: of the server, as in `Open`.
        withheld: names of mechanisms that may not be used, each with the reason for the client,
            if the server offers none but these.

    Attributes:
        withheld: see above.
    """

    def __init__(
        self,
        mechanisms: Sequence[Mechanism],
        hostname: str | None,
        withheld: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.withheld = withheld
        self._mechanisms = mechanisms
        self._hostname = hostname
        self._chosen: Mechanism | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the mechanisms that may be used, the best first."""
        return tuple(mechanism.name for mechanism in self._mechanisms)

    def receive(self, frame: Any) -> ClientStep:
        """Handle a frame of the server.

        Raises:
            ProtocolError: it is not allowed now.
        """
        if isinstance(frame, SaslMechanisms) and self._chosen is None:
            return self._choose(frame.sasl_server_mechanisms)
        if self._chosen is not None:
            try:
                return self._continue(self._chosen, frame)
            except CredentialsError as error:
                return LoginRefused(None, f"{error} (SASL {self._chosen.name})")
        raise _not_allowed(frame)

    def _continue(self, chosen: Mechanism, frame: Any) -> ClientStep:
        if isinstance(frame, SaslChallenge):
            return SaslResponse(chosen.respond(frame.challenge))
        if isinstance(frame, SaslOutcome):
            if frame.code == SASL_OK:
                chosen.finish(frame.additional_data or b"")
                return frame
            reason = _REASONS.get(frame.code, "the peer failed to check the credentials")
            return LoginRefused(frame.code, f"{reason} (SASL {chosen.name})")
        raise _not_allowed(frame)

    def _choose(self, offered: Sequence[str]) -> ClientStep:
        for mechanism in self._mechanisms:
            if mechanism.name in offered:
                self._chosen = mechanism
                return SaslInit(mechanism.name, mechanism.initial_response(), self._hostname)
        for name, reason in self.withheld.items():
            if name in offered:
                return LoginRefused(None, reason)
        names, found = ", ".join(self.names), ", ".join(offered)
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
            raise _not_allowed(frame)
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


def _not_allowed(frame: Any) -> ProtocolError:
    return ProtocolError(f"{type(frame).__name__} is not allowed now", ILLEGAL_STATE)


def _frame(performative: Any) -> bytes:
    return encode_frame(encode_composite(performative), kind=SASL)
