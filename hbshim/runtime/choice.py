"""Which worker beats: what the user asks for, else the rule's answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hbshim.options import Options, WorkerName
from hbshim.runtime.cautions import cautions_about
from hbshim.runtime.facts import Facts
from hbshim.runtime.rule import row_for

__all__ = ["Choice", "WorkerName", "choose"]


@dataclass(frozen=True)
class Choice:
    """The heartbeat worker for this process.

    Attributes:
        worker: "pthread", "greenthread" or "tpool".
        reason: one sentence.
        warning: what is known to fail with this worker here and the remedy, or None.
    """

    worker: WorkerName
    reason: str
    warning: str | None


def choose(
    report_facts: Facts,
    heartbeat_in_pthread: bool | Literal["auto"] = "auto",
    worker: WorkerName | None = None,
    ticks_late: bool = False,
) -> Choice:
    """Choose the heartbeat worker; what the user asks for wins.

    Parameters:
        report_facts: what was found in this process.
        heartbeat_in_pthread: True for a native thread, False for the program's own
            green threads, "auto" for the rule.
        worker: forces one worker; None leaves the choice to `heartbeat_in_pthread`.
        ticks_late: the engine measured that the hub's ticks come late.

    Raises:
        OptionError: an unknown value, or `worker` contradicts `heartbeat_in_pthread`.
    """
    options = Options(
        heartbeat_in_pthread=heartbeat_in_pthread, worker="auto" if worker is None else worker
    )
    chosen, reason = _decide(report_facts, options, ticks_late)
    warnings = cautions_about(chosen, report_facts, ticks_late)
    if options.heartbeat_in_pthread is False and chosen == "pthread":
        warnings.insert(
            0,
            "heartbeat_in_pthread=false asks for a green thread, but nothing is patched, so "
            "there is none and a native thread beats: leave the option at auto.",
        )
    return Choice(worker=chosen, reason=reason, warning=" ".join(warnings) or None)


def _decide(facts: Facts, options: Options, ticks_late: bool) -> tuple[WorkerName, str]:
    if options.forced_worker is not None:
        return options.forced_worker, f"The option worker={options.forced_worker} says so."
    if options.heartbeat_in_pthread is True:
        return "pthread", "The option heartbeat_in_pthread=true says so."
    if options.heartbeat_in_pthread is False and facts.green.library != "none":
        return "greenthread", "The option heartbeat_in_pthread=false says so."
    row = row_for(facts, ticks_late)
    return row.worker, row.reason
