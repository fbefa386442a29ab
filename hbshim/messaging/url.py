"""Splits the URL of a driver. It may name several hosts, which `urllib` does not support.

No message repeats any part of a URL: if a password has an unescaped ``/``, ``,`` or ``@``, a piece
of it may be taken for the host or port.
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
    """The parts of a URL.

    Attributes:
        hosts: everything between ``//`` and the next ``/``.
        path: what follows, unescaped.
        query: the options in their order, unescaped.
    """

    scheme: str
    hosts: str
    path: str
    query: list[tuple[str, str]]


def split(url: str) -> Parts:
    """Split the URL of a driver.

    Raises:
        OptionError: it is malformed; the message does not repeat it.
    """
    found = _URL.fullmatch(url)
    if found is None or not has_driver(found["scheme"]) or not url.isprintable():
        raise malformed_url()
    path, query = found["path"] or "", found["query"] or ""
    if "@" in path + query:
        raise malformed_url()
    return Parts(
        scheme=found["scheme"],
        hosts=found["hosts"],
        path=unescaped(path),
        query=parse_qsl(query, keep_blank_values=True),
    )


def query_of(url: str) -> list[tuple[str, str]]:
    """Return the options in the query of a driver's URL, or in a query alone: ``?a=1&b=2``.

    Raises:
        OptionError: as for :func:`split`.
    """
    return parse_qsl(url[1:], keep_blank_values=True) if url[:1] == "?" else split(url).query


def unescaped(text: str) -> str:
    """Return `text` without percent-encoding.

    Raises:
        OptionError: it is not UTF-8.
    """
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise malformed_url() from None


def malformed_url() -> OptionError:
    """Return the message for a URL that cannot be used."""
    return OptionError(
        f"this URL is malformed (it is not repeated here); write {_FORM}, with one of the "
        f"schemes {', '.join(schemes())}; percent-encode special characters in user, password "
        "and path: / is %2F, @ is %40, a comma is %2C"
    )
