"""A notification listener of oslo.messaging that requeues: ``zmq_requeue.py URL IPC_DIRECTORY``.

It prints what its endpoint gets, and what became of each notification.
"""

from __future__ import annotations

import sys
from typing import Any

import oslo_messaging
from oslo_config import cfg

url, ipc = sys.argv[1:]


class Endpoint:
    """Handles each notification the third time."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def info(self, ctxt: Any, publisher: str, event: str, payload: str, metadata: Any) -> Any:
        self.seen.append(payload)
        print(payload, flush=True)  # noqa: T201 - the test reads it
        if self.seen.count(payload) < 3:
            return oslo_messaging.NotificationResult.REQUEUE
        return oslo_messaging.NotificationResult.HANDLED


conf = cfg.ConfigOpts()
conf([], default_config_files=[])
query = f"rpc_zmq_ipc_dir={ipc}&notification_acks=true&notification_retry_delay=0.01"
transport = oslo_messaging.get_notification_transport(conf, url=f"{url}?{query}")
listener = oslo_messaging.get_notification_listener(
    transport,
    [oslo_messaging.Target(topic="events")],
    [Endpoint()],
    executor="threading",
    allow_requeue=True,
)
listener.start()
notifier = oslo_messaging.Notifier(
    transport, publisher_id="test", driver="messaging", topics=["events"]
)
for number in range(2):
    notifier.info({}, "happened", f"notification {number}")
    print("sent", flush=True)  # noqa: T201 - the test reads it
listener.stop()
listener.wait()
transport.cleanup()
