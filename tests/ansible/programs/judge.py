"""Counts what became of the messages of load.py; ends with an error if one is lost or ran twice.

python judge.py FILE TOPIC JOURNAL --servers HOST,HOST
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from connection import connect

from hbshim import messaging

LIMIT = 60.0
EVENTS = "load"


class Audit:
    """What the notifications arrive at."""

    def __init__(self) -> None:
        self.keys: set[str] = set()
        self._lock = threading.Lock()

    def info(self, notification: messaging.Notification) -> None:
        with self._lock:
            self.keys.add(notification.payload["key"])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("path")
    parser.add_argument("topic")
    parser.add_argument("journal")
    parser.add_argument("--servers", required=True)
    given = parser.parse_args()
    lines = Path(given.journal).read_text(encoding="utf-8").splitlines()
    failed = [line for line in lines if line.startswith("failed ")]
    sent = [line.split()[1] for line in lines if line.startswith("sent ")]
    requests = {key for key in sent if not key.startswith("notify-")}
    notifications = {key for key in sent if key.startswith("notify-")}

    driver = connect(given.path)
    audit = Audit()
    listener = messaging.NotificationServer(driver, [EVENTS], [audit])
    listener.start()
    topic = messaging.Target(given.topic)
    client = messaging.Client(driver, topic, timeout=LIMIT)

    def run() -> Counter[str]:
        found: Counter[str] = Counter()
        for name in given.servers.split(","):
            found.update(client.prepare(target=topic.to(server=name)).call("kept", prefix=""))
        return Counter({key: count for key, count in found.items() if key in requests})

    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline and not (
        set(run()) == requests and audit.keys >= notifications
    ):
        time.sleep(0.2)
    ran = run()
    listener.stop(timeout=10)
    driver.close()
    lost = requests - set(ran)
    twice = [key for key, count in ran.items() if count > 1]
    unheard = notifications - audit.keys
    print(
        f"{len(requests)} calls and casts, {len(notifications)} notifications: "
        f"{len(lost)} lost, {len(twice)} executed twice, {len(unheard)} notifications lost, "
        f"{len(failed)} failed"
    )
    if lost or twice or unheard or failed or not sent:
        sys.exit("\n".join([*sorted(lost)[:5], *twice[:5], *sorted(unheard)[:5], *failed[:5]]))


if __name__ == "__main__":
    main()
