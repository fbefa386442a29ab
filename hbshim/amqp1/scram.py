"""SASL SCRAM (RFC 5802, RFC 7677): the password is proved, not sent, and the server proves itself.

There is no channel binding: over TLS, the server's certificate is checked.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets

from hbshim.amqp1.errors import CredentialsError
from hbshim.amqp1.saslprep import saslprep

#: The mechanisms with their hash functions, the strongest first.
HASHES = {"SCRAM-SHA-512": "sha512", "SCRAM-SHA-256": "sha256", "SCRAM-SHA-1": "sha1"}

#: Iterations that a server may ask for. Fewer help to guess the password from what is sent (RFC
#: 7677, 4). More would keep the thread that connects for longer than its deadline.
LEAST_ITERATIONS, MOST_ITERATIONS = 4096, 200_000

#: No channel binding, and no other user to act for.
_HEADER = "n,,"


class Scram:
    """The client's side. An instance is for one connection.

    Parameters:
        name: of the mechanism, one of :data:`HASHES`.
        user, password: the credentials.
        nonce: printable ASCII without commas, used once; None: a random one.

    Raises:
        OptionError: a credential has a character that SASLprep does not allow.
    """

    def __init__(self, name: str, user: str, password: str, nonce: str | None = None) -> None:
        self.name = name
        self._hash = HASHES[name]
        self._password = saslprep(password).encode()
        self._nonce = nonce or secrets.token_urlsafe(24)
        escaped = saslprep(user).replace("=", "=3D").replace(",", "=2C")
        self._first = f"n={escaped},r={self._nonce}"
        # What proves that the server knows the password; None before its first message.
        self._expected: bytes | None = None
        self._verified = False

    def initial_response(self) -> bytes:
        """Return the client's first message."""
        return f"{_HEADER}{self._first}".encode()

    def respond(self, challenge: bytes) -> bytes:
        """Return the answer to a message of the server.

        Raises:
            CredentialsError: the server refuses the client, or must not be trusted.
        """
        if self._expected is None:
            return self._prove(challenge)
        self._verify(challenge)
        return b""

    def finish(self, data: bytes) -> None:
        """Check that the server has proved itself, now that it has accepted the client.

        Parameters:
            data: its last message, if that comes with the outcome.

        Raises:
            CredentialsError: it has not.
        """
        if not self._verified:
            self._verify(data)

    def _prove(self, challenge: bytes) -> bytes:
        first = _text(challenge)
        nonce, encoded_salt, iterations = _values(first, "r", "s", "i")
        if not nonce.startswith(self._nonce) or nonce == self._nonce:
            raise CredentialsError("the peer's SCRAM nonce does not continue that of this side")
        salt = _decoded(encoded_salt)
        if not salt:
            raise CredentialsError("the peer's SCRAM salt is empty")
        # Python refuses to read thousands of digits.
        readable = iterations.isascii() and iterations.isdigit() and len(iterations) < 20
        count = int(iterations) if readable else 0
        if not LEAST_ITERATIONS <= count <= MOST_ITERATIONS:
            raise CredentialsError(
                f"the peer wants {iterations:.20} iterations of SCRAM; {LEAST_ITERATIONS} to "
                f"{MOST_ITERATIONS} are accepted"
            )
        salted = hashlib.pbkdf2_hmac(self._hash, self._password, salt, count)
        final = f"c={base64.b64encode(_HEADER.encode()).decode()},r={nonce}"
        exchange = f"{self._first},{first},{final}".encode()
        key = self._hmac(salted, b"Client Key")
        signature = self._hmac(hashlib.new(self._hash, key).digest(), exchange)
        self._expected = self._hmac(self._hmac(salted, b"Server Key"), exchange)
        proof = bytes(mine ^ other for mine, other in zip(key, signature, strict=True))
        return f"{final},p={base64.b64encode(proof).decode()}".encode()

    def _verify(self, message: bytes) -> None:
        text = _text(message)
        if text.startswith("e="):
            reason, _, _ = text[2:].partition(",")
            raise CredentialsError(f"the peer refused the credentials ({reason:.40})")
        (signature,) = _values(text, "v") if text else ("",)
        expected = self._expected
        if expected is None or not hmac.compare_digest(_decoded(signature), expected):
            raise CredentialsError(
                "the peer did not prove that it knows the password; is it the right one?"
            )
        self._verified = True

    def _hmac(self, key: bytes, message: bytes) -> bytes:
        return hmac.digest(key, message, self._hash)


def _text(message: bytes) -> str:
    try:
        return message.decode()
    except UnicodeDecodeError:
        raise _malformed() from None


def _values(text: str, *names: str) -> list[str]:
    """Return the values of the first attributes of a message; further ones are extensions."""
    parts = text.split(",")
    if len(parts) < len(names):
        raise _malformed()
    for name, part in zip(names, parts, strict=False):
        if not part.startswith(f"{name}="):
            raise _malformed()
    return [part[2:] for part in parts[: len(names)]]


def _decoded(value: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise _malformed() from None


def _malformed() -> CredentialsError:
    return CredentialsError("the peer sent what is no message of SCRAM")
