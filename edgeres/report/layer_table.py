"""The layers of a target as rows: precision from the engine, noise and sensitivity where known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeres.report.evidence import TargetEvidence, read_record
from edgeres.report.schema import TargetPart

_INT8 = ("int8", "uint8")


def layer_rows(
    folder: Path,
    name: str,
    part: TargetPart,
    evidence: TargetEvidence,
    raw: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """One row for each ONNX node that a layer of the engine computes.

    Args:
        folder: Output folder of ``convert``.
        name: Name of the target.
        part: Its part of the report.
        evidence: What is kept of it.
        raw: ``report.json`` as plain JSON, for SQNR and sensitivity of the layers.

    Returns:
        Rows with ``node``, ``op``, ``precision``, ``macs``, ``macs_share``, ``weight_sqnr_db``,
        ``sqnr_db`` and ``sensitivity``; what is not known is ``None``. A node that several layers
        name is in INT8 only where all of them are.
    """
    account = read_record(folder / name / "model.qdq.json")
    weights = account.get("weight_sqnr_db") or {}
    target = raw.get("targets", {}).get(name, {})
    noise = by_node(target.get("layer_sqnr_db"), "sqnr_db")
    sensitivity = by_node(target.get("sensitivity"), "sensitivity")
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
                    "sqnr_db": noise.get(node),
                    "sensitivity": sensitivity.get(node),
                    "reason": reasons.get(node, ""),
                }
            elif layer["precision"] not in _INT8 and row["precision"] in _INT8:
                row["precision"] = layer["precision"]
    total = sum(row["macs"] for row in rows.values())
    for row in rows.values():
        row["macs_share"] = row["macs"] / total if total else 0.0
    return list(rows.values())


def by_node(found: Any, field: str) -> dict[str, float]:
    """A figure by node, given as a mapping or as a list of records that name node and figure."""
    if isinstance(found, Mapping):
        return {str(node): float(value) for node, value in found.items() if value is not None}
    if isinstance(found, list):
        return {
            str(entry.get("node", entry.get("name"))): float(entry[field])
            for entry in found
            if isinstance(entry, Mapping) and entry.get(field) is not None
        }
    return {}
