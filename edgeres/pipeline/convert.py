"""The main job: from a trained network and a recipe to proven engines.

``convert`` strings the stages together. Each stage is keyed by what it comes from, so a second run
does only what changed and a killed run goes on where it was. Latency alone is measured anew every
time: it depends on the state of the machine, which no key can hold. What a run hands over is put
into the output folder at the very end, so an earlier output survives every failure.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgeres.backends import target_names
from edgeres.backends.base import Engine
from edgeres.backends.target import Target, open_target
from edgeres.data.class_order import in_order_of
from edgeres.data.files import skipped_note
from edgeres.data.hashes import FileHashes
from edgeres.data.overlap import find_overlap
from edgeres.data.samples import save_samples
from edgeres.data.types import Dataset
from edgeres.errors import EdgeResError
from edgeres.evaluation import run_folder
from edgeres.evaluation.baseline import check_baseline, contradicting_labels
from edgeres.evaluation.predictions import Predictions
from edgeres.evaluation.run_task import write_task
from edgeres.evaluation.task_baseline import check_answers
from edgeres.pipeline.clean import unused_bytes
from edgeres.pipeline.engines import build_floats, build_fp32, build_target, calibration_table
from edgeres.pipeline.handed_over import TorchModule, handed_over
from edgeres.pipeline.inputs import Inputs, open_inputs
from edgeres.pipeline.layers import measure_layers
from edgeres.pipeline.measure import TimedEngines, latencies, predictions
from edgeres.pipeline.network import Network
from edgeres.pipeline.networks import (
    Networks,
    equalize_network,
    prepare_networks,
    take_pixels_in,
)
from edgeres.pipeline.proof import Proof, make_report, write_evidence
from edgeres.pipeline.run import Run
from edgeres.pipeline.superseded import to_set_aside
from edgeres.pipeline.tasks import said_of
from edgeres.pipeline.unpruned import build_unpruned
from edgeres.quantization.byte_input import write_fed
from edgeres.recipe.preprocess import PreprocessBlock
from edgeres.recipe.recipe import Recipe
from edgeres.report.explain import PRUNING_PAYS
from edgeres.report.history import append_run, read_history, recipe_sha256
from edgeres.report.schema import Report, write_report
from edgeres.system.assets import asset_folder
from edgeres.system.container_limits import usable_threads
from edgeres.system.environment import describe_environment
from edgeres.system.files import StrPath
from edgeres.system.progress import Listener, ProgressCallback, Silent
from edgeres.system.publish import finish_handover, handover
from edgeres.system.store import MANIFEST, Store, output_lock
from edgeres.system.stored_json import read_stored
from edgeres.tasks.answers import Answers

HASHES = "file_hashes.json"
TELL_UNUSED_BYTES = 2**30
"""Stored results of earlier settings that take more than this are told of after a run."""
OVERLAP = "overlap.json"


def convert(
    source: Recipe | TorchModule,
    output: StrPath,
    *,
    validation: Dataset | str | None = None,
    calibration: Dataset | str | None = None,
    preprocess: PreprocessBlock | None = None,
    settings: Mapping[str, Any] | None = None,
    use_cache: bool = True,
    listener: Listener | None = None,
) -> Report:
    """Runs a recipe, or takes a torch module, and writes engines and their proof into a folder.

    The folder then holds ``report.json``, one folder a target with its engine and the Q/DQ model
    that it was built from, and ``baseline/`` with the FP32 model, its answers on the validation
    images, the calibration table, and a few of the images for the self-test of a bundle.

    Args:
        source: A recipe; or a ``torch.nn.Module`` of this program, which stays as it is and is
            written to ``module.onnx`` in the folder.
        output: Folder of the results; stage results are kept in it for the next run.
        validation: Samples to judge by, in place of what the recipe names: a data set, or a text
            such as ``imagefolder:val``.
        calibration: Samples to calibrate with, likewise; of a module those of the validation where
            they are left out.
        preprocess: How images are prepared, in place of what the recipe or the module says.
        settings: Other keys of the recipe, dotted: ``{"targets": ["openvino"], "gates.max_drop":
            1.0, "task": {"name": "outputs"}, "model.input_size": [96, 96]}``.
        use_cache: Whether unchanged stages are taken from an earlier run, or from those shipped
            with edgeres.
        listener: Hears of every stage.

    Returns:
        What was found, as in ``report.json``. A gate that failed is a verdict in there, no error.

    Raises:
        EdgeResError: A stage could not be done; earlier outputs are untouched.
    """
    output = Path(output)
    given = handed_over(
        source,
        output,
        validation=validation,
        calibration=calibration,
        preprocess=preprocess,
        settings=settings or {},
    )
    inputs = open_inputs(
        given.recipe,
        FileHashes(output / run_folder.STAGES / HASHES),
        validation=given.validation,
        calibration=given.calibration,
    )
    inputs = replace(inputs, note=" ".join(filter(None, (given.note, inputs.note))))
    with output_lock(output):
        store = stage_store(output, use_cache=use_cache)
        if (output / run_folder.HISTORY).is_file():
            read_history(output / run_folder.HISTORY)  # a damaged one is told before any work
        run, report, proof, table = prove(inputs, store, listener or Silent())
        evidence = write_evidence(run, proof)
        _publish(output, given.recipe, report, proof, table, evidence)
        unused = unused_bytes(output)
        if unused > TELL_UNUSED_BYTES:
            run.listener.note(
                f"{unused / 2**30:.1f} GiB of stored results belong to earlier settings; "
                f"`edgeres clean {output}` removes them."
            )
    return report


def stage_store(output: Path, *, use_cache: bool = True) -> Store:
    """The stage results in an output folder, tidied up; call it only while holding the lock."""
    store = Store(output / run_folder.STAGES, asset_folder("recipes") / "stages", use_cache)
    store.begin()
    finish_handover(output)
    return store


def prove(inputs: Inputs, store: Store, listener: Listener) -> tuple[Run, Report, Proof, Path]:
    """Runs a recipe without handing anything over: its results stay in the store.

    Where the recipe prunes only for speed and no engine is faster for it, the dense network is run
    instead.

    Args:
        inputs: What to do, and with what.
        store: Where unchanged stages are found.
        listener: Hears of every stage.

    Returns:
        The run, its report, what that was made from, and the calibration table.

    Raises:
        EdgeResError: A stage could not be done.
    """
    found = _proven(inputs, store, listener)
    block = inputs.recipe.prune
    if block is None or not block.only_if_faster:
        return found
    gain = pruning_gain(found[1])
    if gain is None or gain >= PRUNING_PAYS:
        return found
    said = (
        f"pruning made no engine faster than {gain:.2f} times the dense one, less than 3 %: the "
        "dense network is kept (`prune: {only_if_faster: true}`)."
    )
    note = " ".join(filter(None, (inputs.note, said)))
    dense = replace(inputs, recipe=inputs.recipe.replace(prune=None), note=note)
    return _proven(dense, store, listener)


def pruning_gain(report: Report) -> float | None:
    """By how much the INT8 engine gained most from pruning; ``None`` where none was timed."""
    gains = [part.pruning_speedup for part in report.targets.values()]
    return max((gain for gain in gains if gain is not None), default=None)


def _proven(inputs: Inputs, store: Store, listener: Listener) -> tuple[Run, Report, Proof, Path]:
    run = Run(
        inputs.recipe,
        store,
        listener,
        describe_environment(),
        inputs.calibration,
        inputs.hashes,
        task=inputs.task,
    )
    run.warn_once(inputs.note)
    for data in (inputs.calibration.used, inputs.everything):
        run.warn_once(skipped_note(data))
    try:
        _note_overlap(run, inputs.calibration.used, inputs.validation)
        networks = prepare_networks(
            run,
            inputs.source,
            inputs.everything,
            inputs.targets,
            calibration=inputs.calibration.everything,
        )
        if run.task is None:
            ordered = in_order_of(inputs.validation, networks.facts.class_names)
            inputs = replace(inputs, validation=ordered.dataset)
        networks = equalize_network(run, networks)
        networks = take_pixels_in(run, networks, inputs.everything)
        table = calibration_table(run, networks)
        proof = _prove(run, networks, inputs.targets, table, inputs.validation)
    finally:
        inputs.hashes.save()
    return run, make_report(run, proof, model_sha256=inputs.source.sha256), proof, table


def _prove(
    run: Run,
    networks: Networks,
    targets: list[Target],
    table: Path,
    validation: Dataset,
) -> Proof:
    reference = _reference(targets)

    def answers(engine: Engine, target: Target, label: str) -> Predictions | Answers:
        return predictions(
            run,
            engine,
            target,
            validation=validation,
            preprocess=networks.preprocess,
            label=label,
        )

    def fp32(network: Network, target: Target) -> Engine:
        label = f"build FP32 {network.label} ({target.name})"
        return build_fp32(run, network.onnx, target, label=label)

    dense = answers(fp32(networks.dense, reference), reference, "FP32 dense")
    _check_dense(run, dense, validation)
    pruned = networks.pruned
    final = answers(fp32(pruned, reference), reference, "FP32 pruned") if pruned else dense
    built = [build_target(run, networks, table, target) for target in targets]
    here = [item for item in built if item.target.not_executable is None]
    int8 = {item.target.name: answers(item.engine, item.target, item.target.name) for item in here}
    engines = [
        TimedEngines(
            item.target,
            fp32(networks.dense, item.target),
            item.engine,
            build_unpruned(run, networks, item.target),
            build_floats(run, networks.dense, item.target),
        )
        for item in here
    ]
    times = latencies(run, engines, validation, networks.preprocess) if engines else {}
    layers = measure_layers(run, networks, table, built, validation)
    return Proof(networks, validation, dense, final, built, int8, times, layers)


def _check_dense(run: Run, dense: Predictions | Answers, validation: Dataset) -> None:
    """Stops where the network that the user brought cannot be what it should be."""
    if isinstance(dense, Answers) and run.task is not None:
        gates = run.recipe.gates
        for note in check_answers(run.task, dense, gates, untrained=gates.untrained):
            run.warn_once(note)
    if not isinstance(dense, Predictions):
        return
    if not run.recipe.gates.untrained:
        check_baseline(dense, declared_top1=run.recipe.model.declared_top1)
    run.warn_once(contradicting_labels(dense, validation))


def _reference(targets: list[Target]) -> Target:
    """The target that runs the FP32 networks: the first that can run here, else any that can.

    Raises:
        EdgeResError: No backend on this machine can run a network.
    """
    problem: EdgeResError | None = None
    for target in targets:
        if target.not_executable is None:
            return target
    for name in target_names():
        try:
            target = open_target(name)
        except EdgeResError as error:
            problem = problem or error
            continue
        if target.not_executable is None:
            return target
    raise problem or EdgeResError("no backend on this machine can run a network.")


def _note_overlap(run: Run, calibration: Dataset, validation: Dataset) -> None:
    """Says so where calibration images are among the validation images."""

    def produce(folder: Path, _: Path, progress: ProgressCallback) -> None:
        pairs = find_overlap(calibration, validation, workers=usable_threads(), progress=progress)
        (folder / OVERLAP).write_text(json.dumps(pairs))

    result = run.stage(
        "overlap",
        inputs={"calibration": calibration.fingerprint, "validation": validation.fingerprint},
        settings={},
        produce=produce,
        label="check data",
    )
    shared = len(read_stored(result.file(OVERLAP), list[tuple[int, int]]))
    if shared:
        run.warn_once(
            f"{shared} of {len(calibration)} calibration images are also in {validation.name}: "
            "the measured accuracy may be too good. Give others with --calibration-data."
        )


def _publish(
    output: Path,
    recipe: Recipe,
    report: Report,
    proof: Proof,
    table: Path,
    evidence: Path,
) -> None:
    """Puts what a run hands over into the output folder, all together, the report last.

    Folders of an earlier run that this one did not make go away: they would belong to another
    baseline than the one beside them. What was made from the earlier report is set aside.
    """
    networks = proof.networks
    folders: dict[str, dict[str, Path]] = {}
    for item in proof.built:
        engine_files = [file for file in item.engine.path.parent.iterdir() if file.name != MANIFEST]
        files = {
            file.name: file for file in (*engine_files, item.qdq, item.qdq.with_suffix(".json"))
        }
        if item.search is not None:
            files[item.search.name] = item.search
        folders[item.target.name] = files
    folders[run_folder.BASELINE] = {run_folder.MODEL: networks.dense.onnx, table.name: table}
    if networks.equalized is not None:
        # The table is of this one.
        folders[run_folder.BASELINE][run_folder.EQUALIZED] = networks.equalized.onnx
    if networks.pruned is not None:
        folders[run_folder.PRUNED] = {run_folder.MODEL: networks.pruned.onnx}
        if (checkpoint := networks.pruned.checkpoint) is not None:
            folders[run_folder.PRUNED][checkpoint.name] = checkpoint
    with handover(output) as waiting:
        waiting.gone += sorted({*target_names(), run_folder.PRUNED} - set(folders))
        waiting.aside |= to_set_aside(output)
        waiting.last = run_folder.REPORT
        for name, files in folders.items():
            (waiting.new / name).mkdir()
            for file_name, file in files.items():
                shutil.copyfile(file, waiting.new / name / file_name)
        baseline = waiting.new / run_folder.BASELINE
        proof.dense.save(baseline / run_folder.PREDICTIONS)
        (baseline / run_folder.PREPROCESS).write_text(networks.preprocess.to_json())
        if recipe.export.input == "uint8":
            write_fed(networks.dense.onnx, baseline / run_folder.FED)
        if not recipe.is_classifier:
            write_task(baseline, said_of(recipe))
        save_samples(proof.validation, baseline / run_folder.SAMPLES)
        evidence.chmod(0o755)
        shutil.move(evidence, waiting.new / run_folder.EVIDENCE)
        if (output / run_folder.HISTORY).is_file():
            shutil.copyfile(output / run_folder.HISTORY, waiting.new / run_folder.HISTORY)
        settings = recipe_sha256(recipe)
        append_run(
            waiting.new / run_folder.HISTORY, report, name=recipe.name, recipe_sha256=settings
        )
        write_report(report, waiting.new / run_folder.REPORT)
