"""Translates the broker's reply codes: what happened, and what to do.

Codes and their names: AMQP 0-9-1 specification, 1.2 "constants".
"""

from __future__ import annotations

from hbshim.errors import ConnectError, TopologyError

ACCESS_REFUSED, NOT_FOUND, RESOURCE_LOCKED, PRECONDITION_FAILED = 403, 404, 405, 406
NOT_ALLOWED, INTERNAL_ERROR = 530, 541

_REMEDIES = {
    ACCESS_REFUSED: "grant the user this permission, or use another name",
    NOT_FOUND: "declare it first",
    RESOURCE_LOCKED: "it is exclusive to another connection; use another name, or close that one",
    PRECONDITION_FAILED: "declare it as it is there, delete it first, or use another name",
}

#: RabbitMQ's text for a queue whose only node is down.
_NODE_IS_DOWN = "down or inaccessible"


def topology_refused(doing: str, code: int, text: str) -> TopologyError:
    """Return the error for a channel that the broker closed over a method.

    Parameters:
        doing: what the method does, such as "declare queue 'q'".
        code, text: of channel.close.
    """
    remedy = _REMEDIES.get(code, "see the broker's log")
    if code == NOT_FOUND and _NODE_IS_DOWN in text:
        remedy = (
            "start that node; to survive its death the queue must be a quorum queue "
            "(quorum_queues=true), and a classic one must be deleted first"
        )
    return TopologyError(f"the broker refused to {doing}: {text} ({code}); {remedy}", code)


def is_missing(error: TopologyError) -> bool:
    """Return whether the queue does not exist.

    A queue whose node is down exists, with its messages.
    """
    return error.code == NOT_FOUND and _NODE_IS_DOWN not in str(error)


def login_refused(name: str, user: str, virtual_host: str, code: int, text: str) -> ConnectError:
    """Return the error for a connection that the broker closed during the login.

    Parameters:
        name: host and port of the broker.
        user, virtual_host: of the login.
        code, text: of connection.close.
    """
    if code == ACCESS_REFUSED:
        return ConnectError(
            f"{name}: the broker refused the credentials of user {user!r} ({text}); "
            "correct user name and password",
            final=True,
        )
    # The same code is used for limits, which are temporary.
    if code == NOT_ALLOWED and "limit" not in text:
        return ConnectError(
            f"{name}: no virtual host {virtual_host!r} for user {user!r} ({text}); "
            "create it, correct its name, or grant the user access",
            final=True,
        )
    return ConnectError(f"{name}: the broker closed the connection: {text} ({code})")
