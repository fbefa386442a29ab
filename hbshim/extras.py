"""Turn a missing library into an error that names the extra to install."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from hbshim.errors import MissingExtraError


@contextlib.contextmanager
def needs(libraries: tuple[str, ...], *extras: str) -> Iterator[None]:
    """Translate the error of an import in the `with` block.

    Parameters:
        libraries: top-level modules that the extras bring.
        extras: names of extras; each alone is enough.

    Raises:
        MissingExtraError: one of `libraries` is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        # A submodule that is missing belongs to a library that is there: another one by that
        # name, or a damaged one, which no extra repairs.
        if error.name not in libraries:
            raise
        raise MissingExtraError(error.name, *extras) from None
