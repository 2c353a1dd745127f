"""An engine that computes nothing: it takes feeds, checks them and answers with zeros.

Timing it tells what a measurement costs apart from the engine: the check of the feeds, the making
of the outputs, the clock itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edgeres.backends._packaged import PackagedBackend
from edgeres.backends._runner import CheckedRunner
from edgeres.backends.base import Array, BuildConfig, Engine, LayerInfo, QdqRules
from edgeres.backends.sidecar import check_engine, staged, write_sidecar
from edgeres.errors import ArtefactError, ModelError
from edgeres.graph.summary import TensorSpec
from edgeres.system.files import file_sha256
from edgeres.system.foreign_json import read_json
from edgeres.system.progress import ProgressCallback

_NAME = "null"


class NullRunner(CheckedRunner):
    """Answers with zeros of the right shape and dtype."""

    def _infer(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        batch = len(feeds[self.inputs[0].name])
        return {
            spec.name: np.zeros(
                [batch if size is None else size for size in spec.shape], spec.dtype
            )
            for spec in self.outputs
        }

    def _close(self) -> None:
        """Holds nothing."""


class Null(PackagedBackend):
    """The null backend; see :class:`edgeres.backends.base.Backend`. It needs no package."""

    name = _NAME
    engine_suffix = ".null.json"
    package = None

    def devices(self) -> tuple[str, ...]:
        """``cpu``."""
        return ("cpu",)

    def qdq_rules(self, device: str = "cpu", options: Mapping[str, str] | None = None) -> QdqRules:
        """Nothing is quantized."""
        self.check_device(device)
        return QdqRules(
            name="null", activation_dtype="uint8", activation_symmetric=False, ops=frozenset()
        )

    def build(
        self,
        onnx: Path,
        out: Path,
        config: BuildConfig,
        *,
        progress: ProgressCallback | None = None,
    ) -> Engine:
        """Keeps the model's inputs and outputs and nothing else.

        Raises:
            BackendMissingError: Another device than ``cpu``.
            ModelError: No ONNX model, or an output with a dynamic size apart from the batch.
            StorageError: The engine cannot be written.
            UsageError: Any option at all.
        """
        from edgeres.graph.summary import summarize

        self.check(config)
        summary = summarize(onnx)
        for spec in summary.outputs:
            if not summary.inputs or None in spec.shape[1:]:
                raise ModelError(
                    f"{onnx}: expected inputs, and outputs of fixed sizes apart from the batch, "
                    f"got {spec.name} {spec.shape}.",
                    hint="Import the model with fixed sizes.",
                )
        record = {
            kind: [[spec.name, spec.shape, spec.dtype] for spec in specs]
            for kind, specs in (("inputs", summary.inputs), ("outputs", summary.outputs))
        }
        with staged(out) as folder:
            (folder / out.name).write_text(json.dumps(record) + "\n", encoding="utf-8")
        engine = Engine(out, _NAME, config.device, file_sha256(onnx), self.versions())
        write_sidecar(engine)
        return engine

    def load(self, engine: Engine, config: BuildConfig) -> NullRunner:
        """Reads the inputs and outputs.

        Raises:
            ArtefactError: The file is damaged, or no engine of this backend.
            BackendMissingError: Another device than ``cpu``.
            UsageError: Any option at all.
        """
        self.check(config)
        check_engine(engine, _NAME)
        try:
            record = read_json(engine.path)
            inputs, outputs = (
                tuple(TensorSpec(name, tuple(shape), dtype) for name, shape, dtype in record[kind])
                for kind in ("inputs", "outputs")
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ArtefactError(
                f"{engine.path}: expected inputs and outputs as JSON ({error}).",
                hint="Build it again.",
            ) from error
        return NullRunner(inputs, outputs)

    def layers(self, engine: Engine) -> list[LayerInfo]:
        """None: nothing is computed.

        Raises:
            ArtefactError: The file is damaged, or no engine of this backend.
        """
        check_engine(engine, _NAME)
        return []


BACKEND = Null()
