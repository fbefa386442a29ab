"""A real router in a container: what the test router must be equal to.

hbshim has no image of one. `HBSHIM_ROUTER_IMAGE` names an image that is there or can be pulled;
without, skupper-router's is pulled, in bounded time.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import tempfile
import time
from pathlib import Path

from wsgi_harness.engine.commands import tail
from wsgi_harness.engine.engine import Engine
from wsgi_harness.engine.pulling import pull
from wsgi_harness.errors import CommandError, ImageError, StackError
from wsgi_harness.router.plan import Plan

IMAGE = "quay.io/skupper/skupper-router:latest"
_DIRECTORY = "/tmp/hbshim"
_ACCOUNTS = "/tmp/hbshim-accounts"
_START_LIMIT = 30.0
#: It makes the accounts, as the user of the image, then becomes the router.
_SCRIPT = f"""\
while read -r account; do
  name="${{account%% *}}"
  printf %s "${{account#* }}" |
    saslpasswd2 -p -c -f {_ACCOUNTS} -u "${{name#*@}}" "${{name%@*}}" || exit
done < {_DIRECTORY}/users
exec "$(command -v skrouterd || command -v qdrouterd)" -c {_DIRECTORY}/router.*
"""


def ensure_router_image(engine: Engine) -> str:
    """Return the name of a real router's image, pulled where it is missing.

    Raises:
        ImageError: it cannot be pulled; the message explains how to name another one.
    """
    image = os.environ.get("HBSHIM_ROUTER_IMAGE") or IMAGE
    if engine.inspect_image(image, "{{.Id}}") is None:
        try:
            pull(engine, image)
        except CommandError as error:
            raise ImageError(
                f"the router image {image} is not here and cannot be pulled "
                f"({str(error).splitlines()[-1]}); name another one in HBSHIM_ROUTER_IMAGE"
            ) from error
    return image


class RouterContainer:
    """A real router on the host's network; its ports are those of its configuration.

    Parameters:
        port: one of its ports, which is waited for.

    Raises:
        StackError: it does not start; the message has what it wrote.
        CommandError: the engine cannot run it.
    """

    def __init__(self, engine: Engine, image: str, plan: Plan, port: int) -> None:
        self._engine = engine
        self._port = port
        self._name = f"hbshim-router-{secrets.token_hex(6)}"
        engine.run(
            *("create", "--name", self._name, "--network=host", "--stop-timeout=1"),
            *("--entrypoint=sh", image, "-c", _SCRIPT),
        )
        try:
            with tempfile.TemporaryDirectory() as name:
                directory = Path(name)
                directory.chmod(0o755)
                plan.write(directory, seen_as=_DIRECTORY, accounts=_ACCOUNTS)
                users = "".join(f"{user} {password}\n" for user, password in plan.users.items())
                (directory / "users").write_text(users)
                engine.run("cp", f"{directory}/.", f"{self._name}:{_DIRECTORY}")
            self._start()
        except BaseException:
            self.stop()
            raise

    def restart(self) -> None:
        with contextlib.suppress(CommandError):
            self.kill()
        self._start()

    def kill(self) -> None:
        self._engine.run("kill", self._name)

    def freeze(self) -> None:
        self._engine.run("pause", self._name)

    def thaw(self) -> None:
        self._engine.run("unpause", self._name)

    def log(self) -> str:
        return self._engine.run("logs", self._name)

    def stop(self) -> None:
        with contextlib.suppress(CommandError):
            self._engine.run("rm", "--force", self._name)

    def _start(self) -> None:
        self._engine.run("start", self._name)
        deadline = time.monotonic() + _START_LIMIT
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self._port), 1).close()
                return
            state = self._engine.run("inspect", "--format", "{{.State.Running}}", self._name)
            if state.strip() != "true" or time.monotonic() > deadline:
                raise StackError(f"the router did not start:\n{tail(self.log())}")
            time.sleep(0.05)
