"""The first half of a run: from the trained network to FP32 ONNX, dense and (if asked) pruned."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeres.data.bad_images import first_image
from edgeres.data.checks import check_classes
from edgeres.data.class_order import in_order_of, part_note
from edgeres.data.kinds import are_features, of_pixels, preprocess_for
from edgeres.data.preprocess import Layout, Preprocess
from edgeres.data.sampling import some_images
from edgeres.data.source import open_dataset, training_fingerprint
from edgeres.data.types import Dataset
from edgeres.evaluation import run_folder
from edgeres.layer_latency.device import LatencyTarget, latency_target
from edgeres.pipeline.find_source import Source, check_prunable_source, prunes_graph
from edgeres.pipeline.loaded import PARITY_IMAGES, compare_with_source, load_network
from edgeres.pipeline.network import Network, network_of, train_data_of
from edgeres.pipeline.pruned_code import prune_source
from edgeres.pipeline.pruned_graph import prune_graph
from edgeres.pipeline.run import Run
from edgeres.pipeline.source import (
    CHECKPOINT,
    FACTS,
    TRACED,
    ModelFacts,
    choose_preprocess,
    relatives_note,
)
from edgeres.pruning.confirmed import ConfirmedWidths
from edgeres.pruning.summary import PruneSummary
from edgeres.recipe.recipe import ExportSettings
from edgeres.stages.int8 import equalize
from edgeres.stages.network import LATENCY_TABLE, export, prune, take_pixels
from edgeres.system.environment import package_versions
from edgeres.system.files import file_sha256
from edgeres.system.progress import ProgressCallback
from edgeres.system.stored_json import read_stored

if TYPE_CHECKING:
    from edgeres.backends.target import Target
    from edgeres.layer_latency.bench import NetworkBench
    from edgeres.layer_latency.predict import LatencyModel

FINETUNE_LOG = "train_log.jsonl"
ACCOUNT = "pruned.json"

F32 = NDArray[np.float32]


@dataclass(frozen=True)
class LatencyPrediction:
    """What latency-driven pruning went by: milliseconds on one target.

    Attributes:
        target: Name of the target.
        dense_ms: The dense network, measured.
        predicted_ms: The pruned network, predicted before it was built.
        built_ms: The same, measured when its widths were chosen.
        uniform_ms: Even widths of as many multiply-adds, measured beside it.
        kept: ``latency``, or ``uniform`` where even widths were faster and are kept.
        within_budget: Whether ``built_ms`` is within the goal.
    """

    target: str
    dense_ms: float
    predicted_ms: float
    built_ms: float
    uniform_ms: float
    kept: str
    within_budget: bool


@dataclass(frozen=True)
class Networks:
    """What the first half of a run gives to the second."""

    facts: ModelFacts
    preprocess: Preprocess
    dense: Network
    pruned: Network | None
    equalized: Network | None = None
    given: Source | None = None
    """The quantized file whose scales are kept, where that is asked for."""
    prediction: LatencyPrediction | None = None

    @property
    def final(self) -> Network:
        """The network whose accuracy quantization should keep."""
        return self.pruned or self.dense

    @property
    def quantized(self) -> Network:
        """The network that is calibrated and quantized: the final one or its equalized form."""
        return self.equalized or self.final


def prepare_networks(
    run: Run,
    source: Source,
    validation: Dataset,
    targets: Sequence[Target] = (),
    *,
    calibration: Dataset | None = None,
) -> Networks:
    """Loads, prunes and exports, as the recipe says.

    Args:
        run: The run.
        source: The trained network.
        validation: The whole validation set: its classes must be the network's, and its first
            image tells the size that the network sees.
        targets: Of the run; pruning by latency measures layers on one of them.
        calibration: Images that a graph is pruned by; those of the recipe where ``None``.

    Raises:
        EdgeResError: As the stages do.
    """
    recipe = run.recipe
    check_prunable_source(recipe, source)
    loaded = load_network(run, source, validation)
    facts = ModelFacts.load(loaded.file(FACTS))
    for note in facts.notes:
        run.warn_once(f"{facts.name}: {note}")
    if facts.assumed and recipe.model.declared_top1 is None:
        run.warn_once(relatives_note(facts.name))
    features = are_features(validation)
    preprocess = choose_preprocess(recipe.preprocess, facts, features=features)
    preprocess, note = preprocess_for(validation, preprocess)
    run.warn_once(note)
    if run.task is None:
        ordered = in_order_of(validation, facts.class_names)
        run.warn_once(ordered.note)
        part = part_note(validation, facts.num_classes)
        is_part = ordered.is_part or bool(part)
        check_classes(ordered.dataset, facts.num_classes, is_part=is_part)
        run.warn_once(part)
    if source.kind != "checkpoint":
        network = network_of("dense", loaded.file(run_folder.MODEL), None)
        original = source.path if source.kind == "onnx" else loaded.file(TRACED)
        compare_with_source(run, source, original, network.onnx, validation, preprocess)
        pruned = None
        if recipe.prune is not None and prunes_graph(source):
            images = calibration or open_dataset(recipe.data.calibration, split="calibration")
            pruned = prune_graph(run, source, network, preprocess, images)
        elif recipe.prune is not None:
            pruned = prune_source(run, source, network, preprocess)
        given = source if source.given_scales == "keep" else None
        return Networks(facts, preprocess, network, pruned, given=given)
    checkpoint = loaded.file(CHECKPOINT)
    sample = first_image(validation)
    size = preprocess.output_size(sample.height, sample.width)

    def real() -> F32 | None:
        return some_images(validation, preprocess, PARITY_IMAGES)

    dense = _export(run, "dense", checkpoint, size, real)
    if recipe.prune is None:
        return Networks(facts, preprocess, dense, None)
    latency_on, table, latency, bench = None, None, None, None
    if recipe.prune.allocation == "latency":
        latency_on = latency_target(recipe, targets, run.listener.note)
        table, latency = _latency(run, dense, latency_on)
        bench = latency_on.bench(dense.onnx, latency)
    small, confirmed = _prune(run, checkpoint, preprocess, table, latency, bench)
    pruned = _export(run, "pruned", small, size, real)
    prediction = None
    if latency_on is not None and latency is not None and confirmed is not None:
        prediction = _prediction(latency_on, latency, confirmed)
        if not prediction.within_budget:
            run.warn_once(
                f"the pruned network takes {prediction.built_ms:.3g} ms on "
                f"{prediction.target}, more than "
                f"`target_latency: {recipe.prune.target_latency:g}` of "
                f"{prediction.dense_ms:.3g} ms; no widths that were built are within it."
            )
    return Networks(facts, preprocess, dense, pruned, prediction=prediction)


def equalize_network(run: Run, networks: Networks) -> Networks:
    """Adds the equalized form of the final network, if the recipe asks for it.

    Raises:
        EdgeResError: As :func:`edgeres.stages.int8.equalize`.
    """
    if not run.recipe.quantize.equalize:
        return networks
    final = networks.final
    onnx = run.stage(
        "equalize",
        inputs={"model": final.sha256},
        settings={},
        produce=lambda folder, *_: equalize(final.onnx, folder / run_folder.MODEL),
    ).file(run_folder.MODEL)
    return replace(networks, equalized=network_of(f"{final.label} equalized", onnx, None))


def take_pixels_in(run: Run, networks: Networks, validation: Dataset) -> Networks:
    """The same networks with their preprocessing inside, if the recipe asks for an input of bytes.

    Raises:
        EdgeResError: As :func:`edgeres.stages.network.take_pixels`.
    """
    export_settings = run.recipe.export
    if export_settings.input == "float":
        return networks
    layout: Layout = export_settings.input_layout
    fed = of_pixels(networks.preprocess, layout)

    def taking(network: Network | None) -> Network | None:
        if network is None:
            return None
        result = run.stage(
            "pixels",
            inputs={"model": network.sha256},
            settings={"preprocess": networks.preprocess.to_dict(), "layout": layout},
            produce=lambda folder, *_: take_pixels(
                network.onnx,
                folder / run_folder.MODEL,
                preprocess=networks.preprocess,
                layout=layout,
                images=some_images(validation, fed, PARITY_IMAGES),
            ),
            label=f"take pixels ({network.label})",
        )
        return network_of(network.label, result.file(run_folder.MODEL), network.checkpoint)

    dense = taking(networks.dense)
    assert dense is not None
    return replace(
        networks,
        preprocess=fed,
        dense=dense,
        pruned=taking(networks.pruned),
        equalized=taking(networks.equalized),
    )


def _latency(run: Run, dense: Network, latency_on: LatencyTarget) -> tuple[Path, LatencyModel]:
    """The latency table of the dense network's layers on a target, and the model made of it."""

    def produce(folder: Path, work: Path, progress: ProgressCallback) -> None:
        latency_on.model(dense.onnx, work / LATENCY_TABLE, progress)
        shutil.copyfile(work / LATENCY_TABLE, folder / LATENCY_TABLE)

    place = latency_on.place
    path = run.stage(
        "latency",
        inputs={"model": dense.sha256},
        settings={"place": {**asdict(place), "isa": list(place.isa)}},
        produce=produce,
        label=f"measure layers ({latency_on.target.name})",
    ).file(LATENCY_TABLE)
    # All is in the table: nothing is measured again.
    return path, latency_on.model(dense.onnx, path)


def _prediction(
    latency_on: LatencyTarget, latency: LatencyModel, confirmed: ConfirmedWidths
) -> LatencyPrediction:
    return LatencyPrediction(
        target=latency_on.target.name,
        dense_ms=latency.dense_ms,
        predicted_ms=confirmed.predicted_ms,
        built_ms=confirmed.measured_ms,
        uniform_ms=confirmed.uniform_ms,
        kept=confirmed.kept,
        within_budget=confirmed.within_budget,
    )


def _prune(
    run: Run,
    checkpoint: Path,
    preprocess: Preprocess,
    table: Path | None,
    latency: LatencyModel | None,
    bench: NetworkBench | None,
) -> tuple[Path, ConfirmedWidths | None]:
    """The pruned checkpoint, and with widths by latency how they were measured."""
    settings, train_data = run.recipe.prune, train_data_of(run.recipe, "pruning fine-tunes")
    assert settings is not None

    def produce(folder: Path, work: Path, progress: ProgressCallback) -> None:
        summary = prune(
            checkpoint,
            folder / CHECKPOINT,
            settings=settings,
            train_data=train_data,
            preprocess=preprocess,
            work=work,
            latency=latency,
            bench=bench,
            progress=progress,
        )
        if bench is not None:
            (folder / ACCOUNT).write_text(summary.to_json())
        for log in sorted(work.rglob(FINETUNE_LOG)):
            shutil.copyfile(log, folder / "-".join(log.relative_to(work).parts))

    result = run.stage(
        "prune",
        inputs={
            "checkpoint": file_sha256(checkpoint),
            "train_data": training_fingerprint(train_data, run.hashes),
            **({"latency_table": file_sha256(table)} if table is not None else {}),
        },
        settings={"prune": settings.key(), "preprocess": preprocess.to_dict()},
        produce=produce,
        label="prune and fine-tune",
    )
    if bench is None:
        return result.file(CHECKPOINT), None
    account = result.file(ACCOUNT)
    summary = PruneSummary.of(read_stored(account, dict[str, str]), str(account))
    return result.file(CHECKPOINT), summary.confirmed


def _export(
    run: Run,
    label: str,
    checkpoint: Path,
    size: tuple[int, int],
    real: Callable[[], F32 | None],
) -> Network:
    """The exported network; real images are witnesses of its parity and do not change the file."""
    settings = run.recipe.export
    result = run.stage(
        "export",
        inputs={"checkpoint": file_sha256(checkpoint)},
        settings={
            "image_size": list(size),
            "versions": package_versions(("torch", "onnxscript")),
            **settings.of_torch(),
        },
        produce=lambda folder, *_: export(
            checkpoint,
            folder / run_folder.MODEL,
            image_size=size,
            settings=ExportSettings(opset=settings.opset, dynamic_batch=settings.dynamic_batch),
            images=real(),
        ),
        label=f"export ({label})",
    )
    return network_of(label, result.file(run_folder.MODEL), checkpoint)
