"""A check, its outcome, and the verdict over several checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edgeres.errors import UsageError

Outcome = Literal["pass", "fail", "inconclusive", "not_executed"]


@dataclass(frozen=True)
class Check:
    """One measurement against one limit."""

    name: str
    outcome: Outcome
    reason: str
    value: float | None = None
    limit: float | None = None
    samples_to_decide: int | None = None


@dataclass(frozen=True)
class Verdict:
    """The outcome over all checks; the worst one decides."""

    outcome: Outcome
    reason: str
    checks: tuple[Check, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 for ``pass`` and for ``not_executed``, which is told but breaks no limit; else 1."""
        return 0 if self.outcome in ("pass", "not_executed") else 1

    def to_dict(self) -> dict[str, object]:
        """As plain JSON values."""
        return {
            "verdict": self.outcome,
            "reason": self.reason,
            "checks": [vars(check).copy() for check in self.checks],
        }


def decide(checks: Sequence[Check]) -> Verdict:
    """The verdict over several checks: a failure outweighs doubt, doubt outweighs a pass.

    Raises:
        UsageError: There is no check: nothing was asked, so nothing passed.
    """
    if not checks:
        raise UsageError("expected at least one check, got none.", hint="Ask for a limit.")
    for outcome in ("fail", "inconclusive", "not_executed"):
        hits = [check for check in checks if check.outcome == outcome]
        if hits:
            return Verdict(hits[0].outcome, " ".join(c.reason for c in hits), tuple(checks))
    return Verdict("pass", " ".join(check.reason for check in checks), tuple(checks))


def not_executed(reason: str) -> Verdict:
    """The verdict on an engine that was built but cannot run here."""
    return Verdict("not_executed", reason)
