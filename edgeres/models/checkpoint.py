"""Trained networks on disk: weights with everything needed to use them.

A checkpoint written here is a safetensors file whose metadata carries the channel plan, the
preprocessing and the class names as JSON, so it is rebuilt without pickle and without knowing
where it came from. Files of other training code are read too: see :mod:`.weights_file` (kinds),
:mod:`.unwrap` (what is wrapped around), :mod:`.names` (names), :mod:`.architecture` (shapes) and
:mod:`.statements` (what is said of them).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from edgeres.data.preprocess import Preprocess
from edgeres.errors import DataError, ModelError, UsageError
from edgeres.models.architecture import infer_plan
from edgeres.models.beside import read_beside, said_inside
from edgeres.models.build import build_model
from edgeres.models.head import one_linear
from edgeres.models.names import canonical_names, left_out
from edgeres.models.pickled_module import check_geometry
from edgeres.models.plan import ChannelPlan
from edgeres.models.preparation import told_names, told_preprocess
from edgeres.models.statements import read_claim
from edgeres.models.unwrap import find_state_dict
from edgeres.models.weights_file import read_weights, write_safetensors
from edgeres.models.weights_place import weights_place
from edgeres.system.foreign_json import parse_json

_PLAN, _PREPROCESS, _CLASS_NAMES = "plan", "preprocess", "class_names"
_RESERVED = frozenset({_PLAN, _PREPROCESS, _CLASS_NAMES, "format"})
_LISTED = 10


@dataclass(frozen=True)
class Checkpoint:
    """A network's plan and weights, and what travels with them.

    Attributes:
        plan: From which the network is rebuilt.
        state: Parameters and buffers by name, float32 on the CPU (``num_batches_tracked`` int64).
        preprocess: How an image becomes the network's input; ``None`` where the file did not say.
        class_names: In the order of the logits; empty where the file did not say.
        metadata: Further notes, text by text, e.g. ``top1`` or ``wrapped_in``.
        notes: What a person should know of how the file was read; not saved.
    """

    plan: ChannelPlan
    state: dict[str, torch.Tensor]
    preprocess: Preprocess | None = None
    class_names: tuple[str, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def load_checkpoint(
    path: Path | str,
    *,
    architecture: str | None = None,
    num_classes: int | None = None,
    sample_answer: Path | None = None,
) -> Checkpoint:
    """Loads a checkpoint of edgeres or of other training code, in one file, a folder or shards.

    Args:
        path: The file, the folder or the index. Pickles are read as data only; one that needs code
            is refused.
        architecture: A name from :data:`edgeres.models.plan.ARCHITECTURES`; inferred from the
            weights (pruned widths included) where not given.
        num_classes: Expected classes; taken from the classifier where not given.
        sample_answer: Answers of the library that the checkpoint comes from, to hold it against;
            see :func:`edgeres.models.sample_answer.fit_to_answer`.

    Returns:
        The network. Where neither the file, nor those beside it, nor a sample answer say which of
        the networks with these names and shapes it is, its plan is ``assumed``.

    Raises:
        ModelError: The file is missing, damaged, refused, of another network than named, lacks,
            exceeds or misshapes parameters (the first ten are listed), has a value that is not
            finite (the tensor is named), or is said to be a network that is not built here.
        UsageError: ``architecture`` is not known.
    """
    path = weights_place(Path(path))
    source = path.name
    content, metadata = read_weights(path)
    weights = find_state_dict(content, source=source)
    beside_it = [name for name in weights.tensors if left_out(name)]
    names = canonical_names((n for n in weights.tensors if n not in beside_it), source=source)
    told = () if not beside_it else (f"left out, of no network: {_names(beside_it)}.",)
    state, folded = one_linear(
        {name: weights.tensors[original] for name, original in names.items()}, source
    )
    preprocess = _read_preprocess(metadata, source)
    if _PLAN in metadata:
        plan = ChannelPlan.from_json(metadata[_PLAN])
        _expect(plan, source, architecture, num_classes)
        class_names = _read_class_names(metadata, source, plan.num_classes)
    else:
        beside, inside = read_beside(path), said_inside(content, metadata, source)
        shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
        plan = infer_plan(
            shapes,
            source=source,
            architecture_name=architecture,
            num_classes=num_classes,
            claim=read_claim(beside, inside, named=architecture),
        )
        preprocess = preprocess or told_preprocess(beside, inside)
        class_names = told_names(beside, inside, plan.num_classes)
    tensors = _checked(state, plan, source)
    if weights.geometry:
        check_geometry(build_model(plan), weights.geometry, names, source)
    if sample_answer is not None:
        from edgeres.models.sample_answer import fit_to_answer

        plan = fit_to_answer(plan, tensors, sample_answer, source)
    notes = {key: value for key, value in metadata.items() if key not in _RESERVED}
    if weights.wrapped_in:
        notes["wrapped_in"] = weights.wrapped_in
    return Checkpoint(
        plan=plan,
        state=tensors,
        preprocess=preprocess,
        class_names=class_names,
        metadata=notes,
        notes=(*told, *folded),
    )


def save_checkpoint(path: Path | str, checkpoint: Checkpoint) -> None:
    """Writes ``.safetensors``, all or nothing; equal checkpoints give equal bytes.

    Raises:
        ModelError: The weights do not fit the plan, or a name in ``metadata`` is reserved.
        StorageError: The file cannot be written; an older one stays as it was.
    """
    path = Path(path)
    reserved = sorted(_RESERVED & set(checkpoint.metadata))
    if reserved:
        raise ModelError(f"'{reserved[0]}' is no free metadata name.", hint="Choose another one.")
    _check_fit(checkpoint.state, checkpoint.plan, _without_weights(checkpoint.plan), path.name)
    metadata = {**checkpoint.metadata, _PLAN: checkpoint.plan.to_json()}
    if checkpoint.preprocess is not None:
        metadata[_PREPROCESS] = checkpoint.preprocess.to_json()
    if checkpoint.class_names:
        metadata[_CLASS_NAMES] = json.dumps(list(checkpoint.class_names), ensure_ascii=False)
    write_safetensors(path, checkpoint.state, metadata)


def load_module(checkpoint: Checkpoint) -> nn.Module:
    """Builds the network and loads its weights; in evaluation mode, on the CPU.

    Raises:
        ModelError: Weights and plan do not fit.
    """
    module = build_model(checkpoint.plan)
    _check_fit(checkpoint.state, checkpoint.plan, module, "the checkpoint")
    module.load_state_dict(checkpoint.state, strict=False)
    return module.eval()


def _expect(
    plan: ChannelPlan, source: str, architecture: str | None, num_classes: int | None
) -> None:
    if architecture is not None and plan.architecture != architecture:
        raise ModelError(
            f"{source} holds a '{plan.architecture}' where '{architecture}' was asked for.",
            hint="Leave the architecture out to use the one in the file.",
        )
    if num_classes is not None and plan.num_classes != num_classes:
        raise ModelError(
            f"{source} has {plan.num_classes} classes where {num_classes} were expected.",
            hint="Correct the class count, or fine-tune the classifier for the new classes.",
        )


def _checked(
    state: dict[str, torch.Tensor], plan: ChannelPlan, source: str
) -> dict[str, torch.Tensor]:
    """The state in the module's order, float32, every name, shape and value checked."""
    module = _without_weights(plan)
    _check_fit(state, plan, module, source)
    result: dict[str, torch.Tensor] = {}
    for name, reference in module.state_dict().items():
        if name not in state:  # only num_batches_tracked may be absent
            result[name] = torch.zeros_like(reference, device="cpu")
            continue
        tensor = state[name]
        if reference.dtype.is_floating_point and not tensor.dtype.is_floating_point:
            raise ModelError(
                f"Tensor '{name}' in {source} is {str(tensor.dtype).removeprefix('torch.')}, "
                "not floating point.",
                hint="Bring the unquantized network; edgeres quantizes it.",
            )
        tensor = tensor.detach().to(reference.dtype).contiguous()
        _check_values(name, tensor, source)
        result[name] = tensor
    return result


def _check_values(name: str, tensor: torch.Tensor, source: str) -> None:
    if tensor.dtype.is_floating_point and not bool(torch.isfinite(tensor).all()):
        bad = int((~torch.isfinite(tensor)).sum())
        raise ModelError(
            f"Tensor '{name}' in {source} has {bad} of {tensor.numel()} values NaN or infinite.",
            hint="The training diverged or the file is damaged; use an earlier checkpoint.",
        )
    if name.endswith("running_var") and bool((tensor < 0).any()):
        raise ModelError(
            f"Tensor '{name}' in {source} has a negative variance.",
            hint="The file is damaged; use an earlier checkpoint.",
        )


def _without_weights(plan: ChannelPlan) -> nn.Module:
    """The network of a plan as names, shapes and types alone."""
    with torch.device("meta"):
        return build_model(plan)


def _check_fit(
    state: Mapping[str, torch.Tensor], plan: ChannelPlan, module: nn.Module, source: str
) -> None:
    """Every parameter there, none too many, all of the module's shapes."""
    expected = module.state_dict()
    missing = [n for n in expected if n not in state and not n.endswith("num_batches_tracked")]
    extra = [n for n in state if n not in expected]
    shaped = [
        f"{n} {tuple(state[n].shape)} instead of {tuple(expected[n].shape)}"
        for n in expected
        if n in state and state[n].shape != expected[n].shape
    ]
    problems = [
        _listing(title, names)
        for title, names in (("missing", missing), ("unknown", extra), ("of another shape", shaped))
        if names
    ]
    if problems:
        raise ModelError(
            f"The parameters in {source} do not fit '{plan.architecture}': {'; '.join(problems)}.",
            hint="Check the architecture's name, or whether the file belongs to another network.",
        )


def _listing(title: str, names: list[str]) -> str:
    return f"{len(names)} {title}: {_names(names)}"


def _names(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{', '.join(names[:_LISTED])}{more}"


def _read_preprocess(metadata: Mapping[str, str], source: str) -> Preprocess | None:
    if _PREPROCESS not in metadata:
        return None
    try:
        return Preprocess.from_json(metadata[_PREPROCESS])
    except (DataError, UsageError) as error:
        raise ModelError(
            f"The metadata '{_PREPROCESS}' of {source} is no preprocessing: {error.message}",
            hint="Save the checkpoint again with edgeres.",
        ) from error


def _read_class_names(
    metadata: Mapping[str, str], source: str, num_classes: int
) -> tuple[str, ...]:
    if _CLASS_NAMES not in metadata:
        return ()
    try:
        names = parse_json(metadata[_CLASS_NAMES])
    except ValueError as error:
        raise ModelError(
            f"The metadata '{_CLASS_NAMES}' of {source} is not JSON: {error}.",
            hint="Save the checkpoint again with edgeres.",
        ) from error
    if not isinstance(names, list) or len(names) != num_classes:
        kind = f"{len(names)} entries" if isinstance(names, list) else type(names).__name__
        raise ModelError(
            f"Expected {num_classes} class names in {source}, got {kind}.",
            hint="Save the checkpoint again with one name a class.",
        )
    return tuple(str(name) for name in names)
