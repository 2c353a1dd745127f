"""What is inside a built engine: its layers, the precision each runs in, and INT8 coverage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from edgeres.backends.base import Engine, LayerInfo, Remarks
from edgeres.backends.fit import backend_of
from edgeres.backends.isolate import try_engine
from edgeres.backends.sidecar import engine_size, read_engine
from edgeres.errors import ArtefactError
from edgeres.evaluation.coverage import Coverage, int8_coverage
from edgeres.evaluation.fusions import Fusions, count_fusions
from edgeres.graph.summary import node_macs, node_ops
from edgeres.system.files import StrPath, file_sha256


@dataclass(frozen=True)
class Inspection:
    """An engine from within.

    Attributes:
        engine: The engine.
        size_bytes: Size of all its files.
        layers: Its layers in the engine's order.
        coverage: Share of MACs in INT8 and the nodes that are not.
        fusions: Where the additions and activations are computed.
        remarks: What the builder warned of, and what was found on the way.
    """

    engine: Engine
    size_bytes: int
    layers: tuple[LayerInfo, ...]
    coverage: Coverage
    fusions: Fusions
    remarks: Remarks

    def to_dict(self) -> dict[str, object]:
        """As plain JSON values, with the field names of ``report.json``."""
        return {
            "engine": str(self.engine.path),
            "backend": self.engine.backend,
            "device": self.engine.device,
            "versions": dict(self.engine.versions),
            "size_bytes": self.size_bytes,
            **self.coverage.to_dict(),
            "fusions": asdict(self.fusions),
            "builder_warnings": list(self.remarks.warnings),
            "notes": list(self.remarks.notes),
            "commands": list(self.remarks.commands),
            "layers": [vars(layer) | {"nodes": list(layer.nodes)} for layer in self.layers],
        }


def inspect(path: StrPath, *, source: StrPath | None = None, isolate: bool = False) -> Inspection:
    """Asks an engine for its layers and weighs them by the multiply-adds of its ONNX source.

    Args:
        path: The engine file, with its sidecar beside it.
        source: The ONNX file that it was built from; looked for beside the engine if left out.
        isolate: Whether an engine that can run here first does so in a child process, where it may
            crash or hang.

    Raises:
        ArtefactError: No whole engine is there, or its source is not found or is another one.
        BackendMissingError: Its backend cannot say, because the runtime is not here.
        ModelError: The source does not parse or has no convolutions or matrix products.
        StageError: The engine crashed or hung in its trial.
    """
    path = Path(path)
    source = None if source is None else Path(source)
    engine = read_engine(path)
    backend = backend_of(engine.backend, str(engine.path))
    if isolate and backend.not_executable() is None:
        try_engine(path)
    onnx = source_of(engine, source)
    layers = tuple(backend.layers(engine))
    return Inspection(
        engine,
        engine_size(engine),
        layers,
        int8_coverage(node_macs(onnx), layers),
        count_fusions(layers, node_ops(onnx)),
        backend.remarks(engine),
    )


def source_of(engine: Engine, given: Path | None = None) -> Path:
    """The ONNX file that an engine was built from, known by its hash.

    Args:
        engine: The engine.
        given: Where it lies; looked for beside the engine if left out.

    Raises:
        ArtefactError: It is not there, or is another file.
    """
    for candidate in [given] if given is not None else _candidates(engine):
        if candidate.is_file() and file_sha256(candidate) == engine.source_sha256:
            return candidate
    if given is not None:
        raise ArtefactError(
            f"{given}: is not the ONNX file that {engine.path} was built from "
            f"(expected SHA-256 {engine.source_sha256[:12]}...).",
            hint="Give the model that went into the build.",
        )
    raise ArtefactError(
        f"{engine.path}: the ONNX file that it was built from is not beside it.",
        hint="Name it with --source; its multiply-adds weigh the layers.",
    )


def _candidates(engine: Engine) -> Iterator[Path]:
    """ONNX files in the engine's folder; the engine itself first, which may be its own source."""
    yield engine.path
    yield from sorted(engine.path.parent.glob("*.onnx"))
