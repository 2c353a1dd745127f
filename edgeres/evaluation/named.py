"""Engines as a person names them: engine files, ONNX files, and output folders of ``convert``.

An ONNX file becomes an engine of the backend that the others are of, so that like is compared with
like. An output folder stands for the engines in it, and beside them for the FP32 network that was
brought, built by each of their backends: the yardstick that ``convert`` times.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgeres.backends import get_backend
from edgeres.backends.base import Backend, BuildConfig
from edgeres.backends.fit import executable_backend
from edgeres.backends.isolate import build_isolated
from edgeres.backends.sidecar import read_engine, sidecar_path
from edgeres.backends.target import runnable_targets
from edgeres.errors import ArtefactError, UsageError
from edgeres.evaluation import run_folder
from edgeres.evaluation.rebuild_config import built_like
from edgeres.system.foreign_json import read_json
from edgeres.system.temporary import temporary_folder

_ONNX = ".onnx"


@dataclass(frozen=True)
class Named:
    """An engine that can be measured.

    Attributes:
        path: The engine file, with its sidecar beside it.
        name: What it is called: its path, or how it came about.
    """

    path: Path
    name: str


@contextmanager
def named_engines(
    words: Sequence[Path], *, targets: Sequence[str] = (), threads: int | None = None
) -> Iterator[list[Named]]:
    """The engines that are meant; what is built for it is there as long as the block.

    Args:
        words: Engine files, ONNX files and output folders.
        targets: Backends that build ONNX files, and whose engines of a folder are meant; left out,
            those of the engines that are named too, else the first that runs here, and all of a
            folder.
        threads: CPU threads that engines are built for.

    Raises:
        ArtefactError: A folder is no output of ``convert``, or holds no engine that runs here.
        BackendMissingError: A target is not installed.
        StageError: An ONNX file cannot be built.
        UsageError: No target runs here.
    """
    with temporary_folder() as place:
        yield list(_opened(words, targets, threads, place))


def _opened(
    words: Sequence[Path], targets: Sequence[str], threads: int | None, place: Path
) -> Iterator[Named]:
    plain = [word for word in words if _is_plain_onnx(word)]
    engines = [word for word in words if word not in plain and not word.is_dir()]
    builders = list(targets) or list(dict.fromkeys(_backends_of(engines)))
    if plain and not builders:
        builders = runnable_targets()[:1]
        if not builders:
            raise UsageError(
                "no target runs on this machine, so no ONNX file can be timed.",
                hint="See `edgeres doctor`.",
            )
    several = len(builders) > 1
    for number, word in enumerate(words):
        own = place / str(number)
        if word.is_dir():
            yield from _of_folder(word, targets, threads, own)
        elif word in plain:
            for target in builders:
                name = f"{word} ({target})" if several or targets else str(word)
                backend = get_backend(target)
                device = (*backend.devices(), backend.default_device)[0]
                config = BuildConfig(device=device, threads=threads)
                yield Named(_built(word, backend, config, own / target), name)
        else:
            yield Named(word, str(word))


def _is_plain_onnx(path: Path) -> bool:
    """Whether a file is a network and no engine."""
    return path.suffix == _ONNX and path.is_file() and not sidecar_path(path).is_file()


def _backends_of(engines: Iterable[Path]) -> Iterator[str]:
    for engine in engines:
        if sidecar_path(engine).is_file():
            yield read_engine(engine).backend


def _of_folder(
    folder: Path, targets: Sequence[str], threads: int | None, place: Path
) -> Iterator[Named]:
    """The FP32 network on each backend, and the engine beside it."""
    report = folder / run_folder.REPORT
    try:
        parts = read_json(report)["targets"]
        built = {
            str(name): folder / str(part["engine"])
            for name, part in parts.items()
            if isinstance(part, Mapping) and part.get("built") and part.get("executed")
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtefactError(
            f"{folder}: is no output folder of `edgeres convert`.",
            hint="Name engine files, .onnx files, or such a folder.",
        ) from error
    chosen = {name: path for name, path in built.items() if not targets or name in targets}
    if not chosen:
        raise ArtefactError(
            f"{folder}: holds no engine {'for ' + ', '.join(targets) if targets else 'that ran'}.",
            hint=f"It has engines for {', '.join(built) or 'no target that runs here'}.",
        )
    fp32 = folder / run_folder.BASELINE / run_folder.MODEL
    for name, path in chosen.items():
        engine = read_engine(path)
        backend = executable_backend(engine)
        if fp32.is_file():
            config = built_like(engine, backend, fp32, threads=threads, reference=True)
            yield Named(_built(fp32, backend, config, place / name), f"{name} FP32")
        yield Named(path, f"{name} INT8")


def _built(onnx: Path, backend: Backend, config: BuildConfig, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / f"{onnx.stem}{backend.engine_suffix}"
    return build_isolated(onnx, out, backend.name, config).path
