"""A service under load: a server, callers and a notifier with its listener, in one process.

    python load.py API SCHEME TOPIC CLIENT_URL SERVER_URL

`API` is "own" or "oslo". The program works until its standard input ends. For each call it
prints a line of JSON: when it began and ended (`time.time()`), and its error. In the end it
waits for notifications that are still to come, and prints what became of them.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

CALLERS = 2
#: Seconds between two calls of a caller, and between two notifications.
PAUSE = 0.1
#: Seconds that a call waits for its reply, and that a notification may take.
CALL_LIMIT = 5.0
NOTIFY_LIMIT = 30.0
#: Seconds to wait for the first call, and for notifications in the end.
READY_LIMIT = 60.0
DRAIN_LIMIT = 30.0

Call = Callable[[int], int]
Notify = Callable[[int], None]


class Received:
    """What the listener got, in order."""

    def __init__(self) -> None:
        self.numbers: list[int] = []


def own_api(
    topic: str, client_url: str, server_url: str, received: Received
) -> tuple[Call, Notify]:
    """hbshim's own API."""
    from hbshim import messaging

    class Endpoint:
        def echo(self, _request: Any, value: int) -> int:
            return value

    class Audit:
        def info(self, notification: Any) -> None:
            received.numbers.append(notification.payload)

    serving, driver = messaging.connect(server_url), messaging.connect(client_url)
    target = messaging.Target(topic, server="one")
    messaging.Server(serving, target, [Endpoint()]).start()
    messaging.NotificationServer(serving, [f"{topic}-notes"], [Audit()]).start()
    client = messaging.Client(driver, messaging.Target(topic), timeout=CALL_LIMIT)
    notifier = messaging.Notifier(driver, f"{topic}-notes", "load", timeout=NOTIFY_LIMIT)
    return (
        lambda value: int(client.call("echo", value=value)),
        lambda number: notifier.info("event", number),
    )


def oslo_api(
    topic: str, client_url: str, server_url: str, received: Received
) -> tuple[Call, Notify]:
    """oslo.messaging, over hbshim's drivers or its own."""
    import oslo_messaging
    from oslo_config import cfg

    class Endpoint:
        def echo(self, _context: Any, value: int) -> int:
            return value

    class Audit:
        def info(
            self, _context: Any, _publisher: str, _event: str, payload: int, _meta: Any
        ) -> None:
            received.numbers.append(payload)

    # Its clients read the global configuration, whichever their transport has.
    conf = cfg.CONF
    conf([])

    def transports(url: str) -> tuple[Any, Any]:
        rpc = oslo_messaging.get_rpc_transport(conf, url)
        notes = oslo_messaging.get_notification_transport(conf, url)
        if url.startswith("rabbit:"):
            for name in ("rabbit_quorum_queue", "amqp_durable_queues"):
                conf.set_override(name, True, "oslo_messaging_rabbit")
            conf.set_override("heartbeat_timeout_threshold", 20, "oslo_messaging_rabbit")
        return rpc, notes

    serving, listening = transports(server_url)
    calling, notifying = transports(client_url)
    oslo_messaging.get_rpc_server(
        serving,
        oslo_messaging.Target(topic=topic, server="one"),
        [Endpoint()],
        executor="threading",
    ).start()
    oslo_messaging.get_notification_listener(
        listening,
        [oslo_messaging.Target(topic=f"{topic}-notes")],
        [Audit()],
        executor="threading",
    ).start()
    target = oslo_messaging.Target(topic=topic)
    client = oslo_messaging.get_rpc_client(calling, target, timeout=CALL_LIMIT)
    notifier = oslo_messaging.Notifier(
        notifying, "load", driver="messaging", topics=[f"{topic}-notes"], retry=-1
    )

    def notify(number: int) -> None:
        # This driver of oslo.messaging's logs what it cannot send and returns.
        log.failed = False
        notifier.info({}, "event", number)
        if log.failed:
            raise RuntimeError("it was not sent")

    class Log(logging.Handler):
        failed = False

        def emit(self, _record: logging.LogRecord) -> None:
            self.failed = True

    log = Log()
    logging.getLogger("oslo_messaging.notify.messaging").addHandler(log)
    return (lambda value: int(client.call({}, "echo", value=value)), notify)


def say(value: object) -> None:
    """Print a line; in one piece, as several threads do."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


class Load:
    """Calls and notifies until it is stopped."""

    def __init__(self, call: Call, notify: Notify, received: Received) -> None:
        self._call = call
        self._notify = notify
        self._received = received
        self._stopped = threading.Event()
        self.confirmed: list[int] = []
        self.failed: list[tuple[float, str]] = []

    def work(self) -> None:
        """Work until standard input ends."""
        works = [self._calls] * CALLERS + [self._notifies]
        threads = [threading.Thread(target=work, daemon=True) for work in works]
        for thread in threads:
            thread.start()
        sys.stdin.read()
        self._stopped.set()
        for thread in threads:
            thread.join()
        deadline = time.monotonic() + DRAIN_LIMIT
        while self.missing() and time.monotonic() < deadline:
            time.sleep(0.1)

    def missing(self) -> set[int]:
        """Return the numbers of the notifications that were confirmed and did not arrive."""
        return set(self.confirmed) - set(self._received.numbers)

    def _calls(self) -> None:
        number = 0
        while not self._stopped.wait(PAUSE):
            number += 1
            began, error = time.time(), ""
            try:
                if self._call(number) != number:
                    error = "the reply to another call"
            except Exception as caught:
                error = f"{type(caught).__name__}: {caught}"[:300]
            say([began, time.time(), error])

    def _notifies(self) -> None:
        number = 0
        while not self._stopped.wait(PAUSE):
            number += 1
            try:
                self._notify(number)
            except Exception as error:
                self.failed.append((time.time(), f"{type(error).__name__}: {error}"[:300]))
            else:
                self.confirmed.append(number)


def await_first(call: Call) -> None:
    """Return when a call is answered."""
    deadline = time.monotonic() + READY_LIMIT
    while True:
        try:
            call(1)
        except Exception:
            if time.monotonic() > deadline:
                raise
        else:
            return


def main() -> None:
    api, _scheme, topic, client_url, server_url = sys.argv[1:]
    received = Received()
    made = {"own": own_api, "oslo": oslo_api}[api](topic, client_url, server_url, received)
    load = Load(*made, received)
    await_first(load._call)
    load.work()
    numbers = received.numbers
    outcome = {
        "confirmed": len(load.confirmed),
        "missing": sorted(load.missing()),
        "twice": len(numbers) - len(set(numbers)),
        "failed": load.failed,
    }
    say(outcome)


if __name__ == "__main__":
    main()
    # Threads of a library may wait for a broker that is gone.
    import os

    os._exit(0)
