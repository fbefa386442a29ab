"""Errors of the regression harness; each message has a remedy."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from hbshim.errors import HbshimError

#: Exit status of a command that could not do its work.
NOT_RUN = 3


class HarnessError(HbshimError):
    """Base of the harness' own errors."""


class CommandError(HarnessError):
    """A command that the harness ran failed or took too long; the message has its last lines."""


class EngineUnavailableError(HarnessError):
    """No container engine can be reached, started or installed here."""


class ImageError(HarnessError):
    """An image can neither be found, pulled nor built."""


class StackError(HarnessError):
    """The containers did not start, or a requested one does not exist."""


class NotReadyError(StackError):
    """Something that is starting does not answer yet."""


@contextlib.contextmanager
def needs_test_extra() -> Iterator[None]:
    """End the process with one sentence where an import in the `with` block misses a library."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(("hbshim", "wsgi_harness")):
            raise
        sys.stderr.write(
            f"hbshim: {error.name} is not installed; in the checkout: pip install -e '.[test]'\n"
        )
        sys.exit(NOT_RUN)
