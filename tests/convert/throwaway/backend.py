"""A whole backend in one file, as a stranger would write it: ONNX Runtime with its defaults."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import onnx
import onnxruntime

from edgeres.backends._packaged import Package, PackagedBackend
from edgeres.backends._runner import CheckedRunner
from edgeres.backends._vendor import read_options, refuse_shapes
from edgeres.backends.base import Array, BuildConfig, Engine, LayerInfo, QdqRules
from edgeres.backends.sidecar import check_engine, staged, write_sidecar
from edgeres.errors import BackendMissingError
from edgeres.graph.summary import summarize
from edgeres.system.files import file_sha256
from edgeres.system.progress import ProgressCallback

NAME = "throwaway"


class ThrowawayRunner(CheckedRunner):
    """A session on the stored model."""

    def __init__(self, path: Path) -> None:
        summary = summarize(path)
        super().__init__(summary.inputs, summary.outputs)
        self._session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def _infer(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        names = [spec.name for spec in self.outputs]
        return dict(zip(names, self._session.run(names, dict(feeds)), strict=True))

    def _close(self) -> None:
        del self._session


class Throwaway(PackagedBackend):
    """INT8 convolutions, everything else float."""

    name = NAME
    engine_suffix = ".throwaway.onnx"
    package = Package("onnxruntime")

    def devices(self) -> tuple[str, ...]:
        return ("cpu",)

    def runtime_options(self) -> dict[str, tuple[str, ...]]:
        return {}

    def qdq_rules(self, device: str = "cpu", options: Mapping[str, str] | None = None) -> QdqRules:
        return QdqRules(
            name="throwaway-cpu",
            activation_dtype="uint8",
            activation_symmetric=False,
            ops=frozenset({"Conv", "Gemm"}),
            quantize_outputs=True,
            saturating=True,
        )

    def check(self, config: BuildConfig) -> None:
        if config.device != "cpu":
            raise BackendMissingError(f"throwaway runs on cpu, not on {config.device}.")
        refuse_shapes(config, backend=NAME)
        read_options(config.options, {}, backend=NAME)

    def build(
        self,
        onnx: Path,
        out: Path,
        config: BuildConfig,
        *,
        progress: ProgressCallback | None = None,
    ) -> Engine:
        self.check(config)
        with staged(out) as folder:
            shutil.copyfile(onnx, folder / out.name)
        engine = Engine(out, NAME, config.device, file_sha256(onnx), self.versions())
        write_sidecar(engine)
        return engine

    def load(self, engine: Engine, config: BuildConfig) -> ThrowawayRunner:
        self.check(config)
        check_engine(engine, NAME)
        return ThrowawayRunner(engine.path)

    def layers(self, engine: Engine) -> list[LayerInfo]:
        graph = onnx.load(engine.path).graph
        int8 = {name for node in graph.node for name in node.output if "Dequant" in node.op_type}
        layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm", "Add")]
        precision = {n.name: "int8" if n.input[0] in int8 else "float32" for n in layers}
        return [LayerInfo(n.name, n.op_type, precision[n.name], (n.name,)) for n in layers]


BACKEND = Throwaway()
