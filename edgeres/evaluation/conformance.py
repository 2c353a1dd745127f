"""Expected figures of engines, kept in a file, checked on both sides.

A figure that got worse is a regression; one that got better for no known reason is a change that
nobody understands yet (another data set, a test that leaks, a layer that fell back to float), so it
fails too until the file is updated. One file serves one model, with a part for each backend:

    model: fmnist-resnet20
    backends:
      onnxruntime:
        top1: {expected: 0.9455, tolerance: 0.001}
        sqnr_db: {expected: 36.3, tolerance: 1.5}
        int8_coverage: {expected: 1.0, tolerance: 0.0}
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeres.errors import ArtefactError, UsageError
from edgeres.evaluation.gates import Check, Outcome
from edgeres.evaluation.judge import Judgement
from edgeres.system.files import write_atomic
from edgeres.system.yaml_file import plain, read_yaml

if TYPE_CHECKING:
    from edgeres.evaluation.compare import Comparison
    from edgeres.evaluation.coverage import Coverage

METRICS = ("top1", "top5", "drop_pp", "agreement", "sqnr_db", "int8_coverage", "size_bytes")


@dataclass(frozen=True)
class Expected:
    """One figure: what it should be and how far it may lie from that, on either side."""

    expected: float
    tolerance: float


@dataclass(frozen=True)
class Conformance:
    """A conformance file: backend to metric to what is expected."""

    model: str
    backends: Mapping[str, Mapping[str, Expected]]

    def of(self, backend: str) -> Mapping[str, Expected]:
        """What is expected of the engines of one backend.

        Raises:
            UsageError: The file says nothing of that backend.
        """
        if backend not in self.backends:
            raise UsageError(
                f"the conformance file has no part for {backend}, only for "
                f"{', '.join(self.backends) or 'none'}.",
                hint="Write it with --record-conformance.",
            )
        return self.backends[backend]


def load_conformance(path: Path) -> Conformance:
    """Reads a conformance file.

    Raises:
        ArtefactError: No such file, not YAML, an unknown metric, or numbers that make no sense.
    """
    hint = "See docs/accuracy.md."
    content = plain(read_yaml(path, what="a conformance file", error=ArtefactError, hint=hint))
    try:
        return _parsed(content)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ArtefactError(f"{path}: is no conformance file ({error}).", hint=hint) from error


def record_conformance(
    path: Path, *, model: str, backend: str, figures: Mapping[str, float | None]
) -> Conformance:
    """Writes or replaces a backend's part with measured figures and the usual tolerances.

    The tolerances: half a percentage point of top-1, top-5, agreement and drop, 1.5 dB of SQNR, 2 %
    of the size, none of the coverage. Narrow them by hand where an engine gives the same bytes
    every time.

    Args:
        path: The file; the parts of other backends stay.
        model: Name of the model, for people.
        backend: Whose part it is.
        figures: Measured, by metric; those without a value are left out.

    Raises:
        ArtefactError: What is there is no conformance file.
        StorageError: The file cannot be written.
    """
    from ruamel.yaml import YAML

    old = load_conformance(path) if path.is_file() else Conformance(model, {})
    part = {
        name: Expected(value, _usual_tolerance(name, value))
        for name in METRICS
        if (value := figures.get(name)) is not None
    }
    new = Conformance(old.model or model, {**old.backends, backend: part})
    content = {
        "model": new.model,
        "backends": {
            name: {key: vars(figure).copy() for key, figure in metrics.items()}
            for name, metrics in sorted(new.backends.items())
        },
    }
    stream = io.StringIO()
    yaml = YAML()
    yaml.default_flow_style = None
    yaml.dump(content, stream)
    write_atomic(path, stream.getvalue().encode())
    return new


def conformance_checks(
    expected: Mapping[str, Expected], figures: Mapping[str, float | None]
) -> list[Check]:
    """One check for each expected figure; out of tolerance on either side fails.

    Args:
        expected: From :meth:`Conformance.of`.
        figures: Measured, by metric.
    """
    checks = []
    for name, target in expected.items():
        value = figures.get(name)
        text = f"{name}: expected {target.expected:g} within {target.tolerance:g}, got "
        if value is None:
            checks.append(Check(f"conformance.{name}", "fail", f"{text}nothing measured."))
            continue
        off = value - target.expected
        within = abs(off) <= target.tolerance + 1e-12 * abs(target.expected)
        reason = f"{text}{value:g}" + ("." if within else f" ({off:+g}).")
        if not within and (off > 0) == (name not in ("drop_pp", "size_bytes")):
            reason += " It is better than expected: find out why, then record it anew."
        outcome: Outcome = "pass" if within else "fail"
        checks.append(Check(f"conformance.{name}", outcome, reason, value, target.expected))
    return checks


def figures_of(
    comparison: Comparison | Judgement, coverage: Coverage | None, size_bytes: int
) -> dict[str, float | None]:
    """The metrics of a validated engine by name; ``None`` where there is no such figure."""
    about = {
        "int8_coverage": coverage.int8_coverage if coverage is not None else None,
        "size_bytes": float(size_bytes),
    }
    if isinstance(comparison, Judgement):
        return {name: part.engine for name, part in comparison.metrics.items()} | about
    return {
        "top1": comparison.top1,
        "top5": comparison.top5,
        "drop_pp": comparison.drop_pp,
        "agreement": comparison.agreement,
        "sqnr_db": comparison.sqnr_db,
        **about,
    }


def _usual_tolerance(name: str, value: float) -> float:
    usual = {"drop_pp": 0.5, "sqnr_db": 1.5, "int8_coverage": 0.0}
    if name == "size_bytes":
        return math.ceil(0.02 * value)
    return usual.get(name, 0.005)


# ``content`` and ``value`` are YAML from disk, hence ``Any``: what is not as expected raises.
def _parsed(content: Any) -> Conformance:
    unknown = set(content) - {"model", "backends"}
    if unknown:
        raise ValueError(f"unknown key {sorted(unknown)[0]}")
    backends = {
        str(name): {str(key): _expected(f"{name}.{key}", value) for key, value in part.items()}
        for name, part in content["backends"].items()
    }
    return Conformance(str(content.get("model", "")), backends)


def _expected(where: str, value: Any) -> Expected:
    if where.rpartition(".")[2] not in METRICS:
        raise ValueError(f"{where}: no such metric; there are {', '.join(METRICS)}")
    if not isinstance(value, dict) or set(value) != {"expected", "tolerance"}:
        raise ValueError(f"{where}: wanted {{expected: ..., tolerance: ...}}")
    numbers = [float(value["expected"]), float(value["tolerance"])]
    if not all(map(math.isfinite, numbers)) or numbers[1] < 0:
        raise ValueError(f"{where}: numbers that make no sense")
    return Expected(*numbers)
