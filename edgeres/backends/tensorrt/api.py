"""The one place that knows how the versions of TensorRT differ.

TensorRT 8.6, 10, 11 and TensorRT for RTX share most of their Python API. What they do not share
is decided here, by asking whether a name exists, never by comparing versions: TensorRT for RTX
1.7 is newer than TensorRT 10 and counts differently.

Variables that hold TensorRT's own objects have fixed names in all of edgeres: ``module``,
``builder``, ``network``, ``parser``, ``builder_config``, ``profile``, ``runtime``,
``cuda_engine``, ``execution``, ``inspector``, ``runtime_config``, ``tensor``, ``timing_cache`` and
``runtime_cache``. ``tests/backends/trt/test_versions.py`` reads the source and checks every
attribute of these names against the members that the real bindings of each version have.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edgeres.errors import BackendMissingError, StageError, UsageError

Flavor = Literal["tensorrt", "tensorrt_rtx"]
FLAVORS: tuple[Flavor, ...] = ("tensorrt", "tensorrt_rtx")
TITLES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT for RTX"}
INSTALL_HINT = (
    "Install `pip install 'edgeres[tensorrt-rtx]'` (builds without a GPU) or, on a machine with an "
    "NVIDIA GPU, `pip install 'edgeres[tensorrt]'`."
)

# What TensorRT for RTX 1.7 builds for when it is asked for nothing: see docs/tensorrt.md.
RTX_TARGETS = ("8.0", "8.6", "8.9", "12.0")
_TURING = "7.5"
_HOPPER = "9.0"


@dataclass(frozen=True)
class Trt:
    """An imported TensorRT: the module, which product it is, and its full version."""

    module: Any
    flavor: Flavor
    version: str

    @property
    def is_rtx(self) -> bool:
        """True for TensorRT for RTX."""
        return self.flavor == "tensorrt_rtx"

    @property
    def title(self) -> str:
        """Name and version for people, e.g. ``TensorRT for RTX 1.7.1.116``."""
        return f"{TITLES[self.flavor]} {self.version}"


def load_trt(flavor: Flavor | None = None) -> Trt:
    """Imports TensorRT: ``tensorrt``, then ``tensorrt_rtx``, each also as its ``*_bindings``.

    Args:
        flavor: Only this product; ``None`` takes the first that imports.

    Raises:
        BackendMissingError: None of them imports; the message says why for each.
    """
    reasons = []
    for candidate in (flavor,) if flavor else FLAVORS:
        for name in (candidate, f"{candidate}_bindings"):
            try:
                module = importlib.import_module(name)
                return Trt(module, candidate, str(module.__version__))
            except ModuleNotFoundError as error:
                # A missing part of an installed TensorRT is worth telling; plain absence is not.
                if error.name != name:
                    reasons.append(f"{name}: {error}")
            except (ImportError, OSError, RuntimeError, AttributeError) as error:
                reasons.append(f"{name}: {error}")
    wanted = TITLES[flavor] if flavor else "TensorRT"
    why = f" ({'; '.join(reasons)})" if reasons else ""
    raise BackendMissingError(f"{wanted} is not installed here{why}.", hint=INSTALL_HINT)


def create_network(trt: Trt, builder: Any, *, weakly: bool = False) -> Any:
    """An empty network in which the graph alone decides every precision.

    8.6 knows only weak typing and must be told that the batch is explicit; 10 is asked for strong
    typing; 11 and TensorRT for RTX know nothing else and need no flag.

    Args:
        trt: The imported TensorRT.
        builder: Its builder.
        weakly: On 10, leave the choice to the builder: see :func:`is_weakly_typed`.
    """
    module = trt.module
    creation = module.NetworkDefinitionCreationFlag
    if hasattr(creation, "STRONGLY_TYPED"):
        strongly = has_precision_flags(trt) and not weakly
        flags = 1 << int(creation.STRONGLY_TYPED) if strongly else 0
    elif hasattr(creation, "EXPLICIT_BATCH"):
        flags = 1 << int(creation.EXPLICIT_BATCH)
    else:
        flags = 0
    return builder.create_network(flags)


def is_weakly_typed(trt: Trt, *, dla: bool) -> bool:
    """Whether a network's precision needs flags: always on 8.6, and on 10 for a DLA."""
    if not hasattr(trt.module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        return True
    return dla and has_precision_flags(trt)


def has_precision_flags(trt: Trt) -> bool:
    """True for 8.6 and 10, where a network is weakly typed unless it is asked not to be."""
    return hasattr(trt.module.BuilderFlag, "FP16")


def half_pays(trt: Trt) -> bool:
    """True where float16 between INT8 layers is what should be asked for.

    That is TensorRT: in the graph where it is strongly typed, by a flag in 8.6. TensorRT for RTX
    turns the scales back to float32 and keeps the convolutions' outputs in float32 either way (read
    from the layer lists of 1.7.1).
    """
    return not trt.is_rtx


def allow_graph_precisions(
    trt: Trt, network: Any, builder_config: Any, *, half: bool, dla: bool = False
) -> None:
    """Lets a weakly typed network use INT8 where it has Q/DQ, and float16 for the rest.

    In 8.6 a Q/DQ graph is refused unless INT8 is allowed as a whole; the Q/DQ still decide where.
    Without Q/DQ, as for a DLA, that flag would ask for the range of every tensor. Strongly typed
    versions have no such flags, or refuse them.

    Args:
        trt: The imported TensorRT.
        network: The parsed network.
        builder_config: Of the build.
        half: What is not INT8 is float16.
        dla: It is for a DLA.
    """
    module = trt.module
    if not is_weakly_typed(trt, dla=dla):
        return
    kinds = {network.get_layer(index).type for index in range(network.num_layers)}
    if module.LayerType.QUANTIZE in kinds and hasattr(module.BuilderFlag, "INT8"):
        builder_config.set_flag(module.BuilderFlag.INT8)
    if half and hasattr(module.BuilderFlag, "FP16"):
        builder_config.set_flag(module.BuilderFlag.FP16)


def choose_tf32(trt: Trt, builder_config: Any, *, wanted: bool) -> None:
    """Whether float32 products may keep only 10 bits of each factor.

    Every version allows it by itself, on compute capability 8.0 and later, so float32 that is to be
    float32 must forbid it.
    """
    flag = trt.module.BuilderFlag.TF32
    if wanted:
        builder_config.set_flag(flag)
    else:
        builder_config.clear_flag(flag)


def check_targets(trt: Trt, targets: Sequence[str]) -> None:
    """Refuses compute capabilities that this TensorRT cannot or should not build for.

    Args:
        trt: The imported TensorRT.
        targets: Compute capabilities such as ``8.9``.

    Raises:
        BackendMissingError: TensorRT for RTX does not know this GPU generation.
        UsageError: Targets that this TensorRT does not take, or Turing.
    """
    if not targets:
        return
    module = trt.module
    if not hasattr(module, "ComputeCapability"):
        raise UsageError(
            f"{trt.title} builds for the GPU that is here; it takes no compute_capabilities.",
            hint="Leave the option out, or use flavor=tensorrt_rtx.",
        )
    if _HOPPER in targets:
        raise BackendMissingError(
            f"{trt.title} does not support compute capability 9.0 (H100, H200).",
            hint="Install standard TensorRT on that machine and use flavor=tensorrt.",
        )
    if _TURING in targets:
        # Measured with 1.7.1: with 7.5 alone or among others every convolution becomes float, and
        # a build that fails for 7.5 spoils the next build in the same process.
        raise UsageError(
            f"{trt.title} runs no INT8 convolution on compute capability 7.5 (Turing), "
            "and makes them float for every other target too.",
            hint="Leave 7.5 out; on Turing use flavor=tensorrt.",
        )
    known = {_dotted(name) for name in dir(module.ComputeCapability) if name.startswith("SM")}
    unknown = [target for target in targets if target not in known]
    if unknown:
        raise BackendMissingError(
            f"{trt.title} does not support compute capability {', '.join(unknown)}.",
            hint=f"It builds for {', '.join(sorted(known - {_TURING}, key=_order))}.",
        )


def set_targets(trt: Trt, builder_config: Any, targets: Sequence[str]) -> None:
    """Makes a plan for exactly these compute capabilities (TensorRT for RTX only).

    Raises:
        StageError: TensorRT did not accept one of them.
    """
    module = trt.module
    check_targets(trt, targets)
    if not targets or not hasattr(module, "ComputeCapability"):
        return
    if hasattr(builder_config, "num_compute_capabilities"):
        builder_config.num_compute_capabilities = len(targets)
    for index, target in enumerate(targets):
        capability = getattr(module.ComputeCapability, "SM" + target.replace(".", ""))
        accepted = hasattr(builder_config, "set_compute_capability") and (
            builder_config.set_compute_capability(capability, index)
        )
        if not accepted:
            raise StageError(f"{trt.title} did not accept compute capability {target}.")


def _dotted(name: str) -> str:
    digits = name.removeprefix("SM")
    return f"{digits[:-1]}.{digits[-1]}"


def _order(target: str) -> tuple[int, ...]:
    return tuple(int(part) for part in target.split("."))
