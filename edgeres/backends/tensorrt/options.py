"""Options of the TensorRT backend: strings from a recipe or a command line, checked once."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, cast

from edgeres.backends.tensorrt.api import Flavor
from edgeres.errors import UsageError

Rest = Literal["float32", "tf32", "float16"]


@dataclass(frozen=True)
class TensorRTOptions:
    """What can be said about a TensorRT build or run; every option has a default.

    Attributes:
        flavor: ``tensorrt`` or ``tensorrt_rtx``; by default TensorRT where it and a GPU are
            present, else TensorRT for RTX, which builds without a GPU.
        rest: Arithmetic of everything that is not INT8: ``float32``, ``float16``, or ``tf32``,
            float32 whose products keep 10 bits of each factor. By default float16 for a Q/DQ file
            on strongly typed TensorRT (10 and later) and on a DLA, else float32.
        io: Type of the network's inputs and outputs where ``rest`` is float16: ``float32`` (with a
            cast inside) or ``float16``.
        compute_capabilities: TensorRT for RTX: what the plan runs on, e.g. ``8.6,8.9``.
        opt_batch: Batch size that kernels are chosen for when the batch is dynamic. Of several,
            each has an optimization profile that begins behind the one before and ends with it,
            the last with ``max_batch``. On a DLA the one batch size.
        max_batch: Largest batch size when the batch is dynamic.
        workspace_mib: Limit of scratch memory in MiB.
        optimization_level: 0 (quick build) to 5 (long search); TensorRT's own default is 3.
        hardware_compatibility: TensorRT: ``ampere_plus`` or ``same_compute_capability``.
        version_compatible: TensorRT: a plan that later versions of the same major also run.
        dla_core: TensorRT on Jetson: build for this DLA core and run there, the rest on the GPU.
        refit: TensorRT: a plan whose weights can be replaced, at some cost in speed.
        strip_plan: TensorRT 10 and later: a plan without its weights, which lie beside it and are
            put back on loading.
        sparse_weights: Let kernels for the 2:4 pattern compete where weights have it.
        timing_cache: TensorRT: file with the timings of earlier builds, made if absent.
        runtime_cache: TensorRT for RTX: file with kernels compiled in earlier runs; a plain name
            is a file beside the plan.
        cuda_graph: Replay the kernels of a small batch as one CUDA graph.
        contexts: Execution contexts of a loaded plan, each with a stream of its own, so that as
            many threads can run it at a time.
    """

    flavor: Flavor | None = None
    rest: Rest | None = None
    io: Literal["float32", "float16"] = "float32"
    compute_capabilities: tuple[str, ...] = ()
    opt_batch: tuple[int, ...] = (1,)
    max_batch: int = 64
    workspace_mib: int | None = None
    optimization_level: int | None = None
    hardware_compatibility: Literal["ampere_plus", "same_compute_capability"] | None = None
    version_compatible: bool = False
    dla_core: int | None = None
    refit: bool = False
    strip_plan: bool = False
    sparse_weights: bool = False
    timing_cache: Path | None = None
    runtime_cache: Path | None = None
    cuda_graph: bool = False
    contexts: int = 1


def parse_options(options: Mapping[str, str]) -> TensorRTOptions:
    """Reads ``BuildConfig.options`` of the TensorRT backend.

    Raises:
        UsageError: An unknown option, or a value that makes no sense; the message names it.
    """
    known = [option.name for option in fields(TensorRTOptions)]
    values: dict[str, Any] = {}
    for name, text in options.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            guess = f"Did you mean {near[0]}? " if near else ""
            raise UsageError(
                f"tensorrt has no option {name!r}.", hint=f"{guess}It has {', '.join(known)}."
            )
        try:
            values[name] = _READERS[name](text.strip())
        except ValueError as error:
            raise UsageError(
                f"tensorrt option {name}: expected {error}, got {text!r}.",
                hint="See docs/tensorrt.md.",
            ) from error
    parsed = TensorRTOptions(**values)
    if parsed.dla_core is not None:
        return _for_dla(parsed, options)
    if parsed.opt_batch[-1] > parsed.max_batch:
        raise UsageError(
            f"tensorrt options: opt_batch {parsed.opt_batch[-1]} is above max_batch "
            f"{parsed.max_batch}.",
            hint="Raise max_batch or lower opt_batch.",
        )
    return parsed


def _for_dla(parsed: TensorRTOptions, given: Mapping[str, str]) -> TensorRTOptions:
    """A DLA computes in FP16 and INT8, and only with the sizes that it was built for."""
    if parsed.rest not in (None, "float16"):
        raise UsageError(
            f"tensorrt options: rest={parsed.rest} does not go with dla_core: a DLA computes in "
            "FP16 and INT8.",
            hint="Say rest=float16, or leave rest or dla_core out.",
        )
    batch = parsed.opt_batch[0]
    if len(parsed.opt_batch) > 1 or ("max_batch" in given and parsed.max_batch != batch):
        raise UsageError(
            "tensorrt options: a DLA runs one batch size, got opt_batch "
            f"{given.get('opt_batch', 1)} and max_batch {parsed.max_batch}.",
            hint="Say the same number for both.",
        )
    return replace(parsed, rest="float16", max_batch=batch)


def _choice(*allowed: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"one of {', '.join(allowed)}")
        return text

    return read


def _integer(low: int, high: int | None = None) -> Callable[[str], int]:
    wanted = f"a whole number from {low}" + (f" to {high}" if high is not None else "")

    def read(text: str) -> int:
        # str.isdecimal also takes other scripts' digits, which int() reads; both are harmless.
        if not text.isdecimal() or int(text) < low or (high is not None and int(text) > high):
            raise ValueError(wanted)
        return int(text)

    return read


def _flag(text: str) -> bool:
    if text.lower() not in {"true", "false", "1", "0"}:
        raise ValueError("true or false")
    return text.lower() in {"true", "1"}


def _capabilities(text: str) -> tuple[str, ...]:
    wanted = "compute capabilities such as 8.6,8.9"
    found = []
    for part in text.split(","):
        major, dot, minor = part.strip().partition(".")
        if not (dot and major.isdecimal() and minor.isdecimal()):
            raise ValueError(wanted)
        found.append(f"{int(major)}.{int(minor)}")
    return tuple(sorted(set(found), key=lambda item: tuple(map(int, item.split(".")))))


def _batches(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    found = [int(part) for part in parts if part.isdecimal()]
    if len(found) != len(parts) or found[0] < 1 or sorted(set(found)) != found:
        raise ValueError("a batch size, or several in rising order such as 1,8")
    return tuple(found)


def _path(text: str) -> Path:
    if not text:
        raise ValueError("a path")
    return Path(text)


_READERS: Mapping[str, Callable[[str], object]] = {
    "flavor": cast(Callable[[str], object], _choice("tensorrt", "tensorrt_rtx")),
    "rest": _choice("float32", "tf32", "float16"),
    "io": _choice("float32", "float16"),
    "compute_capabilities": _capabilities,
    "opt_batch": _batches,
    "max_batch": _integer(1),
    "workspace_mib": _integer(1),
    "optimization_level": _integer(0, 5),
    "hardware_compatibility": _choice("ampere_plus", "same_compute_capability"),
    "version_compatible": _flag,
    "dla_core": _integer(0),
    "refit": _flag,
    "strip_plan": _flag,
    "sparse_weights": _flag,
    "timing_cache": _path,
    "runtime_cache": _path,
    "cuda_graph": _flag,
    "contexts": _integer(1, 64),
}
