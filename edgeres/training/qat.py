"""Quantization-aware training: weights and scales of an INT8 network learn from the FP32 one.

It starts where post-training quantization ends: same placement, scales, corrected biases and
saturation-safe integers under the same rule set. Fake quantization stands where the Q/DQ file has
Q/DQ, the FP32 network teaches, and what was learned goes back through the same writer.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from edgeres.backends.base import QdqRules
from edgeres.data.preprocess import Preprocess
from edgeres.data.types import Dataset
from edgeres.errors import DataError, UsageError
from edgeres.graph.layers import load_model, node_name
from edgeres.quantization.byte_input import pixel_steps
from edgeres.quantization.qat_parameters import QatLayer, QatParameters
from edgeres.quantization.quantize import prepare
from edgeres.quantization.table import CalibrationTable
from edgeres.recipe.quantize import QuantizeSettings
from edgeres.recipe.training import QatSettings
from edgeres.system.files import file_sha256
from edgeres.system.progress import ProgressCallback
from edgeres.training.begin import check_labels
from edgeres.training.fake_quant import (
    ActivationQuantizer,
    QuantizedParameters,
    keep_scales_valid,
)
from edgeres.training.loop import LOG_NAME, fit
from edgeres.training.objective import Classes, Following
from edgeres.training.onnx_network import OnnxNetwork, QdqNetwork
from edgeres.training.samples import load_samples
from edgeres.training.summary import QatSummary


@dataclass(frozen=True, kw_only=True)
class QatResult(QatSummary):
    """What training gave: its numbers, and what was learned.

    Attributes:
        parameters: For the writer of Q/DQ files.
        log: One JSON line an epoch.
    """

    parameters: QatParameters
    log: Path


def train_quantized(
    onnx: Path,
    table: CalibrationTable,
    rules: QdqRules,
    settings: QuantizeSettings,
    training: QatSettings,
    train_set: Dataset,
    held_out: Dataset,
    output: Path,
    *,
    preprocess: Preprocess,
    classes: bool = True,
    progress: ProgressCallback | None = None,
) -> QatResult:
    """Trains the INT8 form of a network; resumes what an earlier call left in ``output``.

    Args:
        onnx: FP32 model in normal form: start of the weights, and the teacher.
        table: Its calibration table.
        rules: Of the backend and device that will run it.
        settings: How the start is quantized.
        training: Of the run; the FP32 network teaches where it says ``distill``.
        train_set: Images to learn from.
        held_out: Images for choosing the epoch, or the start; never the test set.
        output: Folder of state and log.
        preprocess: Of the network.
        classes: Whether the network is a classifier and the images have labels; else it learns to
            follow all outputs of the FP32 network, and no label is looked at.
        progress: Called with (steps done, steps of the run).

    Raises:
        UsageError: Outputs are to be followed, and ``training`` says ``distill: false``.
        EdgeResError: As :func:`edgeres.quantization.quantize.quantize` and
            :func:`edgeres.training.loop.fit`.
        ModelError: The model has an op that cannot be trained here.
        DataError: Images or labels do not fit the network.
    """
    network = qdq_network(onnx, table, rules, settings, preprocess=preprocess)
    teacher = OnnxNetwork(load_model(onnx).graph, channels_last_input=network.channels_last_input)
    shape = _first_output(teacher, train_set, table, preprocess)
    if classes:
        check_labels(shape[1], train_set, held_out)
    elif not training.distill:
        raise UsageError(
            "quantization-aware training of a network that is no classifier follows the FP32 "
            "network, and `distill` is false.",
            hint="Leave `quantize: {qat: {distill: ...}}` out.",
        )
    state, _ = fit(
        network,
        training,
        train_set,
        held_out,
        output,
        preprocess=preprocess,
        teacher=teacher if training.distill else None,
        identity=json.dumps({**rules.to_dict(), "name": ""}),
        keep_start=True,
        objective=Classes() if classes else Following(),
        progress=progress,
    )
    start, best = state.start_score, state.best_score
    network.cpu().load_state_dict(state.best)
    return QatResult(
        parameters=learned(network, file_sha256(onnx)),
        kept="start" if state.best_weights == "start" else "trained",
        start_top1=start if classes else None,
        held_out_top1=best if classes else None,
        start_sqnr_db=None if classes else start,
        held_out_sqnr_db=None if classes else best,
        best_epoch=state.best_epoch,
        held_out=len(held_out),
        history=state.history,
        log=output / LOG_NAME,
    )


def qdq_network(
    onnx: Path,
    table: CalibrationTable,
    rules: QdqRules,
    settings: QuantizeSettings,
    *,
    preprocess: Preprocess,
    qat: QatParameters | None = None,
) -> QdqNetwork:
    """The torch module of a Q/DQ file: the calibrated start, or what was learned since.

    Raises:
        EdgeResError: As :func:`edgeres.quantization.quantize.prepare`.
        ModelError: The model has an op that cannot be trained here.
    """
    prepared = prepare(onnx, table, rules, settings, qat=qat)
    placement = prepared.placement
    layers = {
        item.layer.name: (
            item,
            QuantizedParameters(
                item,
                saturating=prepared.saturating,
                int32_bias=rules.bias == "int32",
                least_scale=rules.least_scale,
            ),
        )
        for item in prepared.items
    }
    # Tensors that share a range share one scale, so they share one quantizer: the int8 one where a
    # product of two computed tensors asks for it, which every other reader takes, too.
    known = pixel_steps(prepared.model)
    signed_last = sorted(placement.source, key=lambda name: prepared.params[name].dtype == "int8")
    quantizers = {
        source: ActivationQuantizer(
            prepared.params[name],
            table.tensors[source].shape,
            fixed=table.tensors[source].dead or source in known,
            least_scale=rules.least_scale,
        )
        for name, source in ((name, placement.source[name]) for name in signed_last)
    }
    return QdqNetwork(
        load_model(onnx).graph,
        layers,
        quantizers,
        placement.source,
        {
            name: frozenset((node_name(node), index) for node, index in readers)
            for name, readers in placement.readers.items()
        },
        channels_last_input=preprocess.layout == "nhwc",
    )


@torch.no_grad()
def learned(network: QdqNetwork, model_sha256: str) -> QatParameters:
    """Takes weights, biases and scales out of a module, for the writer of Q/DQ files.

    Args:
        network: On the CPU.
        model_sha256: Hash of the FP32 file that it was made from.
    """
    keep_scales_valid(network)
    layers: dict[str, QatLayer] = {}
    for name, part in zip(network.layer_names, network.layers, strict=True):
        assert isinstance(part, QuantizedParameters)
        bias = None if part.bias is None else part.bias.detach().numpy().copy()
        layers[name] = QatLayer(
            part.weight.detach().numpy().copy(), part.scale.detach().numpy().copy(), bias
        )
    activations = {}
    for name, part in zip(network.sources, network.quantizers, strict=True):
        assert isinstance(part, ActivationQuantizer)
        activations[name] = part.learned()
    return QatParameters(model_sha256, layers, activations)


def _first_output(
    teacher: OnnxNetwork, train_set: Dataset, table: CalibrationTable, preprocess: Preprocess
) -> tuple[int, ...]:
    """Shape of the first output, asked of the network with one sample of its kind."""
    one = load_samples(train_set.subset([0]) if len(train_set) else train_set, preprocess)
    images = one.inputs(slice(1))
    shape = teacher.as_input(images).shape
    expected = table.tensors[teacher.image].shape
    if tuple(shape[1:]) != expected:
        raise DataError(
            f"the network was calibrated on images {list(expected)}; '{train_set.name}' gives "
            f"{list(shape[1:])}.",
            hint="Check the preprocessing: size, channels and layout.",
        )
    with torch.no_grad():
        found = teacher.eval()(images)
    return tuple((found[0] if isinstance(found, tuple) else found).shape)
