"""One round of pruning of a module without a plan, and the same module cut again in the same way.

What is kept is indices into the groups of the dense network, which code makes anew each time.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from edgeres.errors import ArtefactError, ModelError
from edgeres.models.weights_file import read_weights, write_safetensors
from edgeres.pruning.groups import ChannelGraph
from edgeres.pruning.prune import prune_module
from edgeres.pruning.signals import Batch
from edgeres.recipe.prune import PruneSettings
from edgeres.system.progress import ProgressCallback

KEPT = "kept"
"""Metadata: the channels of each group that stay, as JSON."""

Kept = Mapping[str, Sequence[int]]


def pruned_round(
    module: nn.Module,
    settings: PruneSettings,
    data: list[Batch],
    shape: tuple[int, int, int],
    folder: Path,
    *,
    progress: ProgressCallback | None = None,
) -> tuple[nn.Module, dict[str, list[int]]]:
    """One round; the very network of an earlier, killed run where that lies in the folder.

    A second computation might differ in the last bit, and then not be the network whose training
    is to be resumed.

    Args:
        module: Stays as it was.
        settings: Of this round.
        data: Images ``(N, C, H, W) float32`` and labels, in batches.
        shape: One image, ``(C, H, W)``.
        folder: Where the pruned network lies.
        progress: Called with (steps done, steps of this round).

    Returns:
        The narrowed module in evaluation mode, and what it kept.

    Raises:
        ModelError: The network cannot be pruned.
        ArtefactError: The folder holds another pruning.
    """
    path = folder / "pruned.safetensors"
    identity = _identity(module, settings, data)
    if path.exists():
        content, metadata = read_weights(path)
        state: Any = content
        if metadata.get("pruned_from") != identity:
            raise ArtefactError(
                f"'{path}' was pruned from another network or with other settings or images.",
                hint=f"Remove '{folder}' to prune from the start.",
            )
        kept = json.loads(metadata[KEPT])
        narrow = narrowed(module, kept, shape)
        narrow.load_state_dict(state)
        return narrow, kept
    result = prune_module(module, settings, data, progress=progress)
    kept = {name: list(channels) for name, channels in result.kept.items()}
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(
        path, result.module.state_dict(), {"pruned_from": identity, KEPT: json.dumps(kept)}
    )
    return result.module, kept


def narrowed(module: nn.Module, kept: Kept, shape: tuple[int, int, int]) -> nn.Module:
    """The module with these channels of each group, as ``kept`` in a pruned file's metadata says.

    Args:
        module: The dense network; stays as it was.
        kept: Channels that stay, by group and as indices into the dense group.
        shape: One image, ``(C, H, W)``.

    Raises:
        ModelError: The network has no such groups.
    """
    graph = ChannelGraph(copy.deepcopy(module), shape)
    channels = {group.name: group.channels for group in graph.groups}
    unknown = sorted(set(kept) - set(channels))
    if unknown:
        raise ModelError(
            f"The network has no group of channels '{unknown[0]}'.",
            hint="Give the network that was pruned.",
        )
    graph.remove(
        {name: sorted(set(range(channels[name])) - set(stay)) for name, stay in kept.items()}
    )
    return graph.module.eval()


def joined(before: Kept, after: Kept) -> dict[str, list[int]]:
    """What a second round kept, as indices into the dense groups."""
    joined = {name: list(stay) for name, stay in before.items()}
    for name, stay in after.items():
        joined[name] = [joined[name][i] for i in stay] if name in joined else list(stay)
    return joined


def _identity(module: nn.Module, settings: PruneSettings, data: list[Batch]) -> str:
    elsewhere = {"finetune", "epochs_between", "sparse"}
    told = {key: value for key, value in settings.key().items() if key not in elsewhere}
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    for images, labels in data:
        digest.update(images.tobytes())
        digest.update(labels.tobytes())
    return digest.hexdigest()
