"""The layers of a target as rows: precision from the engine, noise and sensitivity where known."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from edgeres.evaluation import run_folder
from edgeres.quantization.account import QuantizeAccount, account_path
from edgeres.report.evidence import COMPARED, SENSITIVITY, TargetEvidence
from edgeres.report.schema import TargetPart
from edgeres.system.stored_json import read_stored

_INT8 = ("int8", "uint8")


@dataclass(frozen=True)
class MeasuredLayer:
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


@dataclass(frozen=True, kw_only=True)
class LayerRow(MeasuredLayer):
    """One ONNX node that a layer of the engine computes.

    Attributes:
        node: Its name.
        op: The engine's word for the layer.
        precision: In which it runs; INT8 only where all layers that name the node are.
        macs: Multiply-adds; 0 where the node has no weights.
        macs_share: Share of all rows' multiply-adds, in [0, 1].
        weight_sqnr_db: Of its weights; ``None`` where it has none, or INT8 represents them exactly.
        reason: Why it is not in INT8; empty where it is.
    """

    node: str
    op: str
    precision: str
    macs: int
    macs_share: float = 0.0
    weight_sqnr_db: float | None
    reason: str

    @property
    def in_int8(self) -> bool:
        """Whether it runs in INT8."""
        return self.precision in _INT8


def layer_rows(
    folder: Path,
    name: str,
    part: TargetPart,
    evidence: TargetEvidence,
) -> list[LayerRow]:
    """One row for each ONNX node that a layer of the engine computes.

    Args:
        folder: Output folder of ``convert``.
        name: Name of the target.
        part: Its part of the report.
        evidence: What is kept of it.

    Raises:
        ArtefactError: A file of the output is damaged.
    """
    qdq = folder / name / run_folder.QDQ
    there = account_path(qdq).is_file()
    weight_sqnr_db = QuantizeAccount.beside(qdq).weight_sqnr_db if there else {}
    measured = measured_layers(folder / run_folder.EVIDENCE, name)
    reasons = {layer.name: layer.reason for layer in part.float_layers}
    rows: dict[str, LayerRow] = {}
    for layer in evidence.layers:
        for node in layer.nodes or (layer.name,):
            row = rows.get(node)
            if row is None:
                rows[node] = LayerRow(
                    **vars(measured.get(node, _NOTHING)),
                    node=node,
                    op=layer.op,
                    precision=layer.precision,
                    macs=layer.macs if node in weight_sqnr_db else 0,
                    weight_sqnr_db=weight_sqnr_db.get(node),
                    reason=reasons.get(node, ""),
                )
            elif layer.precision not in _INT8 and row.precision in _INT8:
                rows[node] = replace(row, precision=layer.precision)
    total = sum(row.macs for row in rows.values()) or 1
    return [replace(row, macs_share=row.macs / total) for row in rows.values()]


_NOTHING = MeasuredLayer()


@dataclass(frozen=True)
class _ComparedLayer:
    node: str
    sqnr_db: float | None = None
    own_sqnr_db: float | None = None


@dataclass(frozen=True)
class _Suspect:
    text: str


@dataclass(frozen=True)
class _Compared:
    """``TARGET-compare.json``, as far as the page shows it."""

    layers: tuple[_ComparedLayer, ...] = ()
    suspects: tuple[_Suspect, ...] = ()


@dataclass(frozen=True)
class _Effect:
    sqnr_db: float | None = None


@dataclass(frozen=True)
class _SensitiveNode:
    node: str
    only: _Effect = _Effect()


@dataclass(frozen=True)
class _Sensitivity:
    """``TARGET-sensitivity.json``, likewise."""

    nodes: tuple[_SensitiveNode, ...] = ()


def measured_layers(folder: Path, name: str) -> dict[str, MeasuredLayer]:
    """What ``convert`` measured of a target's layers, if it was asked to; by ONNX node.

    Args:
        folder: The ``evidence`` folder, with ``TARGET-compare.json`` and
            ``TARGET-sensitivity.json`` in it, or without.
        name: Name of the target.

    Raises:
        ArtefactError: One of them is damaged.
    """
    measured = {
        layer.node: MeasuredLayer(layer.sqnr_db, layer.own_sqnr_db)
        for layer in _compared(folder, name).layers
    }
    path = folder / f"{name}{SENSITIVITY}"
    sensitivity = read_stored(path, _Sensitivity) if path.is_file() else _Sensitivity()
    alone = {
        item.node: item.only.sqnr_db for item in sensitivity.nodes if item.only.sqnr_db is not None
    }
    noise = {node: 10 ** (-sqnr_db / 10) for node, sqnr_db in alone.items()}
    total = sum(noise.values()) or 1.0
    for node, sqnr_db in alone.items():
        layer = measured.get(node, _NOTHING)
        measured[node] = replace(layer, alone_sqnr_db=sqnr_db, noise_share=noise[node] / total)
    return measured


def standing_out(folder: Path, name: str) -> list[str]:
    """What is said of the layers that stand out in the engine, the first to look at in front.

    Raises:
        ArtefactError: ``TARGET-compare.json`` is damaged.
    """
    return [suspect.text for suspect in _compared(folder, name).suspects]


def _compared(folder: Path, name: str) -> _Compared:
    path = folder / f"{name}{COMPARED}"
    return read_stored(path, _Compared) if path.is_file() else _Compared()
