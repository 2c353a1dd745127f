"""Holds a checkpoint against answers of its own library, and finds the relative that they show.

Equal names and shapes cannot tell an anti-aliased or dilated network from the plain one; its logits
for one image can. Where the plain network answers otherwise, the relatives that can be built are
tried, and the one that answers alike is taken.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from edgeres.errors import ModelError, one_line
from edgeres.models.build import build_model
from edgeres.models.plan import ChannelPlan
from edgeres.models.variant import Variant
from edgeres.system.plain_files import refuse_special

F32 = NDArray[np.float32]

TOLERANCE = 2e-3  # of the largest logit: another library, perhaps on a GPU with short products
_SAME = 1e-4  # so near that no relative need be tried
_MOST = 64
_EPSILONS = (1e-5, 1e-3, 1e-4, 1e-6, 1e-8)
_HOW = "See docs/checkpoints.md for how to write it."


def fit_to_answer(
    plan: ChannelPlan, state: Mapping[str, torch.Tensor], path: Path, source: str
) -> ChannelPlan:
    """The plan whose network gives the answers in a file; ``plan`` itself where it does.

    Args:
        plan: As names, shapes and what is said of the network tell.
        state: Checked weights.
        path: ``.npz`` with ``inputs`` ``(N, C, H, W) float32``, as the network takes them, and
            ``outputs`` ``(N, K) float32``, its logits.
        source: Name of the checkpoint for messages.

    Raises:
        ModelError: The file cannot be used, or no network that is built here answers so.
    """
    inputs, outputs = _read(path, plan)
    errors: list[tuple[float, ChannelPlan]] = []
    for candidate in (plan, *_relatives(plan)):
        error = _error(candidate, state, inputs, outputs)
        errors.append((error, candidate))
        if error <= _SAME:
            break
    error, best = min(errors, key=lambda pair: pair[0])
    if error > TOLERANCE:
        raise ModelError(
            f"{source} read as a {plan.architecture} answers {path.name} otherwise than its own "
            f"library: the logits differ by {errors[0][0]:.2g} of the largest, and no relative "
            f"that edgeres builds comes nearer than {error:.2g}.",
            hint="Export the network to ONNX with that library, or check that the inputs are the "
            "network's (after normalization) and the outputs its logits.",
        )
    return replace(best, assumed=False)


def _relatives(plan: ChannelPlan) -> Iterator[ChannelPlan]:
    """Other networks with these weights, the likely ones first; those that cannot be are left out.

    Strides come first with the usual epsilon, then each epsilon with the choices said before.
    """
    variants: list[Variant] = []
    if plan.spec.family == "imagenet":
        base = Variant(norm_epsilon=plan.variant.norm_epsilon)
        variants += [replace(base, antialias="average"), replace(base, stride_on="1x1")]
        variants += [replace(base, output_stride=stride) for stride in (16, 8, 4)]
        variants += [replace(base, antialias="average", output_stride=stride) for stride in (16, 8)]
        variants += [replace(base, stride_on="1x1", output_stride=stride) for stride in (16, 8)]
        for stride in (1, 2):
            variants.append(replace(base, stem_stride=stride, stem_pool="none"))
        variants += [replace(base, stem_stride=1), replace(base, first_stage_stride=2)]
    variants += [replace(plan.variant, norm_epsilon=epsilon) for epsilon in _EPSILONS]
    for variant in dict.fromkeys([plan.variant, *variants]):
        if variant != plan.variant:
            yield replace(plan, variant=variant)


def _error(
    plan: ChannelPlan, state: Mapping[str, torch.Tensor], inputs: F32, outputs: F32
) -> float:
    """Largest difference over the largest logit; infinite where the network cannot be."""
    try:
        module = build_model(plan)
        module.load_state_dict(dict(state), strict=False)
        with torch.inference_mode():
            answers = module.eval()(torch.from_numpy(inputs)).numpy().astype(np.float64)
    except (ModelError, RuntimeError):  # not built, or too small an image for it
        return float("inf")
    error = float(np.abs(answers - outputs).max() / np.abs(outputs).max())
    return error if np.isfinite(error) else float("inf")


def _read(path: Path, plan: ChannelPlan) -> tuple[F32, F32]:
    refuse_special(path, ModelError)
    try:
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
            inputs, outputs = (np.asarray(file[name]) for name in ("inputs", "outputs"))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        reason = one_line(error)
        if "pickle" in reason:  # numpy goes on to say how to load it unsafely
            reason = "it holds no plain arrays"
        raise ModelError(
            f"{path} is no sample answer, an .npz with `inputs` and `outputs`: {reason}.", hint=_HOW
        ) from error
    shape = (len(inputs) if inputs.ndim else 0, plan.num_classes)
    fits = inputs.ndim == 4 and inputs.shape[1] == plan.in_channels and outputs.shape == shape
    if not fits or not 1 <= len(inputs) <= _MOST:
        raise ModelError(
            f"{path}: expected inputs (N, {plan.in_channels}, H, W) and outputs (N, "
            f"{plan.num_classes}) for N of 1 to {_MOST}, got {inputs.shape} and {outputs.shape}.",
            hint=_HOW,
        )
    numbers = [
        values.dtype.kind == "f" and np.isfinite(values).all() for values in (inputs, outputs)
    ]
    if not all(numbers) or inputs.min() == inputs.max() or not np.any(outputs):
        raise ModelError(
            f"{path}: expected finite floating-point values, inputs whose pixels differ and "
            "outputs that are not all 0.",
            hint=_HOW,
        )
    return np.ascontiguousarray(inputs, np.float32), outputs.astype(np.float32)
