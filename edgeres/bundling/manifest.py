"""`manifest.json` of a bundle: the hash of each file, and what a device must know before it runs.

Plain data with hand-written checks: the runtime reads it on every start, where a schema library
would cost more than the engine's load. A manifest may come from anywhere, so every field is checked
before it is used.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from edgeres.backends.base import ShapeRange
from edgeres.backends.sidecar import shapes_from_json
from edgeres.bundling.archive import MANIFEST, is_name
from edgeres.errors import ArtefactError, one_line

FORMAT = "edgeres-bundle"
ANY = "any"
"""Architecture of an engine file that is compiled where it is loaded."""
EXACT_SUMS = "exact_int8_sums"
"""What weights need that can overflow where two INT8 products share an int16 (x86 without VNNI)."""
SCHEMA = 1

OutputKind = Literal["logits", "probabilities", "values"]
_KINDS = ("logits", "probabilities", "values")
_HINT = "Make the bundle again with `edgeres bundle`."


@dataclass(frozen=True)
class FileEntry:
    """Hash and size of one file of a bundle."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class EngineEntry:
    """One engine of a bundle.

    Attributes:
        backend: Which backend runs it.
        engine: Name of the engine file in the bundle; its sidecar lies beside it.
        files: Names of all files that the engine needs, the engine and its sidecar among them.
        qdq: Name of the Q/DQ ONNX file that it was built from, to build it anew elsewhere.
        device: Device that it was built for.
        versions: Runtime and versions that it was built with.
        saturating: Whether INT8 sums overflow where it was built; the file was made for that.
        saturation_safe: Whether a proof shows that no sum of it can overflow anywhere.
        architecture: ``x86_64``, ``aarch64``, ... that its file was compiled for, or ``any``.
        needs: What the CPU must have beside that: ``exact_int8_sums``, or nothing.
        expected: Name of the file with the expected answers to the self-test samples.
        expected_from: Backend that gave these answers: the engine's own, or another that ran the
            same Q/DQ file where the engine could not run.
        proven: What was measured: the engine's part of ``report.json``.
        options: Options that it was built with, to build it anew elsewhere.
        shapes: Shape ranges that it was built for, by input name.
    """

    backend: str
    engine: str
    files: tuple[str, ...]
    qdq: str
    device: str
    versions: Mapping[str, str]
    saturating: bool
    saturation_safe: bool
    architecture: str
    needs: tuple[str, ...]
    expected: str
    expected_from: str
    proven: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    shapes: Mapping[str, ShapeRange] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """All of ``manifest.json``.

    Attributes:
        name: Name of the network.
        created_by: Version of edgeres.
        preprocess: How an image becomes numbers (:class:`edgeres.data.preprocess.Preprocess`).
        class_names: In the order of the scores; may be empty where the network is no classifier.
        outputs: Whether the engines answer with logits, with probabilities, or with the values of
            another task.
        samples: Names of the self-test images in the bundle.
        engines: By target.
        proven_on: CPU, instruction sets and versions of the machine that proved it.
        files: By name, all but the manifest.
        task: What a recipe says of the task, one mapping a head; empty for a classifier.
    """

    name: str
    created_by: str
    preprocess: Mapping[str, Any]
    class_names: tuple[str, ...]
    outputs: OutputKind
    samples: tuple[str, ...]
    engines: Mapping[str, EngineEntry]
    proven_on: Mapping[str, Any]
    files: Mapping[str, FileEntry]
    task: tuple[Mapping[str, Any], ...] = ()

    @property
    def not_proven(self) -> dict[str, str]:
        """Verdict and reason of each engine whose verdict is not ``pass``, by target."""
        return {
            target: f"{entry.proven.get('verdict', 'not judged')}: {entry.proven.get('reason', '')}"
            for target, entry in self.engines.items()
            if entry.proven.get("verdict") != "pass"
        }

    def to_bytes(self) -> bytes:
        """As JSON, the same bytes for equal manifests."""
        content = {"format": FORMAT, "schema": SCHEMA, **asdict(self)}
        if self.not_proven:  # on top, where a person who opens it sees it
            content["not_proven"] = self.not_proven
        return (json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def parse_manifest(content: bytes, where: Path) -> Manifest:
    """Reads and checks a manifest.

    Args:
        content: The JSON.
        where: The bundle, for messages.

    Raises:
        ArtefactError: Not a manifest, one of a newer form, or one that contradicts itself.
    """
    try:
        raw = json.loads(content, object_pairs_hook=_once, parse_constant=_no_constant)
        if not isinstance(raw, dict) or raw.get("format") != FORMAT:
            raise ValueError("it is not the manifest of a bundle")  # noqa: TRY301
        if raw.get("schema") != SCHEMA:
            raise ArtefactError(
                f"{where}: its manifest has the schema {raw.get('schema')!r}, known is {SCHEMA}.",
                hint="Use the version of edgeres that made it, or a later one.",
            )
        manifest = _manifest(raw)
        _check(manifest)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = one_line(error)
        raise ArtefactError(f"{where}: {MANIFEST}: {reason}.", hint=_HINT) from error
    return manifest


def _manifest(raw: dict[str, Any]) -> Manifest:
    return Manifest(
        name=_text(raw["name"]),
        created_by=_text(raw["created_by"]),
        preprocess=_mapping(raw["preprocess"]),
        class_names=_texts(raw["class_names"]),
        outputs=cast("OutputKind", _one_of(raw["outputs"], _KINDS)),
        samples=_texts(raw["samples"]),
        engines={_text(key): _engine(value) for key, value in _mapping(raw["engines"]).items()},
        proven_on=_mapping(raw["proven_on"]),
        files={name: _file(value) for name, value in _mapping(raw["files"]).items()},
        task=_task(raw.get("task", [])),
    )


def _task(raw: Any) -> tuple[Mapping[str, Any], ...]:
    if not isinstance(raw, list):
        raise ValueError("its task is no list")  # noqa: TRY004 - said with the other faults
    said = tuple(_mapping(block) for block in raw)
    for block in said:
        _text(block["name"])
    return said


def _engine(raw: Any) -> EngineEntry:
    values = _mapping(raw)
    return EngineEntry(
        backend=_text(values["backend"]),
        engine=_text(values["engine"]),
        files=_texts(values["files"]),
        qdq=_text(values["qdq"]),
        device=_text(values["device"]),
        versions={key: _text(value) for key, value in _mapping(values["versions"]).items()},
        saturating=_flag(values["saturating"]),
        saturation_safe=_flag(values["saturation_safe"]),
        architecture=_text(values["architecture"]),
        needs=tuple(_one_of(need, (EXACT_SUMS,)) for need in _texts(values["needs"])),
        expected=_text(values["expected"]),
        expected_from=_text(values["expected_from"]),
        proven=_mapping(values["proven"]),
        options={key: _text(value) for key, value in _mapping(values.get("options", {})).items()},
        shapes=_shapes(values.get("shapes", {})),
    )


def _shapes(raw: Any) -> dict[str, ShapeRange]:
    ends = {name: _mapping(value) for name, value in _mapping(raw).items()}
    return shapes_from_json({n: [e["min"], e["opt"], e["max"]] for n, e in ends.items()})


def _file(raw: Any) -> FileEntry:
    values = _mapping(raw)
    sha256, size = _text(values["sha256"]), values["size_bytes"]
    if len(sha256) != 64 or set(sha256) - set("0123456789abcdef"):
        raise ValueError(f"{sha256[:80]!r} is no SHA-256")
    if type(size) is not int or size < 0:
        raise ValueError(f"{size!r} is no size in bytes")
    return FileEntry(sha256, size)


def _check(manifest: Manifest) -> None:
    """Refuses names that are none, and names of files that the bundle does not have."""
    for name in manifest.files:
        if not is_name(name) or name == MANIFEST:
            raise ValueError(f"{name[:100]!r} cannot be a file of a bundle")
    if not manifest.engines:
        raise ValueError("it has no engine")
    if not manifest.task and len(manifest.class_names) < 2:
        raise ValueError(f"it has {len(manifest.class_names)} classes")
    named = list(manifest.samples)
    for target, entry in manifest.engines.items():
        if entry.engine not in entry.files:
            raise ValueError(f"{target}: its engine is not among its files")
        named += [entry.qdq, entry.expected, *entry.files]
    for name in named:
        if name not in manifest.files:
            raise ValueError(f"it names the file {name[:100]!r}, which is not among its files")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("it has a key twice")
    return found


def _no_constant(word: str) -> float:
    raise ValueError(f"it holds {word}")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, got {value!r:.80}")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError(f"expected a list of texts, got {value!r:.80}")
    return tuple(_text(item) for item in value)


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"expected an object, got {value!r:.80}")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"expected true or false, got {value!r:.80}")
    return value


def _one_of(value: Any, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise ValueError(f"expected {' or '.join(choices)}, got {value!r:.80}")
    return _text(value)
