"""Nothing is patched: hbshim reports that and loads nothing to find out."""

import dataclasses
import json
import sys
import time

HEAVY = {"kombu", "amqp", "pika", "eventlet", "gevent", "greenlet", "celery", "gunicorn", "uwsgi"}

import hbshim
from hbshim.runtime.detect import RuntimeReport

report = hbshim.detect()
assert isinstance(report, RuntimeReport)
assert HEAVY.isdisjoint(name.partition(".")[0] for name in sys.modules)

assert report.green.library == "none"
assert report.green.extent == "none"
assert not report.green.eventlet.loaded
assert not report.green.gevent.loaded
assert report.host.kind == "plain"
assert report.hub == "none"
assert report.interpreter.main
assert report.interpreter.daemon_threads
assert not report.interpreter.own_gil
assert not report.forked_since_import
assert report.choice.worker == "pthread"
assert report.choice.warning is None

asked_for_green = hbshim.detect(heartbeat_in_pthread=False)
assert asked_for_green.choice.worker == "pthread"
assert "nothing is patched" in asked_for_green.choice.warning  # type: ignore[operator]

try:
    report.hub = "runs"  # type: ignore[misc]
except dataclasses.FrozenInstanceError:
    pass
else:
    raise AssertionError("the report can be changed")

plain = json.loads(json.dumps(report.as_dict()))
assert plain["choice"]["worker"] == "pthread"
assert plain["green"]["eventlet"]["loaded"] is False
assert "Neither eventlet nor gevent is loaded." in report.explain()
assert report.explain()[-1].startswith("Heartbeats come from: pthread.")


def seconds_for_one() -> float:
    start = time.thread_time()
    hbshim.detect()
    return time.thread_time() - start


# CPU time, and the best of many: what the machine does meanwhile is not what is measured. An
# import of eventlet would cost a hundred times as much.
assert min(seconds_for_one() for _ in range(200)) < 0.005

print("pass")
