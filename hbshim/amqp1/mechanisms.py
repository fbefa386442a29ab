"""Ways to log in with SASL (RFC 4422): what a client sends first, and its answers."""

from __future__ import annotations

from typing import Protocol

from hbshim.amqp1.errors import ILLEGAL_STATE, ProtocolError
from hbshim.errors import OptionError


class Mechanism(Protocol):
    """A way to log in. An instance is for one connection."""

    @property
    def name(self) -> str:
        """The name under which peers offer it."""

    def initial_response(self) -> bytes:
        """Return what is sent with the choice of the mechanism."""

    def respond(self, challenge: bytes) -> bytes:
        """Return the answer to a challenge.

        Raises:
            CredentialsError: the login fails.
            ProtocolError: the mechanism has no such challenge.
        """

    def finish(self, data: bytes) -> None:
        """Handle that the server has accepted the client.

        Parameters:
            data: that came with it; b"" if there was none.

        Raises:
            CredentialsError: the server must not be trusted.
        """


class _OneStep:
    """A mechanism without challenges."""

    name = ""

    def respond(self, challenge: bytes) -> bytes:
        raise ProtocolError(f"SASL {self.name} has no challenges, and one arrived", ILLEGAL_STATE)

    def finish(self, data: bytes) -> None:
        """Do nothing: the server need not prove anything."""


class Anonymous(_OneStep):
    """No credentials (RFC 4505)."""

    name = "ANONYMOUS"

    def initial_response(self) -> bytes:
        return b""


class External(_OneStep):
    """What TLS has proved, such as the client's certificate (RFC 4422, appendix A)."""

    name = "EXTERNAL"

    def initial_response(self) -> bytes:
        return b""


class Plain(_OneStep):
    """A user and a password, in clear text (RFC 4616): the connection must be encrypted.

    Raises:
        OptionError: one of them has a NUL character.
    """

    name = "PLAIN"

    def __init__(self, user: str, password: str) -> None:
        if "\0" in user or "\0" in password:
            raise OptionError("user and password must not have NUL characters")
        self._response = f"\0{user}\0{password}".encode()

    def initial_response(self) -> bytes:
        return self._response


def plain_credentials(response: bytes) -> tuple[str, str]:
    """Return user and password of a client's response to PLAIN.

    Raises:
        ProtocolError: it has none.
    """
    parts = response.split(b"\0")
    if len(parts) != 3:
        raise ProtocolError("a response to SASL PLAIN does not have three parts")
    try:
        return parts[1].decode(), parts[2].decode()
    except UnicodeDecodeError:
        raise ProtocolError("a response to SASL PLAIN is not UTF-8") from None
