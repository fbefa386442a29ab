"""The ASGI application of one cell: one process, one event loop, one connection; runs in uvicorn.

    POST /open       connect and start the latency probes; the body is the PEM of the broker's
                     authority where the connection is to be encrypted. After its answer the handler
                     calls blocking code: the event loop stands still for so long
    POST /publish    publish ?count=N messages
    GET  /report     what was measured in between, and recorded by hbshim
    GET  /-/alive    204

As :mod:`wsgi_harness.cell.app`, with the same environment variable CELL: in a cell with hbshim the
one difference is the call of ``hbshim.install()``.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs

CELL: dict[str, Any] = json.loads(os.environ["CELL"])
if CELL["shim"] is not None:
    import hbshim

    hbshim.install(**CELL["shim"])

import sys
import threading
import time

from wsgi_harness.cell.findings import described, recorded_by_hbshim, versions
from wsgi_harness.cell.loop_clients import loop_client_of
from wsgi_harness.cell.probe import Probe

Answer = dict[str, object]
Message = dict[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]

_PACKAGES = ("aio-pika", "aiormq", "pika", "kombu", "celery", "uvicorn", "uvloop", "tornado")
_client = loop_client_of(CELL, os.environ["AMQP_URL"])
_probes: dict[str, Probe] = {}
_tasks: set[asyncio.Task[None]] = set()


async def _open(_query: str, body: str) -> Answer:
    for name in ("green", "native"):
        _probes[name] = Probe(CELL["probe_interval"])
    _tasks.add(asyncio.ensure_future(_probes["green"].run_in_loop()))
    threading.Thread(target=_probes["native"].run, args=(time.sleep,), daemon=True).start()
    await _client.open(body if CELL["tls"] else None)
    return {"python": sys.version.split()[0], "versions": versions([*_PACKAGES, "django"])}


async def _publish(query: str, _body: str) -> Answer:
    accepted = 0
    for number in range(int(parse_qs(query)["count"][0])):
        try:
            await _client.publish(CELL["queue"], f"{CELL['name']}/{number}")
        except Exception as error:
            return {"accepted": accepted, "error": described(error)}
        accepted += 1
    return {"accepted": accepted}


async def _report(_query: str, _body: str) -> Answer:
    return {
        "probes": {name: probe.report() for name, probe in _probes.items()},
        "keepalive": {"calls": [], "error": None},
        "shim": recorded_by_hbshim(None) if CELL["reports"] else None,
    }


_ROUTES: dict[tuple[str, str], Callable[[str, str], Awaitable[Answer]]] = {
    ("POST", "/open"): _open,
    ("POST", "/publish"): _publish,
    ("GET", "/report"): _report,
}


async def answered(method: str, path: str, query: str, body: str) -> tuple[int, bytes]:
    """Return the status and the body for one request: JSON, 200, or 500 for a failure."""
    if path == "/-/alive":
        return 204, b""
    began = time.time()
    handler = _ROUTES.get((method, path))
    if handler is None:
        return 404, b"POST /open, POST /publish?count=N or GET /report\n"
    try:
        answer = await handler(query, body)
    except Exception as error:
        answer = {"error": described(error)}
    answer |= {"pid": os.getpid(), "began": began, "ended": time.time()}
    return 500 if "error" in answer else 200, json.dumps(answer, default=str).encode()


async def _raw(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    status, content = await answered(
        scope["method"], scope["path"], scope["query_string"].decode(), body.decode()
    )
    length = (b"content-length", str(len(content)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [length]})
    await send({"type": "http.response.body", "body": content})


def _django() -> Any:
    """Return Django's ASGI application, with one async view."""
    from django.conf import settings
    from django.core.asgi import get_asgi_application
    from django.http import HttpResponse
    from django.urls import re_path

    async def view(request: Any) -> Any:
        status, content = await answered(
            request.method, request.path, request.META["QUERY_STRING"], request.body.decode()
        )
        return HttpResponse(content, status=status)

    urls = type("Urls", (), {"urlpatterns": [re_path("", view)]})
    settings.configure(ROOT_URLCONF=urls, ALLOWED_HOSTS=["*"], MIDDLEWARE=[], SECRET_KEY="cell")
    return get_asgi_application()


_application = _django() if CELL["django"] else _raw


async def application(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Answer one request, and block the event loop after that of the first."""
    await _application(scope, receive, send)
    if scope["path"] == "/open":
        # As a synchronous call to a database or another service does.
        time.sleep(CELL["block"])
