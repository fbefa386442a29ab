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
    parser.add_argument(
        "--host", default="127.0.0.1", help="without --config: the address on which it listens"
    )
    parser.add_argument("--port", default="5672", help="without --config: the port")
    parser.add_argument(
        "--idle-timeout", type=int, default=16, help="without --config: seconds (R1)"
    )
    parser.add_argument("--dialect", choices=("skupper", "dispatch"), default="skupper")
    parser.add_argument(
        "--settle", type=float, default=1.8, help="seconds until other routers know an address"
    )
    parser.add_argument("--trace", action="store_true", help="write frames to standard error")
    parser.add_argument(
        "--report",
        action="store_true",
        help="write a line of JSON for each connection's begin, end",
    )
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
        text = options.config.read_text() if options.config else _alone(options)
        server = Server(
            load(text, dialect),
            dialect,
            settle=options.settle,
            traces=options.trace,
            report=_report if options.report else lambda _: None,
        )
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


def _report(event: dict[str, object]) -> None:
    _say(json.dumps(event))


def _alone(options: argparse.Namespace) -> str:
    """The configuration of a router without --config."""
    listener = {
        "host": options.host,
        "port": options.port,
        "idleTimeoutSeconds": options.idle_timeout,
    }
    return json.dumps([["router", {"id": "router"}], ["listener", listener]])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
