"""Patched first, everything else imported afterwards: nothing to complain of."""

# ruff: noqa: E402, T201

from gevent import monkey

monkey.patch_all()

import importlib

import hbshim
from hbshim.doctor import examine

for name in (
    "celery.app.base",
    "kombu.transport.pyamqp",
    "pika.adapters.select_connection",
    "requests",
):
    importlib.import_module(name)

assert examine().finding("installed").verdict == "warning"
hbshim.install()
report = examine()
for check in ("worker", "patching", "pollers", "libraries"):
    assert report.finding(check).verdict == "ok", report.finding(check)
assert report.exit_status == 0, report

print("pass")
