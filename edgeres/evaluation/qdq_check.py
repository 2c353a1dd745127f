"""What is to be said about a quantized ONNX file before an engine that is built of it is trusted.

A file that edgeres wrote obeys the rule set of its target. One from elsewhere may hold what this
engine on this device refuses, runs in float, or computes otherwise than the file says. It is held
against the same rules (:mod:`edgeres.quantization.lint`), and where only a run can tell, the engine
is asked (:mod:`edgeres.quantization.engine_check`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeres.errors import EdgeResError
from edgeres.system.child import run_limited

if TYPE_CHECKING:
    from edgeres.quantization.qdq_view import Finding

SECONDS = 600.0
MEMORY_BYTES = 16 << 30
_SHOWN = 5
_LOUD = {"wrong": "WRONG on this device", "risk": "may be wrong"}


def check_qdq(
    onnx: Path, backend: str, device: str, options: Mapping[str, str] | None = None
) -> tuple[Finding, ...]:
    """Holds a quantized file against the rules of a backend's device, in a child process.

    Args:
        onnx: Any ONNX file; one that is not quantized has no findings.
        backend: Name of the backend.
        device: Where the engine is to run.
        options: The backend's own options.

    Returns:
        What is wrong first, then what may be, then what is merely slower than it could be.

    Raises:
        BackendMissingError: The backend is not installed.
        ModelError: The file is no readable ONNX model.
        StageError: The file crashed or hung what looked at it.
    """
    from edgeres.quantization.qdq_view import Finding

    memory_bytes = MEMORY_BYTES if device == "cpu" else None
    check = run_limited(check_file, seconds=SECONDS, memory_bytes=memory_bytes)
    return tuple(Finding(**each) for each in check(onnx, backend, device, dict(options or {})))


def findings_of(
    onnx: Path, backend: str, device: str, options: Mapping[str, str] | None = None
) -> tuple[Finding, ...]:
    """As :func:`check_qdq`, for those to whom an engine matters more than what is said of it.

    A check that fails is a finding itself.
    """
    from edgeres.quantization.qdq_view import Finding

    try:
        return check_qdq(onnx, backend, device, options)
    except EdgeResError as error:
        return (Finding("check", str(onnx), f"it could not be checked: {error.message}", "risk"),)


def check_file(
    onnx: Path, backend: str, device: str, options: dict[str, str]
) -> list[dict[str, Any]]:
    """What the child of :func:`check_qdq` does."""
    from edgeres.backends import get_backend
    from edgeres.backends.base import BuildConfig
    from edgeres.quantization.engine_check import decided_hazards
    from edgeres.quantization.lint import lint_model, load_quantized

    model = load_quantized(onnx)
    if model is None:
        return []
    engine_maker = get_backend(backend)
    rules = engine_maker.qdq_rules(device, options)
    asked = decided_hazards(
        model,
        engine_maker,
        BuildConfig(device, threads=1, options=options),
        can_run=engine_maker.not_executable() is None,
        saturating=rules.saturating,
    )
    findings = _merged(lint_model(model, rules), asked)
    order = ("wrong", "risk", "note")
    return [asdict(each) for each in sorted(findings, key=lambda each: order.index(each.severity))]


def _merged(read: Sequence[Finding], asked: Sequence[Finding]) -> list[Finding]:
    """What the file shows and what the engine answered, one finding for a node and a rule.

    Numbers at random seldom meet what only the lowest ones make wrong, so an engine that got a node
    right does not silence the rule; one that got it wrong says by how much.
    """
    wrong = {(each.rule, each.node) for each in asked if each.severity == "wrong"}
    kept = [each for each in read if (each.rule, each.node) not in wrong]
    there = {(each.rule, each.node) for each in kept}
    return [*kept, *(each for each in asked if (each.rule, each.node) not in there)]


def finding_lines(findings: Sequence[Finding]) -> list[str]:
    """The findings for a person: what is or may be wrong one by one, the rest counted by rule."""
    lines = []
    for severity, word in _LOUD.items():
        some = [each for each in findings if each.severity == severity]
        lines += [f"{word}: {each.node}: {each.message} [{each.rule}]" for each in some[:_SHOWN]]
        if len(some) > _SHOWN:
            lines.append(f"{word}: and {len(some) - _SHOWN} more; --json lists all.")
    notes = [each for each in findings if each.severity == "note"]
    for rule, count in Counter(each.rule for each in notes).items():
        first = next(each for each in notes if each.rule == rule)
        more = f" (and {count - 1} more)" if count > 1 else ""
        lines.append(f"note: {first.node}: {first.message}{more} [{rule}]")
    return lines


def findings_json(findings: Sequence[Finding]) -> list[dict[str, str]]:
    """The findings as plain JSON values."""
    return [asdict(each) for each in findings]
