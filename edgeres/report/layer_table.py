"""The layers of a target as rows: precision from the engine, noise and sensitivity where known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeres.report.evidence import FOLDER, TargetEvidence, read_record
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
        Rows with ``node``, ``op``, ``precision``, ``macs``, ``macs_share``, ``weight_sqnr_db``,
        ``sqnr_db`` and ``alone_sqnr_db`` (see :func:`measured_layers`); what is not known is
        ``None``. A node that several layers name is in INT8 only where all of them are.
    """
    account = read_record(folder / name / "model.qdq.json")
    weights = account.get("weight_sqnr_db") or {}
    noise, alone = measured_layers(folder / FOLDER, name)
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
                    "alone_sqnr_db": alone.get(node),
                    "reason": reasons.get(node, ""),
                }
            elif layer["precision"] not in _INT8 and row["precision"] in _INT8:
                row["precision"] = layer["precision"]
    total = sum(row["macs"] for row in rows.values())
    for row in rows.values():
        row["macs_share"] = row["macs"] / total if total else 0.0
    return list(rows.values())


def measured_layers(folder: Path, name: str) -> tuple[dict[str, float], dict[str, float]]:
    """What `edgeres compare --json` and `edgeres sensitivity --json` found, if it was kept.

    Args:
        folder: The ``evidence`` folder, with ``TARGET-compare.json`` and
            ``TARGET-sensitivity.json`` in it, or without.
        name: Name of the target.

    Returns:
        Node to the SQNR in dB of its output in the engine, and node to that of the logits where
        only this node is quantized.
    """
    compared = read_record(folder / f"{name}-compare.json")
    outputs = {}
    for layer in _entries(compared, "layers"):
        node = layer.get("node", layer.get("name"))
        if isinstance(layer.get("sqnr_db"), int | float):
            outputs[str(node)] = float(layer["sqnr_db"])
    alone = {}
    for layer in _entries(read_record(folder / f"{name}-sensitivity.json"), "nodes"):
        only = layer.get("only")
        if isinstance(only, Mapping) and isinstance(only.get("sqnr_db"), int | float):
            alone[str(layer.get("node"))] = float(only["sqnr_db"])
    return outputs, alone


def _entries(record: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    found = record.get(key)
    return [e for e in found if isinstance(e, Mapping)] if isinstance(found, list) else []
