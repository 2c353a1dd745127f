"""What lies beside an engine file: where it came from, and the hashes that prove it is whole.

``model.onnx`` gets ``model.onnx.engine.json``. The sidecar is written last, so an engine without
one is an interrupted build. Commands that take only an engine's path read everything else here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

from edgeres.backends.base import BuildConfig, Engine, ShapeRange
from edgeres.errors import ArtefactError
from edgeres.system.environment import describe_environment
from edgeres.system.files import disk_errors, file_sha256, sync, write_atomic
from edgeres.system.foreign_json import read_json
from edgeres.system.temporary import temporary_folder

SCHEMA = 1
_SUFFIX = ".engine.json"
_TUNING = "tuning"
_MAX_BYTES = 1 << 20
_MOST_CHARACTERS = 1000


def sidecar_path(engine_path: Path) -> Path:
    """Where the sidecar of an engine file lies."""
    return engine_path.with_name(engine_path.name + _SUFFIX)


def write_sidecar(engine: Engine, *, companions: Sequence[Path] = ()) -> Path:
    """Writes the sidecar of a finished engine, atomically; call it as the last step of a build.

    Args:
        engine: The engine; ``engine.path`` must exist.
        companions: Further files the engine needs, in the same folder (weights in a second file).

    Returns:
        The path of the sidecar.

    Raises:
        StorageError: The folder cannot be written.
    """
    files = {
        path.name: {"sha256": file_sha256(path), "size_bytes": path.stat().st_size}
        for path in (engine.path, *companions)
    }
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "backend": engine.backend,
        "device": engine.device,
        "source_sha256": engine.source_sha256,
        "versions": dict(sorted(engine.versions.items())),
        "files": files,
    }
    if engine.options:
        record["options"] = dict(sorted(engine.options.items()))
    if engine.shapes:
        record["shapes"] = shapes_to_json(engine.shapes)
    target = sidecar_path(engine.path)
    write_atomic(target, (json.dumps(record, indent=1) + "\n").encode())
    return target


def write_tuning(engine: Engine, tuning: Mapping[str, Any] | None) -> None:
    """Keeps run-time options in an engine's sidecar, with the CPU that they were found on.

    Args:
        engine: The engine.
        tuning: ``options``, ``threads`` and what was measured; ``None`` removes what was kept.

    Raises:
        ArtefactError: The engine has no readable sidecar.
        StorageError: It cannot be written.
    """
    target = sidecar_path(engine.path)
    record = _read_record(target, engine.path)
    record.pop(_TUNING, None)
    if tuning is not None:
        record[_TUNING] = {**tuning, **_this_cpu()}
    write_atomic(target, (json.dumps(record, indent=1) + "\n").encode())


def run_config(engine: Engine, config: BuildConfig) -> BuildConfig:
    """Settings for running an engine: given options before tuned before built ones.

    Raises:
        ArtefactError: The sidecar cannot be read, or what it keeps is no tuning.
    """
    options, threads = _tuning_of(engine, config)
    return replace(
        config,
        options={**engine.options, **options, **config.options},
        threads=config.threads or threads,
    )


def _tuning_of(engine: Engine, config: BuildConfig) -> tuple[dict[str, str], int | None]:
    """Options and threads that were kept for this CPU; nothing where they are not wanted."""
    kept = None
    if config.tuned:
        kept = _read_record(sidecar_path(engine.path), engine.path).get(_TUNING)
    if kept is None:
        return {}, None
    try:
        kept_on = {"cpu": kept["cpu"], "isa": kept["isa"]}
        if kept_on != _this_cpu() or config.device != engine.device:
            return {}, None
        options = {str(name): str(value) for name, value in kept["options"].items()}
        return options, None if kept["threads"] is None else int(kept["threads"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ArtefactError(
            f"{sidecar_path(engine.path)}: the kept run-time options are damaged ({error!r}).",
            hint="Run `edgeres benchmark --tune-runtime` again.",
        ) from error


def _this_cpu() -> dict[str, Any]:
    """The CPU by its name and by what it can do: virtual machines show one model with less."""
    machine = describe_environment(())
    return {"cpu": f"{machine.cpu}, {machine.threads} threads", "isa": list(machine.isa)}


def require_engine_file(path: Path) -> None:
    """Checks that an engine's file is there; of a folder the engines in it are named.

    Raises:
        ArtefactError: It is not.
    """
    if path.is_dir():
        found = [*path.glob(f"[!.]*{_SUFFIX}"), *path.glob(f"[!.]*/[!.]*{_SUFFIX}")]
        named = ", ".join(str(file).removesuffix(_SUFFIX) for file in sorted(found)[:3])
        raise ArtefactError(
            f"{path}: expected an engine file, got a folder.",
            hint=f"Name an engine in it: {named}." if named else "There is no engine in it.",
        )
    if not path.is_file():
        raise ArtefactError(f"{path}: no such engine file.", hint="Check the path.")


def read_engine(path: Path) -> Engine:
    """Finds out from an engine's path alone what it is, and checks that its files are whole.

    Args:
        path: The engine file.

    Raises:
        ArtefactError: No such file, no sidecar, an unreadable sidecar, or a file whose size or
            hash differs from the one recorded when it was built.
    """
    require_engine_file(path)
    record = _read_record(sidecar_path(path), path)
    try:
        engine = Engine(
            path=path,
            backend=_name(record["backend"]),
            device=_name(record["device"]),
            source_sha256=str(record["source_sha256"]),
            versions=_texts(record["versions"]),
            options=_texts(record.get("options", {})),
            shapes=shapes_from_json(record.get("shapes", {})),
        )
        files = {
            str(name): (str(entry["sha256"]), int(entry["size_bytes"]))
            for name, entry in record["files"].items()
        }
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise ArtefactError(
            f"{sidecar_path(path)}: the engine's sidecar is incomplete ({error!r}).",
            hint="Build the engine again.",
        ) from error
    if path.name not in files:
        raise ArtefactError(
            f"{sidecar_path(path)}: the sidecar describes {', '.join(files) or 'no file'}, "
            f"not {path.name}.",
            hint="Keep an engine and its sidecar under the names they were built with.",
        )
    for name, (sha256, size) in files.items():
        _check_file(path.parent, name, sha256, size)
    return engine


def shapes_to_json(shapes: Mapping[str, ShapeRange]) -> dict[str, Any]:
    """Shape ranges as plain JSON: smallest, usual and largest shape by input name."""
    return {name: [list(shape) for shape in astuple(shapes[name])] for name in sorted(shapes)}


def shapes_from_json(raw: Any) -> dict[str, ShapeRange]:
    """Reads :func:`shapes_to_json`.

    Raises:
        AttributeError, TypeError, ValueError: It is something else.
    """
    found = {}
    for name, three in raw.items():
        low, usual, high = (tuple(shape) for shape in three)
        if not len(low) == len(usual) == len(high):
            raise ValueError(f"the shapes of {name!r:.80} differ in length")
        for sizes in zip(low, usual, high, strict=True):
            ordered = all(type(size) is int for size in sizes) and sorted(sizes) == list(sizes)
            if not ordered or sizes[0] < 1:
                raise ValueError(f"the shapes of {name!r:.80} are no range")
        found[str(name)] = ShapeRange(low, usual, high)
    return found


def check_engine(engine: Engine, backend: str) -> None:
    """Refuses an engine of another backend, or one whose files changed; call it before loading.

    Raises:
        ArtefactError: The engine is another backend's, or damaged (see :func:`read_engine`).
    """
    recorded = read_engine(engine.path)
    if recorded.backend != backend or engine.backend != backend:
        raise ArtefactError(
            f"{engine.path}: expected an engine of {backend}, got one of {recorded.backend}.",
            hint=f"Load it with the backend {recorded.backend}.",
        )


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A temporary folder beside ``out`` whose files take their places only when all went well.

    On leaving without an exception every file in the folder is synced and moved into
    ``out.parent`` (replacing what is there), ``out`` itself last; otherwise nothing is touched.

    Raises:
        StorageError: The folder cannot be made or written.
    """
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(beside=out) as folder:
            yield folder
            for path in sorted(folder.iterdir(), key=lambda item: item.name == out.name):
                sync(path)
                path.replace(out.parent / path.name)


# The record is JSON from disk, hence ``Any``: the caller checks its shape.
def _read_record(sidecar: Path, engine_path: Path) -> dict[str, Any]:
    try:
        record = read_json(sidecar, max_bytes=_MAX_BYTES)
    except FileNotFoundError as error:
        raise ArtefactError(
            f"{engine_path}: has no {sidecar.name} beside it, so it is not a finished engine.",
            hint="Build it with `edgeres build`.",
        ) from error
    except (OSError, ValueError) as error:
        raise ArtefactError(
            f"{sidecar}: cannot be read ({error}).", hint="Build the engine again."
        ) from error
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        got = record.get("schema") if isinstance(record, dict) else type(record).__name__
        raise ArtefactError(
            f"{sidecar}: expected schema {SCHEMA}, got {got!r}.", hint="Build the engine again."
        )
    return record


def _name(value: Any) -> str:
    if not isinstance(value, str) or len(value) > _MOST_CHARACTERS:
        raise ValueError(f"{value!r:.80} is no name")
    return value


def _texts(mapping: Any) -> dict[str, str]:
    return {str(name): str(value) for name, value in mapping.items()}


def _check_file(folder: Path, name: str, sha256: str, size: int) -> None:
    path = folder / name
    # A name from a file that may come from elsewhere must not lead out of the engine's folder.
    if Path(name).name != name or name in {"", ".", ".."}:
        raise ArtefactError(
            f"{folder}: the sidecar names the file {name!r}, which is not a plain file name.",
            hint="Build the engine again.",
        )
    if not path.is_file():
        raise ArtefactError(f"{path}: missing, but the engine needs it.", hint="Copy it along.")
    got_size = path.stat().st_size
    if got_size != size:
        raise ArtefactError(
            f"{path}: expected {size} bytes, got {got_size}.", hint="Build the engine again."
        )
    if file_sha256(path) != sha256:
        raise ArtefactError(
            f"{path}: its bytes are not the ones that were built (SHA-256 differs).",
            hint="Build the engine again.",
        )


def engine_size(engine: Engine) -> int:
    """Size in bytes of all files of an engine that :func:`read_engine` found whole."""
    record = read_json(sidecar_path(engine.path))
    return sum(int(entry["size_bytes"]) for entry in record["files"].values())
