"""The report's numbers as short texts, with their units, for tables of any kind."""

from __future__ import annotations

from collections.abc import Iterable

from edgeres.evaluation.fusions import Fusions
from edgeres.report.schema import BaselinePart, Percentiles, TargetPart

MISSING = "-"
VERDICT_WORDS = {
    "pass": "PASS",
    "fail": "FAIL",
    "inconclusive": "INCONCLUSIVE",
    "not_executed": "NOT EXECUTED",
}
_UNITS = ("B", "KiB", "MiB", "GiB")


def percent(share: float | None, digits: int = 2) -> str:
    """A share in [0, 1] in percent, without the sign."""
    return MISSING if share is None else f"{100 * share:.{digits}f}"


def top1(baseline: BaselinePart, target: TargetPart, arrow: str) -> str:
    """Top-1 of the FP32 model and of the engine, in percent."""
    if target.top1 is None:
        return MISSING
    return f"{percent(baseline.top1)} {arrow} {percent(target.top1)}"


def drop(target: TargetPart, at_most: str) -> str:
    """Drop and its upper bound in percentage points."""
    if target.drop_pp is None:
        return MISSING
    bound = "" if target.drop_upper_pp is None else f" ({at_most}{target.drop_upper_pp:.2f})"
    # Rounded first, so that a drop of -0.001 is no "-0.00".
    return f"{round(target.drop_pp, 2) + 0.0:+.2f}{bound}"


def sqnr(target: TargetPart) -> str:
    """SQNR in decibels; ``exact`` where the logits are equal to the last bit."""
    if target.sqnr_db is None:
        same = target.executed and target.agreement == 1.0 and not target.nan_samples
        return "exact" if same else MISSING
    return f"{target.sqnr_db:.1f}"


def fusions(found: Fusions) -> str:
    """Where the residual additions and the activations are computed."""
    return (
        f"{found.adds_in_products} of {found.adds} additions and {found.relus_in_products} of "
        f"{found.relus} Relus run in a convolution or matrix product "
        f"({found.conv_add_relu} Conv+Add+Relu), {found.adds_in_kernels} additions in a kernel "
        "with other work."
    )


def milliseconds(value: float | None) -> str:
    """Milliseconds with three significant digits at least."""
    if value is None:
        return MISSING
    digits = 3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f}"


def energy(joules: float) -> str:
    """An energy with three significant digits, in J, mJ or µJ."""
    for factor, unit in ((1.0, "J"), (1e3, "mJ")):
        if abs(joules) * factor >= 1:
            return f"{joules * factor:.3g} {unit}"
    return f"{joules * 1e6:.3g} µJ"


def latency(times: Percentiles | None) -> str:
    """p50, p90 and p99 in milliseconds."""
    if times is None:
        return MISSING
    return " / ".join(milliseconds(value) for value in (times.p50, times.p90, times.p99))


def precision(targets: Iterable[TargetPart]) -> str:
    """What the engines were made in, for a heading: ``INT8``, ``FP32``, or both."""
    return ", ".join(dict.fromkeys(target.precision.upper() for target in targets)) or "INT8"


def engine_kind(target: TargetPart) -> str:
    """What an engine is beside the FP32 model that was brought, also where it is FP32 itself."""
    return "converted FP32" if target.precision == "fp32" else target.precision.upper()


def speedup(target: TargetPart) -> str:
    """The fastest float engine's p50 over the engine's p50; a question mark where it is doubted."""
    if target.speedup is None:
        return MISSING
    over = "" if target.yardstick == "fp32" else f" of {target.yardstick.upper()}"
    return f"{target.speedup:.2f}x" + ("?" if target.stable is False else "") + over


def steady_speedup(target: TargetPart) -> str:
    """The same for what is kept or shown large: a figure that is doubted is not repeated there."""
    return "doubtful" if target.speedup and target.stable is False else speedup(target)


def size(size_bytes: int) -> str:
    """Bytes in binary units."""
    value = float(size_bytes)
    unit = 0
    while value >= 1000 and unit < len(_UNITS) - 1:
        value /= 1024
        unit += 1
    return f"{size_bytes} B" if unit == 0 else f"{value:.3g} {_UNITS[unit]}"


def mebibytes(size_bytes: int) -> str:
    """Bytes in MiB, without the unit."""
    return f"{size_bytes / 2**20:.2f}"


def millions(count: int) -> str:
    """A count of parameters or multiply-adds with a unit."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= limit:
            return f"{count / limit:.3g} {unit}"
    return str(count)
