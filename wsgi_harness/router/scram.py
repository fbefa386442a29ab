"""The server's side of SASL SCRAM (RFC 5802, RFC 7677), from a password that is known."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from collections.abc import Callable

HASHES = {"SCRAM-SHA-256": "sha256", "SCRAM-SHA-1": "sha1"}
_ITERATIONS = 4096


class ScramError(Exception):
    """What the client sent is no message of SCRAM, or does not prove the password."""


class ScramServer:
    """The exchange with one client.

    Parameters:
        name: of the mechanism, one of :data:`HASHES`.
        account: returns the full name of a user and its password; None: there is no such user.

    Attributes:
        user: that has logged in; None before.
    """

    def __init__(self, name: str, account: Callable[[str], tuple[str, str] | None]) -> None:
        self._hash = HASHES[name]
        self._account = account
        self._salt = os.urandom(16)
        self._found: tuple[str, str] | None = None
        self._bare = self._first = self._nonce = ""
        self.user: str | None = None

    def challenge(self, response: bytes) -> bytes:
        """Return the answer to the client's first message.

        Raises:
            ScramError: it is none.
        """
        header, _, self._bare = _text(response).partition(",,")
        values = _values(self._bare)
        if header not in ("n", "y") or not values.get("r") or "n" not in values:
            raise ScramError
        user = values["n"].replace("=2C", ",").replace("=3D", "=")
        self._found = self._account(user)
        self._nonce = values["r"] + base64.b64encode(os.urandom(18)).decode()
        salt = base64.b64encode(self._salt).decode()
        self._first = f"r={self._nonce},s={salt},i={_ITERATIONS}"
        return self._first.encode()

    def verify(self, response: bytes) -> bytes:
        """Return what proves to the client that this side knows the password.

        Raises:
            ScramError: the client does not know it.
        """
        final, _, proof = _text(response).rpartition(",p=")
        values = _values(final)
        if values.get("c") not in ("biws", "eSws") or values.get("r") != self._nonce:
            raise ScramError
        user, password = self._found or ("", os.urandom(8).hex())
        salted = hashlib.pbkdf2_hmac(self._hash, password.encode(), self._salt, _ITERATIONS)
        stored = hashlib.new(self._hash, self._hmac(salted, "Client Key")).digest()
        exchange = f"{self._bare},{self._first},{final}"
        signature = int.from_bytes(self._hmac(stored, exchange), "big")
        try:
            given = base64.b64decode(proof, validate=True)
            key = (int.from_bytes(given, "big") ^ signature).to_bytes(len(stored), "big")
        except (ValueError, OverflowError):
            raise ScramError from None
        if not hmac.compare_digest(hashlib.new(self._hash, key).digest(), stored):
            raise ScramError
        self.user = user
        mine = self._hmac(self._hmac(salted, "Server Key"), exchange)
        return b"v=" + base64.b64encode(mine)

    def _hmac(self, key: bytes, text: str) -> bytes:
        return hmac.new(key, text.encode(), self._hash).digest()


def _text(message: bytes) -> str:
    try:
        return message.decode()
    except UnicodeDecodeError:
        raise ScramError from None


def _values(text: str) -> dict[str, str]:
    return {each[:1]: each[2:] for each in text.split(",") if each[1:2] == "="}
