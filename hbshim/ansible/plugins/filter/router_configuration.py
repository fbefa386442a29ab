"""Filters that make the configuration of a router, and the accounts of its users."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Entity = list[Any]


def router_vhosts(
    services: Iterable[Mapping[str, Any]],
    *,
    prefixes: Iterable[Mapping[str, str]],
    realm: str,
    max_links: int,
    max_message_size: int,
) -> list[Entity]:
    """Return a policy for the virtual host of each service.

    Users of a virtual host may use its addresses, and no others.

    Raises:
        ValueError: a name has a character that has a meaning in a policy.
    """
    ways = [each["prefix"] for each in prefixes]
    users: dict[str, list[str]] = {}
    for service in services:
        if service.get("state", "present") == "present":
            users.setdefault(service["vhost"], []).append(service["userid"])
    return [
        _vhost(vhost, names, ways, realm, max_links, max_message_size)
        for vhost, names in users.items()
    ]


def _vhost(
    vhost: str,
    users: list[str],
    ways: list[str],
    realm: str,
    max_links: int,
    max_message_size: int,
) -> Entity:
    if vhost == "/":
        raise ValueError(
            "the virtual host / cannot be one of a router: its addresses cannot be told from "
            "those of other virtual hosts; give the service one of its own"
        )
    for name in (vhost, *users):
        if not name or set(name) & set(", *#${}"):
            raise ValueError(
                f"{name!r} cannot be the name of a user or a virtual host of a router: a comma, a "
                "space and the characters *#${} have a meaning in its policies"
            )
    part = vhost.replace("%", "%25").replace("/", "%2F")
    addresses = ",".join(f"{way}/{part}/*" for way in ways)
    group = {
        # With a password, the realm is a part of the name; with a certificate it is not.
        "users": ",".join(f"{name}@{realm},{name}" for name in users),
        "remoteHosts": "*",
        "sources": addresses,
        "targets": addresses,
        "allowDynamicSource": False,
        # A reply is sent to an address that may be gone; the policy checks each message.
        "allowAnonymousSender": True,
        "maxSenders": max_links,
        "maxReceivers": max_links,
        "maxMessageSize": max_message_size,
    }
    return ["vhost", {"hostname": vhost, "allowUnknownUser": False, "groups": {"services": group}}]


def router_monitoring(vhost: str, user: str, realm: str) -> list[Entity]:
    """Return the policy for a user who may only ask the router for its state."""
    if not user:
        return []
    group = {
        "users": f"{user}@{realm}",
        "remoteHosts": "*",
        "sources": "$management,_topo/*",
        "targets": "$management",
        "allowDynamicSource": True,
        "allowAnonymousSender": False,
    }
    return [["vhost", {"hostname": vhost, "allowUnknownUser": False, "groups": {"all": group}}]]


def router_accounts(
    services: Iterable[Mapping[str, Any]], *, realm: str, monitoring: Mapping[str, str]
) -> list[dict[str, str]]:
    """Return the accounts, with `user`, `realm` and `password`."""
    found = {
        service["userid"]: service["password"]
        for service in services
        if service.get("state", "present") == "present" and service.get("password")
    }
    if monitoring["name"]:
        found[monitoring["name"]] = monitoring["password"]
    return [
        {"user": user, "realm": realm, "password": password} for user, password in found.items()
    ]


class FilterModule:
    """What Ansible looks for in this file."""

    def filters(self) -> dict[str, object]:
        return {
            "router_vhosts": router_vhosts,
            "router_monitoring": router_monitoring,
            "router_accounts": router_accounts,
        }
