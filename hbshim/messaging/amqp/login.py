"""How a client logs in to a broker."""

from __future__ import annotations

from dataclasses import dataclass, field

from hbshim.messaging.hosts import Host

#: RabbitMQ's own, which it accepts from its own machine only.
GUEST = "guest"


@dataclass(frozen=True, slots=True)
class Login:
    """User, password and virtual host.

    Attributes:
        password: not shown by ``repr``.
    """

    username: str
    password: str = field(repr=False)
    virtual_host: str


def login_at(host: Host) -> Login:
    """Return the login that a URL means for one of its hosts.

    Without a user it is RabbitMQ's guest; a user without a password has an empty one. The virtual
    host follows oslo.messaging: ``/name`` is "name"; none, ``/`` and ``//`` are "/".
    """
    if host.username is None:
        username, default = GUEST, GUEST
    else:
        username, default = host.username, ""
    password = default if host.password is None else host.password
    return Login(username, password, host.path or "/")
