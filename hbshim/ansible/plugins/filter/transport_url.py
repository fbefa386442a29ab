"""The filter ``transport_url``: the URL of a messaging backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import quote, urlencode


def transport_url(
    hosts: Sequence[str],
    *,
    scheme: str,
    port: int,
    userid: str,
    password: str,
    vhost: str,
    options: Mapping[str, object] | None = None,
) -> str:
    """Return the URL of a backend with several hosts.

    Whatever user, password, virtual host and options contain is percent-encoded: the slash at the
    beginning of OpenStack-Ansible's virtual hosts too, as it belongs to their names.

    Parameters:
        hosts: names or addresses; an IPv6 address without brackets.
        userid: of the login; empty: there is none in the URL.
        options: of the query; an option that is None or empty is left out.

    Raises:
        ValueError: there is no host.
    """
    if not hosts:
        raise ValueError(f"a URL with the scheme {scheme} needs at least one host; got none")
    login = f"{quote(userid, safe='')}:{quote(password, safe='')}@" if userid else ""
    places = ",".join(f"{login}{_bracketed(host)}:{int(port)}" for host in hosts)
    given = {
        key: str(value).lower() if isinstance(value, bool) else value
        for key, value in (options or {}).items()
        if value not in (None, "")
    }
    query = f"?{urlencode(given, quote_via=quote, safe='')}" if given else ""
    return f"{scheme}://{places}/{quote(vhost, safe='')}{query}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


class FilterModule:
    """What Ansible looks for in this file."""

    def filters(self) -> dict[str, object]:
        return {"transport_url": transport_url}
