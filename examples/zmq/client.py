"""The client: calls, casts, fans out and notifies, and prints what the hosts got.

python client.py HOST...
"""

import sys
import time
import uuid

from hbshim import messaging

#: Seconds for each call, and for all that is sent to arrive.
LIMIT = 30


def main(hosts: list[str]) -> None:
    driver = messaging.connect("hbzmq://")
    run = uuid.uuid4().hex
    anywhere = messaging.Client(driver, messaging.Target("compute"), timeout=LIMIT)
    on = {host: anywhere.prepare(target=messaging.Target("compute", server=host)) for host in hosts}
    for host, client in on.items():
        # A host that starts at the moment is waited for.
        print(f"call to {host}: answered by {client.call('where')}", flush=True)
    answered = {anywhere.call("where") for _ in range(10)}
    print(f"10 calls to any host: answered by {', '.join(sorted(answered))}", flush=True)
    for client in on.values():
        client.cast("note", run=run, text="a cast")
    every_host = anywhere.prepare(target=messaging.Target("compute", fanout=True))
    every_host.cast("note", run=run, text="a fanout")
    messaging.Notifier(driver, "events", publisher_id="client").info("order.paid", {"run": run})
    expected = {"a cast", "a fanout", "notification order.paid"}
    for host, client in on.items():
        until = time.monotonic() + LIMIT
        while set(notes := client.call("notes", run=run)) != expected and time.monotonic() < until:
            time.sleep(0.1)
        print(f"{host} got: {', '.join(sorted(notes))}", flush=True)
    driver.close()


if __name__ == "__main__":
    main(sys.argv[1:])
