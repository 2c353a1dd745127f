"""A file that another tool has quantized, with its scales, beside the float network behind it.

The float network (:mod:`edgeres.exporting.remove_scales`) is what the engine is judged against. The
file itself stays as it is but for its interface: the outputs that are judged, the size where it is
open, and a free batch where the float network has one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner

from edgeres.errors import EdgeResError, ModelError
from edgeres.exporting.file_order import put_in_order
from edgeres.exporting.import_onnx import MEMORY_BYTES, SECONDS
from edgeres.exporting.precision_parity import image_of
from edgeres.exporting.remove_scales import name_of
from edgeres.graph.edit import QUANTIZED
from edgeres.graph.external_data import load_self_contained
from edgeres.graph.session import open_session, run_feeds
from edgeres.system.child import JsonValue, run_limited

_HINT = (
    "`edgeres build` takes such a file as it is; --given-scales remove "
    "(`model: {given_scales: remove}`) quantizes it anew."
)


def keep_scales(source: Path, normalized: Path, out: Path) -> tuple[str, ...]:
    """Writes a quantized file so that it stands in for one that edgeres quantizes.

    Args:
        source: The foreign file.
        normalized: The float network that was made of it.
        out: Where the file goes.

    Returns:
        Names of the nodes between its scales, which engines can run in INT8.

    Raises:
        ModelError: It has no scales, or it cannot take the float network's place.
        StageError: A limit was hit, or the child crashed.
    """
    write = run_limited(write_kept, seconds=SECONDS, memory_bytes=MEMORY_BYTES)
    return tuple(str(name) for name in write(source, normalized, out))


def write_kept(source: Path, normalized: Path, out: Path) -> list[JsonValue]:
    """What the child of :func:`keep_scales` does."""
    kept = put_in_order(load_self_contained(source, max_bytes=MEMORY_BYTES // 4))
    if kept.functions:
        kept = onnx.inliner.inline_local_functions(kept)
    if not any(node.op_type in QUANTIZED for node in kept.graph.node):
        raise ModelError(
            f"{source}: it has no scales to keep.",
            hint="Leave --given-scales (`model: {given_scales: ...}`) out.",
        )
    plain = onnx.load(normalized)
    image, shape = image_of(kept), _shape(image_of(plain))
    if image.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        raise ModelError(f"{source}: its input is not float32, so it is not kept.", hint=_HINT)
    names = [output.name for output in plain.graph.output]
    _keep_outputs(kept, names)
    _set_shape(image, shape)
    for node in kept.graph.node:
        node.name = name_of(node)
    del kept.graph.value_info[:]
    content = kept.SerializeToString()
    _check_it_runs(content, plain, shape, names, source)
    out.write_bytes(content)
    return [node.name for node in kept.graph.node if _is_int8(node, kept)]


def _shape(value: onnx.ValueInfoProto) -> list[int | None]:
    return [dim.dim_value or None for dim in value.type.tensor_type.shape.dim]


def _set_shape(value: onnx.ValueInfoProto, shape: Sequence[int | None]) -> None:
    dims = value.type.tensor_type.shape.dim
    del dims[:]
    for size in shape:
        dims.add(dim_value=size) if size else dims.add(dim_param="N")


def _keep_outputs(model: onnx.ModelProto, names: Sequence[str]) -> None:
    del model.graph.output[:]
    model.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names
    )


def _check_it_runs(
    content: bytes,
    plain: onnx.ModelProto,
    shape: Sequence[int | None],
    names: Sequence[str],
    source: Path,
) -> None:
    """Both files must take the same images and answer in the same shapes."""
    given, free = open_session(content), open_session(plain.SerializeToString())
    for batch in (1, 2) if shape[0] is None else (1,):
        images = np.zeros([batch, *(size or 1 for size in shape[1:])], np.float32)
        try:
            kept, wanted = (
                run_feeds(session, {session.get_inputs()[0].name: images}, list(names))
                for session in (given, free)
            )
        except EdgeResError as error:
            raise ModelError(
                f"{source}: with its scales it does not run for {batch} images: {error.message}",
                hint=_HINT,
            ) from error
        for name in names:
            if kept[name].shape != wanted[name].shape:
                raise ModelError(
                    f"{source}: its output '{name}' is {list(kept[name].shape)}, that of the float "
                    f"network {list(wanted[name].shape)}, so it is not kept.",
                    hint=_HINT,
                )


def _is_int8(node: onnx.NodeProto, model: onnx.ModelProto) -> bool:
    """Whether a node computes on integers, or on what was integers just before."""
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        return False
    if node.op_type.startswith("QLinear") or node.op_type in QUANTIZED:
        return True
    dequantized = {n.output[0] for n in model.graph.node if n.op_type == "DequantizeLinear"}
    return bool(node.input) and node.input[0] in dequantized
