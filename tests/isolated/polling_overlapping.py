"""Blocks may nest and overlap, and a call outlives them all."""

import contextlib
import select

from hbshim.runtime.polling import restore_polling, strip_polling, stripped_polling

with stripped_polling(force=True) as outer, stripped_polling(force=True) as inner:
    assert outer.removed
    assert inner.removed == ()
    assert inner.acted
assert hasattr(select, "poll")

# Two greenlets leave their blocks in the order they entered them.
first, second = contextlib.ExitStack(), contextlib.ExitStack()
first.enter_context(stripped_polling(force=True))
second.enter_context(stripped_polling(force=True))
first.close()
assert not hasattr(select, "poll")
second.close()
assert hasattr(select, "poll")

with stripped_polling(force=True):
    strip_polling(force=True)
assert not hasattr(select, "poll")
assert restore_polling()
assert hasattr(select, "poll")

strip_polling(force=True)
with stripped_polling(force=True):
    assert restore_polling() == ()
    assert not hasattr(select, "poll")
assert hasattr(select, "poll")

print("pass")
