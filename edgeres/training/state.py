"""What a killed run needs to go on, written whole or not at all after every epoch."""

from __future__ import annotations

import io
import json
import pickle
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from edgeres.errors import ArtefactError
from edgeres.system.files import write_atomic
from edgeres.training.summary import EpochRecord, Weights

STATE_SCHEMA = 2


@dataclass(frozen=True)
class TrainState:
    """Everything between two epochs.

    Attributes:
        fingerprint: Of settings, data, network and teacher; another one is another training.
        history: One record an epoch.
        module: Weights in training.
        optimizer: Momentum and so on.
        scaler: Of the gradient scaler; empty where there is none.
        average: Averaged weights; empty without averaging.
        updates: Updates of the average.
        best: Weights of the best epoch so far.
        best_epoch: From 1; 0 while the network that the training began with is better than all.
        start_score: Of that network on the held-out images, by which epochs are compared; ``None``
            where it may not be kept.
    """

    fingerprint: str
    history: tuple[EpochRecord, ...]
    module: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    average: dict[str, torch.Tensor]
    updates: int
    best: dict[str, torch.Tensor]
    best_epoch: int
    start_score: float | None = None

    @property
    def best_score(self) -> float:
        """On the held-out images, of what is kept."""
        if self.best_epoch == 0:
            assert self.start_score is not None
            return self.start_score
        return self.history[self.best_epoch - 1].score

    @property
    def best_weights(self) -> Weights:
        """What is kept."""
        return "start" if self.best_epoch == 0 else self.history[self.best_epoch - 1].weights


def save_state(path: Path, state: TrainState) -> None:
    """Writes the state whole or not at all.

    Raises:
        StorageError: The folder cannot be written or the disk is full.
    """
    content = {"schema": STATE_SCHEMA} | vars(state)
    content["history"] = [asdict(record) for record in state.history]
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomic(path, buffer.getvalue())


def save_log(path: Path, history: tuple[EpochRecord, ...]) -> None:
    """Writes the whole log anew, so a resumed run's log has each epoch once.

    Raises:
        StorageError: The folder cannot be written or the disk is full.
    """
    lines = "".join(json.dumps(asdict(record)) + "\n" for record in history)
    write_atomic(path, lines.encode())


def load_state(path: Path, fingerprint: str) -> TrainState | None:
    """Reads the state of an earlier run; ``None`` if there is none.

    Raises:
        ArtefactError: The file is damaged, or belongs to other settings, data or network.
    """
    if not path.exists():
        return None
    hint = f"Remove '{path}' to train from the start, or choose another --output."
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError) as error:
        raise ArtefactError(f"The training state '{path}' is damaged.", hint=hint) from error
    if not isinstance(content, dict) or content.pop("schema", None) != STATE_SCHEMA:
        raise ArtefactError(f"'{path}' is no training state of schema {STATE_SCHEMA}.", hint=hint)
    if content["fingerprint"] != fingerprint:
        raise ArtefactError(
            f"'{path}' belongs to a training with other settings, data or start weights.", hint=hint
        )
    content["history"] = tuple(EpochRecord(**record) for record in content["history"])
    return TrainState(**content)
