"""What becomes of a message that was sent, and what its sender does then: one table.

docs/amqp1.md shows the table; a test compares them.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import TypeAlias

from hbshim.amqp1.performatives import Accepted, DeliveryState, Modified, Rejected, Released


class Outcome(enum.Enum):
    """What the peer reported of a message."""

    ACCEPTED = "`accepted`"
    RELEASED = "`released`, or `modified` without delivery-failed"
    FAILED = "`modified` with delivery-failed, before `accepted`"
    SERVER_LOST = "`modified` with delivery-failed, after `accepted`; or `rejected` as a copy"
    REJECTED = "`rejected`"
    UNKNOWN = "nothing, before the connection or the link ended"


class Pattern(enum.Enum):
    """What a message is sent for."""

    CALL = "CALL"
    CAST = "CAST"
    FANOUT = "FANOUT"
    NOTIFY = "NOTIFY"
    REPLY = "reply"


class Action(enum.Enum):
    """What the sender does."""

    DONE = "done"
    WAIT = "wait for the reply"
    RESEND = "send again"
    RESEND_MARKED = "send again, marked"
    REFUSE = "`RejectedError`"
    RETRY = "send again, `rejected_message_retry_attempts` times"
    LOSE_SERVER = "`LostServerError` at once"
    LEAVE = "in doubt: not sent again"


#: The condition with which a server rejects a marked copy that another server may have begun.
COPY_REFUSED = "hbshim:may-have-run"

_EVERY_RESEND = {
    Pattern.CALL: Action.RESEND,
    Pattern.CAST: Action.RESEND,
    Pattern.FANOUT: Action.DONE,
    Pattern.NOTIFY: Action.RESEND,
    Pattern.REPLY: Action.RESEND,
}

#: What is sent again unmarked was certainly received by no server. What is marked may have been,
#: and its receiver knows that: :attr:`hbshim.messaging.base.Incoming.may_have_run`.
TABLE: Mapping[Outcome, Mapping[Pattern, Action]] = {
    Outcome.ACCEPTED: {
        Pattern.CALL: Action.WAIT,
        Pattern.CAST: Action.DONE,
        Pattern.FANOUT: Action.DONE,
        Pattern.NOTIFY: Action.DONE,
        Pattern.REPLY: Action.DONE,
    },
    Outcome.RELEASED: _EVERY_RESEND,
    Outcome.FAILED: {
        Pattern.CALL: Action.RESEND_MARKED,
        Pattern.CAST: Action.RESEND_MARKED,
        Pattern.FANOUT: Action.DONE,
        Pattern.NOTIFY: Action.RESEND_MARKED,
        Pattern.REPLY: Action.RESEND,
    },
    Outcome.SERVER_LOST: {
        Pattern.CALL: Action.LOSE_SERVER,
        Pattern.CAST: Action.DONE,
        Pattern.FANOUT: Action.DONE,
        Pattern.NOTIFY: Action.RESEND_MARKED,
        Pattern.REPLY: Action.DONE,
    },
    Outcome.REJECTED: {**dict.fromkeys(Pattern, Action.REFUSE), Pattern.NOTIFY: Action.RETRY},
    Outcome.UNKNOWN: {
        Pattern.CALL: Action.WAIT,
        Pattern.CAST: Action.LEAVE,
        Pattern.FANOUT: Action.LEAVE,
        Pattern.NOTIFY: Action.RESEND_MARKED,
        Pattern.REPLY: Action.RESEND,
    },
}

#: Called with the outcome of a message, and with the reason as text where there is one.
OnOutcome: TypeAlias = Callable[[Outcome, str], None]


def outcome_of(state: DeliveryState | None, *, accepted: bool) -> Outcome:
    """Return what a delivery's state means.

    Parameters:
        state: the latest one of the peer.
        accepted: the peer has reported `accepted` before.
    """
    if isinstance(state, Accepted):
        return Outcome.ACCEPTED
    if isinstance(state, Rejected):
        if state.error is not None and state.error.condition == COPY_REFUSED:
            return Outcome.SERVER_LOST
        return Outcome.REJECTED
    if isinstance(state, Modified) and state.delivery_failed:
        return Outcome.SERVER_LOST if accepted else Outcome.FAILED
    if isinstance(state, Released | Modified):
        return Outcome.RELEASED
    return Outcome.UNKNOWN
