"""The normal form: one way to write a residual network in ONNX, whoever exported it.

Every later stage relies on it:

* float32, operators of ``ai.onnx`` only, one image input, one output, batch free or 1;
* Conv with constant weights and bias and explicit padding, BatchNormalization folded, or
  a depthwise Conv where no layer is in front of it;
* AveragePool with explicit pads that are left out of the mean, no ``ceil_mode``, no dilation;
* ``Gemm`` with ``transB=1`` and a bias, also for a 1x1 Conv that is then flattened;
* Conv, pools and normalization over lines ``(N, C, T)`` over images of one row;
* ``GlobalAveragePool``; ``Flatten(axis=1)``;
* no pixels computed that no layer reads (strides stand as near to the image as they can);
* no Identity, Dropout or doubled Relu; readable, unique, deterministic names;
* no metadata: equal weights give equal bytes.

A pass states what it needs (``requires``), works (``call``) and checks itself (``ensures``).
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import InvariantError, common

from edgeres.errors import EdgeResError, ModelError, StageError
from edgeres.exporting.batch_form import BlockForm, ResizeForm
from edgeres.exporting.channel_affine import ChannelAffine
from edgeres.exporting.channels_first import ChannelsFirst
from edgeres.exporting.conv_form import ConvForm
from edgeres.exporting.fold_affine import FoldAffine
from edgeres.exporting.fold_constants import FoldConstants
from edgeres.exporting.fold_forward import FoldForward
from edgeres.exporting.global_pool import GlobalPools
from edgeres.exporting.line_form import LinesAsImages
from edgeres.exporting.linear import LinearForm
from edgeres.exporting.naming import NameEverything
from edgeres.exporting.point_layers import PointLayers
from edgeres.exporting.pool_form import PoolForm
from edgeres.exporting.pool_pads import PoolPads
from edgeres.exporting.propagate_strides import PropagateStrides
from edgeres.exporting.remove_noops import RemoveNoOps
from edgeres.exporting.strip import StripProvenance
from edgeres.exporting.views import SimplifyTransposes, SimplifyViews
from edgeres.graph.shapes import BATCH, infer, set_batch
from edgeres.system.memory import give_back


def normal_form(model: ir.Model, *, dynamic_batch: bool = True) -> None:
    """Brings a model into the normal form, in place.

    Args:
        model: One input ``(N, ...)`` float32, one output ``(N, K)`` float32; opset 18 or later.
        dynamic_batch: A free batch ``N``, or a batch of 1.

    Raises:
        ModelError: The model cannot be written in this form; the message names the node.
        StageError: A pass broke its own promise.
    """
    _own_tensors(model)
    check_finite(model)
    set_batch(model, 1)
    run_pass(FoldConstants(), model)
    for rewrite in (
        LinesAsImages(),
        RemoveNoOps(),
        BlockForm(),
        ResizeForm(),
        ChannelsFirst(),
        SimplifyTransposes(),
        PoolForm(),
        PoolPads(),
        GlobalPools(),
        SimplifyViews(),
        LinearForm(),
        FoldAffine(),
        FoldForward(),
        PointLayers(),
        ChannelAffine(),
        ConvForm(),
    ):
        run_pass(rewrite, model)
        run_pass(common.RemoveUnusedNodesPass(), model)
    infer(model)
    # Folding puts layers next to nodes that only now turn out to change nothing.
    run_pass(RemoveNoOps(), model)
    run_pass(SimplifyViews(), model)
    run_pass(common.RemoveUnusedNodesPass(), model)
    infer(model)
    run_pass(PropagateStrides(), model)
    run_pass(ConvForm(), model)  # a 1x1 Conv may have got a stride, and has padding
    infer(model)
    run_pass(NameEverything(), model)
    set_batch(model, BATCH if dynamic_batch else 1)
    if dynamic_batch:
        _check_free_batch(model)
    run_pass(StripProvenance(), model)
    check_finite(model)


def _own_tensors(model: ir.Model) -> None:
    """Gives every initializer a plain tensor, as renaming would reach into the model's source."""
    for value in model.graph.initializers.values():
        if value.const_value is not None:
            value.const_value = ir.tensor(value.const_value.numpy(), name=value.name)


def run_pass(step: ir.passes.PassBase, model: ir.Model) -> None:
    """Runs one pass and turns a broken invariant into an error of this project.

    Raises:
        ModelError: What the pass requires does not hold.
        StageError: The pass did not keep its promise.
    """
    try:
        step(model)
    except InvariantError as error:
        cause = error.__cause__
        if isinstance(cause, EdgeResError):
            raise cause from None
        raise StageError(f"Pass {type(step).__name__} failed: {cause or error}.") from error


def _check_free_batch(model: ir.Model) -> None:
    for value in model.graph.outputs:
        batch = next(iter(value.shape), None) if value.shape is not None else None
        if not isinstance(batch, ir.SymbolicDim) or batch.value != BATCH:
            raise ModelError(
                f"Output '{value.name}' has shape {value.shape} whatever the batch is.",
                hint="A number of images is written into the network; export it with a free batch.",
            )


def check_finite(model: ir.Model) -> None:
    """Refuses weights that are not numbers; single values, such as Clip's bounds, may be.

    Raises:
        ModelError: An initializer holds NaN or infinity; it is named.
    """
    for value in model.graph.initializers.values():
        if not is_finite(value):
            assert value.const_value is not None
            bad = ~np.isfinite(value.const_value.numpy())
            raise ModelError(
                f"Weights '{value.name}' hold {int(bad.sum())} values that are NaN or infinite.",
                hint="Load a checkpoint from before the training diverged.",
            )


def is_finite(value: ir.Value) -> bool:
    """Whether all values of an initializer are numbers; single values need not be."""
    tensor = value.const_value
    if tensor is None or not tensor.shape or not tensor.dtype.is_floating_point():
        return True
    return bool(np.isfinite(tensor.numpy()).all())


def to_bytes(model: ir.Model) -> bytes:
    """The model as a file's content: the same model gives the same bytes.

    Raises:
        StageError: The model is no valid ONNX, or too large for one file (2 GiB).
    """
    proto = ir.to_proto(model)
    try:
        content: bytes = proto.SerializeToString(deterministic=True)
        del proto
        give_back()  # the checker makes two copies of its own
        onnx.checker.check_model(content, full_check=True)
    except Exception as error:  # protobuf and the C++ checker raise types of their own
        raise StageError(f"The normal form is no valid ONNX: {error}.") from error
    return content
