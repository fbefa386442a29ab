"""monkey_patch(select=False): pika takes epoll and stops the hub, until it is stripped."""

from __future__ import annotations

import eventlet

eventlet.monkey_patch(select=False)

import select

import eventlet.green.select
import pika.adapters.select_connection

from hbshim.runtime.polling import restore_polling, strip_polling, stripped_polling


def poller_of_pika() -> str:
    loop = pika.adapters.select_connection.IOLoop()
    try:
        return type(loop._poller).__name__
    finally:
        loop.close()


def hub_runs_while_pika_waits() -> bool:
    """Whether a green thread gets a turn before pika's own timer, 0.3 s away, ends its wait."""
    turns = []
    loop = pika.adapters.select_connection.IOLoop()
    loop.call_later(0.3, lambda: (turns.append("pika"), loop.stop()))
    ticker = eventlet.spawn_after(0.01, turns.append, "hub")
    try:
        loop.start()
    finally:
        ticker.kill()
        loop.close()
    return turns[0] == "hub"


native_poller = poller_of_pika()
assert native_poller != "SelectPoller"
assert not hub_runs_while_pika_waits()
native = {name: getattr(select, name) for name in ("select", "poll")}

report = strip_polling()
assert report.acted
assert {"select.poll", "selectors.PollSelector"} <= set(report.removed)
assert "select.select" in report.replaced
assert report.select_is_green
assert select.select is eventlet.green.select.select
assert poller_of_pika() == "SelectPoller"
assert hub_runs_while_pika_waits()

assert "select.select" in restore_polling()
assert {name: getattr(select, name) for name in native} == native
assert poller_of_pika() == native_poller

with stripped_polling(green_select=False) as half:
    assert half.acted
    assert not half.select_is_green
    assert select.select is native["select"]
    assert poller_of_pika() == "SelectPoller"
    assert not hub_runs_while_pika_waits()

# First without the green select, then with it: one way back for both.
import selectors

default_selector = selectors.DefaultSelector
strip_polling(green_select=False)
assert "selectors.DefaultSelector" in strip_polling().replaced
restore_polling()
assert selectors.DefaultSelector is default_selector
assert select.select is native["select"]

print("pass")
