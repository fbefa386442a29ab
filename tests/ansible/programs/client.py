"""Sends calls, casts, fanouts and notifications, and ends with an error if one is missing.

python client.py FILE TOPIC --servers HOST,HOST
"""

from __future__ import annotations

import argparse
import json
import threading
import time
import uuid
from collections import Counter
from typing import Any

from connection import connect

from hbshim import messaging

LIMIT = 60.0
ROUNDS = 20


class Audit:
    """What the notifications arrive at."""

    def __init__(self) -> None:
        self.payloads: list[Any] = []
        self._changed = threading.Condition()

    def info(self, notification: messaging.Notification) -> None:
        with self._changed:
            self.payloads.append(notification.payload)
            self._changed.notify_all()

    def wait_for(self, count: int) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: len(self.payloads) >= count, LIMIT)


def wait_until(condition: Any) -> bool:
    deadline = time.monotonic() + LIMIT
    while not (done := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return bool(done)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("path")
    parser.add_argument("topic")
    parser.add_argument("--servers", required=True)
    parser.add_argument("--no-notifications", action="store_true")
    given = parser.parse_args()
    servers = given.servers.split(",")
    driver = connect(given.path)
    topic = messaging.Target(given.topic)
    client = messaging.Client(driver, topic, timeout=LIMIT)
    run = uuid.uuid4().hex

    # each server by its name, then any of them until each has answered
    for name in servers:
        answer = client.prepare(target=topic.to(server=name)).call("echo", value=run)
        assert answer == {"server": name, "value": run}, answer
    answered: Counter[str] = Counter()
    for number in range(ROUNDS):
        answered[client.call("echo", value=number)["server"]] += 1
    assert set(answered) <= set(servers), answered

    def kept() -> Counter[str]:
        found: Counter[str] = Counter()
        for name in servers:
            found.update(client.prepare(target=topic.to(server=name)).call("kept", prefix=run))
        return found

    for number in range(ROUNDS):
        client.cast("keep", key=f"{run}-cast-{number}")
    client.prepare(target=messaging.Target(given.topic, fanout=True)).cast(
        "keep", key=f"{run}-fanout"
    )
    wanted = Counter({f"{run}-cast-{number}": 1 for number in range(ROUNDS)})
    wanted[f"{run}-fanout"] = len(servers)
    assert wait_until(lambda: kept() == wanted), (kept(), wanted)

    notified = 0
    if not given.no_notifications:
        audit = Audit()
        topic_name = f"events-{run}"
        notifier = messaging.Notifier(driver, topic_name, publisher_id="test")
        for number in range(ROUNDS):
            notifier.info("event", {"number": number})
        # Only now: they have been stored.
        listener = messaging.NotificationServer(driver, [topic_name], [audit])
        listener.start()
        assert audit.wait_for(ROUNDS), audit.payloads
        listener.stop(timeout=10)
        notified = len(audit.payloads)
    driver.close()
    print(json.dumps({"answered": answered, "cast": ROUNDS, "notified": notified}))


if __name__ == "__main__":
    main()
