"""eventlet patches `select` after hbshim stripped it: what it took charge of stays its own."""

import eventlet

eventlet.monkey_patch(socket=True)

import select
import selectors

import eventlet.green.select

from hbshim.runtime.polling import restore_polling, strip_polling

assert "select.poll" in strip_polling().removed
eventlet.monkey_patch()
assert restore_polling() == ()
assert not hasattr(select, "poll")
assert select.select is eventlet.green.select.select
assert selectors.DefaultSelector is selectors.SelectSelector  # type: ignore[comparison-overlap]

print("pass")
