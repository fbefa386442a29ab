"""Checks, at attach, that a library has the inner structure its adapter relies on."""

from __future__ import annotations

from collections.abc import Iterable

from packaging.specifiers import SpecifierSet

from hbshim.errors import UnsupportedVersionError


def require_version(library: str, version: str, supported: str) -> None:
    """Compare `version` with a range such as ``>=5.2,<6``.

    Raises:
        UnsupportedVersionError: it lies outside.
    """
    if not SpecifierSet(supported).contains(version, prereleases=True):
        raise UnsupportedVersionError(library, version, "outside the known range", supported)


def require_attributes(
    library: str, version: str, supported: str, thing: object, names: Iterable[str]
) -> None:
    """See that `thing` has every attribute in `names`.

    Raises:
        UnsupportedVersionError: one is missing.
    """
    missing = [name for name in names if not hasattr(thing, name)]
    if missing:
        detail = f"{type(thing).__name__} has no {', '.join(missing)}"
        raise UnsupportedVersionError(library, version, detail, supported)
