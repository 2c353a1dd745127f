"""A torch module as an ONNX file by torch's older exporter, for what the newer one cannot follow.

It runs the module once and writes down the operations, so code that chooses its way by values is
frozen to the way of that run; TorchScript keeps its control flow. The parity gate finds what is
wrong. The older exporter writes opset 17 (:mod:`edgeres.exporting.import_onnx` brings it up).
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Sequence
from typing import Any

import torch

from edgeres.errors import ModelError, one_line

_OPSET = 17


def script_trace(
    module: torch.nn.Module,
    sample_shape: Sequence[int],
    *,
    input_name: str,
    output_names: Sequence[str],
) -> bytes:
    """Exports a module, TorchScript too, with a free batch.

    Args:
        module: Takes ``(N, *sample_shape) float32``; in eval mode and on the CPU.
        sample_shape: Shape of one sample.
        input_name: Name of the graph's input.
        output_names: Names of the graph's outputs, in order.

    Raises:
        ModelError: torch cannot trace or translate the module.
    """
    written: Any = io.BytesIO()  # its annotation knows paths only
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module,
                (torch.zeros((2, *sample_shape)),),
                written,
                dynamo=False,
                opset_version=_OPSET,
                input_names=[input_name],
                output_names=list(output_names),
                dynamic_axes={name: {0: "N"} for name in (input_name, *output_names)},
            )
    except Exception as error:  # whatever the module and torch's passes raise
        raise ModelError(
            f"torch cannot export the module for input {tuple(sample_shape)}: {one_line(error)}.",
            hint="Try the module on two samples; control flow on data cannot be exported.",
        ) from error
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
    content: bytes = written.getvalue()
    return content
