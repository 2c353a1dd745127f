"""What LoadGen says about a run, read from the summary that it writes for people."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from edgeres.errors import StageError

Scenario = Literal["single_stream", "multi_stream", "server", "offline"]
SCENARIOS: tuple[Scenario, ...] = get_args(Scenario)


@dataclass(frozen=True)
class LoadGenResult:
    """What LoadGen found.

    Attributes:
        scenario: The scenario.
        valid: LoadGen's own verdict.
        reason: What LoadGen says against the run, empty where it is valid.
        samples_per_s: Samples answered in a second, ``None`` where LoadGen does not say.
        percentiles_ms: Latency by percentile, e.g. ``{"p50": 1.2}``; of a query, so of eight
            samples in ``multi_stream``.
        summary: LoadGen's summary as it wrote it.
        lanes: Runners of the engine that answered side by side.
    """

    scenario: Scenario
    valid: bool
    reason: str
    samples_per_s: float | None
    percentiles_ms: dict[str, float]
    summary: str
    lanes: int = 1

    def to_dict(self) -> dict[str, object]:
        """As plain JSON values."""
        return {
            "scenario": self.scenario,
            "valid": self.valid,
            "reason": self.reason,
            "samples_per_s": self.samples_per_s,
            "latency_ms": dict(self.percentiles_ms),
            "lanes": self.lanes,
        }


def parse_summary(scenario: Scenario, text: str) -> LoadGenResult:
    """Reads what LoadGen writes into ``mlperf_log_summary.txt``.

    Raises:
        StageError: The text holds no verdict.
    """
    fields = dict(re.findall(r"^\s*([^:\n]+?)\s*:\s*(.*?)\s*$", text, flags=re.MULTILINE))
    if "Result is" not in fields:
        raise StageError("LoadGen's summary holds no verdict.", hint="Run again.")
    percentiles = {
        f"p{float(percent):g}".replace(".", ""): int(nanoseconds) / 1e6
        for percent, nanoseconds in re.findall(
            r"([\d.]+) percentile latency \(ns\)\s*:\s*(\d+)", text
        )
    }
    rates = ("Samples per second", "Completed samples per second", "QPS w/o loadgen overhead")
    rate = next((float(fields[name]) for name in rates if name in fields), None)
    valid = fields["Result is"] == "VALID"
    return LoadGenResult(
        scenario=scenario,
        valid=valid,
        reason="" if valid else _against(text),
        samples_per_s=rate,
        percentiles_ms=percentiles,
        summary=text,
    )


def _against(text: str) -> str:
    """What LoadGen says against a run, on one line: what is not satisfied, and its advice."""
    verdict = text.partition("Result is")[2].partition("=====")[0]
    lines = [line.strip() for line in verdict.splitlines()[1:]]
    complaints = [line for line in lines if line and not re.search(r":\s*Yes$|:$", line)]
    text = " ".join(complaints).replace(" * ", "; ").removeprefix("* ")
    return text or "LoadGen gives no reason"
