"""Findings in plain words: what a deployment engineer would ask about the table, answered.

Each finding has a stable code:

- ``int8-slower``, ``int8-no-faster``: INT8 does not pay on this backend, and the likely reasons
- ``pruning-gain``, ``pruning-no-faster``: what pruning makes of the INT8 engine's latency
- ``float-layers``: part of the network does not run in INT8
- ``int8-unused``: most of it does not, where another backend runs it in INT8
- ``builder-warnings``: what the engine's builder warned of
- ``saturation``, ``saturation-unsafe``: INT8 sums can overflow on this CPU
- ``timing-unstable``: the times are doubtful
- ``broken-outputs``: NaN or Inf
- ``where-lost``: how much pruning and how much quantization took
- ``backends-differ``: the same model behaves differently on two backends
- ``not-executed``: built, but not run here
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from edgeres.report.cells import milliseconds
from edgeres.report.schema import Finding, Report, TargetPart
from edgeres.report.winner import MOSTLY_FLOAT

_NO_FASTER = 1.1  # below this speed-up INT8 is not worth its accuracy
PRUNING_PAYS = 1.03
"""Below this gain over the dense network's INT8 engine pruning only costs accuracy."""
_OVERHEAD = 0.1  # share of the latency that calling the engine alone may take
_SQNR_GAP_DB = 6.0  # twice the noise amplitude
_SAFE_SQNR_DB = 25.0  # saturation leaves far less
_TOLD = 3


@dataclass(frozen=True)
class Told:
    """One thing to tell, once for all targets that it concerns; none where it is of the run."""

    level: Literal["info", "warning"]
    targets: tuple[str, ...]
    text: str


def merged(found: Sequence[Finding]) -> list[Told]:
    """Findings with the same words become one, in the order of the first of each."""
    targets: dict[tuple[Literal["info", "warning"], str], list[str]] = {}
    for finding in found:
        names = targets.setdefault((finding.level, finding.text), [])
        names += [finding.target] if finding.target else []
    return [Told(level, tuple(names), text) for (level, text), names in targets.items()]


def findings(report: Report) -> tuple[Finding, ...]:
    """Everything worth telling about a report, warnings first."""
    results = [
        f for name, target in report.targets.items() for f in _of_target(report, name, target)
    ]
    results += _of_run(report)
    return tuple(sorted(results, key=lambda finding: finding.level != "warning"))


def _of_target(report: Report, name: str, target: TargetPart) -> Iterator[Finding]:
    if not target.executed:
        text = "built, but not run on this machine: accuracy and latency there are not known."
        yield Finding("info", "not-executed", text, name)
    broken = target.nan_samples + target.inf_samples
    if broken:
        text = (
            f"{target.nan_samples} samples give NaN and {target.inf_samples} give Inf: the engine "
            "computes wrongly; this is no loss of accuracy that calibration could repair."
        )
        yield Finding("warning", "broken-outputs", text, name)
    if target.doubts:
        text = (
            f"the times are doubtful: {'; '.join(target.doubts)}. Measure again when it is quiet."
        )
        yield Finding("warning", "timing-unstable", text, name)
    quantized = target.precision == "int8"
    if quantized and target.speedup is not None and target.speedup < _NO_FASTER:
        yield _slow(report, name, target)
    if target.pruning_speedup is not None:
        yield _pruning(name, target)
    if quantized and target.float_layers and target.int8_coverage is not None:
        largest = ", ".join(layer.name for layer in target.float_layers[:_TOLD])
        more = ", ..." if len(target.float_layers) > _TOLD else ""
        text = (
            f"{100 * (1 - target.int8_coverage):.1f} % of the MACs do not run in INT8: "
            f"{largest}{more} ({target.float_layers[0].reason})."
        )
        yield Finding("info", "float-layers", text, name)
    if target.builder_warnings:
        warnings = "; ".join(target.builder_warnings[:_TOLD])
        others = len(target.builder_warnings) - _TOLD
        text = f"the builder warns: {warnings}" + (f"; and {others} more" if others > 0 else "")
        yield Finding("info", "builder-warnings", text, name)
    for sentence in target.commands:
        yield Finding("info", "vendor-command", sentence, name)
    if quantized and target.saturating:
        yield _saturation(name, target)


def _slow(report: Report, name: str, target: TargetPart) -> Finding:
    """INT8 that does not pay, with the reasons that the report itself shows."""
    speedup = target.speedup or 0.0
    yardstick = target.yardstick_latency_ms or target.fp32_latency_ms
    times = [milliseconds(p.p50 if p else None) for p in (target.latency_ms, yardstick)]
    reasons = []
    if not report.environment.int8_dot_products:
        reasons.append(
            "the CPU has no dot products for INT8, so its gain over FP32 is small, or none"
            if report.environment.is_arm
            else "the CPU has no INT8 instructions (VNNI, AMX), so at most twice the FP32 speed is "
            "possible"
        )
    if target.int8_coverage is not None and target.int8_coverage < 0.95:
        reasons.append(
            f"only {100 * target.int8_coverage:.0f} % of the MACs run in INT8 and each change of "
            "precision costs time"
        )
    if (
        target.overhead_ms is not None
        and target.latency_ms is not None
        and target.overhead_ms > _OVERHEAD * target.latency_ms.p50
    ):
        reasons.append(
            f"the network is so small that calling it takes {target.overhead_ms:.3f} ms of it"
        )
    if target.doubts:
        reasons.append("the times are doubtful")
    if not reasons:
        reasons.append(
            "look with `edgeres inspect` for Q/DQ or reordering layers that were not fused"
        )
    surely = target.speedup_interval is not None and target.speedup_interval[1] < 1.0
    word = "slower than" if surely or speedup < 0.95 else "not clearly faster than"
    slower = f"{word} {target.yardstick.upper()} ({times[1]} ms)"
    text = f"INT8 ({times[0]} ms) is {slower}: {'; '.join(reasons)}."
    code = "int8-slower" if word == "slower than" else "int8-no-faster"
    return Finding("warning", code, text, name)


def _pruning(name: str, target: TargetPart) -> Finding:
    """What pruning gains over the INT8 engine of the dense network."""
    gain, (low, high) = target.pruning_speedup or 0.0, target.pruning_speedup_interval or (0, 0)
    pruned_ms, dense_ms = (
        milliseconds(p.p50 if p else None) for p in (target.latency_ms, target.unpruned_latency_ms)
    )
    text = (
        f"pruning makes the INT8 engine {gain:.2f} times as fast ({low:.2f} to {high:.2f}; "
        f"{dense_ms} to {pruned_ms} ms)"
    )
    if gain >= PRUNING_PAYS:
        return Finding("info", "pruning-gain", text + ".", name)
    text += (
        ": less than 3 %. Without `prune:` this engine is as fast, and as accurate as the network."
    )
    return Finding("warning", "pruning-no-faster", text, name)


def _saturation(name: str, target: TargetPart) -> Finding:
    if target.saturation_safe:
        text = (
            "INT8 sums can overflow silently here, as a probe of the engine showed; the weights "
            "were made so that they cannot."
        )
        return Finding("info", "saturation", text, name)
    text = (
        "INT8 sums can overflow silently here, as a probe of the engine showed, and the weights "
        "allow it"
    )
    if target.sqnr_db is not None and target.sqnr_db < _SAFE_SQNR_DB:
        text += f"; an SQNR of {target.sqnr_db:.1f} dB looks like it happened"
    return Finding(
        "warning",
        "saturation-unsafe",
        text + ". Set `saturation_safe: auto` and quantize again.",
        name,
    )


def _of_run(report: Report) -> Iterator[Finding]:
    executed = {name: t for name, t in report.targets.items() if t.executed}
    pruning = report.pruning
    if pruning is not None and pruning.drop_pp is not None:
        for name, target in executed.items():
            if target.quantization_drop_pp is not None and target.drop_pp is not None:
                text = (
                    f"of the drop of {target.drop_pp:+.2f} pp, pruning took {pruning.drop_pp:+.2f} "
                    f"and quantization {target.quantization_drop_pp:+.2f}."
                )
                yield Finding("info", "where-lost", text, name)
    yield from _unused(executed)
    measured = {n: t.sqnr_db for n, t in executed.items() if t.sqnr_db is not None}
    if len(measured) > 1:
        best = max(measured, key=lambda n: measured[n])
        worst = min(measured, key=lambda n: measured[n])
        if measured[best] - measured[worst] > _SQNR_GAP_DB:
            text = (
                f"the same network is {measured[best] - measured[worst]:.0f} dB noisier here than "
                f"on {best}: compare the two layer by layer with `edgeres compare`."
            )
            yield Finding("warning", "backends-differ", text, worst)


def _unused(executed: Mapping[str, TargetPart]) -> Iterator[Finding]:
    """A backend that leaves a quantized network mostly in float, beside one that does not."""
    shares = {
        name: target.int8_coverage
        for name, target in executed.items()
        if target.precision == "int8" and target.int8_coverage is not None
    }
    if not shares:
        return
    best = max(shares, key=shares.__getitem__)
    for name, share in shares.items():
        if share < MOSTLY_FLOAT <= shares[best]:
            text = (
                f"INT8 is mostly not used on this CPU ({100 * share:.0f} % of the MACs); {best} "
                f"runs {100 * shares[best]:.0f} % in INT8."
            )
            yield Finding("warning", "int8-unused", text, name)
