"""Makes oslo.messaging transports, which connect to nothing, and prints what came of each.

    python loading.py < cases

A line of JSON for each case: `lines` of a configuration file, the `url`, and variables of the
environment. Run in an interpreter of its own: importing oslo.messaging imports eventlet.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import oslo_messaging
from oslo_config import cfg
from oslo_messaging._drivers import amqp, impl_rabbit

from hbshim.messaging.amqp.login import login_at


class Heard(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[Any] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def made(lines: list[str], url: str, environ: dict[str, str]) -> dict[str, Any]:
    os.environ.update(environ)
    heard = Heard()
    logging.getLogger("hbshim").addHandler(heard)
    try:
        with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
            file.write("\n".join(lines))
            file.flush()
            conf = cfg.ConfigOpts()
            conf([], project="hbshim", default_config_files=[file.name])
            return transport(conf, url, heard.texts)
    finally:
        logging.getLogger("hbshim").removeHandler(heard)
        for name in environ:
            del os.environ[name]


def transport(conf: cfg.ConfigOpts, url: str, warnings: list[str]) -> dict[str, Any]:
    try:
        driver = oslo_messaging.get_rpc_transport(conf, url)._driver
    except Exception as error:
        return {"error": type(error).__name__, "text": str(error), "warnings": warnings}
    options = dataclasses.asdict(driver._options)
    target = driver._rpc_target(oslo_messaging.Target(topic="topic", exchange=None))
    logins = [login_at(host) for host in driver._driver._connector._hosts]
    news = driver._notification_exchange(oslo_messaging.Target(topic="topic"))
    return {
        "options": {name: str(value) for name, value in options.items()},
        "quorum": driver._driver.options.quorum_queues,
        "exchanges": [target.exchange, news],
        "logins": [[login.username, login.password] for login in logins],
        "hosts": [host.hostname for host in driver._driver._connector._hosts],
        "prefetch": [
            driver._prefetch(f"{use}_prefetch_count", batch)
            for use in ("rpc", "notification")
            for batch in (1, 300, 100_000)
        ],
        "warnings": warnings,
    }


def stock_options() -> Iterator[tuple[str, str]]:
    """The options of the group of this version of oslo.messaging, with a value that is unusual."""
    for option in (*impl_rabbit.rabbit_opts, *amqp.amqp_opts):
        choices = getattr(option.type, "choices", None)
        if isinstance(option, cfg.BoolOpt):
            # hbshim's option has no default.
            value: object = not option.default
        elif choices:
            value = next(each for each in reversed(list(choices)) if each != option.default)
        elif isinstance(option, cfg.StrOpt):
            value = "gzip"
        else:
            value = option.default + 1
        yield option.name, str(value)


def main() -> None:
    sys.stdout.write(json.dumps(dict(stock_options())) + "\n")
    for line in sys.stdin:
        case = json.loads(line)
        result = made(case.get("lines", ()), case["url"], case.get("environ", {}))
        sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
