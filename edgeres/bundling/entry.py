"""One engine of a bundle: its files, its proof, and its answers to the self-test samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeres.backends import get_backend, target_names
from edgeres.backends.base import BuildConfig, Engine
from edgeres.backends.sidecar import read_engine, sidecar_path
from edgeres.bundling.choose import this_architecture
from edgeres.bundling.manifest import ANY, EXACT_SUMS, EngineEntry
from edgeres.bundling.outputs import engine_in
from edgeres.bundling.selftest import answer_isolated
from edgeres.data.preprocess import Preprocess
from edgeres.data.samples import scores_to_json
from edgeres.errors import ArtefactError, BackendMissingError, EdgeResError, UsageError
from edgeres.evaluation import run_folder
from edgeres.system.files import file_sha256
from edgeres.system.foreign_json import parse_json
from edgeres.system.temporary import temporary_folder

if TYPE_CHECKING:
    from edgeres.report.schema import Report, TargetPart

Content = dict[str, Path | bytes]


def built_targets(report: Report, wanted: Sequence[str], folder: Path) -> list[str]:
    """Targets of a run whose engines were built, those that are wanted, or all.

    Raises:
        ArtefactError: The run has no engine.
        UsageError: It has not the one that is wanted.
    """
    built = [name for name, part in report.targets.items() if part.built]
    for name in wanted:
        if name not in built:
            raise UsageError(
                f"{folder}: has no engine for {name!r}.",
                hint=f"It has {', '.join(built) or 'none'}.",
            )
    if not built:
        raise ArtefactError(f"{folder}: has no engine.", hint="Run `edgeres convert` again.")
    return [name for name in built if name in wanted] if wanted else built


def add_engine(
    content: Content,
    folder: Path,
    target: str,
    report: Report,
    samples: Sequence[Path],
    preprocess: Preprocess,
    *,
    named: str = "",
) -> EngineEntry:
    """Adds one engine's files and its expected answers.

    Args:
        content: Gets the files.
        folder: Output folder of the run.
        target: Which engine of it.
        report: Of the run.
        samples: The self-test samples.
        preprocess: How they become numbers.
        named: The engine's name in the bundle; that of its target where empty.

    Raises:
        ArtefactError: A file is not there, or not the one that the engine was built from.
        StageError: The engine crashed or hung on the samples.
    """
    part = report.targets[target]
    path = engine_in(folder, part.engine)
    engine, qdq = read_engine(path), path.with_name(run_folder.QDQ)
    if not qdq.is_file() or file_sha256(qdq) != engine.source_sha256:
        raise ArtefactError(
            f"{qdq}: is not the file that {path.name} was built from.",
            hint="Run `edgeres convert` again.",
        )
    name_of = named or target
    place = f"engines/{name_of}"
    needed = parse_json(read_file(sidecar_path(path)))["files"]
    for name in (*needed, sidecar_path(path).name):
        content[f"{place}/{name}"] = path.parent / name
    files = tuple(sorted(name for name in content if name.startswith(f"{place}/")))
    # Where the engine is the Q/DQ file itself, one copy is enough.
    same = file_sha256(path) == engine.source_sha256
    qdq_name = f"{place}/{path.name if same else run_folder.QDQ}"
    content.setdefault(qdq_name, qdq)
    content[f"{place}/{run_folder.QDQ_ACCOUNT}"] = qdq.with_suffix(".json")
    scores, answered = _expected(engine, qdq, samples, preprocess)
    expected = f"samples/expected-{name_of}.json"
    content[expected] = scores_to_json(scores)
    return EngineEntry(
        backend=engine.backend,
        engine=f"{place}/{path.name}",
        files=files,
        qdq=qdq_name,
        device=engine.device,
        versions=dict(engine.versions),
        saturating=bool(part.saturating),
        saturation_safe=bool(part.saturation_safe),
        architecture=ANY if get_backend(engine.backend).portable_engines else this_architecture(),
        needs=needs_of(part),
        expected=expected,
        expected_from=answered,
        proven=report.to_dict()["targets"][target],
        options=dict(engine.options),
        shapes=dict(engine.shapes),
    )


def needs_of(part: TargetPart) -> tuple[str, ...]:
    """What the CPU must have: plain weights were proven only where their sums are exact."""
    plain = part.precision == "int8" and not part.saturation_safe and not part.saturating
    return (EXACT_SUMS,) if plain else ()


def _expected(
    engine: Engine, qdq: Path, samples: Sequence[Path], preprocess: Preprocess
) -> tuple[NDArray[np.float32], str]:
    """Answers to the samples, and the backend that gave them."""
    if get_backend(engine.backend).not_executable() is None:
        return answer_isolated(engine.path, engine.device, samples, preprocess), engine.backend
    problem: EdgeResError | None = None
    for name in target_names():
        backend = get_backend(name)
        if backend.not_executable() is not None:
            continue
        device = (*backend.devices(), backend.default_device)[0]
        with temporary_folder() as place:
            out = place / f"model{backend.engine_suffix}"
            try:
                built = backend.build(qdq, out, BuildConfig(device=device))
                return answer_isolated(built.path, device, samples, preprocess), name
            except EdgeResError as error:
                problem = error
    raise problem or BackendMissingError(
        f"{engine.path}: no backend on this machine can answer the self-test samples.",
        hint=f"Install a runtime, one of: {', '.join(target_names())}; see `edgeres doctor`.",
    )


def read_file(path: Path) -> str:
    """Text of a file of the run.

    Raises:
        ArtefactError: It cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ArtefactError(
            f"{path}: cannot be read ({error}).", hint="Run `edgeres convert` again."
        ) from error
