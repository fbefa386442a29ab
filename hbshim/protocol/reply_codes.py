"""The broker's reply codes in hbshim's terms: what happened, and what to do.

Codes and their names: AMQP 0-9-1 specification, 1.2 "constants".
"""

from __future__ import annotations

from hbshim.errors import ConnectError, TopologyError

ACCESS_REFUSED, NOT_FOUND, RESOURCE_LOCKED, PRECONDITION_FAILED = 403, 404, 405, 406
NOT_ALLOWED = 530

_REMEDIES = {
    ACCESS_REFUSED: "grant the user this permission, or use another name",
    NOT_FOUND: "declare it first",
    RESOURCE_LOCKED: "it is exclusive to another connection; use another name, or close that one",
    PRECONDITION_FAILED: "declare it as it is there, delete it first, or use another name",
}

#: What RabbitMQ writes about a queue that is on one node alone, while that one is down.
_NODE_IS_DOWN = "down or inaccessible"


def topology_refused(doing: str, code: int, text: str) -> TopologyError:
    """The broker closed a channel over what we asked for.

    Parameters:
        doing: what was asked, such as "declare queue 'q'".
        code, text: of its channel.close.
    """
    remedy = _REMEDIES.get(code, "see the broker's log")
    if code == NOT_FOUND and _NODE_IS_DOWN in text:
        remedy = (
            "start that node; to survive its death the queue must be a quorum queue "
            "(quorum_queues=true), and a classic one must be deleted first"
        )
    return TopologyError(f"the broker refused to {doing}: {text} ({code}); {remedy}", code)


def is_missing(error: TopologyError) -> bool:
    """Return whether there is no such queue; one whose node is down is there, with its messages."""
    return error.code == NOT_FOUND and _NODE_IS_DOWN not in str(error)


def login_refused(name: str, user: str, virtual_host: str, code: int, text: str) -> ConnectError:
    """The broker closed a connection that was being opened.

    Parameters:
        name: of the broker, host and port.
    """
    if code == ACCESS_REFUSED:
        return ConnectError(
            f"{name}: the broker refused the credentials of user {user!r} ({text}); "
            "correct user name and password",
            final=True,
        )
    # The same code tells of limits, which pass.
    if code == NOT_ALLOWED and "limit" not in text:
        return ConnectError(
            f"{name}: no virtual host {virtual_host!r} for user {user!r} ({text}); "
            "create it, correct its name, or grant the user access",
            final=True,
        )
    return ConnectError(f"{name}: the broker closed the connection: {text} ({code})")
