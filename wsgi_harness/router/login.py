"""The server's side of SASL (AMQP 1.0, part 5), before proton gets the stream.

proton checks passwords only if it was built with Cyrus, and then by a database of its own format.
So the frames are read and written here, with proton's codec. Besides PLAIN, EXTERNAL and ANONYMOUS
there is SCRAM, as Cyrus has it. Accounts are in a file with a line ``user@realm password`` for
each, where `sasldb_path` of the router's SASL configuration points; a real router has a database of
Cyrus there.
"""

from __future__ import annotations

import hmac
import socket
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from proton import UNDESCRIBED, Array, Data, Described, symbol, ubyte, ulong

from wsgi_harness.router.scram import HASHES, ScramError, ScramServer

SASL_HEADER = b"AMQP\x03\x01\x00\x00"
_MECHANISMS, _INIT, _CHALLENGE, _RESPONSE, _OUTCOME = range(0x40, 0x45)
_OK, _AUTH = 0, 1
_LARGEST = 4096


class LoginError(Exception):
    """The client is refused; the stream ends."""


def accounts(directory: str | None, name: str) -> dict[str, str]:
    """Return the passwords of a router's users, by name and realm.

    Parameters:
        directory: `saslConfigDir` of the router; None: there are no users.
        name: `saslConfigName`.

    Raises:
        OSError: a file cannot be read.
    """
    if directory is None:
        return {}
    found: dict[str, str] = {}
    for line in (Path(directory) / f"{name}.conf").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "sasldb_path":
            for account in Path(value.strip()).read_text().splitlines():
                user, _, password = account.partition(" ")
                found[user] = password
    return found


class Login:
    """The login of a client.

    Parameters:
        mechanisms: that are offered.
        users: passwords, by name and realm.
        required: a client that skips the login is refused.
        subject: of the client's certificate.

    Attributes:
        user: that has logged in; None: it skipped that, or is anonymous.
        done: what follows is AMQP.
    """

    def __init__(
        self,
        mechanisms: Sequence[str],
        users: Mapping[str, str],
        *,
        required: bool,
        subject: str | None,
    ) -> None:
        self._mechanisms = mechanisms
        self._users = users
        self._required = required
        self._subject = subject
        self._buffer = b""
        self._began = False
        self._scram: ScramServer | None = None
        # Frames of the client so far.
        self._steps = 0
        self.user: str | None = None
        self.done = False

    def receive(self, data: bytes) -> tuple[bytes, bytes]:
        """Handle what has arrived.

        Returns:
            What is to be sent, and what belongs to AMQP already.

        Raises:
            LoginError: the client is refused, after the answer in the error's arguments.
        """
        self._buffer += data
        answer = b""
        if not self._began:
            if len(self._buffer) < len(SASL_HEADER):
                return b"", b""
            if not self._buffer.startswith(SASL_HEADER):
                if self._required:
                    raise LoginError(SASL_HEADER)
                self.done = True
                return b"", self._take(len(self._buffer))
            self._take(len(SASL_HEADER))
            self._began = True
            names = [symbol(name) for name in self._mechanisms]
            answer = SASL_HEADER + _frame(_MECHANISMS, [Array(UNDESCRIBED, Data.SYMBOL, *names)])
        while not self.done:
            if len(self._buffer) < 4:
                return answer, b""
            (size,) = struct.unpack(">I", self._buffer[:4])
            if size > _LARGEST:
                raise LoginError(b"")
            if len(self._buffer) < size:
                return answer, b""
            step = self._handle(self._take(size))
            if isinstance(step, bytes):
                answer += _frame(_CHALLENGE, [step])
                continue
            answer += _frame(_OUTCOME, [ubyte(_OK if step else _AUTH)])
            if not step:
                raise LoginError(answer)
            self.done = True
        return answer, self._take(len(self._buffer))

    def _take(self, size: int) -> bytes:
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    def _handle(self, frame: bytes) -> bytes | bool:
        """Return the next challenge, or whether the client is accepted."""
        decoded = Data()
        decoded.decode(frame[4 * frame[4] :])
        decoded.rewind()
        decoded.next()
        found: Any = decoded.get_object()
        self._steps += 1
        code, name = (_INIT, "init") if self._steps == 1 else (_RESPONSE, "response")
        if not isinstance(found, Described) or found.descriptor not in (
            code,
            f"amqp:sasl-{name}:list",
        ):
            return False
        if code == _INIT:
            mechanism, response = [*found.value, None][:2]
            return self._begin(mechanism, bytes(response or b""))
        return self._go_on(bytes(found.value[0] or b""))

    def _begin(self, mechanism: str, response: bytes) -> bytes | bool:
        if mechanism not in self._mechanisms:
            return False
        if mechanism in HASHES:
            self._scram = ScramServer(mechanism, self._account)
            try:
                return self._scram.challenge(response)
            except ScramError:
                return False
        if mechanism == "PLAIN":
            return self._check_password(response)
        if mechanism == "EXTERNAL":
            self.user = self._subject
            return self._subject is not None
        return bool(mechanism == "ANONYMOUS")

    def _go_on(self, response: bytes) -> bytes | bool:
        scram = self._scram
        if scram is None:
            return False
        if scram.user is not None:
            # The client has verified what proves this side, and has nothing to add.
            self.user = scram.user
            return True
        try:
            return scram.verify(response)
        except ScramError:
            return False

    def _account(self, user: str) -> tuple[str, str] | None:
        """Return the full name of a user, and its password; None: there is no such user."""
        # A name without a realm is one of this machine's (R12).
        name = user if "@" in user else f"{user}@{socket.gethostname()}"
        password = self._users.get(name)
        return None if password is None else (name, password)

    def _check_password(self, response: bytes) -> bool:
        _, user, password = [*response.decode().split("\0"), "", "", ""][:3]
        account = self._account(user)
        if account is None or not hmac.compare_digest(account[1].encode(), password.encode()):
            return False
        self.user = account[0]
        return True


class ClientLogin:
    """The login at another router, by the certificate: SASL EXTERNAL.

    Attributes:
        first: what is sent at once.
        done: what follows is AMQP.
    """

    def __init__(self) -> None:
        self.first = SASL_HEADER + _frame(_INIT, [symbol("EXTERNAL"), b""])
        self._buffer = b""
        self.done = False

    def receive(self, data: bytes) -> bytes:
        """Handle what has arrived; return what belongs to AMQP already.

        Raises:
            LoginError: the other router refuses.
        """
        self._buffer += data
        if not self._buffer.startswith(SASL_HEADER[: len(self._buffer)]):
            raise LoginError(b"")
        place = len(SASL_HEADER)
        # its mechanisms, then its outcome
        while len(self._buffer) >= place + 4:
            (size,) = struct.unpack(">I", self._buffer[place : place + 4])
            frame = self._buffer[place : place + size]
            if len(frame) < size:
                break
            place += size
            decoded = Data()
            decoded.decode(frame[4 * frame[4] :])
            decoded.rewind()
            decoded.next()
            answer: Any = decoded.get_object()
            if answer.descriptor in (_OUTCOME, "amqp:sasl-outcome:list"):
                if answer.value[0] != _OK:
                    raise LoginError(b"")
                self.done = True
                return self._buffer[place:]
        return b""


def _frame(code: int, fields: list[Any]) -> bytes:
    data = Data()
    data.put_object(Described(ulong(code), fields))
    body = data.encode()
    return struct.pack(">IBBH", 8 + len(body), 2, 1, 0) + bytes(body)
