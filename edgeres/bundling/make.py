"""Makes a bundle from the output folder of ``edgeres convert``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeres.backends import get_backend, target_names
from edgeres.backends.base import BuildConfig, Engine
from edgeres.backends.sidecar import read_engine, sidecar_path
from edgeres.bundling.archive import write_archive
from edgeres.bundling.card import bundle_card, licence_notes
from edgeres.bundling.manifest import EngineEntry, FileEntry, Manifest, OutputKind
from edgeres.bundling.outputs import engine_in
from edgeres.bundling.selftest import answer_isolated
from edgeres.data.preprocess import Preprocess
from edgeres.data.samples import names_of, scores_to_json
from edgeres.errors import ArtefactError, BackendMissingError, EdgeResError, UsageError
from edgeres.evaluation import run_folder
from edgeres.evaluation.predictions import Predictions
from edgeres.evaluation.run_task import load_run_answers, stored_task
from edgeres.system.files import StrPath, file_sha256
from edgeres.system.foreign_json import parse_json
from edgeres.system.publish import refuse_half_handover
from edgeres.system.temporary import temporary_folder
from edgeres.version import __version__

if TYPE_CHECKING:
    from edgeres.report.schema import Report

Content = dict[str, Path | bytes]

BUNDLE = "bundle.edgeres"


@dataclass(frozen=True)
class Bundled:
    """A bundle that was written.

    Attributes:
        path: The bundle.
        sha256: Its hash.
        size_bytes: Its size.
        manifest: What is in it.
        signature: Its signature, where a key was given.
    """

    path: Path
    sha256: str
    size_bytes: int
    manifest: Manifest
    signature: Path | None

    def to_dict(self) -> dict[str, object]:
        """As plain JSON values."""
        return {
            "bundle": str(self.path),
            "sha256": self.sha256,
            "size_bytes": self.size_bytes,
            "signature": str(self.signature) if self.signature else None,
            "targets": sorted(self.manifest.engines),
            "not_proven": self.manifest.not_proven,
            "files": {name: entry.size_bytes for name, entry in self.manifest.files.items()},
        }


def bundle(
    folder: StrPath,
    output: StrPath | None = None,
    *,
    targets: Sequence[str] = (),
    class_names: Sequence[str] = (),
    license_name: str = "",
    key: StrPath | None = None,
) -> Bundled:
    """Puts proven engines and all that belongs to them into one file.

    The same folder gives the same bytes. Each engine answers to the self-test samples in a child
    process; one that cannot run here gets the answers of another backend to its own Q/DQ file.

    Args:
        folder: Output folder of ``edgeres convert``.
        output: The file to write; ``bundle.edgeres`` in the folder where not given.
        targets: Which engines; all that were built where empty.
        class_names: Names in the order of the scores, where the data set did not say them.
        license_name: Licence of the weights, for the model card.
        key: PEM file with an Ed25519 private key that signs the bundle.

    Raises:
        ArtefactError: The folder is not one, or not whole.
        UsageError: An engine that is not there, or class names that do not fit.
        StageError: An engine crashed or hung on the self-test samples.
        StorageError: The file cannot be written.
    """
    folder = Path(folder)
    output = None if output is None else Path(output)
    key = None if key is None else Path(key)
    from edgeres.report.schema import read_report

    refuse_half_handover(folder)
    report = read_report(folder / run_folder.REPORT)
    chosen = _targets(report, targets, folder)
    baseline = folder / run_folder.BASELINE
    preprocess = Preprocess.from_json(_text(baseline / run_folder.PREPROCESS))
    said = stored_task(folder)
    answers = load_run_answers(baseline / run_folder.PREDICTIONS)
    names = tuple(class_names) or answers.class_names
    kind: OutputKind = "values"
    if isinstance(answers, Predictions):
        names, kind = _class_names(names, answers.classes), _output_kind(answers.logits)
    samples = {f"samples/{path.name}": path for path in names_of(baseline / run_folder.SAMPLES)}
    if not samples:
        raise ArtefactError(
            f"{baseline}: has no self-test samples.", hint="Run `edgeres convert` again."
        )
    card = bundle_card(report, chosen, preprocess, names, license_name=license_name)
    content: Content = {
        **samples,
        run_folder.REPORT: folder / run_folder.REPORT,
        run_folder.PREPROCESS: baseline / run_folder.PREPROCESS,
        run_folder.TABLE: baseline / run_folder.TABLE,
        "labels.json": json.dumps(list(names), indent=1).encode() + b"\n",
        "MODEL_CARD.md": card.encode(),
    }
    engines = {}
    packages: list[str] = []
    for name in chosen:
        entry = _add_engine(content, folder, name, report, list(samples.values()), preprocess)
        engines[name] = entry
        packages += entry.versions
    content["LICENCES.md"] = licence_notes(report, packages, license_name=license_name).encode()
    manifest = Manifest(
        name=report.model.name,
        created_by=f"edgeres {__version__}",
        preprocess=preprocess.to_dict(),
        class_names=names,
        outputs=kind,
        samples=tuple(samples),
        engines=engines,
        proven_on=report.environment.to_dict(),
        files={name: _entry(content[name]) for name in sorted(content)},
        task=tuple(said),
    )
    path = output or folder / BUNDLE
    write_archive(path, manifest.to_bytes(), content)
    signature = None
    if key is not None:
        from edgeres.bundling.signature import sign

        signature = sign(manifest.to_bytes(), path, key)
    return Bundled(path, file_sha256(path), path.stat().st_size, manifest, signature)


def _targets(report: Report, wanted: Sequence[str], folder: Path) -> list[str]:
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


def _add_engine(
    content: Content,
    folder: Path,
    target: str,
    report: Report,
    samples: Sequence[Path],
    preprocess: Preprocess,
) -> EngineEntry:
    """Adds one engine's files and its expected answers."""
    part = report.targets[target]
    path = engine_in(folder, part.engine)
    engine, qdq = read_engine(path), path.with_name(run_folder.QDQ)
    if not qdq.is_file() or file_sha256(qdq) != engine.source_sha256:
        raise ArtefactError(
            f"{qdq}: is not the file that {path.name} was built from.",
            hint="Run `edgeres convert` again.",
        )
    place = f"engines/{target}"
    needed = parse_json(_text(sidecar_path(path)))["files"]
    for name in (*needed, sidecar_path(path).name):
        content[f"{place}/{name}"] = path.parent / name
    files = tuple(sorted(name for name in content if name.startswith(f"{place}/")))
    # Where the engine is the Q/DQ file itself, one copy is enough.
    same = file_sha256(path) == engine.source_sha256
    qdq_name = f"{place}/{path.name if same else run_folder.QDQ}"
    content.setdefault(qdq_name, qdq)
    content[f"{place}/{run_folder.QDQ_ACCOUNT}"] = qdq.with_suffix(".json")
    scores, answered = _expected(engine, qdq, samples, preprocess)
    expected = f"samples/expected-{target}.json"
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
        expected=expected,
        expected_from=answered,
        proven=report.to_dict()["targets"][target],
        options=dict(engine.options),
        shapes=dict(engine.shapes),
    )


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


def _class_names(names: tuple[str, ...], classes: int) -> tuple[str, ...]:
    if not names:
        return tuple(f"class {index}" for index in range(classes))
    if len(names) != classes:
        raise UsageError(
            f"{len(names)} class names were given, the network has {classes} classes.",
            hint="Give one name for each class, in the order of the scores.",
        )
    return names


def _output_kind(scores: NDArray[np.float32]) -> OutputKind:
    """Probabilities where every row is one, as a network that ends in Softmax gives them."""
    rows = scores[np.isfinite(scores).all(axis=1)].astype(float)
    is_distribution = len(rows) > 0 and bool(
        (rows >= 0).all() and np.allclose(rows.sum(axis=1), 1, atol=1e-3)
    )
    return "probabilities" if is_distribution else "logits"


def _entry(content: Path | bytes) -> FileEntry:
    if isinstance(content, bytes):
        return FileEntry(hashlib.sha256(content).hexdigest(), len(content))
    try:
        return FileEntry(file_sha256(content), content.stat().st_size)
    except OSError as error:
        raise ArtefactError(
            f"{content}: cannot be read ({error.strerror}).", hint="Run `edgeres convert` again."
        ) from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ArtefactError(
            f"{path}: cannot be read ({error}).", hint="Run `edgeres convert` again."
        ) from error
