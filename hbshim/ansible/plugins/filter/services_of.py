"""The filter ``services_of``: the services of a host."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any


def services_of(
    services: Iterable[dict[str, Any]], groups: Collection[str]
) -> list[dict[str, str]]:
    """Return `name` and `vhost` of each service that is present on a host; no passwords.

    Parameters:
        services: with `name`, `group`, `vhost` and `state`.
        groups: those of the host.
    """
    return [
        {"name": each["name"], "vhost": each["vhost"]}
        for each in services
        if each["group"] in groups and each.get("state", "present") == "present"
    ]


class FilterModule:
    """What Ansible looks for in this file."""

    def filters(self) -> dict[str, object]:
        return {"services_of": services_of}
