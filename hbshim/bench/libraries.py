"""The libraries that a benchmark compares."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping

from hbshim.errors import MissingExtraError
from hbshim.runtime.loaded import is_loaded


def require(libraries: Mapping[str, str]) -> None:
    """Check that libraries are installed.

    Parameters:
        libraries: the extra that installs it, by the name of its module.

    Raises:
        MissingExtraError: one is not installed.
    """
    for library, extra in libraries.items():
        # kombu's module in sys.modules has no spec, which find_spec() requires.
        if not is_loaded(library) and importlib.util.find_spec(library) is None:
            raise MissingExtraError(library, extra)
