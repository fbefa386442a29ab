"""What a router is started with, test router or real one, and how it is controlled."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

#: In a value of the configuration: where the router's files are.
DIRECTORY = "DIRECTORY"


@dataclass(frozen=True)
class Plan:
    """A router to start.

    Attributes:
        entities: its configuration; `DIRECTORY` in it stands for the directory of its files.
        users: passwords, by `user@realm`.
        files: further files, such as certificates, by their names.
        text: the configuration as it is to be written; None: `entities` as JSON.
        settle: seconds until another router knows a new address; real routers take their own time.
    """

    entities: Sequence[tuple[str, Mapping[str, Any]]]
    users: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    text: str | None = None
    settle: float = 1.8

    @property
    def configuration(self) -> str:
        """The name of the file with the configuration; a real router knows the format by it."""
        return "router.json" if self.text is None else "router.conf"

    def write(self, directory: Path, *, seen_as: str, accounts: str) -> None:
        """Write the router's files.

        Parameters:
            directory: where they are written.
            seen_as: the same directory, as the router sees it.
            accounts: the file with its accounts, as the router sees it.
        """
        text = self.text or json.dumps(self.entities, indent=1)
        (directory / self.configuration).write_text(text.replace(DIRECTORY, seen_as))
        # Cyrus reads the name of its database there; the test router, that of a text file.
        (directory / "skrouterd.conf").write_text(
            "pwcheck_method: auxprop\nauxprop_plugin: sasldb\n"
            f"sasldb_path: {accounts}\n"
            "mech_list: PLAIN ANONYMOUS EXTERNAL SCRAM-SHA-1 SCRAM-SHA-256\n"
        )
        for name, content in self.files.items():
            (directory / name).write_bytes(content)


class RunningRouter(Protocol):
    """A router that has been started."""

    def kill(self) -> None:
        """End it as a power failure would."""

    def restart(self) -> None:
        """Start it again, with the same configuration."""

    def freeze(self) -> None:
        """Stop its process; its sockets stay open."""

    def thaw(self) -> None:
        """Let a frozen router go on."""

    def log(self) -> str:
        """Return what it has written."""

    def stop(self) -> None:
        """End it, and remove what is left of it."""


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])
