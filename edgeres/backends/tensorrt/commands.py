"""NVIDIA's own tools, told to do what edgeres did: ``trtexec`` builds, ``polygraphy`` compares.

Options of ``trtexec`` are those that ``samples/common/sampleOptions.cpp`` of
github.com/NVIDIA/TensorRT reads, at v8.6.1, v10.3.0, v10.13.3 and v11.1; those of
``polygraphy run`` are of 0.47.1 (v8.6.1) and of 0.53.6. Both are listed in ``tests/backends/``, and
every command here is held against them.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

from edgeres.backends.base import ShapeRange
from edgeres.backends.tensorrt.options import Rest, TensorRTOptions

COMPATIBILITY = {"ampere_plus": "ampere+", "same_compute_capability": "sameComputeCapability"}


def trtexec_options(options: TensorRTOptions, shapes: Mapping[str, ShapeRange]) -> list[str]:
    """Options of ``trtexec`` that every version spells alike.

    Args:
        options: Of the build; what speaks of running or of files of this machine is left out.
        shapes: Range of each input with a free size.
    """
    found = []
    for option, part in (("minShapes", "min"), ("optShapes", "opt"), ("maxShapes", "max")):
        if shapes:
            sizes = (f"{n}:{'x'.join(map(str, getattr(s, part)))}" for n, s in shapes.items())
            found.append(f"--{option}={','.join(sizes)}")
    if options.rest != "tf32":
        found.append("--noTF32")
    found.append("--profilingVerbosity=detailed")
    if options.workspace_mib is not None:
        found.append(f"--memPoolSize=workspace:{options.workspace_mib}")
    if options.optimization_level is not None:
        found.append(f"--builderOptimizationLevel={options.optimization_level}")
    if options.hardware_compatibility is not None:
        level = COMPATIBILITY[options.hardware_compatibility]
        found.append(f"--hardwareCompatibilityLevel={level}")
    if options.dla_core is not None:
        found += [f"--useDLACore={options.dla_core}", "--allowGPUFallback"]
    for wanted, option in (
        (options.version_compatible, "--versionCompatible"),
        (options.refit, "--refit"),
        (options.strip_plan, "--stripWeights"),
        (options.sparse_weights, "--sparsity=enable"),
    ):
        if wanted:
            found.append(option)
    return found


def typing_options(release: int, rest: str) -> list[str]:
    """Options that say where precision comes from, for a major release of TensorRT."""
    if release < 10:  # the first release with strongly typed networks
        return ["--int8", *(["--fp16"] if rest == "float16" else [])]
    return ["--stronglyTyped"] if release == 10 else []  # 11 knows no other


def trtexec_command(
    model: str,
    plan: str,
    options: TensorRTOptions,
    shapes: Mapping[str, ShapeRange],
    release: int,
) -> str:
    """One line for a shell: ``trtexec`` makes the plan that edgeres made.

    Args:
        model: The ONNX file, in the form for that release.
        plan: Where the plan goes.
        options: Of the build, ``rest`` spelled out.
        shapes: Range of each input with a free size.
        release: Major version of TensorRT: 8, 10 or 11.
    """
    words = ["trtexec", f"--onnx={model}", f"--saveEngine={plan}"]
    words += typing_options(release, options.rest or "float32")
    return shlex.join([*words, *trtexec_options(options, shapes)])


def told_command(
    options: TensorRTOptions, shapes: Mapping[str, ShapeRange], versions: Mapping[str, str]
) -> str:
    """How to build the plan again with NVIDIA's own tool, in a sentence.

    Args:
        options: Of the build.
        shapes: Range of each input with a free size.
        versions: Of the engine's sidecar.
    """
    release = int(versions.get("tensorrt", "10").partition(".")[0])
    rest = versions.get("rest", "float32")
    if "tensorrt" not in versions:  # built for RTX, which keeps float32 where TensorRT pays
        rest = options.rest or "float16"
    spelled = replace(options, rest=cast(Rest, rest))
    model = "model.opset17.onnx" if release < 10 else "model.onnx"
    command = trtexec_command(model, "model.plan", spelled, shapes, release)
    return (
        f"with TensorRT {release} and no edgeres, in the folder MODEL/1 that `edgeres bundle "
        f"OUTPUT --serve trtexec` writes: {command}"
    )


def compare_commands(
    model: str, plan: str, name: str, shape: Sequence[int], values: tuple[float, float]
) -> tuple[str, str]:
    """Two lines for a shell: ONNX Runtime answers made-up images, then TensorRT the same ones.

    Args:
        model: The Q/DQ file.
        plan: The plan.
        name: Of the input.
        shape: Of the images, with the batch.
        values: Smallest and largest number of an image.
    """
    sizes = ",".join(map(str, shape))
    low, high = values
    first = [
        "polygraphy", "run", model, "--onnxrt",
        "--input-shapes", f"{name}:[{sizes}]",
        "--val-range", f"{name}:[{low:.9g},{high:.9g}]",
        "--save-inputs", "inputs.json", "--save-outputs", "outputs.json",
    ]  # fmt: skip
    second = [
        "polygraphy", "run", plan, "--trt", "--model-type", "engine",
        "--load-inputs", "inputs.json", "--load-outputs", "outputs.json",
        "--validate", "--check-error-stat", "median", "--rtol", "0.05", "--atol", "0.05",
    ]  # fmt: skip
    return shlex.join(first), shlex.join(second)
