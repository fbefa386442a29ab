"""A driver that is used, then forked, and used in both processes: ``forking.py MODEL TOPIC``."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

LIMIT = 20

ON_A_BUSY_MACHINE = {"socket_timeout": LIMIT, "handshake_timeout": LIMIT}


def patch(model: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if model == "eventlet":
            import eventlet

            eventlet.monkey_patch()
        elif model == "gevent":
            from gevent import monkey

            monkey.patch_all()


def use(driver: Any, client: Any, notifier: Any, name: str) -> None:
    """All of its patterns, from several threads at the same time."""
    import threading

    done = []

    def work(number: int) -> None:
        value = f"{name}-{number}"
        assert client.call("echo", value=value) == value
        client.cast("echo", value=value)
        notifier.info("event", value)
        done.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert sorted(done) == list(range(5)), done
    driver.close()
    os.write(1, f"{name}\n".encode())


def main(model: str, topic: str) -> None:
    patch(model)
    from hbshim import messaging

    options: dict[str, Any] = ON_A_BUSY_MACHINE
    driver = messaging.connect(os.environ["URL"], rpc_queue_expiration=30, **options)
    target = messaging.Target(topic)
    client = messaging.Client(driver, target, timeout=LIMIT)
    notifier = messaging.Notifier(driver, topic, "fork", timeout=LIMIT)
    server = messaging.Server(driver, messaging.Target(topic + "-own"), [object()])
    if model == "native":
        # A listener, too, whose threads and locks stay behind; green ones fork with the rest.
        assert server.start(LIMIT)
    assert client.call("echo", value="before") == "before"
    notifier.info("event", "before")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if model == "eventlet":
                import eventlet

                # As oslo.service does: the hub that was forked shares its epoll with the parent.
                eventlet.hubs.use_hub()
            use(driver, client, notifier, "child")
            status = 0
        finally:
            os._exit(status)
    use(driver, client, notifier, "parent")
    server.stop(LIMIT)
    _, status = os.waitpid(child, 0)
    assert status == 0, status


main(*sys.argv[1:])
