"""The options of the ZeroMQ driver, and what loading it costs."""

from __future__ import annotations

import subprocess
import sys

from hbshim.messaging.schemes import BUILT_IN
from hbshim.messaging.zmq.options import ZmqOptions
from tests.option_table import shown, table


def test_the_documented_table_is_the_code() -> None:
    names = {"heartbeat_interval", "payload_limit", "notification_acks"}
    rows = [
        row
        for row in ZmqOptions.describe()
        if row["option"] in names
        or row["option"].startswith(("zmq_", "rpc_", "fanout_", "directory_", "default_"))
    ]
    for row in rows:
        if row["option"] == "rpc_zmq_ipc_dir":
            row["default"] = "/run/hbshim-zmq, or one of the user's"
    assert shown("zmq.md", "tests/messaging/zmq/test_options.py") == table(rows)


def test_nothing_of_zeromq_is_loaded_before_it_is_used() -> None:
    """Neither by the other drivers, nor by the options of this one."""
    assert "hbzmq" in BUILT_IN
    program = (
        "import os, sys, threading\n"
        "from hbshim import messaging\n"
        "messaging.connect('hbpika://host/').close()\n"
        "from hbshim.messaging.registry import factory\n"
        "factory('hbzmq').options_class.load(environ={})\n"
        "assert 'zmq' not in sys.modules\n"
        "messaging.connect('hbzmq://host/').close()\n"
        "assert 'zmq' in sys.modules\n"
        "assert threading.active_count() == 1\n"
        "print(len(os.listdir('/proc/self/task')) if sys.platform == 'linux' else 1)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("1\n", "")
