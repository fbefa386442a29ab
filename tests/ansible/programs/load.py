"""Calls, casts and notifies until it is ended, and writes down what it sent.

python load.py FILE TOPIC JOURNAL
"""

from __future__ import annotations

import itertools
import signal
import sys
import time
from pathlib import Path

from connection import connect

from hbshim import messaging
from hbshim.errors import HbshimError

PAUSE = 0.05
EVENTS = "load"


def main(path: str, topic: str, journal: str) -> None:
    ended: list[int] = []
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, lambda number, _frame: ended.append(number))
    driver = connect(path)
    client = messaging.Client(driver, messaging.Target(topic), timeout=60.0)
    notifier = messaging.Notifier(driver, EVENTS, publisher_id="load")
    run = time.time_ns()
    Path(journal).parent.mkdir(parents=True, exist_ok=True)
    with Path(journal).open("a", buffering=1) as written:
        print("ready", flush=True)
        for number in itertools.count():
            if ended:
                break
            key = f"{run}-{number}"
            for what, send in (
                ("call", lambda key=key: client.call("keep", key=f"call-{key}")),
                ("cast", lambda key=key: client.cast("keep", key=f"cast-{key}")),
                ("notify", lambda key=key: notifier.info("event", {"key": f"notify-{key}"})),
            ):
                try:
                    send()
                except HbshimError as error:
                    written.write(f"failed {what}-{key} {error}\n")
                else:
                    written.write(f"sent {what}-{key}\n")
            time.sleep(PAUSE)
    driver.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
