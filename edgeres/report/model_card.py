"""A model card from a report: what the network is, what it can do, and what is not known of it.

The sections are those of model cards (M. Mitchell et al., FAT* 2019), as the Hugging Face Hub
shows them, with its metadata on top. What a report cannot know, intended use for one, is said to
be open and not made up.
"""

from __future__ import annotations

import json

from edgeres.report import cells
from edgeres.report.explain import merged
from edgeres.report.figures import headline
from edgeres.report.markdown import plain, results_table
from edgeres.report.schema import Report
from edgeres.tasks import CLASSIFICATION

_TAGS = {
    CLASSIFICATION: "image-classification",
    "segmentation": "image-segmentation",
    "embedding": "image-feature-extraction",
}
"""What the Hugging Face Hub calls a task."""


def model_card(report: Report, *, name: str = "", license_name: str = "") -> str:
    """The card, as Markdown with a YAML head.

    Args:
        report: What the run found.
        name: Name of the network; the architecture's where empty.
        license_name: SPDX name of the weights' licence; left open where empty.
    """
    model, baseline, machine = report.model, report.baseline, report.environment
    title = name or model.name
    data = baseline.data or "the validation images"
    runtimes = [
        f"{n} ({part.runtime})" if part.runtime else n for n, part in report.targets.items()
    ]
    facts = [
        f"- Architecture: {plain(model.name)}, residual convolutional network for image "
        "classification",
        f"- Made from: the FP32 model with SHA-256 `{plain(model.sha256)}`, {model.parameters:,} "
        f"parameters, {model.macs:,} multiply-adds an image",
    ]
    if report.pruning is not None:
        pruned = report.pruning
        facts.append(
            f"- Pruned: structured, to {100 * pruned.macs_ratio:.0f} % of the multiply-adds and "
            f"{pruned.parameters:,} parameters, then fine-tuned"
        )
    facts += [
        "- Quantized: INT8 weights for each output channel, INT8 activations, scales from "
        "calibration images"
        if _quantized(report)
        else "- Not quantized: weights and activations are FP32",
        f"- Runtimes: {plain(', '.join(runtimes))}",
        f"- Tool: edgeres {plain(machine.versions.get('edgeres', ''))}".rstrip(),
    ]
    kind = "labelled images" if baseline.top1 is not None else "samples"
    lines = [
        *_head(report, title, license_name),
        f"# {plain(title)}",
        "",
        *_not_proven(report),
        "## Model details",
        "",
        *facts,
        f"- Licence of the weights: {plain(license_name) if license_name else 'not stated'}",
        "",
        "## Intended use",
        "",
        f"{_purpose(report)} like those of {plain(data)}, with the preprocessing that is "
        "shipped beside the engine. Other images, classes or preprocessing were not evaluated. Who "
        "deploys it says here what it is for and what it must not be used for.",
        "",
        "## Evaluation",
        "",
        f"{baseline.samples:,} {kind} of {plain(data)}"
        + (f" (SHA-256 `{plain(baseline.data_fingerprint)}`)" if baseline.data_fingerprint else "")
        + f"; {plain(headline(report, data=False))}. Engines with figures "
        f"below were run themselves, on {plain(machine.cpu)}, and compared with the FP32 network "
        f"image by image; the bound is one-sided, at {100 * report.confidence:g} % confidence.",
        "",
        *results_table(report),
        "",
        *([f"To deploy there: {plain(report.winner.text)}", ""] if report.winner else []),
        *_commands(report),
        "## Limits",
        "",
        *_limits(report),
    ]
    return "\n".join(lines) + "\n"


def _purpose(report: Report) -> str:
    """What the network is for, as the beginning of a sentence."""
    if report.task.name == CLASSIFICATION:
        return "Classification of images"
    return f"The task {plain(report.task.name)} on samples"


def _quantized(report: Report) -> bool:
    return any(part.precision == "int8" for part in report.targets.values())


def _precisions(report: Report) -> list[str]:
    return list(dict.fromkeys(part.precision for part in report.targets.values())) or ["fp32"]


def _head(report: Report, title: str, license_name: str) -> list[str]:
    """Metadata that the Hugging Face Hub reads; texts are JSON, which is YAML."""
    head = ["---", "library_name: edgeres"]
    tag = _TAGS.get(report.task.name)
    if tag is not None:
        head.insert(1, f"pipeline_tag: {tag}")
    if license_name:
        head.append(f"license: {json.dumps(license_name)}")
    tags = ["int8", "quantized"] if _quantized(report) else _precisions(report)
    head += [f"tags: {json.dumps([*tags, *report.targets])}"]
    measured = [part.top1 for part in report.targets.values() if part.top1 is not None]
    if measured:
        head += [
            "model-index:",
            f"- name: {json.dumps(title)}",
            "  results:",
            "  - task: {type: image-classification}",
            f"    dataset: {{name: {json.dumps(report.baseline.data or 'validation')}, "
            f"type: {json.dumps(report.baseline.data or 'validation')}}}",
            f"    metrics: [{{type: accuracy, value: {min(measured):.4f}, "
            "name: top-1 of the least accurate engine}]",
        ]
    return [*head, "---", ""]


def _not_proven(report: Report) -> list[str]:
    """A section on top where an engine did not pass, so that nobody takes it for a proven one."""
    lines = [
        f"- {plain(name)}: **{cells.VERDICT_WORDS[part.verdict]}**. {plain(part.reason)}"
        for name, part in report.targets.items()
        if part.verdict != "pass"
    ]
    return ["## Not proven", "", *lines, ""] if lines else []


def _commands(report: Report) -> list[str]:
    """How to build the same engines with their vendors' own tools."""
    told = [
        f"- {plain(name)}: {plain(sentence)}"
        for name, part in report.targets.items()
        for sentence in part.commands
    ]
    return ["## Built with the vendor's own tools", "", *told, ""] if told else []


def _limits(report: Report) -> list[str]:
    limits = [
        f"- {plain(name)}: {plain(part.reason)}"
        for name, part in report.targets.items()
        if part.verdict != "pass"
    ]
    limits += [
        f"- {plain(', '.join(told.targets)) + ': ' if told.targets else ''}{plain(told.text)}"
        for told in merged(report.findings)
        if told.level == "warning"
    ]
    limits.append(
        "- Latency holds for the machine above; accuracy was measured over all samples, not for "
        "groups of people or conditions."
    )
    return limits
