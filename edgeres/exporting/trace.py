"""A torch module as an ONNX graph, by torch's own exporter, quietly and with the opset checked.

The exporter's optimizer stays off: it has folded normalizations into the wrong convolution before
(pytorch issues 169178 and 166797), and the passes of this package fold in float64.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch.overrides import TorchFunctionMode

from edgeres.errors import ModelError, StageError, UsageError, one_line

OLDEST_OPSET = 20
_SCOPES = "pkg.torch.onnx.name_scopes"
_CLASSES = "pkg.torch.onnx.class_hierarchy"


def trace(
    module: torch.nn.Module,
    sample_shape: Sequence[int],
    *,
    opset: int,
    dynamic_batch: bool,
    input_name: str,
    output_names: Sequence[str],
) -> ir.Model:
    """Exports a module to an unoptimized ONNX graph whose nodes are called after its modules.

    Weights in channels-last are put into torch's own order first, and images stay in it: of others
    torch's exporter writes the batch of the example into the network.

    Args:
        module: Takes ``(N, *sample_shape) float32``; it must be in eval mode and on the CPU.
        sample_shape: Shape of one sample, ``(C, H, W)``, or of features ``(C, T)`` or ``(K,)``.
        opset: Version of ``ai.onnx`` that the graph must have.
        dynamic_batch: Whether the batch must be free.
        input_name: Name of the graph's input.
        output_names: Names of the graph's outputs, in order.

    Raises:
        ModelError: torch cannot trace or translate the module.
        StageError: The exporter gave another opset than the one asked for.
    """
    # Two samples: torch treats a dimension of size 1 as fixed.
    module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    example = torch.zeros((2 if dynamic_batch else 1, *sample_shape))
    batch = {0: torch.export.Dim("N")} if dynamic_batch else None
    with _quiet(), _OwnOrder():
        try:
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                opset_version=opset,
                dynamic_shapes=(batch,) if batch is not None else None,
                input_names=[input_name],
                output_names=list(output_names),
                external_data=False,
                optimize=False,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise ModelError(
                f"torch cannot export the module for input {tuple(sample_shape)}: "
                f"{_reason(error)}.",
                hint="Try the module on one sample; control flow on data cannot be exported.",
            ) from error
    if program is None:
        raise StageError("torch's exporter returned nothing.")
    model: ir.Model = program.model
    found = model.opset_imports.get("", 0)
    if found != opset:
        raise StageError(
            f"Expected a graph of opset {opset} from torch {torch.__version__}, got {found}.",
            hint=f"Ask for an opset that this torch can write (export.opset: {OLDEST_OPSET}).",
        )
    for node in model.graph:
        node.name = _readable(node)
    return model


class _OwnOrder(TorchFunctionMode):
    """Code that asks for channels-last gets the order that it has."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Calls the function, in torch's own order."""
        named = dict(kwargs or {})
        if named.get("memory_format") is torch.channels_last:
            named["memory_format"] = torch.contiguous_format
        return function(*args, **named)


def ready(module: torch.nn.Module) -> torch.nn.Module:
    """A copy of a module for export: eval mode, on the CPU; the original is left alone.

    Raises:
        ModelError: A parameter or buffer is not float32.
    """
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise ModelError(
                f"Expected float32 weights, got {tensor.dtype} at '{name}'.",
                hint="Call module.float() before the export.",
            )
    return copy.deepcopy(module).cpu().eval()


def check_request(sample_shape: Sequence[int], opset: int) -> None:
    """Refuses an export that cannot give the normal form.

    Raises:
        UsageError: Not ``(C, H, W)``, or an opset that is too old.
    """
    if len(sample_shape) not in (1, 2, 3) or min(sample_shape) < 1:
        raise UsageError(
            f"Expected a sample shape (C, H, W), (C, T) or (K,), got {tuple(sample_shape)}."
        )
    if opset < OLDEST_OPSET:
        raise UsageError(
            f"Expected opset {OLDEST_OPSET} or later, got {opset}.",
            hint="Remove export.opset from the recipe to get the default.",
        )


def _readable(node: ir.Node) -> str:
    """A node's name from the module it came from.

    A node of a layer of torch (``torch.nn.modules``) is called after it: ``layer1.0.conv1``; any
    other after the module whose code wrote it and the operator: ``layer1.0.add``.
    """
    scopes = _parsed(node.metadata_props.get(_SCOPES))
    classes = _parsed(node.metadata_props.get(_CLASSES))
    if len(scopes) < 2 or len(scopes) != len(classes):
        return node.op_type.lower()
    path, kind = scopes[-2], classes[-2]
    if path and kind.startswith("torch.nn.modules.") and ".container." not in kind:
        return path
    return f"{path}.{node.op_type.lower()}" if path else node.op_type.lower()


def _parsed(text: str | None) -> list[str]:
    try:
        value = ast.literal_eval(text or "[]")
    except (ValueError, SyntaxError):
        return []
    return [str(item) for item in value] if isinstance(value, list) else []


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Holds back what the exporter says about itself; errors still come through."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            # torch and copyreg on torch's own internals; nothing that its caller could change.
            warnings.filterwarnings("ignore", category=FutureWarning)
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _reason(error: BaseException) -> str:
    """The innermost cause, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(error)
