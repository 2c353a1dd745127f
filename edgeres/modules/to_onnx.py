"""Writes a torch module as an ONNX file that answers alike, for the import of foreign ONNX files.

Several ways are tried, the surest first: torch's exporter with a free batch, its older one, and a
batch of one image. What is written has passed the parity gate against the module itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from edgeres.errors import EdgeResError, GateError, ModelError, StageError, one_line
from edgeres.exporting.parity import BATCH_SIZES, F32, Outputs, check_parity
from edgeres.exporting.script_trace import script_trace
from edgeres.exporting.trace import OLDEST_OPSET, trace

INPUT, OUTPUT = "input", "logits"
_WORDS = ("logits", "scores", "prediction", "output", "out")
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


def scores_of(answer: Any) -> torch.Tensor:
    """The scores in what a network returns: a tensor, a mapping with them, or the first of several.

    Raises:
        ModelError: There is no tensor in it.
    """
    tensors: list[torch.Tensor]
    if isinstance(answer, torch.Tensor):
        tensors = [answer]
    elif isinstance(answer, Mapping):
        named = [answer[word] for word in _WORDS if isinstance(answer.get(word), torch.Tensor)]
        tensors = named or [v for v in answer.values() if isinstance(v, torch.Tensor)]
    elif isinstance(logits := getattr(answer, "logits", None), torch.Tensor):
        tensors = [logits]
    elif isinstance(answer, Sequence):
        tensors = [value for value in answer if isinstance(value, torch.Tensor)]
    else:
        tensors = []
    if not tensors:
        raise ModelError(
            f"Expected a network that returns class scores, got a {type(answer).__name__}.",
            hint="Return the tensor (N, classes) from its forward().",
        )
    return tensors[0]


def write_onnx(
    network: torch.nn.Module, sample_shape: tuple[int, int, int], out: Path, *, scripted: bool
) -> list[str]:
    """Writes a module as ONNX, in the form that the exporter gives.

    Args:
        network: In evaluation mode, float32, on the CPU.
        sample_shape: Shape of one sample as the network takes it.
        out: The file.
        scripted: The module is TorchScript, which the newer exporter does not take.

    Returns:
        What a person should know of the export.

    Raises:
        ModelError: The network does not run on one sample, or torch cannot export it.
        GateError: No way gives a file that answers as the network does.
    """
    notes = _tried(network, sample_shape)
    module = Scores(network) if notes else network
    ways: list[tuple[str, Callable[[], bytes], Sequence[int]]] = [
        ("", lambda: _traced(module, sample_shape, free=True), BATCH_SIZES),
        (
            "it was exported by torch's older exporter.",
            lambda: script_trace(module, sample_shape, input_name=INPUT, output_name=OUTPUT),
            BATCH_SIZES,
        ),
        (
            "it takes one image at a time.",
            lambda: _traced(module, sample_shape, free=False),
            (1,),
        ),
    ]
    problems: list[EdgeResError] = []
    for note, write, sizes in ways[1:2] if scripted else ways:
        try:
            content = write()
            check_parity(
                lambda batch: _answers(network, batch),
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


def _tried(network: torch.nn.Module, sample_shape: tuple[int, int, int]) -> list[str]:
    """Runs one sample, so that a module that does not run is told in its own words."""
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
    if isinstance(answer, torch.Tensor):
        return []
    return [f"of the {type(answer).__name__} that it returns, the scores are judged."]


def _answers(network: torch.nn.Module, batch: F32) -> Outputs:
    with torch.inference_mode():
        scores = scores_of(network(torch.from_numpy(batch)))
    return {OUTPUT: scores.float().cpu().numpy().astype(np.float32)}


def _traced(module: torch.nn.Module, sample_shape: Sequence[int], *, free: bool) -> bytes:
    try:
        model = trace(
            module,
            sample_shape,
            opset=OLDEST_OPSET,
            dynamic_batch=free,
            input_name=INPUT,
            output_name=OUTPUT,
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
