"""A host that is sent what no hbshim sends, and who sends it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import zmq

from hbshim import messaging
from hbshim.messaging import Client, NotificationServer, Notifier, Server, Target
from tests.messaging.zmq.nodes import (
    LIMIT,
    Node,
    children,
    figures,
)
from tests.waiting import wait_until

TARGET = Target("compute")

#: Bytes by which a process may grow meanwhile.
GROWTH = 100_000_000

Context = zmq.Context["zmq.Socket[bytes]"]

#: A greeting of ZMTP 3.0 without security, and frames after it that promise more than may be sent.
GREETING = b"\xff" + bytes(8) + b"\x7f\3\0NULL" + bytes(48)
READY = b"\4\x19\5READY\x0bSocket-Type\0\0\0\3PUB"


class Endpoint:
    """Counts what it is called for, and what it is notified of."""

    def __init__(self) -> None:
        self.called: list[object] = []
        self.notified: list[object] = []

    def echo(self, _request: messaging.Request, value: object) -> object:
        self.called.append(value)
        return value

    def info(self, notification: messaging.Notification) -> None:
        self.notified.append(notification.payload)


class Host:
    """A host with a whole proxy, a server and a listener; and a client."""

    def __init__(self, folder: Path) -> None:
        self.node = Node()
        self.log = folder / "log"
        with self.log.open("w") as log:
            self.node.start("--directory", f"file://{folder}/directory", whole=True, log=log)
        self.endpoint = Endpoint()
        driver = self.node.driver()
        self._server = Server(driver, TARGET, [self.endpoint])
        self._listener = NotificationServer(driver, ["events"], [self.endpoint])
        assert self._server.start(LIMIT)
        assert self._listener.start(LIMIT)
        self._client = Client(self.node.driver(), TARGET, timeout=LIMIT)
        self._notifier = Notifier(self._client.driver, ["events"], "test", timeout=LIMIT)
        self.pids = children(self.node.pid)
        self.serves("first")
        self._memory = self.memory()

    def serves(self, word: str) -> None:
        """Check that everything works, and that nothing grew without bound."""
        assert self._client.call("echo", value=word) == word
        self._client.prepare(fanout=True).cast("echo", value=f"{word} fanout")
        self._notifier.info("happened", word)
        wait_until(lambda: f"{word} fanout" in self.endpoint.called, LIMIT)
        wait_until(lambda: word in self.endpoint.notified, LIMIT)

    def memory(self) -> dict[str, int]:
        page = os.sysconf("SC_PAGE_SIZE")
        return {
            name: page * int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            for name, pid in self.pids.items()
        }

    def is_well(self, word: str) -> None:
        """Check that no process died, grew without bound, or failed over what it was sent."""
        self.serves(word)
        assert children(self.node.pid) == self.pids
        grown = {name: size - self._memory[name] for name, size in self.memory().items()}
        assert max(grown.values()) < GROWTH, grown
        assert figures(self.node).get("errors", 0) == 0, self.log.read_text()

    def close(self) -> None:
        self._server.stop(LIMIT)
        self._listener.stop(LIMIT)
        self.node.close()


class Attacker:
    """Sends messages, the last of which are surely counted.

    Parameters:
        kind: of its socket.
    """

    MARKS = 50

    def __init__(self, context: Context, kind: int, address: str) -> None:
        self._socket = context.socket(kind)
        self._socket.set(zmq.SNDTIMEO, int(1000 * LIMIT))
        self._socket.connect(address)

    def send(self, *message: bytes) -> None:
        self._socket.send_multipart(message)

    def receive(self) -> list[bytes]:
        assert self._socket.poll(int(1000 * LIMIT))
        return self._socket.recv_multipart()

    def wait_until_counted(self, host: Host) -> None:
        """Wait until all that was sent was read, and the last of it counted."""
        counted = figures(host.node).get("malformed", 0)
        for _ in range(self.MARKS):
            self.send(b"no header")
        wait_until(lambda: figures(host.node).get("malformed", 0) >= counted + self.MARKS, LIMIT)

    def close(self) -> None:
        self._socket.close(linger=0)


Attack = Callable[..., Attacker]
