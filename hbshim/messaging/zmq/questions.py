"""Looks up in the directory, for senders, the hosts that may have listeners to a topic."""

from __future__ import annotations

from hbshim.errors import ConnectError
from hbshim.messaging.target import Target, described
from hbshim.messaging.zmq.caller import Caller
from hbshim.messaging.zmq.directory import Routes
from hbshim.messaging.zmq.wording import NOTHING_KNOWN

#: Seconds that a proxy may take to report its listeners; then those of the others are used.
ANSWER_WITHIN = 1.0


def known_routes(caller: Caller, target: Target, key: bytes, deadline: float) -> Routes:
    """Return the hosts that may have listeners.

    Raises:
        ConnectError: the directory cannot be reached, and nothing is known of the topic.
    """
    routes = caller.directory.routes(key, deadline)
    if not routes.routes and not routes.reachable:
        raise ConnectError(f"{described(target)}: {NOTHING_KNOWN}")
    return routes
