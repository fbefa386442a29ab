"""eventlet and gevent have both patched."""

# ruff: noqa: E402, T201

import eventlet

eventlet.monkey_patch()

import warnings

from gevent import monkey

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    monkey.patch_all()

from hbshim.doctor import examine

report = examine()
assert report.finding("patching").verdict == "problem"
assert report.finding("worker").verdict == "warning"
assert report.exit_status == 1

print("pass")
