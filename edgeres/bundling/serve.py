"""Hands proven engines over to an inference server, as the model repository that it documents."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeres.backends.base import Engine
from edgeres.backends.serving import ServedModel, get_server
from edgeres.backends.sidecar import read_engine
from edgeres.bundling.outputs import engine_in
from edgeres.data.preprocess import Preprocess
from edgeres.errors import ArtefactError, UsageError
from edgeres.evaluation import run_folder
from edgeres.evaluation.predictions import Predictions
from edgeres.evaluation.run_task import load_run_answers
from edgeres.graph.summary import summarize
from edgeres.system.files import disk_errors, file_sha256
from edgeres.system.store import replace_folder


@dataclass(frozen=True)
class Served:
    """A model repository.

    Attributes:
        place: The repository.
        models: Names of its models.
        left_out: Targets whose engines the server cannot run, each with the reason.
    """

    place: Path
    models: tuple[str, ...]
    left_out: Mapping[str, str]


def serve(
    folder: Path, server: str, output: Path | None = None, *, targets: Sequence[str] = ()
) -> Served:
    """Writes a model repository; an earlier one in its place is replaced when it is whole.

    Preprocessing stays with the client: a server takes what :meth:`Preprocess.apply` gives.

    Args:
        folder: Output folder of ``edgeres convert``.
        server: A name of :func:`edgeres.backends.serving.server_names`.
        output: The repository; ``serve-SERVER`` in the folder where not given.
        targets: Which engines; all that the server can run where empty.

    Returns:
        The repository, and what is not in it.

    Raises:
        ArtefactError: The folder is not one, or not whole.
        UsageError: No such server, or none of the engines is for it.
        StorageError: The repository cannot be written.
    """
    from edgeres.report.schema import read_report

    chosen = get_server(server)
    report = read_report(folder / run_folder.REPORT)
    answers = load_run_answers(folder / run_folder.BASELINE / run_folder.PREDICTIONS)
    classifies = isinstance(answers, Predictions)
    models: list[ServedModel] = []
    left_out: dict[str, str] = {}
    for target in targets or list(report.targets):
        part = report.targets.get(target)
        if part is None:
            raise UsageError(
                f"{folder}: has no engine for {target!r}.",
                hint=f"It has {', '.join(report.targets)}.",
            )
        engine = read_engine(engine_in(folder, part.engine))
        reason = chosen.refusal(engine)
        if reason is not None:
            left_out[target] = reason
            continue
        names = answers.class_names if classifies else ()
        models.append(
            _served(folder, f"{report.model.name}_{target}", engine, names, classifies=classifies)
        )
    if not models or (targets and left_out):
        reasons = " ".join(f"{target}: {reason}" for target, reason in left_out.items())
        raise UsageError(f"{folder}: {server} cannot run its engines. {reasons}")
    place = output or folder / f"serve-{server}"
    if place.exists() and not _is_repository(place):
        raise UsageError(
            f"{place}: is there and is no model repository.", hint="Give another --output."
        )
    with disk_errors(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
        try:
            chosen.write(models, temporary)
            replace_folder(temporary, place)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return Served(place, tuple(model.name for model in models), left_out)


def _served(
    folder: Path, name: str, engine: Engine, class_names: tuple[str, ...], *, classifies: bool
) -> ServedModel:
    """One engine with all that is known of it."""
    baseline = folder / run_folder.BASELINE
    qdq = engine.path.with_name(run_folder.QDQ)
    facts = summarize(qdq)
    network, magnitudes = _calibrated(folder, baseline / run_folder.TABLE)
    return ServedModel(
        re.sub(r"[^A-Za-z0-9._-]", "_", name),
        engine,
        facts.inputs[0],
        tuple(facts.outputs),
        class_names,
        classifies=classifies,
        preprocess=_preprocess(baseline / run_folder.PREPROCESS),
        qdq=qdq,
        network=network,
        magnitudes=magnitudes,
    )


def _calibrated(folder: Path, table_file: Path) -> tuple[Path | None, dict[str, float]]:
    """The float network that was calibrated, and the largest magnitude of each of its tensors."""
    from edgeres.quantization.table import CalibrationTable

    if not table_file.is_file():
        return None, {}
    table = CalibrationTable.load(table_file)
    for path in (folder / name for name in run_folder.QUANTIZED):
        if path.is_file() and file_sha256(path) == table.model_sha256:
            return path, {name: table.range_of(name).magnitude for name in table.tensors}
    return None, {}


def _preprocess(file: Path) -> Preprocess:
    try:
        return Preprocess.from_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtefactError(
            f"{file}: cannot be read ({error}).", hint="Run `edgeres convert` again."
        ) from error


def _is_repository(place: Path) -> bool:
    """Whether a folder holds nothing but models with a version: only such a one is replaced."""
    if not place.is_dir():
        return False
    entries = [entry for entry in place.iterdir() if entry.name != "config.json"]
    return all((entry / "1").is_dir() for entry in entries)
