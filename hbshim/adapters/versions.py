"""Checks, before it attaches, that a library has the internal structure that an adapter relies on.

Versions are compared here, not by `packaging`: hbshim depends on no other library. The ranges are
hbshim's own, so two operators are enough; tests/adapters/test_versions.py compares the results
with those of `packaging`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from hbshim.errors import UnsupportedVersionError

_VERSION = re.compile(
    r"v?(\d+(?:\.\d+)*)(?:[-_.]?(a|b|c|rc|alpha|beta|pre|preview|dev)(?![a-z]))?", re.IGNORECASE
)
_CLAUSE = re.compile(r"\s*(>=|<)\s*(\d+(?:\.\d+)*)\s*")


def release_of(version: str) -> tuple[int, ...]:
    """Return the numbers of a version without trailing zeros: (5, 2) for "5.2.0rc1".

    For text that is not a version: (), less than every version.
    """
    return _key(version)[0]


def is_within(version: str, supported: str) -> bool:
    """Return whether a range such as ``>=5.2,<6`` contains `version`.

    As in PEP 440, a pre-release of the lower bound is too old, and one of the upper bound too new.

    Raises:
        ValueError: `supported` has another operator than ``>=`` and ``<``.
    """
    release, final = _key(version)
    for clause in filter(None, supported.split(",")):
        read = _CLAUSE.fullmatch(clause)
        if read is None:
            raise ValueError(f"cannot read {clause!r} in the range {supported!r}; use >= and <")
        bound = release_of(read[2])
        if not ((release, final) >= (bound, True) if read[1] == ">=" else release < bound):
            return False
    return bool(release)


def _key(version: str) -> tuple[tuple[int, ...], bool]:
    """Return the numbers of `version`, and whether it is a final release."""
    read = _VERSION.match(version)
    if read is None:
        return (), False
    numbers = [int(number) for number in read[1].split(".")]
    while len(numbers) > 1 and not numbers[-1]:
        numbers.pop()
    return tuple(numbers), read[2] is None


def require_version(library: str, version: str, supported: str) -> None:
    """Compare `version` with a range such as ``>=5.2,<6``.

    Raises:
        UnsupportedVersionError: it is outside of the range.
    """
    if not is_within(version, supported):
        raise UnsupportedVersionError(library, version, "outside the known range", supported)


def require_attributes(
    library: str, version: str, supported: str, thing: object, names: Iterable[str]
) -> None:
    """Check that `thing` has every attribute in `names`.

    Raises:
        UnsupportedVersionError: one is missing.
    """
    missing = [name for name in names if not hasattr(thing, name)]
    if missing:
        detail = f"{type(thing).__name__} has no {', '.join(missing)}"
        raise UnsupportedVersionError(library, version, detail, supported)
