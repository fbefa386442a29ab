"""The connections to Redis of one directory. Used by the directory's own native thread only."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import Any

from hbshim.adapters.redis import NativeConnection, NativeTlsConnection
from hbshim.errors import DirectoryError
from hbshim.extras import needs
from hbshim.messaging.zmq.directory.address import Address
from hbshim.messaging.zmq.directory.scripts import Script
from hbshim.runtime.unpatched import original

with needs(("redis",), "zmq"):
    from redis.exceptions import (
        AuthenticationError,
        NoScriptError,
        ReadOnlyError,
        RedisError,
        ResponseError,
    )
    from redis.exceptions import ConnectionError as LostError

#: What a lost or refused connection raises.
ERRORS = (OSError, RedisError, DirectoryError)

#: Seconds between two checks of who the master is.
MASTER_CHECKED = 5.0


class RedisClient:
    """One connection for commands, and one for announcements.

    Parameters:
        channel: that changes are announced on.
        timeout: seconds that connecting, and each answer, may take.
    """

    def __init__(self, address: Address, channel: str, timeout: float) -> None:
        self._address = address
        self.channel = channel
        self._timeout = timeout
        self._commands: NativeConnection | None = None
        self._announcements: NativeConnection | None = None
        self._sentinels = list(address.hosts)
        self._server: tuple[str, int] | None = None
        self._checked = 0.0

    @property
    def is_open(self) -> bool:
        """Whether it is connected, for all that is known."""
        return self._commands is not None

    def open(self) -> None:
        """Connect both connections.

        Raises:
            OSError, RedisError: it failed.
            DirectoryError: the directory cannot be used as it is configured.
        """
        self._server = self._find_server()
        self._checked = time.monotonic()
        try:
            self._commands = self._connect(self._server)
            if self._address.kind == "sentinel" and self.call("ROLE")[0] != b"master":
                raise LostError("a server that is no master any more, or not yet")
            self._announcements = self._connect(self._server)
            self._announcements.send_command("SUBSCRIBE", self.channel)
            self._announcements.read_response()
        except AuthenticationError as error:
            self.close()
            raise self._refused_login(error) from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close both connections."""
        for connection in (self._commands, self._announcements):
            if connection is not None:
                with contextlib.suppress(*ERRORS):
                    connection.disconnect()
        self._commands = self._announcements = None

    def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """Run a script; return what it returns.

        Raises:
            OSError, RedisError: it failed; the connection is to be closed.
        """
        words = (len(keys), *keys, *arguments)
        try:
            return self.call("EVALSHA", script.digest, *words)
        except NoScriptError:
            return self.call("EVAL", script.text, *words)
        except ReadOnlyError:
            raise LostError("a server that is no master any more") from None

    def check_master(self, now: float) -> None:
        """Have the Sentinels asked, each few seconds, whether this is still the master.

        Raises:
            LostError: it is not.
        """
        if self._address.kind != "sentinel" or now - self._checked < MASTER_CHECKED:
            return
        self._checked = now
        try:
            server = self._find_server()
        except (OSError, RedisError):
            return  # none of them answers; the server does
        if server != self._server:
            raise LostError("the Sentinels name another master")

    def descriptor(self) -> int:
        """Return what becomes readable when an announcement arrives; -1: nothing does."""
        return -1 if self._announcements is None else self._announcements.fileno()

    def announcements(self) -> list[bytes]:
        """Return the announcements that have arrived.

        Raises:
            OSError, RedisError: the connection is lost.
        """
        arrived: list[bytes] = []
        connection = self._announcements
        while connection is not None and connection.can_read(0):
            answer = connection.read_response(disable_decoding=True)
            if isinstance(answer, list) and len(answer) == 3 and answer[0] == b"message":
                arrived.append(answer[2])
        return arrived

    def call(self, *words: Any) -> Any:
        """Run a command; return what it returns.

        Raises:
            OSError, RedisError: it failed; the connection is to be closed.
        """
        connection = self._commands
        if connection is None:
            raise LostError("not connected")
        connection.send_command(*words)
        return connection.read_response()

    def _connect(
        self, server: tuple[str, int], *, password: bool = True, database: bool = True
    ) -> NativeConnection:
        address = self._address
        options: dict[str, Any] = {
            "host": server[0],
            "port": server[1],
            "db": address.database if database else 0,
            "username": address.username if password else None,
            "password": address.password if password else None,
            "socket_timeout": self._timeout,
            "socket_connect_timeout": self._timeout,
            "protocol": 2,
        }
        if address.tls is not None:
            connection: NativeConnection = NativeTlsConnection(**options, **dict(address.tls))
        else:
            connection = NativeConnection(**options)
        try:
            connection.connect()
        except AuthenticationError as error:
            raise self._refused_login(error) from None
        except (ResponseError, LostError) as error:
            if "invalid database" in str(error).lower() or "db index" in str(error).lower():
                raise DirectoryError(
                    f"{address.name} has no such database; name one that it has, such as 0"
                ) from None
            raise
        return connection

    def _refused_login(self, error: Exception) -> DirectoryError:
        return DirectoryError(
            f"{self._address.name} refuses the login ({error}); correct the password in the "
            "address of the directory"
        )

    def _find_server(self) -> tuple[str, int]:
        if self._address.kind == "redis":
            return self._address.hosts[0]
        reasons = []
        for sentinel in list(self._sentinels):
            try:
                server = self._ask(sentinel)
            except (OSError, RedisError) as error:
                reasons.append(f"{sentinel[0]}:{sentinel[1]}: {error}")
                continue
            # The next time first.
            self._sentinels.remove(sentinel)
            self._sentinels.insert(0, sentinel)
            if server is None:
                raise DirectoryError(
                    f"the Sentinels know no group {self._address.group!r}; correct the path in "
                    "the address of the directory"
                )
            return server
        raise LostError(f"no Sentinel answers ({'; '.join(reasons)})")

    def _ask(self, sentinel: tuple[str, int]) -> tuple[str, int] | None:
        answer = None
        for password in (False, True):
            connection = self._connect(sentinel, password=password, database=False)
            try:
                connection.send_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._address.group)
                answer = connection.read_response()
                break
            except (AuthenticationError, ResponseError):
                # It has a password of its own, which is the same one then.
                if password or self._address.password is None:
                    raise
            finally:
                connection.disconnect()
        return None if answer is None else (answer[0].decode(), int(answer[1]))


def wait_readable(descriptors: Sequence[int], timeout: float) -> None:
    """Wait natively until one of some descriptors is readable, whatever the program has patched."""
    open_ones = [descriptor for descriptor in descriptors if descriptor >= 0]
    try:
        poll = original("select", "poll")
    except AttributeError:  # taken away for a green program, which eventlet's does, too
        original("select", "select")(open_ones, [], [], timeout)
        return
    poller = poll()
    for descriptor in open_ones:
        poller.register(descriptor, 1)  # POLLIN everywhere
    poller.poll(timeout * 1000)
