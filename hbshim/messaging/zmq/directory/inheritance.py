"""What a forked child does with a directory that it inherited, before it uses it."""

from __future__ import annotations

from hbshim.runtime.exclusive import ExclusiveSection
from hbshim.runtime.fork import ProcessLocal, process_mark
from hbshim.runtime.unpatched import allocate_reentrant_lock

#: For all directories of a process: one of its own for each would stay registered at forks.
_adopting: ProcessLocal[ExclusiveSection] = ProcessLocal(
    lambda: ExclusiveSection(allocate_reentrant_lock()), lambda _: None
)


class Inheritable:
    """Belongs to one process; a child makes it its own when it is first used there.

    A lock of the parent's may be held by a thread that the child does not have. So every method
    that takes a lock calls :meth:`adopt` first.
    """

    def __init__(self) -> None:
        self._mark = process_mark()

    def adopt(self) -> None:
        """In a forked child: replace what belongs to the parent. Threads wait for one that does."""
        if not self._mark[0]:
            _adopting.get().run(self._adopt, None)

    def _adopt(self) -> None:
        if not self._mark[0]:
            self.drop_inherited()
            # Last: a thread that sees it uses what is replaced above.
            self._mark = process_mark()

    def drop_inherited(self) -> None:
        """Replace what belongs to the parent. Interrupted, it is called again."""
        raise NotImplementedError
