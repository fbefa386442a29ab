"""Key pairs of tests, and clients without hbshim."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq
from zmq.utils.monitor import parse_monitor_message

from hbshim import messaging
from tests.messaging.zmq.nodes import LIMIT, Node

#: What connects to each port of a proxy.
KINDS = {9501: zmq.ROUTER, 9502: zmq.XPUB, 9503: zmq.XPUB, 9504: zmq.PUSH}

_EVENTS = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)


@dataclass
class Pair:
    """A key pair, and the file with the secret one."""

    public: bytes
    secret: bytes
    path: Path


class Keys:
    """Key pairs in a folder, the list of clients that may connect, and that of proxies."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.allowed, self.servers = folder / "allowed", folder / "servers"
        self._pairs: dict[str, Pair] = {}

    def pair(self, name: str) -> Pair:
        """The pair of a name."""
        if name not in self._pairs:
            path = self.folder / f"{name}.secret"
            self._pairs[name] = Pair(*zmq.curve_keypair(), path)
            with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
                file.write(self._pairs[name].secret + b"\n")
        return self._pairs[name]

    def allow(self, *names: str) -> None:
        """Have proxies allow these clients, and no others."""
        self._list(self.allowed, *((name, name) for name in names))

    def pin(self, *hosts: tuple[str, str]) -> None:
        """Have clients expect a pair at each host."""
        self._list(self.servers, *hosts)

    def _list(self, path: Path, *lines: tuple[str, str]) -> None:
        text = "".join(f"{name} {self.pair(pair).public.decode()}\n" for name, pair in lines)
        scratch = path.with_suffix(".new")
        scratch.write_text(text)
        scratch.replace(path)

    def start(self, node: Node, *arguments: str, pair: str = "proxy", **how: Any) -> None:
        """Start a proxy with CURVE."""
        secret = str(self.pair(pair).path)
        allowed = str(self.allowed)
        node.start("--secret-key-file", secret, "--allowed-keys", allowed, *arguments, **how)

    def options(self, name: str) -> dict[str, Any]:
        """The options of a client that pins the keys of proxies."""
        return {
            "zmq_curve_secret_key_file": str(self.pair(name).path),
            "zmq_curve_server_keys": str(self.servers),
        }

    def driver(self, node: Node, name: str, *others: Node, **options: Any) -> messaging.Driver:
        """A driver with CURVE."""
        return node.driver(*others, **{**self.options(name), **options})


def handshake(
    node: Node, port: int, server_key: bytes | None = None, own: Pair | None = None
) -> str:
    """How the handshake of a client without hbshim ends at a port."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        client = context.socket(KINDS[port])
        if server_key is not None and own is not None:
            client.set(zmq.CURVE_SERVERKEY, server_key)
            client.set(zmq.CURVE_PUBLICKEY, own.public)
            client.set(zmq.CURVE_SECRETKEY, own.secret)
        monitor = client.get_monitor_socket(_EVENTS)
        client.connect(f"tcp://{node.address}:{port}")
        assert monitor.poll(int(LIMIT * 1000))
        event = zmq.Event(parse_monitor_message(monitor.recv_multipart())["event"])
        client.disable_monitor()
        return event.name.removeprefix("HANDSHAKE_")
    finally:
        context.destroy(linger=0)
