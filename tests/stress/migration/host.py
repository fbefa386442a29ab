"""One service on one host: ``python -m tests.stress.migration.host``; it reads its configuration.

A server answers calls, casts and fanouts, and listens for notifications. A client sends all four,
each thread one after the other. Both end well when their standard input does. What happens is a
line in a journal: the harness counts those, and no report of hbshim itself.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

from hbshim import messaging

#: Seconds for one call, cast, fanout or notification. Longer than any step of a migration.
LIMIT = 60.0

#: Seconds that a service may take to stop.
STOP_WITHIN = 30.0

TOPIC, EVENTS = "migrating", "events"


class Journal:
    """Lines in a file, from several threads; each is written at once."""

    def __init__(self, path: str) -> None:
        # Until the process ends.
        self._file: IO[str] = Path(path).open("a", buffering=1, encoding="utf-8")  # noqa: SIM115
        self._lock = threading.Lock()

    def note(self, *words: object) -> None:
        with self._lock:
            self._file.write(" ".join(map(str, words)) + "\n")


class Endpoint:
    """What clients call."""

    def __init__(self, journal: Journal, listener: str) -> None:
        self._journal = journal
        self._listener = listener

    def call(self, _request: Any, number: str) -> str:
        self._journal.note("ran", "call", number)
        return number

    def cast(self, _request: Any, number: str) -> None:
        self._journal.note("ran", "cast", number)

    def fanout(self, _request: Any, number: str) -> None:
        self._journal.note("ran", "fanout", number, self._listener)


class Events:
    """What listens for notifications."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def info(self, notification: messaging.Notification) -> None:
        self._journal.note("ran", "notification", notification.payload)


def serve(config: dict[str, Any], driver: messaging.Driver, journal: Journal) -> None:
    target = messaging.Target(TOPIC, server=config["name"])
    listener = f"{config['name']}.{config['start']}"
    server = messaging.Server(driver, target, [Endpoint(journal, listener)], workers=4)
    events = messaging.NotificationServer(driver, [EVENTS], [Events(journal)], workers=2)
    for each in (server, events):
        if not each.start(LIMIT):
            raise SystemExit(f"{config['name']} has not started")
    journal.note("up", "listener", listener, time.monotonic_ns())
    ready()
    sys.stdin.read()
    for each in (server, events):
        if not each.stop(STOP_WITHIN):
            raise SystemExit(f"{config['name']} has not stopped")


def send(config: dict[str, Any], driver: messaging.Driver, journal: Journal) -> None:
    client = messaging.Client(driver, messaging.Target(TOPIC), timeout=LIMIT)
    everyone = client.prepare(target=messaging.Target(TOPIC, fanout=True))
    notifier = messaging.Notifier(driver, EVENTS, config["name"], timeout=LIMIT)
    over = threading.Event()

    def attempt(kind: str, number: str, work: Any) -> None:
        journal.note("sent", kind, number, time.monotonic_ns())
        try:
            work()
        except Exception as error:
            journal.note("failed", kind, number, type(error).__name__, str(error)[:200])
        else:
            journal.note("done", kind, number)

    def run(thread: int) -> None:
        count = 0
        while not over.is_set():
            count += 1
            number = f"{config['name']}.{config['start']}.{thread}.{count}"
            attempt("call", number, lambda: answered(client, number))  # noqa: B023
            attempt("cast", number, lambda: client.cast("cast", number=number))  # noqa: B023
            attempt("fanout", number, lambda: everyone.cast("fanout", number=number))  # noqa: B023
            attempt("notification", number, lambda: notifier.info("event", number))  # noqa: B023

    threads = [threading.Thread(target=run, args=(number,)) for number in range(config["threads"])]
    for thread in threads:
        thread.start()
    ready()
    sys.stdin.read()
    over.set()
    for thread in threads:
        thread.join()


def answered(client: messaging.Client, number: str) -> None:
    """Call, and check the answer."""
    answer = client.call("call", number=number)
    if answer != number:
        raise ValueError(f"the answer to {number} was {answer!r}")


def ready() -> None:
    sys.stdout.write("ready\n")
    sys.stdout.flush()


def main() -> None:
    config: dict[str, Any] = json.loads(sys.stdin.readline())
    driver = messaging.connect(
        config["rpc"],
        notifications=config["notifications"],
        listen_also=config["listen_also"],
    )
    journal = Journal(config["journal"])
    work = serve if config["kind"] == "server" else send
    try:
        work(config, driver, journal)
    finally:
        driver.close()


if __name__ == "__main__":
    main()
