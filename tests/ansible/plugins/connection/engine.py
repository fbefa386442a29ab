"""A connection plugin: a container of Docker or Podman, by the command `HBSHIM_ENGINE_CLIENT`.

The plugins for containers are in collections that PyPI has only with all others (600 MB).
"""

from __future__ import annotations

DOCUMENTATION = """
name: engine
short_description: A container
description:
  - Runs commands in a container, as root.
options:
  remote_addr:
    description: Name of the container.
    vars:
      - name: inventory_hostname
      - name: ansible_host
"""

import os
import shlex
import subprocess
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.connection import ConnectionBase


class Connection(ConnectionBase):  # type: ignore[misc]
    """Runs commands in a container."""

    transport = "engine"
    has_pipelining = True

    def _connect(self) -> Connection:
        self._connected = True
        return self

    def _run(self, command: list[str], given: bytes | None = None) -> tuple[int, bytes, bytes]:
        client = shlex.split(os.environ.get("HBSHIM_ENGINE_CLIENT", "docker"))
        container = self.get_option("remote_addr")
        done = subprocess.run(
            [*client, "exec", "--interactive", container, *command],
            input=given or b"",
            capture_output=True,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    def exec_command(
        self, cmd: str, in_data: bytes | None = None, sudoable: bool = True
    ) -> tuple[int, bytes, bytes]:
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        return self._run(["/bin/sh", "-c", cmd], in_data)

    def put_file(self, in_path: str, out_path: str) -> None:
        with open(in_path, "rb") as file:
            self._must_succeed(["/bin/sh", "-c", f"cat > {shlex.quote(out_path)}"], file.read())

    def fetch_file(self, in_path: str, out_path: str) -> None:
        content = self._must_succeed(["cat", in_path])
        with open(out_path, "wb") as file:
            file.write(content)

    def _must_succeed(self, command: list[str], given: bytes | None = None) -> bytes:
        code, out, error = self._run(command, given)
        if code:
            raise AnsibleConnectionFailure(f"a container refused a file: {error.decode()}")
        return out

    def close(self) -> None:
        self._connected = False

    def reset(self) -> Any:
        self.close()
