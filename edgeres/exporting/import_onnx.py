"""Bring your own ONNX: a foreign file, made safe and brought into the normal form."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeres.errors import UsageError
from edgeres.exporting.foreign import normalize_file
from edgeres.exporting.image_input import Layout
from edgeres.exporting.parity import ParityReport, Tolerance
from edgeres.system.child import run_limited
from edgeres.system.extras import import_extra
from edgeres.system.files import disk_errors, file_sha256, sync

F32 = NDArray[np.float32]

OLDEST_OPSET = 20
MEMORY_BYTES = 8 << 30
SECONDS = 600.0


@dataclass(frozen=True)
class ImportedModel:
    """A foreign model in the normal form.

    Attributes:
        path: The file that was written.
        sha256: Of that file.
        source_sha256: Of the foreign file (without files that it refers to).
        opset: Version of ``ai.onnx`` of the file.
        source_opset: Version of the foreign file.
        input_name: Name of the image input, as in the foreign file.
        output_name: Name of the (first) output, as in the foreign file.
        sample_shape: Shape of one sample as it is fed: ``(C, H, W)``, or ``(H, W, C)`` for nhwc.
        layout: Layout of the input; the network itself computes in nchw.
        whole_numbers: Whether the foreign file takes whole numbers, such as 8-bit pixels. The
            written one takes the same numbers as float32.
        num_classes: Number of scores; one is the probability of class 1 of two, 0 where no
            classifier was asked for.
        dynamic_batch: Whether any batch is accepted; else only 1 is.
        ends_in: ``logits``, or the final activation: ``softmax``, ``logsoftmax``, ``sigmoid``.
        logits_name: The tensor in front of the final activation; the output itself if none.
        notes: What was changed that a user might want to know, in sentences.
        parity: How near the file is to the foreign one.
    """

    path: Path
    sha256: str
    source_sha256: str
    opset: int
    source_opset: int
    input_name: str
    output_name: str
    sample_shape: tuple[int, ...]
    layout: Layout
    whole_numbers: bool
    num_classes: int
    dynamic_batch: bool
    ends_in: str
    logits_name: str
    notes: tuple[str, ...]
    parity: ParityReport

    @property
    def in_channels(self) -> int:
        """Channels of the image input."""
        return self.sample_shape[0 if self.layout == "nchw" else -1]


def import_onnx(
    path: Path,
    out: Path,
    *,
    opset: int = 20,
    layout: Layout | None = "nchw",
    sample_shape: Sequence[int] | None = None,
    open_size: Sequence[int] | None = None,
    outputs: Sequence[str] = (),
    classes: bool = True,
    remove_given_scales: bool = False,
    images: F32 | None = None,
    tolerance: Tolerance | None = None,
    seconds: float = SECONDS,
    memory_bytes: int = MEMORY_BYTES,
) -> ImportedModel:
    """Reads a foreign ONNX file and writes it in normal form (:mod:`edgeres.exporting.passes`).

    All parsing and running happens in a child process under the limits given. The model keeps its
    interface: names, input layout (a Transpose leads from nhwc to the network), and a Softmax at
    its end, whose input is ``logits_name``. A batch baked into the model is freed where possible.

    Args:
        path: The foreign file; external data is read only from plain files beside it.
        out: The file to write; it is written after the parity gate has passed, or not at all.
        opset: Version of ``ai.onnx`` to upgrade to; a later one is kept.
        layout: Layout of the model's input, ``nchw`` or ``nhwc``; ``None`` for what it looks like.
        sample_shape: Shape of one sample as the model takes it; it must agree with the file.
        open_size: Height and width where the file leaves them open; else not looked at.
        outputs: The outputs to keep, where there are several, or tensors inside the network.
        classes: Whether a classifier is wanted: one output with class scores.
        remove_given_scales: Take the scales of a quantized file out; without it one is refused.
        images: Real preprocessed images ``(M, *sample_shape) float32`` for the parity gate; random
            ones are always used.
        tolerance: Largest error that the parity gate allows.
        seconds: Time limit.
        memory_bytes: Memory limit; weights, and any one tensor for one image, may take a quarter.

    Raises:
        UsageError: An opset or a layout that is not supported.
        ModelError: The file is not safe, not ONNX, or not what is asked for.
        GateError: The result computes something else; nothing is written.
        StageError: A limit was hit, or the child crashed.
        BackendMissingError: ONNX Runtime, which the gate needs, is not installed.
        StorageError: The file cannot be written.
    """
    if opset < OLDEST_OPSET:
        raise UsageError(f"Expected opset {OLDEST_OPSET} or later, got {opset}.")
    if layout not in ("nchw", "nhwc", None):
        raise UsageError(f"Expected layout nchw or nhwc, got '{layout}'.")
    import_extra(
        "onnxruntime", extra="onnxruntime", user="the parity gate"
    )  # said before the work, not after it
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as folder:
            written = Path(folder) / "model.onnx"
            told = run_limited(normalize_file, seconds=seconds, memory_bytes=memory_bytes)(
                path,
                written,
                opset=opset,
                layout=layout,
                sample_shape=sample_shape,
                open_size=open_size,
                outputs=outputs,
                classes=classes,
                remove_given_scales=remove_given_scales,
                images=None if images is None else images.astype(np.float32, copy=False),
                tolerance=tolerance or Tolerance(),
                max_bytes=memory_bytes // 4,
            )
            sync(written)
            written.replace(out)
    return _imported(told, out, file_sha256(path))


def _imported(facts: dict[str, Any], out: Path, source_sha256: str) -> ImportedModel:
    parity = facts.pop("parity")
    return ImportedModel(
        path=out,
        source_sha256=source_sha256,
        sample_shape=tuple(facts.pop("sample_shape")),
        notes=tuple(facts.pop("notes")),
        parity=ParityReport(batch_sizes=tuple(parity.pop("batch_sizes")), **parity),
        **facts,
    )
