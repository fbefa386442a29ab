"""Pulls an image from a registry that may never answer: behind a firewall it is merely silent."""

from __future__ import annotations

import os
import re
import subprocess
import threading

from wsgi_harness.engine.commands import end, tail
from wsgi_harness.engine.engine import Engine
from wsgi_harness.errors import CommandError

ANSWER_LIMIT = 5.0
"""Seconds until the registry has described the image; with a network it takes one or two."""
PULL_LIMIT = 120.0
"""Seconds for a whole image of 30 to 130 MB."""

# What Docker and Podman print once the registry has described the image, before its layers.
_ANSWERED = re.compile(r"Pulling from |Getting image source|Copying (blob|config)")

_silent: set[str] = set()
"""Registries that did not answer this process; it waits for none of them twice."""


def pull(
    engine: Engine, image: str, *, answer_limit: float = ANSWER_LIMIT, limit: float = PULL_LIMIT
) -> None:
    """Pull an image.

    Parameters:
        image: its name in full, registry first.
        answer_limit: seconds until the registry must have described the image.
        limit: seconds for the rest.

    Raises:
        CommandError: it cannot be pulled, or took too long.
    """
    registry = image.partition("/")[0]
    if registry in _silent:
        raise CommandError(f"{registry} did not answer before")
    command = [*engine.client, "pull", image]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **engine.environment},
        text=True,
        errors="replace",
        start_new_session=True,
    )
    printed: list[str] = []
    answered = threading.Event()

    def read() -> None:
        for line in process.stdout or ():
            printed.append(line)
            if _ANSWERED.search(line):
                answered.set()
        answered.set()

    reader = threading.Thread(target=read, daemon=True)
    with process:
        reader.start()
        try:
            if not answered.wait(answer_limit):
                _silent.add(registry)
                raise CommandError(f"{registry} did not answer within {answer_limit:g} s")
            process.wait(limit)
        except BaseException as error:
            end(process)
            if isinstance(error, subprocess.TimeoutExpired):
                raise CommandError(f"it took longer than {limit:g} s") from None
            raise
        finally:
            reader.join()
    if process.returncode:
        raise CommandError(f"`{' '.join(command)}` failed:\n{tail(''.join(printed))}")
