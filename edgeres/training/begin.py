"""The start of a training: the first weights, checks of the data, and the run's identity."""

from __future__ import annotations

import hashlib
import json
import warnings

import torch
from torch import nn

from edgeres.data.bad_images import first_image
from edgeres.data.features import Features
from edgeres.data.kinds import preprocess_for
from edgeres.data.preprocess import Preprocess
from edgeres.data.sound import Sound
from edgeres.data.types import Dataset
from edgeres.errors import DataError, UsageError
from edgeres.models.build import build_model, plan_for
from edgeres.models.checkpoint import Checkpoint, load_module
from edgeres.models.plan import ChannelPlan, architecture
from edgeres.recipe.training import Training, TrainSettings
from edgeres.training.samples import takes_arrays


def choose_preprocess(
    preprocess: Preprocess | None, start: Checkpoint | None, train_set: Dataset
) -> Preprocess:
    """The preprocessing that was given, else that of the start checkpoint; features need none.

    Warns where settings do not apply to features, or sounds are resampled.

    Raises:
        UsageError: There is neither, or one that makes no numbers of sounds.
    """
    chosen = preprocess or (None if start is None else start.preprocess)
    if len(train_set) == 0:  # which is told later
        return chosen or Preprocess()
    sample = first_image(train_set)
    if isinstance(sample, Sound) and (chosen is None or chosen.log_mel is None):
        raise UsageError(
            f"{train_set.name} holds sounds, and nothing says how they become numbers.",
            hint="Give `log_mel: {}` in the training recipe's `preprocess:` block.",
        )
    if chosen is None and not isinstance(sample, Features):
        raise UsageError(
            "Training needs the preprocessing of its images.",
            hint="Give the recipe's preprocess block or --scale, --mean and --std.",
        )
    prepared, note = preprocess_for(train_set, chosen or Preprocess(features=True))
    if note:
        warnings.warn(note, stacklevel=3)
    return prepared


def input_channels(train_set: Dataset, preprocess: Preprocess, *, lines: bool) -> int:
    """Channels of what the network takes; those of features are the data's.

    Args:
        train_set: The samples.
        preprocess: Of the network.
        lines: Whether the network takes lines ``(C, T)``, not images ``(C, H, W)``.

    Raises:
        DataError: The samples are not of the network's dimensions.
    """
    if not lines and not takes_arrays(preprocess):
        return preprocess.channels
    shape = preprocess.apply(first_image(train_set)).shape
    if len(shape) != (2 if lines else 3):
        raise DataError(
            f"{train_set.name} has samples of shape {shape}, the network takes "
            f"{'lines (C, T)' if lines else 'images (C, H, W)'}.",
            hint="The architecture `line_resnet8` takes lines: features of two dimensions, or "
            "sounds with as many `channels` as bands; the others take three dimensions.",
        )
    return int(shape[-1] if preprocess.layout == "nhwc" else shape[0])


def choose_plan(
    settings: Training, train_set: Dataset, preprocess: Preprocess, start: Checkpoint | None
) -> ChannelPlan:
    """The start checkpoint's plan, else that of the settings' architecture for this data.

    Raises:
        UsageError: Without a start checkpoint, the settings name no architecture.
        DataError: The set is empty, or the network's input channels are not those of the
            preprocessing.
    """
    if len(train_set) == 0:
        raise DataError(f"'{train_set.name}' holds no images.", hint="Check its path.")
    if start is None:
        if not isinstance(settings, TrainSettings):
            raise UsageError(
                f"{type(settings).__name__} name no architecture to train from scratch.",
                hint="Give a start checkpoint, or TrainSettings.",
            )
        lines = architecture(settings.architecture).over_lines
        channels = input_channels(train_set, preprocess, lines=lines)
        return plan_for(
            settings.architecture,
            num_classes=len(train_set.class_names) or int(train_set.labels.max()) + 1,
            in_channels=channels,
            width_multiplier=settings.width_multiplier,
        )
    channels = input_channels(train_set, preprocess, lines=start.plan.spec.over_lines)
    if start.plan.in_channels != channels:
        raise DataError(
            f"The network takes {start.plan.in_channels} channels, the data have {channels}.",
            hint="Set the preprocess block's channels to the network's.",
        )
    return start.plan


def check_labels(num_classes: int, *datasets: Dataset) -> None:
    """Checks that every set has images and that its labels are classes of the network.

    Raises:
        DataError: Naming the set and the label.
    """
    for data in datasets:
        if len(data) == 0:
            raise DataError(f"'{data.name}' holds no images.", hint="Check its path.")
        lowest, highest = int(data.labels.min()), int(data.labels.max())
        if lowest < 0 or highest >= num_classes:
            raise DataError(
                f"'{data.name}' has labels {lowest} to {highest}, the network has "
                f"{num_classes} classes.",
                hint="Labels count from 0; check the data or the network's class count.",
            )


def first_network(settings: Training, plan: ChannelPlan, start: Checkpoint | None) -> nn.Module:
    """The network before the first step, in training mode.

    From scratch, weights are random from ``settings.seed``, and with ``zero_init_residual`` the
    last batch normalization of every block starts at 0 (Goyal et al., arXiv:1706.02677).
    """
    if start is not None:
        return load_module(start).train().requires_grad_(True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        module = build_model(plan)
    if isinstance(settings, TrainSettings) and settings.zero_init_residual:
        last = f".bn{plan.spec.convolutions}"
        for name, part in module.named_modules():
            if name.startswith("layer") and name.endswith(last):
                nn.init.zeros_(part.get_parameter("weight"))
    return module


def fingerprint(
    settings: Training,
    data: tuple[Dataset, Dataset],
    preprocess: Preprocess,
    module: nn.Module,
    teacher: nn.Module | None,
    *,
    also: str = "",
) -> str:
    """SHA-256 over everything that decides the result, first weights and teacher included.

    ``also`` is what the caller knows beyond that.
    """
    digest = hashlib.sha256()
    told = json.dumps(settings.key(), sort_keys=True)
    for text in (told, *(part.fingerprint for part in data), preprocess.to_json(), also):
        digest.update(text.encode() + b"\0")
    for network in (module, teacher):
        for name, tensor in (network.state_dict() if network is not None else {}).items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
