"""The URL of a driver, split; it may name several hosts, which `urllib` does not know of.

No message here repeats any part of a URL: with a password that holds ``/``, ``,`` or ``@``
unescaped, a piece of it passes for host or port.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote

from hbshim.errors import OptionError
from hbshim.messaging.schemes import has_driver, schemes

_URL = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<hosts>[^/?#]*)(?:/(?P<path>[^?#]*))?(?:\?(?P<query>[^#]*))?"
)
_FORM = "scheme://user:password@host:port,user:password@host2:port/path?option=value"


class Parts(NamedTuple):
    """What a URL consists of.

    Attributes:
        hosts: everything between ``//`` and the next ``/``.
        path: what follows that, unescaped.
        query: its options in their order, unescaped.
    """

    scheme: str
    hosts: str
    path: str
    query: list[tuple[str, str]]


def split(url: str) -> Parts:
    """Split the URL of a driver.

    Raises:
        OptionError: it is none; the message does not repeat it.
    """
    found = _URL.fullmatch(url)
    if found is None or not has_driver(found["scheme"]) or not url.isprintable():
        raise refusal()
    path, query = found["path"] or "", found["query"] or ""
    if "@" in path + query:
        raise refusal()
    return Parts(
        scheme=found["scheme"],
        hosts=found["hosts"],
        path=unescaped(path),
        query=parse_qsl(query, keep_blank_values=True),
    )


def query_of(url: str) -> list[tuple[str, str]]:
    """The options in the query of a driver's URL, or in a query alone: ``?a=1&b=2``.

    Raises:
        OptionError: as :func:`split`.
    """
    return parse_qsl(url[1:], keep_blank_values=True) if url[:1] == "?" else split(url).query


def unescaped(text: str) -> str:
    """`text` without percent-encoding.

    Raises:
        OptionError: it is not UTF-8.
    """
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise refusal() from None


def refusal() -> OptionError:
    """What is said of a URL that cannot be used."""
    return OptionError(
        f"this URL cannot be taken apart (it is not repeated here); write {_FORM}, with one of the "
        f"schemes {', '.join(schemes())}; percent-encode what is special in user, password and "
        "path: / is %2F, @ is %40, a comma is %2C"
    )
