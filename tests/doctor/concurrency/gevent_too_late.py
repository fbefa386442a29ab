"""A module took the native lock and socket before gevent patched; the doctor names it."""

# ruff: noqa: E402, T201

from _thread import allocate_lock
from socket import socket

from gevent import monkey

monkey.patch_all()

from hbshim.doctor import examine

late = examine().finding("patching")
assert late.verdict == "warning"
assert "__main__.allocate_lock" in late.sentence
assert "__main__.socket" in late.sentence
assert (socket.__module__, allocate_lock.__module__) == ("socket", "_thread")

print("pass")
