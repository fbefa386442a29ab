"""The server's side of Cyrus SASL, which routers log clients in with: libsasl2, if it is here."""

from __future__ import annotations

import ctypes
from ctypes import byref, c_char, c_char_p, c_int, c_uint, c_ulong, c_void_p
from pathlib import Path

from hbshim.amqp1.mechanisms import Mechanism

_CONTINUE, _SET_CREATE, _USERNAME, _GETOPT = 1, 1, 0, 1
_FQDN = b"router.example"

_Getopt = ctypes.CFUNCTYPE(
    c_int, c_void_p, c_char_p, c_char_p, ctypes.POINTER(c_char_p), ctypes.POINTER(c_uint)
)


class _Callback(ctypes.Structure):
    _fields_ = (("id", c_ulong), ("function", c_void_p), ("context", c_void_p))


class Cyrus:
    """A server with an account; a process has one.

    Parameters:
        directory: for its database.

    Raises:
        OSError: there is no libsasl2.
    """

    def __init__(self, directory: Path, user: str, password: str) -> None:
        self._library = ctypes.CDLL("libsasl2.so.2")
        options = {
            b"auxprop_plugin": b"sasldb",
            b"sasldb_path": str(directory / "db").encode(),
            b"pwcheck_method": b"auxprop",
        }

        def getopt(_context: object, _plugin: object, name: bytes, found: object, _: object) -> int:
            if name not in options:
                return -1
            found[0] = options[name]  # type: ignore[index]
            return 0

        self._getopt = _Getopt(getopt)
        function = ctypes.cast(self._getopt, c_void_p)
        self._callbacks = (_Callback * 2)(_Callback(_GETOPT, function, None), _Callback())
        assert self._library.sasl_server_init(self._callbacks, b"amqp") == 0
        self.add(user, password)

    def add(self, user: str, password: str) -> None:
        """Add an account, as `saslpasswd2` does."""
        secret = password.encode()
        done = self._library.sasl_setpass(
            self._connection(), user.encode(), secret, len(secret), None, 0, _SET_CREATE
        )
        assert done == 0

    def _connection(self) -> c_void_p:
        found = c_void_p()
        arguments = (b"amqp", _FQDN, _FQDN, None, None, self._callbacks, 0, byref(found))
        assert self._library.sasl_server_new(*arguments) == 0
        return found

    def log_in(self, mechanism: Mechanism) -> bool:
        """Let a client log in; return whether it is accepted."""
        connection, answer, size = self._connection(), ctypes.POINTER(c_char)(), c_uint()
        response = mechanism.initial_response()
        arguments = (response, len(response), byref(answer), byref(size))
        result = self._library.sasl_server_start(connection, mechanism.name.encode(), *arguments)
        while result == _CONTINUE:
            response = mechanism.respond(ctypes.string_at(answer, size.value))
            arguments = (response, len(response), byref(answer), byref(size))
            result = self._library.sasl_server_step(connection, *arguments)
        return bool(result == 0)
