"""Exports a torch network to the ONNX normal form and proves that it computes the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from edgeres.exporting.parity import (
    BATCH_SIZES,
    Outputs,
    ParityReport,
    check_parity,
)
from edgeres.exporting.passes import normal_form, to_bytes
from edgeres.exporting.trace import check_request, ready, trace
from edgeres.system.extras import import_extra
from edgeres.system.files import write_atomic

F32 = NDArray[np.float32]


@dataclass(frozen=True)
class ExportResult:
    """A written ONNX file.

    Attributes:
        path: The file.
        sha256: Of the file.
        opset: Version of ``ai.onnx``.
        input_name: Name of the image input.
        output_name: Name of the logits output.
        sample_shape: ``(C, H, W)``, or that of features.
        parity: How near the file is to the torch network.
    """

    path: Path
    sha256: str
    opset: int
    input_name: str
    output_name: str
    sample_shape: tuple[int, ...]
    parity: ParityReport


def export_onnx(
    module: torch.nn.Module,
    sample_shape: tuple[int, ...],
    out: Path,
    *,
    opset: int = 20,
    dynamic_batch: bool = True,
    input_name: str = "input",
    output_name: str = "logits",
    images: F32 | None = None,
) -> ExportResult:
    """Exports a network to one FP32 ONNX file in normal form (:mod:`edgeres.exporting.passes`).

    The file is written only after the parity gate has passed. The module is not changed.

    Args:
        module: Takes ``(N, C, H, W) float32`` and returns logits ``(N, K) float32``.
        sample_shape: ``(C, H, W)``.
        out: The file to write.
        opset: Version of ``ai.onnx``, 20 or later.
        dynamic_batch: A free batch ``N``, or a batch of 1.
        input_name: Name of the image input.
        output_name: Name of the logits output.
        images: Real preprocessed images ``(M, C, H, W) float32`` for the parity gate; random ones
            are always used.

    Raises:
        UsageError: A sample shape or opset that cannot be exported.
        ModelError: torch cannot export the module, or its weights are not finite float32.
        GateError: The ONNX file computes something else; nothing is written.
        StageError: The exporter gave another opset, or a pass failed.
        BackendMissingError: ONNX Runtime, which the gate needs, is not installed.
        StorageError: The file cannot be written.
    """
    check_request(sample_shape, opset)
    import_extra(
        "onnxruntime", extra="onnxruntime", user="the parity gate"
    )  # said before the work, not after it
    network = ready(module)
    model = trace(
        network,
        sample_shape,
        opset=opset,
        dynamic_batch=dynamic_batch,
        input_name=input_name,
        output_names=[output_name],
    )
    normal_form(model, dynamic_batch=dynamic_batch)
    content, version = to_bytes(model), model.opset_imports[""]
    del model  # the gate's engines take several times its weights
    parity = check_parity(
        lambda batch: _run(network, batch, output_name),
        content,
        sample_shape=sample_shape,
        batch_sizes=_batch_sizes(dynamic_batch),
        images=images,
    )
    write_atomic(out, content)
    return ExportResult(
        path=out,
        sha256=hashlib.sha256(content).hexdigest(),
        opset=version,
        input_name=input_name,
        output_name=output_name,
        sample_shape=sample_shape,
        parity=parity,
    )


def _batch_sizes(dynamic_batch: bool) -> Sequence[int]:
    return BATCH_SIZES if dynamic_batch else (1,)


def _run(network: torch.nn.Module, batch: F32, output_name: str) -> Outputs:
    with torch.inference_mode():
        logits: F32 = network(torch.from_numpy(batch)).numpy()
    return {output_name: logits}
