"""The model card and the licence notes of a bundle, written from what was measured.

Sections of the card: M. Mitchell et al., "Model Cards for Model Reporting", 2019.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeres.data.preprocess import Preprocess
    from edgeres.report.schema import Percentiles, Report, TargetPart

_NOT_SAID = "not said by whoever made this bundle"
_RUNTIME_PACKAGES = ("edgeres", "numpy", "pillow")


def model_card(
    report: Report,
    targets: Sequence[str],
    preprocess: Preprocess,
    class_names: Sequence[str],
    *,
    licence: str = "",
) -> str:
    """Markdown that says what the network is, how well and how fast its engines run, and where.

    Args:
        report: Report of the conversion.
        targets: Engines of this bundle.
        preprocess: How an image becomes numbers.
        class_names: In the order of the scores.
        licence: Licence of the network, in the words of whoever bundles it.
    """
    parts = [
        f"# {report.model.name}, INT8",
        _details(report, licence),
        _use(preprocess, class_names),
        _results(report, targets),
        _limits(report, targets),
        "Written by edgeres from `report.json`, which has all numbers.\n",
    ]
    return "\n\n".join(parts)


def licence_notes(report: Report, packages: Sequence[str], *, licence: str = "") -> str:
    """What is known of the licences of the network, the sample images and the runtime packages."""
    lines = [
        "# Licences",
        "",
        f"- Network `{report.model.name}` (SHA-256 of the original {report.model.sha256}): "
        f"{licence or _NOT_SAID}.",
        f"- Self-test images in `samples/`: from {report.baseline.data or 'the validation images'}"
        f"; {_data_licence(report.baseline.data)}.",
        "",
        "The bundle holds no program code. What runs it is installed apart, under its own licence:",
        "",
    ]
    for package in dict.fromkeys((*_RUNTIME_PACKAGES, *packages)):
        lines.append(f"- {package}: {_package_licence(package)}")
    return "\n".join(lines) + "\n"


def _details(report: Report, licence: str) -> str:
    model, pruning = report.model, report.pruning
    lines = [
        f"An image classifier of {model.parameters:,} parameters and {model.macs:,} "
        "multiply-adds, converted to INT8 by edgeres.",
        "",
        f"- Licence: {licence or _NOT_SAID}",
        f"- SHA-256 of the original: `{model.sha256}`",
    ]
    if pruning is not None:
        lines.append(
            f"- Pruned to {100 * pruning.macs_ratio:.1f} % of the multiply-adds: "
            f"{pruning.parameters:,} parameters, FP32 top-1 {100 * pruning.top1:.2f} %"
        )
    return "\n".join(lines)


def _use(preprocess: Preprocess, class_names: Sequence[str]) -> str:
    shown = ", ".join(class_names[:20]) + (", ..." if len(class_names) > 20 else "")
    return (
        "## Use\n\n"
        f"Classes ({len(class_names)}): {shown}\n\n"
        "An image is decoded, resized, cropped and turned into `(x * scale - mean) / std`:\n\n"
        f"```json\n{preprocess.to_json()}\n```\n\n"
        "`edgeres run BUNDLE IMAGE` does that; so does `edgeres.Session`."
    )


def _results(report: Report, targets: Sequence[str]) -> str:
    base = report.baseline
    bound = f"{100 * report.confidence:g} %"
    lines = [
        "## Measured",
        "",
        f"Top-1 of the original in FP32: {100 * base.top1:.2f} % on {base.samples:,} images"
        + (f" of {base.data}." if base.data else "."),
        "",
        f"| engine | top-1 % | drop pp ({bound} bound) | INT8 % of MACs | latency ms p50 / p99 "
        "| FP32 ms p50 | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [_row(name, report.targets[name]) for name in targets]
    machine = report.environment
    lines += [
        "",
        f"Measured on {machine.cpu} ({', '.join(machine.isa) or machine.architecture}), "
        f"{machine.threads} CPUs, {machine.os}. Other devices have other latencies, and may round "
        "differently.",
    ]
    return "\n".join(lines)


def _row(name: str, part: TargetPart) -> str:
    cells = [
        f"{name} ({part.runtime}, {part.device})",
        _number(part.top1, 100, ".2f"),
        f"{_number(part.drop_pp, 1, '+.2f')} (≤ {_number(part.drop_upper_pp, 1, '.2f')})",
        _number(part.int8_coverage, 100, ".1f"),
        _latency(part.latency_ms),
        _number(part.fp32_latency_ms.p50 if part.fp32_latency_ms else None, 1, ".3g"),
        part.verdict.replace("_", " "),
    ]
    return f"| {' | '.join(cells)} |"


def _limits(report: Report, targets: Sequence[str]) -> str:
    lines = ["## Limits", ""]
    for name in targets:
        part = report.targets[name]
        if part.verdict != "pass":
            lines.append(f"- {name}: {part.verdict.replace('_', ' ')}: {part.reason}")
        for layer in part.float_layers:
            lines.append(f"- {name}: {layer.name} runs in {layer.precision}")
    lines += [
        f"- {finding.level}: {finding.text}"
        for finding in report.findings
        if finding.target in (None, *targets)
    ]
    lines.append(
        "- Accuracy holds for images like those it was measured on; nothing is known of others, "
        "nor of single groups of people or things in them."
    )
    return "\n".join(lines)


def _number(value: float | None, factor: float, form: str) -> str:
    return "-" if value is None else format(factor * value, form)


def _latency(times: Percentiles | None) -> str:
    return "-" if times is None else f"{times.p50:.3g} / {times.p99:.3g}"


def _data_licence(data: str) -> str:
    if data.startswith("fashion-mnist"):
        return "MIT, Zalando SE 2017"
    return "their licence is that of the data set; look it up before you pass the bundle on"


def _package_licence(package: str) -> str:
    try:
        about = importlib.metadata.metadata(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed where this bundle was made"
    said = (about.get_all("License-Expression") or about.get_all("License") or [""])[0].strip()
    first = said.splitlines()[0][:80] if said else ""
    classified = [
        line.rpartition(" :: ")[2]
        for line in about.get_all("Classifier") or []
        if line.startswith("License :: ")
    ]
    return first or ", ".join(classified) or "see the package"
