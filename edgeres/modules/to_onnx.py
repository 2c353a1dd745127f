"""Writes a torch module as an ONNX file that answers alike, for the import of foreign ONNX files.

Several ways are tried, the surest first: torch's exporter with a free batch, its older one, and a
batch of one image. What is written has passed the parity gate against the module itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from edgeres.errors import EdgeResError, GateError, ModelError, StageError, one_line
from edgeres.exporting.parity import BATCH_SIZES, F32, Outputs, check_parity
from edgeres.exporting.script_trace import script_trace
from edgeres.exporting.trace import OLDEST_OPSET, trace
from edgeres.modules.answers import OUTPUT, outputs_of, scores_of

INPUT = "input"
_PROTOBUF_LIMIT = 2**31 - 2**20


class Scores(torch.nn.Module):
    """A network whose only output is its class scores, whatever it puts around them."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network
        self.training = False  # eval() would reach into programs, which refuse it

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Maps a batch of images to scores, as the network gives them."""
        return scores_of(self.network(images))


class AllOutputs(torch.nn.Module):
    """A network that returns all its tensors in a row, whatever it puts around them."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network
        self.training = False

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Maps a batch of samples to all outputs, in the order of their names."""
        return tuple(outputs_of(self.network(images)).values())


def write_onnx(
    network: torch.nn.Module,
    sample_shape: tuple[int, int, int],
    out: Path,
    *,
    scripted: bool,
    every: bool = False,
) -> list[str]:
    """Writes a module as ONNX, in the form that the exporter gives.

    Args:
        network: In evaluation mode, float32, on the CPU.
        sample_shape: Shape of one sample as the network takes it.
        out: The file.
        scripted: The module is TorchScript, which the newer exporter does not take.
        every: Whether all tensors that it returns are outputs; else the class scores alone.

    Returns:
        What a person should know of the export.

    Raises:
        ModelError: The network does not run on one sample, or torch cannot export it.
        GateError: No way gives a file that answers as the network does.
    """
    answer = _tried(network, sample_shape)
    names: Sequence[str] = list(outputs_of(answer)) if every else [OUTPUT]
    plain = isinstance(answer, torch.Tensor)
    notes = []
    module = network
    if not plain and every:
        module = AllOutputs(network)
    elif not plain:
        module = Scores(network)
        notes = [f"of the {type(answer).__name__} that it returns, the scores are judged."]
    ways: list[tuple[str, Callable[[], bytes], Sequence[int]]] = [
        ("", lambda: _traced(module, sample_shape, names, free=True), BATCH_SIZES),
        (
            "it was exported by torch's older exporter.",
            lambda: script_trace(module, sample_shape, input_name=INPUT, output_names=names),
            BATCH_SIZES,
        ),
        (
            "it takes one image at a time.",
            lambda: _traced(module, sample_shape, names, free=False),
            (1,),
        ),
    ]
    problems: list[EdgeResError] = []
    for note, write, sizes in ways[1:2] if scripted else ways:
        try:
            content = write()
            check_parity(
                lambda batch: _answers(module, names, batch),
                content,
                sample_shape=sample_shape,
                batch_sizes=sizes,
            )
        except (ModelError, GateError, StageError) as error:
            problems.append(error)
            continue
        out.write_bytes(content)
        return [*notes, *([note] if note else [])]
    raise problems[0]


def _tried(network: torch.nn.Module, sample_shape: tuple[int, int, int]) -> Any:
    """Runs two samples, so that a module that does not run is told in its own words."""
    try:
        with torch.inference_mode():
            answer = network(torch.zeros((2, *sample_shape)))
    except EdgeResError:
        raise
    except (Exception, SystemExit) as error:  # anybody's code
        raise ModelError(
            f"The network does not run on two images of shape {sample_shape}: "
            f"{type(error).__name__}: {one_line(error)}.",
            hint="Say the size that it takes (`--input-size`, `--resize` or `--crop`), or correct "
            "its code.",
        ) from error
    scores_of(answer)
    return answer


def _answers(module: torch.nn.Module, names: Sequence[str], batch: F32) -> Outputs:
    with torch.inference_mode():
        answer = module(torch.from_numpy(batch))
    tensors = (answer,) if isinstance(answer, torch.Tensor) else answer
    return {
        name: tensor.float().cpu().numpy().astype(np.float32)
        for name, tensor in zip(names, tensors, strict=True)
    }


def _traced(
    module: torch.nn.Module, sample_shape: Sequence[int], names: Sequence[str], *, free: bool
) -> bytes:
    try:
        model = trace(
            module,
            sample_shape,
            opset=OLDEST_OPSET,
            dynamic_batch=free,
            input_name=INPUT,
            output_names=names,
        )
        _name_apart(model)
        content = ir.to_proto(model)
    except EdgeResError:
        raise
    except Exception as error:  # torch's exporter raises types of its own and of anybody's code
        raise ModelError(
            f"torch cannot export the module for input {tuple(sample_shape)}: {one_line(error)}.",
            hint="Try the module on two samples; control flow on data cannot be exported.",
        ) from error
    if content.ByteSize() > _PROTOBUF_LIMIT:
        raise ModelError("The network is larger than the 2 GiB of one ONNX file.")
    return bytes(content.SerializeToString())


def _name_apart(model: ir.Model) -> None:
    """Several nodes may come from one module; engines want a name for each."""
    seen: dict[str, int] = {}
    for node in model.graph:
        name = node.name or node.op_type.lower()
        count = seen.get(name, 0)
        seen[name] = count + 1
        node.name = f"{name}_{count}" if count else name
