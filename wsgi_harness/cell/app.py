"""The WSGI script of one cell: one process, one connection, one way of keeping it alive.

    POST /open       connect, start the latency probes and the keepalive; the body is the PEM of the
                     broker's authority where the connection is to be encrypted
    POST /publish    publish ?count=N messages
    GET  /report     what was measured in between, and recorded by hbshim

Loaded by mod_wsgi, with the environment variable CELL as its orders; see
:func:`wsgi_harness.matrix.scenarios.orders`. No part of it sends heartbeats in a cell with hbshim:
there the one difference is the call of ``hbshim.install()``, two lines below, or, with
oslo.messaging, the scheme of a URL.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from typing import Any

from wsgi_harness.cell.green import GREEN

CELL: dict[str, Any] = json.loads(os.environ["CELL"])
_green = GREEN[CELL["green"]]()
# The order of a real program: patch first, then hbshim, then everything else.
if CELL["patched"]:
    _green.monkey_patch()
if CELL["shim"] is not None:
    import hbshim

    hbshim.install(**CELL["shim"])

import sys
import time
from urllib.parse import parse_qs

from wsgi_harness.cell.clients import client_of
from wsgi_harness.cell.findings import described, recorded_by_hbshim, versions
from wsgi_harness.cell.keepalive import Keepalive
from wsgi_harness.cell.probe import Probe

Answer = dict[str, object]
Query = dict[str, list[str]]

_client = client_of(CELL, os.environ["AMQP_URL"])
_keepalive = Keepalive(_client, CELL["heartbeat"] / 4, _green)
_probes: dict[str, Probe] = {}
_PACKAGES = (
    "kombu",
    "amqp",
    "pika",
    "python-qpid-proton",
    "pyngus",
    "oslo.messaging",
    "mod_wsgi",
)


def _open(_query: Query, body: str) -> Answer:
    _probes["green"], _probes["native"] = (
        Probe(CELL["probe_interval"]),
        Probe(CELL["probe_interval"]),
    )
    # In the request's own thread: this is the hub that an application would use.
    _green.spawn(_probes["green"].run, _green.sleep)
    _green.native_thread(_probes["native"].run, _green.native_sleep())
    _client.open(body if CELL["tls"] else None)
    _keepalive.start(CELL["keepalive"])
    return {"python": sys.version.split()[0], "versions": versions([CELL["green"], *_PACKAGES])}


def _publish(query: Query, _body: str) -> Answer:
    accepted = 0
    for number in range(int(query["count"][0])):
        try:
            _client.publish(CELL["queue"], f"{CELL['name']}/{number}")
        except Exception as error:
            return {"accepted": accepted, "error": described(error)}
        accepted += 1
    return {"accepted": accepted}


def _report(_query: Query, _body: str) -> Answer:
    return {
        "probes": {name: probe.report() for name, probe in _probes.items()},
        "keepalive": _keepalive.report(),
        "shim": recorded_by_hbshim((CELL["shim"] or {}).get("worker")) if CELL["reports"] else None,
    }


_ROUTES: dict[tuple[str, str], Callable[[Query, str], Answer]] = {
    ("POST", "/open"): _open,
    ("POST", "/publish"): _publish,
    ("GET", "/report"): _report,
}


def application(
    environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], object]
) -> Iterable[bytes]:
    """Answer one request with JSON: 200, or 500 when the application failed."""
    began = time.time()
    handler = _ROUTES.get((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
    if handler is None:
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"POST /open, POST /publish?count=N or GET /report\n"]
    try:
        length = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(length).decode() if length else ""
        answer = handler(parse_qs(environ["QUERY_STRING"]), body)
    except Exception as error:
        answer = {"error": described(error)}
    answer |= {"pid": os.getpid(), "began": began, "ended": time.time()}
    status = "500 Internal Server Error" if "error" in answer else "200 OK"
    start_response(status, [("Content-Type", "application/json")])
    return [json.dumps(answer, default=str).encode()]
