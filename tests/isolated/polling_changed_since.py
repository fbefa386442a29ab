"""Other code put a name back meanwhile: it is kept when hbshim restores its own."""

import select

from hbshim.runtime.polling import restore_polling, strip_polling


def their_poll() -> None:
    pass


strip_polling(force=True)
select.poll = their_poll  # type: ignore[misc, assignment]
assert "select.poll" not in restore_polling()
assert select.poll is their_poll  # type: ignore[comparison-overlap]

print("pass")
