"""Modules took the native things before eventlet patched; the doctor names them."""

# ruff: noqa: E402, T201

from select import poll
from time import sleep

import eventlet
import kombu.utils.functional

eventlet.monkey_patch()

from hbshim.doctor import examine

report = examine()
late = report.finding("patching")
assert late.verdict == "warning"
assert "__main__.sleep" in late.sentence
assert "first lines" in late.remedy
pollers = report.finding("pollers")
assert pollers.verdict == "warning"
assert "__main__.poll" in pollers.sentence
assert report.exit_status == 1
assert (sleep.__module__, poll.__module__) == ("time", "select")
assert kombu.utils.functional.sleep is sleep

print("pass")
