"""Where a directory is: its URL, taken apart. No message repeats any part of it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import parse_qsl, unquote

from hbshim.errors import OptionError

REDIS_PORT = 6379
SENTINEL_PORT = 26379

#: The name of the group of servers that historic configuration files of oslo.messaging have.
SENTINEL_GROUP = "oslo-messaging-zeromq"

FORMS = (
    "redis://:password@host:6379/0, rediss://host?cafile=/path, "
    "sentinel://:password@host:26379,host2:26379/group, file:///path or memory://"
)

_URL = re.compile(
    r"(?:hbzmq\+)?(?P<scheme>hbzmq|rediss?|sentinel|file|memory):"
    r"(?://(?P<hosts>[^/?#]*))?(?P<path>/[^?#]*)?(?:\?(?P<query>[^#]*))?"
)
_HOST = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[\w.-]+))(?::(?P<port>[0-9]{1,5}))?")
_TLS = ("cafile", "certfile", "keyfile")


@dataclass(frozen=True)
class Address:
    """Where a directory is, and who this process is to it.

    Attributes:
        kind: of the directory; TLS has an attribute of its own.
        hosts: of Redis or of the Sentinels.
        password: of Redis; for a Sentinel that asks for one, too. Not shown by ``repr``.
        database: number of the database in Redis.
        group: name of the servers that Sentinels watch.
        path: of a file, or of a folder.
        tls: files of the CA, the certificate and the key, by redis-py's names; None: no TLS.
    """

    kind: Literal["redis", "sentinel", "file", "memory"]
    hosts: tuple[tuple[str, int], ...] = ()
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    database: int = 0
    group: str = SENTINEL_GROUP
    path: str = ""
    tls: tuple[tuple[str, str], ...] | None = None

    @property
    def weakness(self) -> str:
        """Why anyone who reaches it can change it; "" where a password and TLS prevent that."""
        if self.kind in ("file", "memory"):
            return ""
        missing = [] if self.password is not None else ["password"]
        if self.tls is None:
            missing.append("TLS")
        return f"it has no {' and no '.join(missing)}" if missing else ""

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder, which the proxies of this machine write."""
        return self.kind == "file" and not self.path.endswith(".json")

    @property
    def name(self) -> str:
        """Where it is, for people, without credentials."""
        hosts = ",".join(
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts
        )
        if self.kind == "sentinel":
            return f"sentinel://{hosts}/{self.group}"
        if self.kind == "redis":
            return f"redis{'s' if self.tls is not None else ''}://{hosts}/{self.database}"
        return self.path or self.kind


def read_address(url: str) -> Address:
    """Parse the URL of a directory; ``hbzmq+`` before its scheme is accepted.

    Options in its query that belong to a driver are ignored here.

    Raises:
        OptionError: it cannot be taken apart, or is none of a directory.
    """
    found = _URL.fullmatch(url)
    if found is None or not url.isprintable():
        raise _refusal()
    scheme, hosts, path = found["scheme"], found["hosts"] or "", unquote(found["path"] or "")
    query = dict(parse_qsl(found["query"] or "", keep_blank_values=True))
    if scheme == "memory":
        return Address("memory")
    if scheme == "file":
        if hosts not in ("", "localhost") or not path or "\0" in path:
            raise _refusal()
        return Address("file", path=path)
    is_sentinel = scheme == "sentinel"
    logins, addresses = [], []
    for text in hosts.split(",") if hosts else ["localhost"]:
        login, _, address = text.rpartition("@")
        logins.append(login)
        addresses.append(_host(address, SENTINEL_PORT if is_sentinel else REDIS_PORT))
    # As historic files have it: one password for all hosts, before each of them or before one.
    given = {login for login in logins if login}
    if len(given) > 1 or (len(addresses) > 1 and not is_sentinel):
        raise _refusal()
    username, _, password = next(iter(given), "").partition(":")
    name = path.strip("/")
    return Address(
        "sentinel" if is_sentinel else "redis",
        tuple(addresses),
        unquote(username) or None,
        unquote(password) or None,
        _database(query.get("db", "0") if is_sentinel else name or query.get("db", "0")),
        (name if is_sentinel else "") or SENTINEL_GROUP,
        "",
        _tls(query) if scheme == "rediss" else None,
    )


def _host(text: str, port: int) -> tuple[str, int]:
    found = _HOST.fullmatch(text)
    number = int(found["port"] or port) if found else 0
    if found is None or not 0 < number < 65536:
        raise _refusal()
    return found["six"] or found["name"], number


def _database(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text):
        raise _refusal()
    return int(text)


def _tls(query: dict[str, str]) -> tuple[tuple[str, str], ...]:
    names = {"cafile": "ssl_ca_certs", "certfile": "ssl_certfile", "keyfile": "ssl_keyfile"}
    return tuple((names[key], query[key]) for key in _TLS if query.get(key))


def _refusal() -> OptionError:
    return OptionError(
        "the address of the directory cannot be taken apart (it is not repeated here); write "
        f"{FORMS}; percent-encode what is special in a password: / is %2F, @ is %40, a comma is %2C"
    )
