"""Layer by layer: where two models, or an engine and what it was built from, come apart.

Two models are run from the same images, and each tensor that both have is compared. That tells how
much noise has gathered up to a layer, not where it came from. So each layer is also looked at by
itself: the reference computes it from the candidate's own inputs, and what is then left between
the two is the layer's own doing. The same is done between an engine and its Q/DQ source, where
nothing but rounding may be left: more is an engine that saturates, or computes something else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeres.errors import DataError, ModelError
from edgeres.evaluation import run_folder
from edgeres.evaluation.causes import Evidence
from edgeres.evaluation.compared import Distances, Model, choose_points, open_model
from edgeres.evaluation.coverage import layers_by_node, node_precision
from edgeres.evaluation.distances import Distance, EngineDistance, LayerDistance, OutputDistance
from edgeres.evaluation.points import Point
from edgeres.evaluation.preprocess_check import preprocess_differs
from edgeres.evaluation.suspects import Suspect, suspects
from edgeres.evaluation.tensors import EngineInside, Inside, OnnxInside, Tensors
from edgeres.quantization.forward import chunks
from edgeres.quantization.segments import run_in_segments
from edgeres.system.files import StrPath
from edgeres.system.progress import ProgressCallback

if TYPE_CHECKING:
    from edgeres.data.preprocess import Preprocess, PreprocessLike
    from edgeres.data.types import Dataset

SAMPLES = 32
_BATCH = 16


@dataclass(frozen=True)
class LayerComparison:
    """Two models, layer by layer.

    Attributes:
        reference: The first model.
        candidate: The second.
        layers: One entry for each tensor that both have, in topological order; the outputs last.
        output: Their first output.
        suspects: Layers that stand out, the one to look at first in front.
        notes: What a person should know of how this was found.
    """

    reference: Path
    candidate: Path
    layers: tuple[LayerDistance, ...]
    output: OutputDistance
    suspects: tuple[Suspect, ...]
    notes: tuple[str, ...] = ()

    @property
    def worst_first(self) -> tuple[LayerDistance, ...]:
        """The layers, the one that adds most noise of its own in front."""
        return tuple(
            sorted(self.layers, key=lambda x: x.sqnr_db if x.own_sqnr_db is None else x.own_sqnr_db)
        )

    def to_dict(self) -> dict[str, object]:
        """As plain JSON values."""
        return {
            "reference": str(self.reference),
            "candidate": str(self.candidate),
            "output": asdict(self.output),
            "suspects": [asdict(suspect) for suspect in self.suspects],
            "layers": [layer.to_dict() for layer in self.layers],
            "notes": list(self.notes),
        }


def compare(
    reference: StrPath,
    candidate: StrPath,
    dataset: Dataset,
    preprocess: PreprocessLike,
    *,
    sources: Sequence[StrPath] = (),
    threads: int | None = None,
    isolate: bool = False,
    progress: ProgressCallback | None = None,
) -> LayerComparison:
    """Compares two models, each an FP32 ONNX file, a Q/DQ ONNX file, or a built engine.

    ONNX files run in ONNX Runtime in float exactly as they are written. The tensors of an engine
    come from engines built from the same source with further outputs.

    Args:
        reference: What the candidate should be like, e.g. the FP32 ONNX file.
        candidate: The other.
        dataset: Images; some dozens are enough.
        preprocess: How an image becomes numbers.
        sources: ONNX files that the engines were built from, where they do not lie beside them.
        threads: CPU threads; ``None`` leaves the choice to the runtimes.
        isolate: Whether both first run once in a child process, where they may crash or hang; then
            the further engines are built in one, too.
        progress: Called with images done and images in all.

    Raises:
        ArtefactError: An engine is damaged, or its source is not found.
        BackendMissingError: An engine cannot run on this machine.
        DataError: There are no images, or they do not fit.
        ModelError: A file is no classifier with unique node names.
        StageError: A model crashed or hung in its trial.
    """
    from edgeres.data.batches import batches

    reference, candidate = Path(reference), Path(candidate)
    prepared = preprocess.complete()
    if len(dataset) == 0:
        raise DataError(f"{dataset.name}: the data set is empty.", hint="Give some images.")
    near = [*map(Path, sources), reference, candidate]
    first, second = (open_model(path, near, isolate=isolate) for path in (reference, candidate))
    choose_points(first, second)
    images = (part for part, _ in batches(dataset, prepared, _BATCH))
    with ExitStack() as stack:
        loop = _Loop(first, second, stack, threads, isolate=isolate)
        done = 0
        for part in chunks(images):
            loop.add(part)
            done += len(part)
            if progress is not None:
                progress(done, len(dataset))
        layers = loop.layers()
    return LayerComparison(
        reference,
        candidate,
        layers,
        loop.output(),
        suspects(layers, reference, candidate, Evidence(first, second)),
        (*_images_note((candidate, reference), prepared), *loop.notes()),
    )


class _Loop:
    """Runs images through both models and adds up the distances."""

    def __init__(
        self,
        first: Model,
        second: Model,
        stack: ExitStack,
        threads: int | None,
        *,
        isolate: bool,
    ) -> None:
        self._models = (first, second)
        self._stack = stack
        self._threads = threads
        self._isolate = isolate
        self._inside: list[Inside] = []
        self._simulated: list[Inside | None] = []
        self._whole: Distances = {}
        self._own: Distances = {}
        self._classes: list[NDArray[np.bool_]] = []

    def add(self, images: NDArray[np.float32]) -> None:
        """Adds some images."""
        if not self._inside:
            self._load(images)
        first = self._models[0]
        tensors = [inside.run(images) for inside in self._inside]
        _add(self._whole, *tensors)
        if first.engine is None:
            limits = {p.tensor: p.limits for p in self._models[1].points}
            _add_own(self._own, first, images, tensors[1], limits)
        for model, simulated, values in zip(self._models, self._simulated, tensors, strict=True):
            if simulated is not None:
                _add(model.sums["whole"], simulated.run(images), values)
                _add_own(model.sums["own"], model, images, values)
        ours, theirs = (t[m.outputs[0].tensor] for m, t in zip(self._models, tensors, strict=True))
        ours, theirs = (logits.reshape(len(images), -1) for logits in (ours, theirs))
        self._classes.append(ours.argmax(axis=1) == theirs.argmax(axis=1))

    def layers(self) -> tuple[LayerDistance, ...]:
        """What was found, in the candidate's topological order."""
        about = [_engine_distances(model) for model in self._models]
        return tuple(
            _layer(point, self._whole[point.tensor], self._own.get(point.tensor), about)
            for point in self._models[1].points
            if point.tensor in self._whole
        )

    def output(self) -> OutputDistance:
        """The first output of both."""
        same = np.concatenate(self._classes)
        distance = self._whole[self._models[1].outputs[0].tensor]
        return OutputDistance(len(same), distance.sqnr_db, float(same.mean()), distance.largest)

    def notes(self) -> tuple[str, ...]:
        """What the probing engines could not tell."""
        lines = []
        for model in self._models:
            if model.inside is None:
                continue
            lines += [f"{model.path}: {t}: {why}" for t, why in model.inside.hidden.items()]
            if model.inside.altered:
                lines.append(
                    f"{model.path}: reading {', '.join(sorted(model.inside.altered))} out changes "
                    "what the engine computes; the distances there are of the changed engine."
                )
        return tuple(lines)

    def _load(self, images: NDArray[np.float32]) -> None:
        for model in self._models:
            simulated = OnnxInside(model.onnx, model.points, threads=self._threads)
            if model.engine is None or model.backend is None:
                self._inside.append(simulated)
                self._simulated.append(None)
                continue
            model.inside = self._stack.enter_context(
                EngineInside(
                    model.engine,
                    model.backend,
                    model.onnx,
                    model.points,
                    images,
                    threads=self._threads,
                    isolate=self._isolate,
                )
            )
            self._inside.append(model.inside)
            self._simulated.append(simulated)


def _images_note(models: Sequence[Path], preprocess: Preprocess) -> tuple[str, ...]:
    """Says so where the images are prepared otherwise than in the run that a model comes from."""
    for folder in dict.fromkeys(run_folder.run_of(model) / run_folder.BASELINE for model in models):
        if other := preprocess_differs(folder, preprocess):
            return (
                f"{other}: the layers are compared on images that the network was not measured "
                "on, and both models see the same ones.",
            )
    return ()


def _add(sums: Distances, reference: Tensors, other: Tensors) -> None:
    for tensor, exact in reference.items():
        if tensor in other:
            if exact.shape != other[tensor].shape:
                raise ModelError(
                    f"tensor {tensor} is {list(exact.shape)} in the reference and "
                    f"{list(other[tensor].shape)} in the candidate: these are two networks.",
                    hint="Give the FP32 model that was quantized: pruned/model.onnx where the "
                    "network was pruned.",
                )
            sums.setdefault(tensor, Distance()).add(exact, other[tensor])


def _add_own(
    sums: Distances,
    reference: Model,
    images: NDArray[np.float32],
    other: Tensors,
    limits: Mapping[str, tuple[float, float] | None] | None = None,
) -> None:
    """Lets the reference's graph compute each layer from the other's inputs."""
    at = {point.stop: point.tensor for point in reference.points if point.tensor in other}
    twins = {
        twin: point.tensor
        for point in reference.points
        if point.tensor in other
        for twin in point.twins
    }

    def visit(stop: str, computed: NDArray[np.float32]) -> NDArray[np.float32]:
        if stop in twins:
            return other[twins[stop]]
        value = other[at[stop]]
        beyond = None if limits is None else limits.get(at[stop])
        sums.setdefault(at[stop], Distance()).add(computed, value, beyond)
        return value

    run_in_segments(reference.graph, [*at, *twins], images, visit)


def _layer(
    point: Point,
    whole: Distance,
    own: Distance | None,
    about: Sequence[Mapping[str, EngineDistance]],
) -> LayerDistance:
    clipped = coarseness = None
    if own is not None and point.limits is not None:
        clipped = own.clipped_share
        coarseness = point.step / own.signal_rms if point.step and own.signal_rms else None
    return LayerDistance(
        node=point.node,
        op=point.op,
        tensor=point.tensor,
        nodes=point.nodes,
        int8_asked=point.int8_asked,
        sqnr_db=whole.sqnr_db,
        own_sqnr_db=None if own is None else own.sqnr_db,
        reference=about[0].get(point.tensor),
        candidate=about[1].get(point.tensor),
        gain=1.0 if own is None else own.gain,
        gain_explains=0.0 if own is None else own.gain_explains,
        clipped=clipped,
        coarseness=coarseness,
    )


def _engine_distances(model: Model) -> dict[str, EngineDistance]:
    if model.engine is None or model.backend is None or model.inside is None:
        return {}
    layers = layers_by_node(model.backend.layers(model.engine))
    whole, own = model.sums["whole"], model.sums["own"]
    return {
        point.tensor: EngineDistance(
            sqnr_db=whole[point.tensor].sqnr_db,
            own_sqnr_db=own[point.tensor].sqnr_db,
            rms_steps=own[point.tensor].rms / point.step if point.step else None,
            max_steps=own[point.tensor].largest / point.step if point.step else None,
            precision=node_precision(layers.get(point.node, ())),
            int8_asked=point.int8_asked,
            probe_exact=point.tensor not in model.inside.altered,
        )
        for point in model.points
        if point.tensor in own
    }
