"""The rule that chooses the heartbeat worker, as a table.

One row for each situation; the rows do not overlap and leave no gap, and a test
walks every combination. ``docs/detection.md`` shows the same rows.

A native thread is the answer whenever in doubt: it needs nothing from the hub,
and the engine never drains the client's sockets from it, which is what made
earlier attempts at native heartbeats fail.
"""

from __future__ import annotations

from dataclasses import dataclass

from hbshim.options import WorkerName
from hbshim.runtime.facts import Facts, HubState
from hbshim.runtime.green import GreenLibrary


@dataclass(frozen=True, kw_only=True)
class Row:
    """One situation; a column left None accepts every value.

    Attributes:
        patched_by: the libraries that have patched something.
        hub: states of the hub between requests.
        ticks_late: the running engine measured late green ticks.
        tpool: the native thread pool of the green library has a thread to spare.
    """

    patched_by: frozenset[GreenLibrary]
    hub: frozenset[HubState] | None = None
    ticks_late: bool | None = None
    tpool: bool | None = None
    worker: WorkerName
    reason: str

    def fits(self, patched_by: GreenLibrary, hub: HubState, ticks_late: bool, tpool: bool) -> bool:
        """Whether this row is about the given situation."""
        return (
            patched_by in self.patched_by
            and (self.hub is None or hub in self.hub)
            and (self.ticks_late is None or ticks_late == self.ticks_late)
            and (self.tpool is None or tpool == self.tpool)
        )


_ONE: frozenset[GreenLibrary] = frozenset({"eventlet", "gevent"})
_RUNS: frozenset[HubState] = frozenset({"runs"})

RULE: tuple[Row, ...] = (
    Row(
        patched_by=frozenset({"none"}),
        worker="pthread",
        reason="Nothing is patched, so a native thread beats independently of the program.",
    ),
    Row(
        patched_by=frozenset({"both"}),
        worker="pthread",
        reason="Both eventlet and gevent have patched this process, so neither hub can be "
        "relied on and only a native thread is sure to run.",
    ),
    Row(
        patched_by=_ONE,
        hub=frozenset({"parked"}),
        worker="pthread",
        reason="The host leaves the hub parked between requests, so a green thread would not "
        "run in time; a native one does.",
    ),
    Row(
        patched_by=_ONE,
        hub=frozenset({"blocked"}),
        worker="pthread",
        reason="The sockets are not patched, so every wait for the broker stops the hub; "
        "a native thread runs meanwhile.",
    ),
    Row(
        patched_by=_ONE,
        # "none" cannot meet a patching library; it stands here so that no gap is left.
        hub=frozenset({"unknown", "none"}),
        worker="pthread",
        reason="Nothing promises that the hub runs between requests here, and a native "
        "thread does not need it.",
    ),
    Row(
        patched_by=_ONE,
        hub=_RUNS,
        ticks_late=False,
        worker="greenthread",
        reason="The program is green and its hub runs between requests, so a green thread "
        "beats in time.",
    ),
    Row(
        patched_by=_ONE,
        hub=_RUNS,
        ticks_late=True,
        tpool=True,
        worker="tpool",
        reason="The hub runs but its ticks were measured late, so the library's native thread "
        "pool takes the heartbeat.",
    ),
    Row(
        patched_by=_ONE,
        hub=_RUNS,
        ticks_late=True,
        tpool=False,
        worker="pthread",
        reason="The hub runs but its ticks were measured late, and the library's thread pool "
        "has no thread to spare, so a native thread beats.",
    ),
)


def row_for(facts: Facts, ticks_late: bool) -> Row:
    """The one row of :data:`RULE` about this process."""
    situation = (facts.green.library, facts.hub, ticks_late, facts.tpool_has_room)
    return next(row for row in RULE if row.fits(*situation))
