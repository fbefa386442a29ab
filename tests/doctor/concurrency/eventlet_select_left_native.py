"""Partly patched, with pollers left: a problem, until hbshim is installed."""

# ruff: noqa: E402, T201

from time import sleep

import eventlet

eventlet.monkey_patch(select=False)

import hbshim
from hbshim.doctor import examine

report = examine()
assert report.finding("patching").verdict == "warning"
assert "left select native" in report.finding("patching").sentence
assert "too late: __main__.sleep" in report.finding("patching").sentence
assert sleep.__module__ == "time"
pollers = report.finding("pollers")
assert pollers.verdict == "problem"
assert "epoll" in pollers.sentence
assert "hbshim.install()" in pollers.remedy

hbshim.install()
assert examine().finding("pollers").verdict == "ok"

print("pass")
