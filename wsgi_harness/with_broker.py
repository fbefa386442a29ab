"""Runs a command beside a RabbitMQ of its own: ``python -m wsgi_harness.with_broker COMMAND ...``.

The broker's URL, with its password, is in ``HBSHIM_BROKER_URL`` of the command's
environment. ``make bench`` uses it. The exit code is the command's, or 3 when
the containers cannot be had.
"""

from __future__ import annotations

import os
import subprocess
import sys

from wsgi_harness.errors import NOT_RUN, HarnessError, needs_test_extra

with needs_test_extra():
    from wsgi_harness.stack.stack import Stack, project_name


def main(argv: list[str]) -> int:
    """Run `argv` and return its exit code."""
    if not argv:
        sys.stderr.write("usage: python -m wsgi_harness.with_broker COMMAND [ARGUMENT ...]\n")
        return 2
    try:
        with Stack(project_name("broker"), heartbeat=60, progress=_say) as stack:
            environment = {**os.environ, "HBSHIM_BROKER_URL": stack.broker.amqp_url()}
            return subprocess.run(argv, env=environment).returncode
    except HarnessError as error:
        _say(str(error))
        return NOT_RUN


def _say(line: str) -> None:
    sys.stderr.write(f"hbshim: {line}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
