"""Without a URL the doctor imports no library, and changes nothing that detect() sees."""

# ruff: noqa: T201

import sys

import hbshim
from hbshim.doctor import examine
from hbshim.heartbeat import service

before = hbshim.detect()
report = examine(idle_limit=60)
loaded = {name.partition(".")[0] for name in sys.modules}
assert not loaded & {"amqp", "kombu", "pika", "eventlet", "gevent", "rich", "click"}, loaded
assert "ssl" not in sys.modules
assert hbshim.detect() == before
assert service.existing() is None, "the examination made the heartbeat service"
assert report.exit_status == 0, report
assert report.finding("patching").verdict == "not-applicable"

print("pass")
