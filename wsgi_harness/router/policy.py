"""What the users of a virtual host may do (R11)."""

from __future__ import annotations

from collections.abc import Iterable

from wsgi_harness.router.configuration import Group, PolicyEntity, Vhost

RESOURCE_LIMIT = "amqp:resource-limit-exceeded"
UNAUTHORIZED = "amqp:unauthorized-access"


class Permissions:
    """What a user may do on its connection.

    Parameters:
        group: of the user; None: everything.
    """

    def __init__(self, group: Group | None, user: str) -> None:
        self.group = group
        self._user = user

    def may_send(self, address: str) -> bool:
        """Return whether messages may be sent to an address."""
        return self.group is None or self._matches(self.group.targets, address)

    def may_receive(self, address: str) -> bool:
        """Return whether an address may be the source of a link."""
        return self.group is None or self._matches(self.group.sources, address)

    @property
    def anonymous_sender(self) -> bool:
        """Whether links without a target address are allowed."""
        return self.group is None or self.group.allow_anonymous_sender

    @property
    def dynamic_source(self) -> bool:
        """Whether the client may have the router choose an address."""
        return self.group is None or self.group.allow_dynamic_source

    def _matches(self, allowed: str, address: str) -> bool:
        for each in _names(allowed):
            name = each.replace("${user}", self._user)
            if name == address or (name.endswith("*") and address.startswith(name[:-1])):
                return True
        return False


class Policy:
    """The virtual hosts."""

    def __init__(self, settings: PolicyEntity, vhosts: Iterable[Vhost]) -> None:
        self._settings = settings
        self._vhosts = {}
        for vhost in vhosts:
            for name in (vhost.hostname, *_names(vhost.aliases)):
                self._vhosts[name] = vhost

    def permissions(self, hostname: str | None, user: str | None, peer: str) -> Permissions | None:
        """Return what a user may do; None: it may not connect.

        Parameters:
            hostname: in the client's Open: the virtual host.
            user: that has logged in; None: anonymous.
            peer: the client's network address.
        """
        name = user or "anonymous"
        if not self._settings.enable_vhost_policy:
            return Permissions(None, name)
        default = self._vhosts.get(self._settings.default_vhost)
        vhost = self._vhosts.get(hostname or "", default)
        if vhost is None:
            return None
        group = _group(vhost, name)
        if group is None or not {"*", peer} & set(_names(group.remote_hosts)):
            return None
        return Permissions(group, name)


def _group(vhost: Vhost, user: str) -> Group | None:
    for wanted in (user, "*"):
        for group in vhost.groups.values():
            if wanted in _names(group.users):
                return group
    return vhost.groups.get("$default") if vhost.allow_unknown_user else None


def _names(text: str) -> list[str]:
    return [each for each in text.replace(",", " ").split() if each]
