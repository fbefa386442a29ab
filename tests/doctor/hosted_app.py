"""A WSGI application that has the doctor examine its own process; run by test_hosts.py."""

from __future__ import annotations

import json
import os
from collections.abc import Callable

if os.environ["HOSTED_PATCH"] == "eventlet":
    import eventlet

    eventlet.monkey_patch()
elif os.environ["HOSTED_PATCH"] == "gevent":
    from gevent import monkey

    monkey.patch_all()


def application(_environ: object, start_response: Callable[..., object]) -> list[bytes]:
    from hbshim.doctor import examine

    report = examine(os.environ["HOSTED_URL"] or None, heartbeat=2, timeout=60)
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(report.as_dict()).encode()]
