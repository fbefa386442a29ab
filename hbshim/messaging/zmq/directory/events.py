"""The events of a directory; they may be recorded in any thread, see :mod:`hbshim.metrics`."""

from __future__ import annotations

from hbshim.heartbeat.service import current
from hbshim.messaging.zmq.directory.records import ForeignVersionError, RecordError

#: Records that were skipped and are remembered, so that each is recorded once.
SKIPPED_KEPT = 500


class Events:
    """Records what happens to one directory, and nothing twice in a row.

    Parameters:
        name: of the directory, without credentials.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._state = ""
        self._skipped: set[tuple[str, str]] = set()

    def reached(self) -> None:
        """Record that it can be reached again."""
        if self._state:
            current().metrics.record("directory-back", self.name, "the directory answers again")
        self._state = ""

    def lost(self, reason: str) -> None:
        """Record that it cannot be reached; once, until it is reached again."""
        if self._enter("lost"):
            detail = f"the directory cannot be reached ({reason}); known routes stay in use"
            current().metrics.record("directory-lost", self.name, detail)

    def refused(self, reason: str) -> None:
        """Record that it cannot be used as it is configured; once, until it is reached again."""
        if self._enter("refused"):
            current().metrics.record("directory-refused", self.name, reason)

    def bad_record(self, about: str, error: RecordError) -> None:
        """Record that a record was skipped; once for each, of some hundred."""
        if (about, str(error)) in self._skipped or len(self._skipped) > SKIPPED_KEPT:
            return
        self._skipped.add((about, str(error)))
        detail = f"{about} is skipped: {error}"
        if isinstance(error, ForeignVersionError):
            current().metrics.record("version-apart", self.name, detail)
        else:
            current().metrics.record("directory-record", self.name, detail)

    def _enter(self, state: str) -> bool:
        entered, self._state = self._state != state, state
        return entered
