"""The proxies of many hosts in one process, or a client of them all.

``many_hosts.py proxies NUMBER FOLDER`` runs until it is killed. ``many_hosts.py client FILE`` calls
once, by which it connects to each host of the file, and prints as JSON what that costs it.
``listeners NUMBER FOLDER`` and ``publisher FOLDER`` are the same for a fanout; FOLDER is the
directory, and a line of the first process says how many hosts have received each fanout.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path

#: Fanouts of the publisher.
PUBLISHED = 10

#: Seconds for which the client does nothing.
IDLE = 5.0


def address(number: int) -> str:
    """Where the proxy of a host listens."""
    return f"127.77.{number // 250}.{1 + number % 250}"


def proxies(number: int, folder: str) -> None:
    """Run the proxies; they have no servers."""
    from hbshim.messaging.zmq.loop import Loop
    from hbshim.messaging.zmq.proxy.endpoints import ProxySettings
    from hbshim.messaging.zmq.proxy.requests import RequestProxy
    from hbshim.metrics import Metrics

    loop, metrics, made = Loop(), Metrics(), []
    for each in range(number):
        local = Path(folder, str(each))
        local.mkdir(mode=0o700)
        settings = ProxySettings(f"host-{each}", address(each), str(local))
        made.append(RequestProxy(loop, settings, None, metrics))
    print("ready", flush=True)
    loop.run()


def client(file: str) -> None:
    """Call, and do nothing for a while."""
    from hbshim import messaging
    from hbshim.errors import UnroutableError
    from hbshim.messaging.base import Payload

    driver = messaging.connect("hbzmq://", fanout_ds_address=f"file://{file}")
    before, started = _held(), time.monotonic()
    try:
        driver.call(messaging.Target("t"), Payload(b"{}"), 120, mandatory=True)
    except UnroutableError:
        took = time.monotonic() - started
    after = _held()
    used, since = time.process_time(), time.monotonic()
    time.sleep(IDLE)
    share = (time.process_time() - used) / (time.monotonic() - since)
    costs = {"seconds": took, "idle": share}
    costs |= {name: after[name] - before[name] for name in before}
    print(json.dumps(costs))


def listeners(number: int, folder: str) -> None:
    """Subscribe at the address of each host, and count what arrives."""
    import uuid

    import zmq

    from hbshim.messaging.zmq import frames
    from hbshim.messaging.zmq.directory import HostRecord, Registration
    from hbshim.messaging.zmq.directory.local import LocalDirectory
    from hbshim.messaging.zmq.subscriptions import end_marker, fanout_subscription

    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    context.set(zmq.MAX_SOCKETS, 2 * number)
    key = frames.key_of("openstack_rpc", "t")
    directory, poller = LocalDirectory(folder, 600.0), zmq.Poller()
    for each in range(number):
        instance = uuid.uuid4().bytes
        socket = context.socket(zmq.SUB)
        for subscription in (fanout_subscription(key), end_marker(instance)):
            socket.set(zmq.SUBSCRIBE, subscription)
        place = f"tcp://{address(each)}:9502"
        socket.bind(place)
        poller.register(socket, zmq.POLLIN)
        record = HostRecord(f"host-{each}", instance.hex(), {"fanout": place}, frames.VERSION)
        directory.register(record, Registration((key,), instance.hex()), 0.0)
    print("ready", flush=True)
    received = 0
    while True:
        for socket, _ in poller.poll():
            socket.recv()
            received += 1
            if received % number == 0:
                print(received // number, flush=True)


def publisher(folder: str) -> None:
    """Publish to all hosts, for the first time and again."""
    from hbshim import messaging

    driver = messaging.connect("hbzmq://", fanout_ds_address=f"file://{folder}")
    client = messaging.Client(driver, messaging.Target("t", fanout=True), timeout=60)
    before, taken = _held(), []
    for _ in range(PUBLISHED):
        started = time.monotonic()
        client.cast("echo", value=1)
        taken.append(time.monotonic() - started)
        time.sleep(0.1)
    after = _held()
    costs = {"seconds": taken[0], "again": sorted(taken[1:])[PUBLISHED // 2]}
    print(json.dumps(costs | {name: after[name] - before[name] for name in before}))


def _held() -> dict[str, int]:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "bytes": pages * resource.getpagesize(),
        "descriptors": len(os.listdir("/proc/self/fd")),
    }


def main() -> None:
    """Be one of them, with as many descriptors as there may be."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    role, *arguments = sys.argv[1:]
    if role in ("proxies", "listeners"):
        run = proxies if role == "proxies" else listeners
        run(int(arguments[0]), arguments[1])
    else:
        (client if role == "client" else publisher)(arguments[0])


if __name__ == "__main__":
    main()
