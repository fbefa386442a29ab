"""Names of exchanges and queues, and routing keys. Different parts never make equal names.

Parts are joined by dots. Characters with a special meaning are percent-encoded within a part;
ordinary names have none of them and stay unchanged.

- ``.`` joins parts.
- ``*`` begins a part that is not a name: it states which type of name follows.
- ``~`` is followed by the hash of a name that is too long for AMQP.
"""

from __future__ import annotations

import functools
import hashlib
import re

from hbshim.errors import OptionError
from hbshim.messaging.url import malformed_url

#: As IANA registered them, for AMQP and for AMQP over TLS.
PORT, TLS_PORT = 5672, 5671

#: Bytes. AMQP 0-9-1: names, routing keys and virtual hosts are short strings, with a length in one
#: byte.
LONGEST = 255

#: Suffix of the name of the exchange for messages to all servers of a topic.
FANOUT = "_fanout"

#: Suffix of the name of a dead-letter queue.
DEAD = ".dead"

_MEANINGFUL = re.compile(r"[%.*~\0]")
_HASH_DIGITS = 32
_HASHED = re.compile(rf"~[0-9a-f]{{{_HASH_DIGITS}}}\Z")


@functools.lru_cache(1024)
def part(text: str, reserved: tuple[str, ...] = ()) -> str:
    """Return `text` as a part of a name.

    Parameters:
        text: the part.
        reserved: parts that have another meaning in this position.
    """
    if text in reserved:
        return _encoded(text[:1]) + text[1:]
    return _MEANINGFUL.sub(lambda found: _encoded(found[0]), text)


def joined(*parts: str) -> str:
    """Return the name that consists of `parts`; with a hash if it is too long.

    Raises:
        OptionError: it cannot be encoded in UTF-8.
    """
    return _short(".".join(parts))


def exchange(name: str) -> str:
    """Return the name of an exchange that a user has named; unchanged if possible.

    It never ends like the name of an exchange for messages to all servers of a topic.

    Raises:
        OptionError: it cannot be encoded in UTF-8.
    """
    if name.endswith(FANOUT[1:]):
        # Also names that this function returns for other names.
        name = name.replace("%", "%25")
        if name.endswith(FANOUT):
            name = name[: -len(FANOUT)] + _encoded(FANOUT[0]) + FANOUT[1:]
    return _hashed(name) if _HASHED.search(name) else _short(name)


def fanout_exchange(name: str) -> str:
    """Return the name of the exchange beside `name` for messages to all servers.

    Raises:
        OptionError: it cannot be encoded in UTF-8.
    """
    return _short(exchange(name) + FANOUT)


def check_virtual_host(name: str) -> None:
    """Check that a connection can name a virtual host.

    Raises:
        OptionError: it is too long; the message does not repeat it, because it is part of a URL.
    """
    if len(name.encode()) > LONGEST:
        raise malformed_url()


def _encoded(character: str) -> str:
    return f"%{ord(character):02X}"


def _short(name: str) -> str:
    return name if len(_bytes(name)) <= LONGEST else _hashed(name)


def _hashed(name: str) -> str:
    data = _bytes(name)
    kept = data[: LONGEST - 1 - _HASH_DIGITS].decode(errors="ignore")
    return f"{kept}~{hashlib.sha256(data).hexdigest()[:_HASH_DIGITS]}"


def _bytes(name: str) -> bytes:
    try:
        return name.encode()
    except UnicodeEncodeError as error:
        raise OptionError(
            f"{name[:80]!r} cannot be the name of an exchange or a queue ({error.reason}); use "
            "another one"
        ) from None
