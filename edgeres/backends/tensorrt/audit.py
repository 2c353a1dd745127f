"""What lies beside a plan: its layers, and what the builder and the lint said about it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgeres.backends.tensorrt.layers import (
    LayerRecord,
    records_from_json,
    records_to_json,
)
from edgeres.errors import ArtefactError
from edgeres.system.foreign_json import read_json

SCHEMA = 1
_SUFFIX = ".layers.json"


@dataclass(frozen=True)
class Audit:
    """Facts about a built plan that are known at build time, without a GPU.

    Attributes:
        layers: The layers, every Conv and Gemm with its product.
        products: ONNX op type of every Conv, Gemm and MatMul, by node name.
        warnings: The builder's own warnings.
        notes: What the lint found that is slow, not wrong.
    """

    layers: tuple[LayerRecord, ...]
    products: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def audit_path(plan: Path) -> Path:
    """Where the audit of a plan lies."""
    return plan.with_name(plan.name + _SUFFIX)


def audit_to_text(audit: Audit) -> str:
    """The audit as readable JSON, one layer a line."""
    layers = ",\n  ".join(json.dumps(layer) for layer in records_to_json(audit.layers))
    head = {
        "schema": SCHEMA,
        "warnings": list(audit.warnings),
        "notes": list(audit.notes),
        "products": dict(audit.products),
    }
    body = json.dumps(head, indent=1).removesuffix("\n}")
    return f'{body},\n "layers": [\n  {layers}\n ]\n}}\n'


def read_audit(plan: Path) -> Audit:
    """The audit beside a plan; the caller has checked its hash through the sidecar.

    Raises:
        ArtefactError: It is missing or not readable.
    """
    path = audit_path(plan)
    try:
        record = read_json(path)
        audit = Audit(
            layers=tuple(records_from_json(record["layers"])),
            products={str(name): str(op) for name, op in record["products"].items()},
            warnings=tuple(str(line) for line in record["warnings"]),
            notes=tuple(str(line) for line in record["notes"]),
        )
        schema = record["schema"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtefactError(
            f"{path}: the list of the plan's layers cannot be read ({error}).",
            hint="Build the engine again.",
        ) from error
    if schema != SCHEMA:
        raise ArtefactError(
            f"{path}: expected schema {SCHEMA}, got {schema!r}.", hint="Build the engine again."
        )
    return audit
