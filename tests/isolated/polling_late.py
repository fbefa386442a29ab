"""The program imported pika, and took its own references, before eventlet patched."""

import select
import selectors
import socketserver
from select import poll as taken_poll
from selectors import DefaultSelector as TakenSelector

import pika.adapters.select_connection

assert TakenSelector is not selectors.SelectSelector  # type: ignore[comparison-overlap]

import eventlet

eventlet.monkey_patch()

from hbshim.runtime.polling import strip_polling

report = strip_polling()
assert report.acted
assert report.select_is_green
assert not hasattr(select, "poll")

captured = {(found.module, found.name): found.target for found in report.captured}
assert captured["__main__", "taken_poll"] == "select.poll"
assert captured["__main__", "TakenSelector"] == f"selectors.{TakenSelector.__name__}"
assert vars(socketserver)["_ServerSelector"].__name__ == "PollSelector"
assert captured["socketserver", "_ServerSelector"] == "selectors.PollSelector"
# What eventlet and the module itself keep is theirs by right.
assert not [
    module
    for module, _ in captured
    if module.partition(".")[0] in ("select", "selectors", "eventlet")
]
assert taken_poll.__name__ == "poll"

loop = pika.adapters.select_connection.IOLoop()
assert type(loop._poller).__name__ == "SelectPoller"
loop.close()

print("pass")
