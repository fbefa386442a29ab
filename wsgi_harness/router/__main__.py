"""``python -m wsgi_harness.router``: run the test router.

It writes a line `listening HOST PORT` for each listener, then `ready`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from wsgi_harness.errors import NOT_RUN, HarnessError


def main(arguments: list[str]) -> int:
    """Run the router until the process is ended; return an exit code if it cannot."""
    parser = argparse.ArgumentParser(prog="python -m wsgi_harness.router", description=__doc__)
    parser.add_argument("--config", type=Path, help="a configuration of skrouterd or qdrouterd")
    parser.add_argument("--port", default="5672", help="without --config: where it listens")
    parser.add_argument("--dialect", choices=("skupper", "dispatch"), default="skupper")
    parser.add_argument(
        "--settle", type=float, default=1.8, help="seconds until other routers know an address"
    )
    parser.add_argument("--trace", action="store_true", help="write frames to standard error")
    options = parser.parse_args(arguments)
    try:
        from wsgi_harness.router.configuration import DIALECTS, load
        from wsgi_harness.router.server import Server
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith(("proton", "cproton")):
            raise
        sys.stderr.write(
            "hbshim: the test router needs python-qpid-proton; see docs/test-router.md\n"
        )
        return NOT_RUN
    dialect = DIALECTS[options.dialect]
    try:
        text = options.config.read_text() if options.config else _alone(options.port)
        server = Server(load(text, dialect), dialect, settle=options.settle, traces=options.trace)
        for host, port in server.start():
            _say(f"listening {host} {port}")
    except (HarnessError, OSError) as error:
        sys.stderr.write(f"hbshim: {error}\n")
        return NOT_RUN
    _say("ready")
    server.run()
    return 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _alone(port: str) -> str:
    """The configuration of a router without --config."""
    listener = {"host": "127.0.0.1", "port": port}
    return json.dumps([["router", {"id": "router"}], ["listener", listener]])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
