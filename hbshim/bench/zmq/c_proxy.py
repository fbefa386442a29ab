"""ZeroMQ's own proxy for each pipeline: ``python -m hbshim.bench.zmq.c_proxy DIRECTORY``.

Prints where it listens, as JSON, and ends at SIGTERM.
"""

from __future__ import annotations

import json
import signal
import sys
import threading

import zmq

from hbshim.bench.zmq.proxies import FANOUT_HWM

#: For each pipeline the types of the sockets, towards clients and towards servers.
SOCKETS = {
    "call": (zmq.ROUTER, zmq.DEALER),
    "cast": (zmq.PULL, zmq.PUSH),
    "fanout": (zmq.XSUB, zmq.XPUB),
    "notify": (zmq.XSUB, zmq.XPUB),
}


def main(directory: str) -> None:
    """Run until a signal ends the process."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    place = {}
    for pipeline, (front_type, back_type) in SOCKETS.items():
        context = zmq.Context()  # with an I/O thread of its own, as a process of hbshim's proxy
        front, back = context.socket(front_type), context.socket(back_type)
        if back_type == zmq.XPUB:
            back.set(zmq.SNDHWM, FANOUT_HWM)
        port = front.bind_to_random_port("tcp://127.0.0.1")
        back.bind(f"ipc://{directory}/{pipeline}")
        place[pipeline] = f"tcp://127.0.0.1:{port}"
        place[f"server-{pipeline}"] = f"ipc://{directory}/{pipeline}"
        threading.Thread(target=zmq.proxy, args=(front, back), daemon=True).start()
    sys.stdout.write(json.dumps(place) + "\n")
    sys.stdout.flush()
    threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
