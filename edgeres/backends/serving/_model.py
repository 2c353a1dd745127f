"""What a server is given, and what it does with it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from edgeres.backends.base import Engine
from edgeres.data.preprocess import Preprocess
from edgeres.errors import ModelError
from edgeres.graph.summary import TensorSpec


@dataclass(frozen=True)
class ServedModel:
    """One engine on its way into a model repository.

    Attributes:
        name: Name that clients call it by.
        engine: The engine.
        input: Its input; a free size is ``None``.
        outputs: Its outputs.
        class_names: In the order of the scores; empty where nobody named any.
        classifies: Whether its one output holds scores of classes.
        preprocess: How a sample becomes numbers, where it is known.
        qdq: The Q/DQ file that the engine was built from.
        network: The float network that was calibrated.
        magnitudes: Largest magnitude of each of its tensors, as calibration chose it.
    """

    name: str
    engine: Engine
    input: TensorSpec
    outputs: tuple[TensorSpec, ...]
    class_names: tuple[str, ...]
    classifies: bool = True
    preprocess: Preprocess | None = None
    qdq: Path | None = None
    network: Path | None = None
    magnitudes: Mapping[str, float] = field(default_factory=dict)

    @property
    def free_batch(self) -> bool:
        """Whether the engine takes any batch.

        Raises:
            ModelError: Another size than the batch is free.
        """
        for spec in (self.input, *self.outputs):
            if None in spec.shape[1:]:
                raise ModelError(
                    f"{self.name}: {spec.name} has a free size apart from the batch: {spec.shape}.",
                    hint="Export the network with fixed sizes.",
                )
        return self.input.shape[0] is None

    def copy_into(self, folder: Path, suffixes: tuple[str, ...]) -> None:
        """Copies the engine's files as ``model`` with each of these suffixes."""
        folder.mkdir(parents=True)
        for suffix in suffixes:
            shutil.copyfile(self.engine.path.with_suffix(suffix), folder / f"model{suffix}")


class Server(Protocol):
    """One inference server. A module in this folder exposes one as ``SERVER``."""

    def refusal(self, engine: Engine) -> str | None:
        """Why this server cannot run an engine; ``None`` if it can."""
        ...

    def write(self, models: list[ServedModel], folder: Path) -> None:
        """Writes the model repository into an empty folder.

        Raises:
            ModelError: A model that the server cannot take.
        """
        ...
