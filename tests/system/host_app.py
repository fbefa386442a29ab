"""The application that every host serves: a connection of each library, used now and then.

    /open      connect, in the process that answers
    /publish   send one message on each connection
    /report    hbshim's own report

Its configuration is JSON in the environment variable HOST_ORDERS. No request does anything
for a heartbeat. Run as a program, with a socket's path, it is a plain script that
waits for its next request in the kernel.
"""
# ruff: noqa: E402 - hbshim first, as a real program has it.

from __future__ import annotations

import json
import os
import socketserver
import sys
import wsgiref.simple_server
from collections.abc import Callable
from typing import Any

CONFIG: dict[str, Any] = json.loads(os.environ["HOST_ORDERS"])
if CONFIG["shim"]:
    import hbshim

    hbshim.install()

import kombu
import pika

Publish = Callable[[str, bytes], Any]

#: How to publish on this process's connection of each library.
_publishers: dict[str, Publish] = {}


def with_kombu(name: str) -> Publish:
    connection = kombu.Connection(
        CONFIG["url"],
        heartbeat=CONFIG["heartbeat"],
        transport_options={"client_properties": {"connection_name": name}},
    )
    connection.connect()
    producer = kombu.Producer(connection.channel())
    return lambda queue, body: producer.publish(body, routing_key=queue)


def with_pika(name: str) -> Publish:
    parameters = pika.URLParameters(CONFIG["url"])
    parameters.heartbeat = CONFIG["heartbeat"]
    parameters.client_properties = {"connection_name": name}
    channel = pika.BlockingConnection(parameters).channel()
    return lambda queue, body: channel.basic_publish("", queue, body)


def with_celery(name: str) -> Publish:
    """A producer, as a web application has one; its pool connects at its first task."""
    import celery

    app = celery.Celery(name, broker=CONFIG["url"], set_as_current=False)
    app.conf.broker_heartbeat = CONFIG["heartbeat"]
    app.conf.task_queues = [kombu.Queue(name, no_declare=True)]
    if CONFIG["shim"]:
        hbshim.install(app)
    # Without Celery's retries: what is lost shows as lost, what fails as failed.
    return lambda queue, body: app.send_task(
        body.decode(), queue=queue, ignore_result=True, retry=False
    )


OPENERS = {"celery": with_celery, "kombu": with_kombu, "pika": with_pika}


def connect() -> dict[str, Any]:
    """Open a connection of each library; this process uses those from here on."""
    suffix = "-again" if _publishers else ""
    for library, name in CONFIG["names"].items():
        _publishers[library] = OPENERS[library](name + suffix)
    return {}


def publish() -> dict[str, Any]:
    """The result of one message with each library: None, or its error."""
    return {library: _error_of(library, send) for library, send in _publishers.items()}


def _error_of(library: str, send: Publish) -> str | None:
    try:
        send(CONFIG["names"][library], library.encode())
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def report() -> dict[str, Any]:
    """Links and events, in a process that has hbshim."""
    if not CONFIG["shim"]:
        return {}
    events = [(event.kind, event.detail) for event in hbshim.take_events()]
    return {"links": hbshim.status().as_dict()["links"], "events": events}


_ROUTES = {"/open": connect, "/publish": publish, "/report": report, "/": dict}


def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """One request, answered with JSON and the process's id."""
    answer = _ROUTES[environ["PATH_INFO"]]()
    body = json.dumps({"pid": os.getpid(), "answer": answer}).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


class _PlainServer(socketserver.UnixStreamServer, wsgiref.simple_server.WSGIServer):
    def server_bind(self) -> None:
        # WSGIServer's own asks for the name of a TCP address.
        socketserver.UnixStreamServer.server_bind(self)
        self.server_name, self.server_port = "localhost", 80
        self.setup_environ()

    def get_request(self) -> Any:
        return super().get_request()[0], ("unix", 0)


if CONFIG.get("connect") == "at import":
    # Where a server loads its application before it forks, in the master.
    connect()
    publish()

if __name__ == "__main__":
    with _PlainServer(sys.argv[1], wsgiref.simple_server.WSGIRequestHandler) as server:
        server.set_app(application)
        server.serve_forever(poll_interval=None)  # type: ignore[arg-type]
