"""Pruning of an ONNX file: channels leave the graph itself, and no training is needed.

The graph becomes a torch module (:mod:`edgeres.pruning.onnx_module`), is pruned and reconstructed
as any other, and its narrower layers go back into the graph. Importance needs no labels: for a
classifier it is what removing a channel does to the loss of the dense network's own answers, else
to all outputs. Training images, where there are any, win accuracy back; the teacher is the dense
network.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from edgeres.data.batches import batches
from edgeres.data.preprocess import Preprocess
from edgeres.data.types import UNLABELLED, Dataset
from edgeres.errors import GateError
from edgeres.graph.layers import load_model
from edgeres.graph.session import open_session
from edgeres.graph.summary import summarize
from edgeres.recipe.prune import PruneSettings
from edgeres.sqnr import bounded_db, ratio_db
from edgeres.system.files import write_atomic
from edgeres.system.progress import ProgressCallback

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from edgeres.pruning.onnx_module import PrunableOnnx
    from edgeres.pruning.signals import Batch

_BATCH = 64
_WITNESSES = 8
_PARITY = 1e-3


@dataclass(frozen=True)
class OnnxPruning:
    """What an ONNX file is pruned with.

    Attributes:
        settings: The recipe's ``prune:`` block; without `finetune` nothing is trained.
        preprocess: How an image becomes numbers.
        images: For importance, statistics and reconstruction, and to learn from; labels are looked
            at by a training of classes only.
        held_out: Chooses the epoch and tells what was lost.
        classes: Whether it is a classifier: importance is about its answers, and training learns
            from labels; else both are about all outputs, and training follows the dense network's.
    """

    settings: PruneSettings
    preprocess: Preprocess
    images: Dataset
    held_out: Dataset
    classes: bool = False


def prune_onnx(
    onnx: Path,
    output: Path,
    pruning: OnnxPruning,
    work: Path,
    *,
    progress: ProgressCallback | None = None,
) -> dict[str, str]:
    """Prunes an ONNX file in normal form and writes a smaller one.

    Args:
        onnx: FP32 model in normal form.
        output: The smaller one; names of inputs, outputs and nodes stay.
        pruning: How.
        work: Folder of the resumable state and the logs.
        progress: Called with (steps done, steps in all).

    Returns:
        What is known of the small network, text by text: ``macs``, ``parameters``,
        ``dense_macs``, ``dense_parameters``, ``macs_ratio``; on the held-out images how near its
        outputs are to the dense network's (``sqnr_db``), the share of equal classes
        (``agreement``) and top-1 (``dense_held_out_top1``, ``untrained_held_out_top1``,
        ``held_out_top1``), where there are classes and labels; and what training gave.

    Raises:
        ModelError: The graph cannot be pruned; the node or the operation is named.
        GateError: The file that was written answers differently from the network it was made of.
        EdgeResError: As :func:`edgeres.pruning.prune.prune_module` and
            :func:`edgeres.training.loop.fit`.
    """
    from edgeres.pruning.module_rounds import ModuleRounds
    from edgeres.pruning.onnx_module import PrunableOnnx, write_back
    from edgeres.pruning.rounds import calibration_batches

    settings, preprocess = pruning.settings, pruning.preprocess
    model = load_model(onnx)
    last = preprocess.layout == "nhwc"
    dense = PrunableOnnx(model.graph, channels_last_input=last).eval()
    given = calibration_batches(preprocess, settings, pruning.images)
    data = [(images, _answers(dense, images, pruning.classes)) for images, _ in given]
    dense.add_norms(data)
    channels, height, width = data[0][0].shape[1:]
    rounds = ModuleRounds(
        settings,
        preprocess,
        (channels, height, width),
        work,
        classes=pruning.classes,
        progress=progress or (lambda done, total: None),
    )
    small, notes, _ = rounds.run(dense, data, pruning.images, pruning.held_out)
    assert isinstance(small, PrunableOnnx)
    small.eval()
    write_back(model, small)
    content = ir.to_proto(model).SerializeToString(deterministic=True)
    _check(content, small, data[0][0][:_WITNESSES])
    write_atomic(output, content)
    # The module's normalizations are in neither file.
    notes["dense_parameters"] = str(summarize(onnx).parameters)
    notes["parameters"] = str(summarize(output).parameters)
    dense.eval()
    trained = settings.finetune is not None
    return notes | _judged(dense, small, pruning.held_out, preprocess, trained=trained)


def _answers(dense: PrunableOnnx, images: NDArray[np.float32], classes: bool) -> NDArray[np.int64]:
    """The dense network's own classes, or that there are none, ``(N,)``."""
    import torch

    if classes:
        with torch.no_grad():
            scores = dense(torch.from_numpy(images))
        if isinstance(scores, torch.Tensor) and scores.ndim == 2 and scores.shape[1] > 1:
            return scores.argmax(1).numpy()
    return np.full(len(images), UNLABELLED)


def _check(content: bytes, small: PrunableOnnx, images: NDArray[np.float32]) -> None:
    """Compares the file with the module, run by ONNX Runtime."""
    import torch

    session = open_session(content, threads=1)
    sizes = session.get_inputs()[0].shape
    single = isinstance(sizes[0], int) and sizes[0] == 1
    with torch.no_grad():
        shown = small.as_input(torch.from_numpy(images))
        expected = small(torch.from_numpy(images))
    wanted = [expected] if isinstance(expected, torch.Tensor) else list(expected)
    names = [value.name for value in session.get_outputs()]
    feed = session.get_inputs()[0].name
    parts = [shown[i : i + 1] for i in range(len(shown))] if single else [shown]
    answers = [session.run(names, {feed: part.contiguous().numpy()}) for part in parts]
    for place, own in enumerate(wanted):
        theirs = np.concatenate([answer[place] for answer in answers])
        right = torch.softmax(own, dim=-1) if small.ends_in_softmax[place] else own
        distance = float(np.abs(theirs - right.numpy()).max())
        if not distance <= _PARITY * (1 + float(right.abs().max())):
            raise GateError(
                f"the pruned ONNX file differs by {distance:.2g} from the pruned network.",
                hint="This is a bug of edgeres.",
            )


def _judged(
    dense: nn.Module, small: nn.Module, shown: Dataset, preprocess: Preprocess, *, trained: bool
) -> dict[str, str]:
    """How near the small network is to the dense one, on images that it has not seen."""
    import torch

    from edgeres.modules.answers import outputs_of

    signal, noise = dict[str, float](), dict[str, float]()
    scores: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
    labels: list[NDArray[np.int64]] = []
    for images, given in _shown(shown, preprocess):
        with torch.no_grad():
            wanted, own = (outputs_of(m(torch.from_numpy(images))) for m in (dense, small))
        for name, value in wanted.items():
            exact = value.double()
            signal[name] = signal.get(name, 0.0) + float(exact.square().sum())
            lost = float((exact - own[name].double()).square().sum())
            noise[name] = noise.get(name, 0.0) + lost
        name = next(iter(wanted))
        scores.append((wanted[name].numpy(), own[name].numpy()))
        labels.append(given)
    worst = min(bounded_db(ratio_db(signal[name], noise[name])) for name in signal)
    notes = {"sqnr_db": f"{worst:.2f}", "judged_images": str(sum(map(len, labels)))}
    whole, less = (np.concatenate(part) for part in zip(*scores, strict=True))
    classes = whole.shape[-1]
    if len(signal) > 1 or whole.ndim != 2 or classes < 2:
        return notes
    before, after, right = whole.argmax(1), less.argmax(1), np.concatenate(labels)
    notes["agreement"] = f"{(before == after).mean():.4f}"
    if right.min() >= 0 and right.max() < classes:
        name = "held_out_top1" if trained else "untrained_held_out_top1"
        notes["dense_held_out_top1"] = f"{(before == right).mean():.4f}"
        notes[name] = f"{(after == right).mean():.4f}"
    return notes


def _shown(dataset: Dataset, preprocess: Preprocess) -> Iterator[Batch]:
    for images, labels in batches(dataset, replace(preprocess, layout="nchw"), _BATCH):
        yield images[:, :, None] if images.ndim == 3 else images, labels
