"""Turns a missing library into an error that names the extra to install."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from hbshim.errors import MissingExtraError


@contextlib.contextmanager
def needs(libraries: tuple[str, ...], *extras: str) -> Iterator[None]:
    """Translate an ImportError in the `with` block.

    Parameters:
        libraries: top-level modules that the extras install.
        extras: names of extras; any of them is enough.

    Raises:
        MissingExtraError: one of `libraries` is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        # A missing submodule belongs to a library that is installed: another one of that name, or a
        # damaged one, which no extra repairs.
        if error.name not in libraries:
            raise
        raise MissingExtraError(error.name, *extras) from None
