"""Answers at a watch socket, from its own native thread.

It is not the heartbeat thread: a client cannot delay heartbeats. Like the heartbeat thread it uses
only operating-system primitives and does not log. It serves one client at a time, each with limits
on time and memory, and otherwise sleeps in ``accept``.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from _socket import socket as NativeSocket  # noqa: N812
from collections.abc import Callable
from typing import Any

from hbshim.errors import WorkerError
from hbshim.observe.protocol import REQUEST, peer_uid
from hbshim.observe.socketfile import SocketFile
from hbshim.runtime.unpatched import allocate_lock, start_native_thread

#: Seconds for one client, from its connection to its last byte.
CLIENT_LIMIT = 2.0

#: Seconds between two clients: frequent requests must not delay the program.
PAUSE = 0.02

#: Seconds after ``accept`` failed, usually because no descriptor is free.
PAUSE_AFTER_ERROR = 1.0

NOT_UNDERSTOOD = b'{"error": "not understood; this socket answers `hbshim watch`"}\n'


class WatchServer:
    """Serves `answer` at `file` until :meth:`stop`.

    Parameters:
        file: the listening socket.
        answer: makes the answer; called in the native thread.
        failed: called with errors of the server, in the native thread.

    Raises:
        WorkerError: no native thread can be started here.
    """

    def __init__(
        self, file: SocketFile, answer: Callable[[], bytes], failed: Callable[[Exception], None]
    ) -> None:
        self.file = file
        self._answer = answer
        self._failed = failed
        self._stopped = False
        self._bell = allocate_lock()
        self._bell.acquire()
        self._start()

    def _start(self) -> None:
        start_native_thread(self._run, self.stop)

    def stop(self) -> None:
        """Remove the file and have the thread end soon. In a forked child: drop both."""
        self.file.remove()
        if self.file.owned:
            self._stopped = True
            with contextlib.suppress(OSError):
                # Wakes up the thread in `accept`; closing would not.
                NativeSocket.shutdown(self.file.native, socket.SHUT_RDWR)
        else:
            self.file.close()

    def _run(self) -> None:
        try:
            while not self._stopped:
                self._bell.acquire(True, self._serve_next())
        finally:
            if self._stopped:
                self.file.close()
            else:
                # An exception was raised from outside, by a debugger or a timeout library.
                with contextlib.suppress(WorkerError):
                    self._start()

    def _serve_next(self) -> float:
        native: Any = self.file.native
        try:
            # What `socket.accept` calls; `socket` itself may be green.
            descriptor, _ = native._accept()
        except OSError:
            return 0.0 if self._stopped else PAUSE_AFTER_ERROR
        client = NativeSocket(fileno=descriptor)
        try:
            self._serve(client)
        except OSError:
            pass  # it disconnected, or took too long
        except Exception as error:
            self._failed(error)
        finally:
            client.close()
        return PAUSE

    def _serve(self, client: NativeSocket) -> None:
        if peer_uid(client) not in (0, os.geteuid()):
            return
        deadline = time.monotonic() + CLIENT_LIMIT
        received = b""
        while len(received) < len(REQUEST) and not received.endswith(b"\n"):
            client.settimeout(max(0.001, deadline - time.monotonic()))
            data = client.recv(len(REQUEST) - len(received))
            if not data:
                return
            received += data
        answer = self._answer() if received == REQUEST else NOT_UNDERSTOOD
        client.settimeout(max(0.001, deadline - time.monotonic()))
        client.sendall(answer)
