"""eventlet patched `select` itself: nothing is left to strip, but references are."""

import eventlet

eventlet.monkey_patch()

import select
import selectors

import pika.adapters.select_connection

from hbshim.runtime.polling import restore_polling, strip_polling

report = strip_polling()
assert report.acted
assert (report.removed, report.replaced) == ((), ())
assert report.select_is_green
assert not hasattr(select, "epoll")

loop = pika.adapters.select_connection.IOLoop()
assert type(loop._poller).__name__ == "SelectPoller"
loop.close()

# What eventlet took away does not come back with us.
assert restore_polling() == ()
assert not hasattr(select, "poll")
assert selectors.DefaultSelector is selectors.SelectSelector  # type: ignore[comparison-overlap]

print("pass")
