"""The proxies of many hosts in one process, or a client of them all.

``many_hosts.py proxies NUMBER FOLDER`` runs until it is killed. ``many_hosts.py client FILE`` calls
once, by which it connects to each host of the file, and prints as JSON what that costs it.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path

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


def _held() -> dict[str, int]:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "bytes": pages * resource.getpagesize(),
        "descriptors": len(os.listdir("/proc/self/fd")),
    }


def main() -> None:
    """Be one of the two, with as many descriptors as there may be."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if sys.argv[1] == "proxies":
        proxies(int(sys.argv[2]), sys.argv[3])
    else:
        client(sys.argv[2])


if __name__ == "__main__":
    main()
