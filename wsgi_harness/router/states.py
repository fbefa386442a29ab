"""The states of a delivery, which one side reports to the other (AMQP 1.0, 3.4)."""

from __future__ import annotations

from typing import Any, NamedTuple

#: The descriptors, as proton uses them.
RECEIVED, ACCEPTED, REJECTED, RELEASED, MODIFIED = range(0x23, 0x28)

#: What counts where the receivers of a multicast disagree: the highest. A rejected message is an
#: error of the sender, so it comes first.
_RANK = {RELEASED: 0, MODIFIED: 1, ACCEPTED: 2, REJECTED: 3}


class State(NamedTuple):
    """A state; it travels through the router as it is.

    Attributes:
        code: its descriptor.
        failed: of `MODIFIED`: the message may have been processed in part.
        undeliverable: of `MODIFIED`: the same receiver must not get it again.
        annotations: of `MODIFIED`: for the message.
        error: of `REJECTED`: condition and description.
        data: of a state that is none of these.
    """

    code: int
    failed: bool = False
    undeliverable: bool = False
    annotations: Any = None
    error: tuple[str, str | None] | None = None
    data: Any = None

    @property
    def is_outcome(self) -> bool:
        """Whether it is final."""
        return self.code in _RANK


#: The receiver has not had the message: it can be sent again.
NOT_DELIVERED = State(RELEASED)
#: The receiver ended while it had the message.
LOST = State(MODIFIED, failed=True)
TAKEN = State(ACCEPTED)


def rejected(condition: str, description: str) -> State:
    """Return the state of a message that the router does not take."""
    return State(REJECTED, error=(condition, description))


def stronger(first: State | None, second: State) -> State:
    """Return which outcome of two receivers the sender of a multicast gets."""
    if first is None:
        return second
    return second if _RANK[second.code] > _RANK[first.code] else first
