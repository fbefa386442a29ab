"""A set that changes while it is read."""

from __future__ import annotations

import weakref
from collections.abc import Iterator

from hbshim.runtime.weak import members


class Member:
    pass


class Changing(weakref.WeakSet[Member]):
    """Another thread adds a member in the middle of its first iteration."""

    def __init__(self, added: Member) -> None:
        super().__init__()
        self._added: Member | None = added

    def __iter__(self) -> Iterator[Member]:
        for each in super().__iter__():
            yield each
            if self._added is not None:
                added, self._added = self._added, None
                self.add(added)


def test_a_member_that_is_added_meanwhile_is_no_error() -> None:
    first, second, added = Member(), Member(), Member()
    weak = Changing(added)
    weak.update((first, second))
    assert set(members(weak)) == {first, second, added}
