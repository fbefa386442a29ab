"""The filter ``rabbitmq_definitions``: what services need of RabbitMQ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

_Json = dict[str, Any]


def rabbitmq_definitions(
    services: Iterable[_Json],
    *,
    policies: Iterable[_Json] = (),
    monitoring: Mapping[str, str] | None = None,
) -> dict[str, list[_Json]]:
    """Return the parameters of the module of this name.

    Parameters:
        services: with `userid`, `vhost`, `state`, and `password` unless they log in by
            certificate; `policies` of a service are in its virtual host.
        policies: of all virtual hosts.
        monitoring: `name` and `password` of a user who may read the management API.
    """
    found: dict[str, list[_Json]] = {
        "vhosts": [],
        # It is the one that everybody knows.
        "users": [{"name": "guest", "state": "absent"}],
        "permissions": [],
        "policies": [],
    }
    services = list(services)
    present = [each for each in services if each.get("state", "present") != "absent"]
    used = {(key, each[key]) for each in present for key in ("vhost", "userid")}
    for service in services:
        state, vhost, user = service.get("state", "present"), service["vhost"], service["userid"]
        if state == "absent":
            # What another service uses stays, with its queues.
            if ("vhost", vhost) not in used:
                found["vhosts"].append({"name": vhost, "state": state})
            if ("userid", user) not in used:
                found["users"].append({"name": user, "state": state})
            continue
        found["vhosts"].append({"name": vhost, "state": state})
        found["users"].append({"name": user, "password": service.get("password") or ""})
        found["permissions"].append({"user": user, "vhost": vhost})
        for policy in (*policies, *service.get("policies", ())):
            found["policies"].append(_policy(policy, vhost))
    if monitoring and monitoring["name"]:
        found["users"].append({**monitoring, "tags": ["monitoring"]})
        for vhost in found["vhosts"]:
            if vhost["state"] == "present":
                nothing = {"configure": "^$", "write": "^$", "read": "^$"}
                pair = {"user": monitoring["name"], "vhost": vhost["name"]}
                found["permissions"].append({**pair, **nothing})
    return found


def _policy(policy: _Json, vhost: str) -> _Json:
    """Return a policy in a virtual host; `tags` may be OpenStack-Ansible's `key=value,...`."""
    tags = policy["tags"]
    if isinstance(tags, str):
        pairs = (each.partition("=") for each in tags.split(","))
        tags = {key.strip(): _number(value.strip()) for key, _, value in pairs}
    return {
        "name": policy["name"],
        "vhost": vhost,
        "pattern": policy["pattern"],
        "definition": tags,
        "apply_to": policy.get("apply_to", "all"),
        "priority": int(policy.get("priority", 0)),
    }


def _number(text: str) -> str | int:
    return int(text) if text.isdecimal() else text


class FilterModule:
    """What Ansible looks for in this file."""

    def filters(self) -> dict[str, object]:
        return {"rabbitmq_definitions": rabbitmq_definitions}
