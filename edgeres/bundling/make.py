"""Makes a bundle from the output folder of ``edgeres convert``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeres.bundling.archive import write_archive
from edgeres.bundling.card import bundle_card, licence_notes
from edgeres.bundling.entry import Content, add_engine, built_targets, read_file
from edgeres.bundling.further import further_engines
from edgeres.bundling.manifest import (
    FileEntry,
    Manifest,
    OutputKind,
)
from edgeres.data.preprocess import Preprocess
from edgeres.data.samples import names_of
from edgeres.errors import ArtefactError, UsageError
from edgeres.evaluation import run_folder
from edgeres.evaluation.predictions import Predictions
from edgeres.evaluation.run_task import load_run_answers, stored_task
from edgeres.system.files import StrPath, file_sha256
from edgeres.system.publish import refuse_half_handover
from edgeres.version import __version__

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
    also: Sequence[StrPath] = (),
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
        also: Output folders of further runs of the same network, whose weights suit other CPUs;
            their engines get ``-safe`` or ``-plain`` behind their target's name, and run where they
            fit.
        class_names: Names in the order of the scores, where the data set did not say them.
        license_name: Licence of the weights, for the model card.
        key: PEM file with an Ed25519 private key that signs the bundle.

    Raises:
        ArtefactError: The folder is not one, or not whole.
        UsageError: An engine that is not there, class names that do not fit, or a further run of
            another network or with the same weights.
        StageError: An engine crashed or hung on the self-test samples.
        StorageError: The file cannot be written.
    """
    folder = Path(folder)
    output = None if output is None else Path(output)
    key = None if key is None else Path(key)
    from edgeres.report.schema import read_report

    refuse_half_handover(folder)
    report = read_report(folder / run_folder.REPORT)
    chosen = built_targets(report, targets, folder)
    baseline = folder / run_folder.BASELINE
    preprocess = Preprocess.from_json(read_file(baseline / run_folder.PREPROCESS))
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
        entry = add_engine(content, folder, name, report, list(samples.values()), preprocess)
        engines[name] = entry
        packages += entry.versions
    for other in map(Path, also):
        more = further_engines(content, folder, other, targets, engines, preprocess)
        engines |= more
        packages += [name for entry in more.values() for name in entry.versions]
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
