"""Makes transports of ``hbamqp://``, which connect to nothing, and prints what came of each.

    python amqp1_loading.py < cases

A line of JSON for each case: `lines` of a configuration file, and the `url`. Run in an interpreter
of its own: importing oslo.messaging imports eventlet.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
import tempfile
from typing import Any

import oslo_messaging
from oslo_config import cfg


class Heard(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def made(lines: list[str], url: str) -> dict[str, Any]:
    heard = Heard()
    logging.getLogger("hbshim").addHandler(heard)
    try:
        with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
            file.write("\n".join(lines))
            file.flush()
            conf = cfg.ConfigOpts()
            conf([], project="hbshim", default_config_files=[file.name])
            return {**transport(conf, url), "warnings": heard.texts}
    finally:
        logging.getLogger("hbshim").removeHandler(heard)


def transport(conf: cfg.ConfigOpts, url: str) -> dict[str, Any]:
    try:
        driver = oslo_messaging.get_rpc_transport(conf, url)._driver
    except Exception as error:
        return {"error": type(error).__name__, "text": str(error)}
    options = dataclasses.asdict(driver._options)
    user = oslo_messaging.TransportURL.parse(conf, url)
    return {
        "driver": type(driver).__name__,
        "options": {name: str(value) for name, value in options.items()},
        "users": [host.username for host in driver._hosts(user, 5672)],
        "notify_limit": driver._notify_limit(None),
        "shown": repr(driver._options),
    }


def main() -> None:
    for line in sys.stdin:
        case = json.loads(line)
        result = made(case.get("lines", []), case["url"])
        sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
