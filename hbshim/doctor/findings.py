"""A check, its finding, and the report of all findings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from hbshim.doctor.context import Context

Verdict: TypeAlias = Literal["ok", "warning", "problem", "unknown", "not-applicable"]

#: Verdicts that make :attr:`Report.exit_status` 1.
BAD: tuple[Verdict, ...] = ("problem", "warning")


@dataclass(frozen=True)
class Answer:
    """The result of one check.

    Attributes:
        verdict: see :class:`Finding`.
        sentence: what was found.
        remedy: what to do about it here; "" for the check's own remedy.
    """

    verdict: Verdict
    sentence: str
    remedy: str = ""


@dataclass(frozen=True)
class Check:
    """One check; ``docs/doctor.md`` is generated from these.

    Attributes:
        name: as the report shows it.
        examines: what it examines.
        meaning: what fails, and why.
        remedy: what to do, if the answer names nothing more precise.
        run: returns the answer for a context.
    """

    name: str
    examines: str
    meaning: str
    remedy: str
    run: Callable[[Context], Answer]


@dataclass(frozen=True)
class Finding:
    """The verdict of one check.

    Attributes:
        check: the check's name.
        verdict: "ok"; "warning", may fail here; "problem", does fail here;
            "unknown", cannot be seen from here; "not-applicable".
        sentence: what was found.
        remedy: what to do; "" if nothing is to be done.
    """

    check: str
    verdict: Verdict
    sentence: str
    remedy: str


def finding_of(check: Check, context: Context) -> Finding:
    """Run `check`; every verdict that needs one gets a remedy."""
    answer = check.run(context)
    remedy = answer.remedy or ("" if answer.verdict in ("ok", "not-applicable") else check.remedy)
    return Finding(check.name, answer.verdict, answer.sentence, remedy)


@dataclass(frozen=True)
class Report:
    """Every finding, in the order of ``docs/doctor.md``.

    Attributes:
        findings: one for each check.
        unreachable: a broker or management API was named and refused access or did not answer.
    """

    findings: tuple[Finding, ...]
    unreachable: bool = False

    def finding(self, check: str) -> Finding:
        """Return the finding of the check named `check`.

        Raises:
            KeyError: there is no such check.
        """
        for finding in self.findings:
            if finding.check == check:
                return finding
        raise KeyError(check)

    @property
    def exit_status(self) -> int:
        """0: nothing wrong; 1: a warning or a problem; 2: the named broker was unreachable."""
        if self.unreachable:
            return 2
        return int(any(finding.verdict in BAD for finding in self.findings))

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain values that ``json.dumps`` accepts."""
        return {
            "exit_status": self.exit_status,
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
        }
