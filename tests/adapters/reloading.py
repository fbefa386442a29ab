"""Reloads modules of the client libraries after install(): ``reloading.py CASE HOST PORT URL``.

Prints the events that were recorded, and whether a new connection is kept alive.
"""

import importlib
import json
import sys

import amqp
import kombu
import pika

import hbshim

#: What is reloaded, in this order, and what connects then.
CASES = {
    "amqp.connection": (["amqp.connection"], "amqp.connection.Connection"),
    "amqp.connection, old class": (["amqp.connection"], "amqp.Connection"),
    "amqp": (["amqp"], "amqp.Connection"),
    "amqp.connection and amqp": (["amqp.connection", "amqp"], "amqp.Connection"),
    "amqp.connection twice": (["amqp.connection"] * 2, "amqp.connection.Connection"),
    "amqp.connection, kombu": (["amqp.connection"], "kombu.Connection"),
    "kombu.connection": (["kombu.connection"], "kombu.connection.Connection"),
    "kombu.transport.pyamqp": (["kombu.transport.pyamqp"], "kombu.Connection"),
    "pika": (["pika"], "pika.BlockingConnection"),
    "pika, all of it": (
        [
            "pika.connection",
            "pika.adapters.base_connection",
            "pika.adapters.select_connection",
            "pika.adapters.blocking_connection",
            "pika.adapters",
            "pika",
        ],
        "pika.BlockingConnection",
    ),
}


def main(case: str, host: str, url: str, user: str, password: str) -> None:
    hbshim.install(heartbeat=3)
    assert amqp.Connection is not None
    assert kombu.Connection is not None
    modules, kind = CASES[case]
    for name in modules:
        importlib.reload(importlib.import_module(name))
    module, _, attribute = kind.rpartition(".")
    connect = getattr(importlib.import_module(module), attribute)
    if kind.startswith("amqp"):
        connection = connect(host, user, password)
        connection.connect()
    elif kind.startswith("kombu"):
        connection = connect(url + "?hbshim_liveness_timeout=77")
        connection.connect()
    else:
        connection = connect(pika.URLParameters(url + "?hbshim_liveness_timeout=77"))
    links = hbshim.status().links
    found = {
        "timeouts": [link.heartbeat_timeout for link in links],
        "events": [[event.kind, event.detail] for event in hbshim.take_events()],
    }
    print(json.dumps(found))  # noqa: T201 - the test reads it
    connection.close()


main(*sys.argv[1:])
