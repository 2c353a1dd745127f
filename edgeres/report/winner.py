"""Which engine to deploy on the device that a run measured, in one sentence.

The fastest engine that passed all its checks, if it is faster than every float network: an INT8
engine that gains less than two percent costs accuracy for nothing. All engines of a run took turns
on one machine, so their times can be compared across backends.
"""

from __future__ import annotations

from edgeres.report import cells
from edgeres.report.schema import Report, TargetPart, Winner

LEAST_SPEEDUP = 1.02
"""What an engine must gain over the fastest float network to be deployed in its place."""
MOSTLY_FLOAT = 0.5
"""INT8 share of the MACs below which an INT8 engine is mostly a float one."""


def choose_winner(report: Report) -> Winner | None:
    """The engine to deploy; ``None`` where no engine ran here.

    Args:
        report: With the targets' times and verdicts; its own winner is not looked at.
    """
    float_ms = {
        name: times.p50
        for name, part in report.targets.items()
        if (times := part.yardstick_latency_ms or part.fp32_latency_ms) is not None
    }
    if not float_ms:
        return None
    passed = {
        name: (part, part.latency_ms.p50)
        for name, part in report.targets.items()
        if part.verdict == "pass" and part.latency_ms is not None
    }
    floats = min(float_ms, key=float_ms.__getitem__)
    arithmetic = report.targets[floats].yardstick.upper()
    if not passed:
        reason = "no engine passed"
    else:
        name = min(passed, key=lambda one: passed[one][1])
        part, p50_ms = passed[name]
        gain = float_ms[floats] / p50_ms
        if gain >= LEAST_SPEEDUP:
            return _of_engine(name, part, p50_ms, gain, floats, arithmetic, len(passed))
        reason = (
            f"the fastest engine that passed ({name}, {cells.milliseconds(p50_ms)} ms) is "
            f"{gain:.2f} times as fast, less than {LEAST_SPEEDUP:g}"
        )
    network = f"the {arithmetic} network on {floats}, {cells.milliseconds(float_ms[floats])} ms"
    text = f"{network}: {reason}.{_doubt(report.targets[floats])}"
    return Winner(floats, "", float_ms[floats], 1.0, floats, text)


def _of_engine(
    name: str,
    part: TargetPart,
    p50_ms: float,
    gain: float,
    floats: str,
    arithmetic: str,
    passed: int,
) -> Winner:
    kind = cells.engine_kind(part)
    first = "the fastest that passed" if passed > 1 else "the only one that passed"
    text = (
        f"{name} {kind}: {first}. Its times are doubtful, so how much it gains over the float "
        f"networks is not known: measure again when it is quiet.{_mostly_float(part)}"
        if part.stable is False
        else f"{name} {kind}, {cells.milliseconds(p50_ms)} ms: {first}, {gain:.2f} times as fast "
        f"as the fastest float network ({arithmetic} on {floats}).{_mostly_float(part)}"
    )
    return Winner(name, part.engine, p50_ms, gain, floats, text)


def _mostly_float(part: TargetPart) -> str:
    coverage = part.int8_coverage
    if part.precision != "int8" or coverage is None or coverage >= MOSTLY_FLOAT:
        return ""
    return f" It runs mostly in float: {100 * coverage:.0f} % of the MACs are in INT8."


def _doubt(part: TargetPart) -> str:
    return "" if part.stable is not False else " The times are doubtful: measure again."
