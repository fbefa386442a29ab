"""Errors of the regression harness; each message says what to do next."""

from __future__ import annotations

from hbshim.errors import HbshimError


class HarnessError(HbshimError):
    """Base of the harness' own errors."""


class CommandError(HarnessError):
    """A command that the harness ran failed or took too long; the message has its last lines."""


class EngineUnavailableError(HarnessError):
    """No container engine can be reached, started or installed here."""


class ImageError(HarnessError):
    """An image can neither be found, pulled nor built."""


class StackError(HarnessError):
    """The containers did not come up, or one that was asked for does not exist."""


class NotReadyError(StackError):
    """Something that is starting does not answer yet."""
