"""The layers of a target as rows: precision from the engine, noise and sensitivity where known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgeres.evaluation import run_folder
from edgeres.report.evidence import COMPARED, SENSITIVITY, TargetEvidence, read_record
from edgeres.report.schema import TargetPart

_INT8 = ("int8", "uint8")


def layer_rows(
    folder: Path,
    name: str,
    part: TargetPart,
    evidence: TargetEvidence,
) -> list[dict[str, Any]]:
    """One row for each ONNX node that a layer of the engine computes.

    Args:
        folder: Output folder of ``convert``.
        name: Name of the target.
        part: Its part of the report.
        evidence: What is kept of it.

    Returns:
        Rows with ``node``, ``op``, ``precision``, ``macs``, ``macs_share``, ``weight_sqnr_db`` and
        the fields of :class:`Measured`; what is not known is ``None``. A node that several layers
        name is in INT8 only where all of them are.
    """
    account = read_record(folder / name / run_folder.QDQ_ACCOUNT)
    weights = account.get("weight_sqnr_db") or {}
    measured = measured_layers(folder / run_folder.EVIDENCE, name)
    reasons = {layer.name: layer.reason for layer in part.float_layers}
    rows: dict[str, dict[str, Any]] = {}
    for layer in evidence.layers:
        for node in layer.get("nodes") or (layer["name"],):
            row = rows.get(node)
            if row is None:
                rows[node] = {
                    "node": node,
                    "op": layer["op"],
                    "precision": layer["precision"],
                    "macs": layer["macs"] if node in weights else 0,
                    "weight_sqnr_db": weights.get(node),
                    **vars(measured.get(node, _NOTHING)),
                    "reason": reasons.get(node, ""),
                }
            elif layer["precision"] not in _INT8 and row["precision"] in _INT8:
                row["precision"] = layer["precision"]
    total = sum(row["macs"] for row in rows.values())
    for row in rows.values():
        row["macs_share"] = row["macs"] / total if total else 0.0
    return list(rows.values())


@dataclass(frozen=True)
class Measured:
    """What was measured of one layer; ``None`` where it was not.

    Attributes:
        sqnr_db: Of its output in the engine against FP32, both run from the image on.
        own_sqnr_db: The same for what this layer alone adds, from the engine's own inputs.
        alone_sqnr_db: Of the logits where only this layer is INT8 (simulated).
        noise_share: Its share of the noise that all layers bring to the logits by themselves.
    """

    sqnr_db: float | None = None
    own_sqnr_db: float | None = None
    alone_sqnr_db: float | None = None
    noise_share: float | None = None


_NOTHING = Measured()


def measured_layers(folder: Path, name: str) -> dict[str, Measured]:
    """What ``convert`` measured of a target's layers, if it was asked to; by ONNX node.

    Args:
        folder: The ``evidence`` folder, with ``TARGET-compare.json`` and
            ``TARGET-sensitivity.json`` in it, or without.
        name: Name of the target.
    """
    found: dict[str, Measured] = {}
    for layer in _entries(read_record(folder / f"{name}{COMPARED}"), "layers"):
        node = str(layer.get("node"))
        found[node] = Measured(_number(layer, "sqnr_db"), _number(layer, "own_sqnr_db"))
    alone = {}
    for layer in _entries(read_record(folder / f"{name}{SENSITIVITY}"), "nodes"):
        only = layer.get("only")
        value = _number(only, "sqnr_db") if isinstance(only, Mapping) else None
        if value is not None:
            alone[str(layer.get("node"))] = value
    noise = {node: 10 ** (-value / 10) for node, value in alone.items()}
    total = sum(noise.values()) or 1.0
    for node, value in alone.items():
        known = found.get(node, _NOTHING)
        found[node] = replace(known, alone_sqnr_db=value, noise_share=noise[node] / total)
    return found


def standing_out(folder: Path, name: str) -> list[str]:
    """What is said of the layers that stand out in the engine, the first to look at in front."""
    entries = _entries(read_record(folder / f"{name}{COMPARED}"), "suspects")
    return [str(entry["text"]) for entry in entries if "text" in entry]


def _number(record: Mapping[str, Any], key: str) -> float | None:
    value = record.get(key)
    return float(value) if isinstance(value, int | float) else None


def _entries(record: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    found = record.get(key)
    return [e for e in found if isinstance(e, Mapping)] if isinstance(found, list) else []
