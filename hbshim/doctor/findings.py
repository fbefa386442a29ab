"""What a check is, what it found, and the report of all of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from hbshim.doctor.case import Case

Verdict: TypeAlias = Literal["ok", "warning", "problem", "unknown", "not-applicable"]

#: Verdicts that make :attr:`Report.exit_status` 1.
BAD: tuple[Verdict, ...] = ("problem", "warning")


@dataclass(frozen=True)
class Answer:
    """What one check found.

    Attributes:
        sentence: what was found.
        remedy: what to do about it here; "" for the check's own remedy.
    """

    verdict: Verdict
    sentence: str
    remedy: str = ""


@dataclass(frozen=True)
class Check:
    """One thing that is looked at; ``docs/doctor.md`` is made from these.

    Attributes:
        name: as the report shows it.
        looks_at: what is looked at.
        meaning: what goes wrong, and why.
        remedy: what to do, where the finding names nothing more precise.
        look: answers for one case.
    """

    name: str
    looks_at: str
    meaning: str
    remedy: str
    look: Callable[[Case], Answer]


@dataclass(frozen=True)
class Finding:
    """The verdict of one check.

    Attributes:
        check: the check's name.
        verdict: "ok"; "warning", may fail here; "problem", does fail here;
            "unknown", cannot be seen from here; "not-applicable".
        sentence: what was found.
        remedy: what to do; "" where nothing is to be done.
    """

    check: str
    verdict: Verdict
    sentence: str
    remedy: str


def finding_of(check: Check, case: Case) -> Finding:
    """Carry `check` out; the remedy goes with every verdict that asks for one."""
    answer = check.look(case)
    remedy = answer.remedy or ("" if answer.verdict in ("ok", "not-applicable") else check.remedy)
    return Finding(check.name, answer.verdict, answer.sentence, remedy)


@dataclass(frozen=True)
class Report:
    """Every finding, in the order of ``docs/doctor.md``.

    Attributes:
        unreachable: a broker or a management API was asked for and did not let us in.
    """

    findings: tuple[Finding, ...]
    unreachable: bool = False

    def finding(self, check: str) -> Finding:
        """The finding of the check called `check`.

        Raises:
            KeyError: there is no such check.
        """
        for finding in self.findings:
            if finding.check == check:
                return finding
        raise KeyError(check)

    @property
    def exit_status(self) -> int:
        """0 nothing wrong; 1 a warning or a problem; 2 what was asked for was out of reach."""
        if self.unreachable:
            return 2
        return int(any(finding.verdict in BAD for finding in self.findings))

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values that ``json.dumps`` accepts."""
        return {
            "exit_status": self.exit_status,
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
        }
