"""Without eventlet's patches, stripping is left undone unless forced, and comes back whole."""

import select
import selectors

from hbshim.runtime.polling import restore_polling, strip_polling, stripped_polling

POLLERS = {name for name in ("epoll", "poll", "kqueue", "devpoll") if hasattr(select, name)}
before = {"select": dict(vars(select)), "selectors": dict(vars(selectors))}
assert POLLERS, "this platform has no native poller to strip"
assert selectors.DefaultSelector is not selectors.SelectSelector  # type: ignore[comparison-overlap]

idle = strip_polling()
assert not idle.acted
assert "eventlet has patched nothing" in idle.reason
assert idle.removed == ()
with stripped_polling() as idle:
    assert not idle.acted
assert vars(select) == before["select"]
assert vars(selectors) == before["selectors"]
assert restore_polling() == ()

forced = strip_polling(force=True)
assert forced.acted
assert "force=True" in forced.reason
assert {f"select.{name}" for name in POLLERS} <= set(forced.removed)
assert forced.replaced == ("selectors.DefaultSelector",)
assert not forced.select_is_green
assert not any(hasattr(select, name) for name in POLLERS)
assert not [name for name in vars(selectors) if name in ("EpollSelector", "PollSelector")]
assert selectors.DefaultSelector is selectors.SelectSelector  # type: ignore[comparison-overlap]

again = strip_polling(force=True)
assert again.acted
assert (again.removed, again.replaced) == ((), ())

assert set(restore_polling()) == {*forced.removed, *forced.replaced}
assert vars(select) == before["select"]
assert vars(selectors) == before["selectors"]
assert restore_polling() == ()

with stripped_polling(force=True) as report:
    assert report.removed == forced.removed
    assert not hasattr(select, "poll")
assert vars(select) == before["select"]
assert vars(selectors) == before["selectors"]

try:
    with stripped_polling(force=True):
        raise LookupError
except LookupError:
    assert vars(select) == before["select"]
else:
    raise AssertionError("the block swallowed an exception")

print("pass")
