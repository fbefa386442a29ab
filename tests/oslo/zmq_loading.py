"""Loads the options of ``hbzmq://`` URLs and prints what came of each.

    python zmq_loading.py FILE URL [URL ...]

A line of JSON for each URL. Run in an interpreter of its own: importing oslo.messaging imports
eventlet.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from typing import Any

warnings.simplefilter("ignore")

import oslo_messaging
from oslo_config import cfg

from hbshim.errors import OptionError
from hbshim.oslo import zmq_settings


class Heard(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def loaded(conf: Any, url: str) -> dict[str, Any]:
    try:
        options, chosen = zmq_settings.load(conf, oslo_messaging.TransportURL.parse(conf, url))
    except OptionError as error:
        return {"error": str(error)}
    address = options.fanout_ds_address
    return {
        "address": address and address.name,
        "password": address and address.password,
        "host": options.rpc_zmq_host,
        "ipc": options.rpc_zmq_ipc_dir,
        "acks": [options.rpc_use_acks, options.rpc_ack_timeout_base, options.rpc_retry_attempts],
        "leases": [options.zmq_target_expire, options.zmq_target_update],
        "chosen": sorted(chosen),
    }


def main() -> None:
    conf = cfg.ConfigOpts()
    conf([], project="hbshim-test", default_config_files=[sys.argv[1]] if sys.argv[1] else [])
    zmq_settings.register(conf)
    heard = Heard()
    logging.getLogger("hbshim").addHandler(heard)
    for url in sys.argv[2:]:
        heard.texts.clear()
        print(json.dumps({**loaded(conf, url), "warnings": heard.texts}))


if __name__ == "__main__":
    main()
