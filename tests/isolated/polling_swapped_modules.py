"""sys.modules has eventlet's green modules, and pika holds the original `select`."""

import select as original_select
import sys

import eventlet
import pika.adapters.select_connection

eventlet.monkey_patch(socket=True)

import eventlet.green.select
import eventlet.green.selectors

sys.modules["select"] = eventlet.green.select
sys.modules["selectors"] = eventlet.green.selectors

from hbshim.runtime.polling import restore_polling, strip_polling

assert pika.adapters.select_connection.select is original_select
assert hasattr(original_select, "poll")

report = strip_polling()
assert "select.poll" in report.removed
assert report.select_is_green
assert not hasattr(original_select, "poll")
assert original_select.select is eventlet.green.select.select

loop = pika.adapters.select_connection.IOLoop()
assert type(loop._poller).__name__ == "SelectPoller"
loop.close()

assert "select.poll" in restore_polling()
assert hasattr(original_select, "poll")
assert not hasattr(eventlet.green.select, "poll")

print("pass")
