"""What a backend is: the types and the protocol that every engine maker implements.

A backend turns an ONNX file into an engine, runs it, and tells layer by layer in which precision
it really runs. Precision lives in the graph (explicit Q/DQ), so there is no precision flag here;
:class:`QdqRules` says how the quantizer must place and shape Q/DQ for this backend and device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from edgeres.errors import UsageError
from edgeres.graph.summary import TensorSpec
from edgeres.system.progress import ProgressCallback

Array = NDArray[np.generic]


@dataclass(frozen=True)
class ShapeRange:
    """Smallest, most usual and largest shape of one input, for engines that are specialized."""

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]


@dataclass(frozen=True)
class BatchLimits:
    """Fewest and most images that a loaded engine takes in one run; ``None`` where it is free."""

    smallest: int | None = None
    largest: int | None = None

    def fit(self, wanted: int) -> int:
        """The batch size that the engine takes and that is nearest to a wanted one."""
        size = wanted if self.largest is None else min(wanted, self.largest)
        return size if self.smallest is None else max(size, self.smallest)


@dataclass(frozen=True)
class QdqRules:
    """How Q/DQ must be written for one backend on one device.

    Attributes:
        name: Short name used in file names and reports, e.g. ``onnxruntime-cpu``.
        activation_dtype: Integer type of activations.
        activation_symmetric: Zero point fixed at 0 (at 128 for a symmetric uint8 is never used).
        ops: ONNX op types whose float inputs take Q/DQ.
        weight_granularity: One scale per output channel, or one for the whole tensor. The weight's
            DequantizeLinear names its zero points (all 0): without them ONNX Runtime leaves a Gemm
            in float.
        bias: ``int32`` behind a DequantizeLinear with scale ``s_x * s_w``, or plain ``float``.
        residual: Which inputs of a residual Add take Q/DQ: ``both``, or only the ``skip`` input so
            that the convolution on the main path can fuse with the Add.
        quantize_before_relu: False when Q/DQ must not stand between a Conv and its Relu.
        quantize_outputs: True where an engine fuses only ``DQ -> op -> Q``: the output of an INT8
            op then takes Q/DQ even if a float op reads it. Gemm and the logits are exempt.
        pair_per_reader: True gives each reader of a tensor its own Q/DQ pair, for ONNX Runtime,
            which makes fast uint8 pairs of int8 ones only where a pair has one reader.
        saturating: True where products of two weights and two activations share an int16 that can
            overflow (x86 without VNNI); found by :mod:`edgeres.backends.probe`, never from the
            name of the CPU.
        wrong_lowest_weight: True where weights of -128 give wrong sums; found likewise. None is
            ever written; files from elsewhere have them.
        least_scale: Smallest scale that is written. Below it the engine may hold zero: FP16 ends at
            2**-24; of float32 the default leaves room for the product of two scales.
        most_mean_gain: What the input's scale of a global average pool over its output's, divided
            by the number of values, is to stay below; the engine refuses more.
        least_add_offset: The number that the lowest integer of a tensor with a zero point stands
            for has at least this magnitude where an Add reads it: the engine drops smaller ones.
        wrong_groups: Numbers of groups for which an INT8 Conv with one input channel and several
            output channels in each group gives wrong sums; such a Conv stays float.
        wrong_group_epilogue: True where an INT8 Conv of several groups with more than 8 output
            channels each takes wrong values of a constant for each channel that it fuses (PRelu,
            Mul, Add); such a Conv stays float.
        least_pool: Fewest values for which the INT8 AveragePool is right; a smaller one stays
            float, and nothing between it and the INT8 op before reads Q/DQ.
        refuses_pad_values: True where an engine may refuse a file in which a Pad with another
            number than 0 reads Q/DQ; it then reads the float tensor.
        quantizes_floats: True where an engine quantizes the weight of a float layer between DQ and
            Q by itself, but for one with an int32 bias behind a DequantizeLinear, which it gets.
        concat_barrier: True where an engine carries an int8 quantization through a Concat and loses
            its scale there; a MaxPool of one pixel behind each Concat then stops it.
        factor_barrier: True where an engine takes the first factor for all channels of a Mul in
            front of a Q if some are not positive; such a pool then stands between.
        clips_integers: True where an engine moves a Clip in front of the DequantizeLinear that it
            reads and cuts its bounds to whole steps; such a Clip is then written as a Max and a
            Min, or has no bound at the end of the integers.
        epilogues: ONNX op types that the engine computes inside the INT8 layer in front of them, as
            is ``x * g(x)``; ``Mul`` and ``Div``: by one number, behind one of the ``products``.
        float_adds: True where an Add whose main input no INT8 layer gives (a Mul does, with SE) is
            as quick and more exact in float: it then takes no Q/DQ.
        float_norms: True where a norm behind no layer (a depthwise Conv of one tap in the normal
            form) is quicker and more exact as a Mul and an Add in float.
        sinks_strides: True where an engine moves the stride of a 1x1 Conv in front of a
            DequantizeLinear that nothing else reads, and so leaves the Conv in float; a MaxPool of
            one pixel then takes the stride.
        products: How a MatMul of two computed tensors (attention) is written: in ``float``, with
            inputs as other ``activations``, or ``symmetric``: with a zero point of 0, the second
            always int8; others run in float.
        keep_float: Names of ONNX nodes that stay float whatever their op. A backend names none; the
            search for mixed precision does.
        other_activations: Further types that it takes (:mod:`edgeres.backends.activations`).
        others_may_be_faster: True where they are computed in INT8 just as well on this CPU, and
            only a measurement tells which is faster.
    """

    name: str
    activation_dtype: Literal["uint8", "int8"]
    activation_symmetric: bool
    ops: frozenset[str]
    weight_granularity: Literal["per_channel", "per_tensor"] = "per_channel"
    bias: Literal["int32", "float"] = "float"
    residual: Literal["both", "skip"] = "both"
    quantize_before_relu: bool = False
    quantize_outputs: bool = False
    pair_per_reader: bool = False
    saturating: bool = False
    wrong_lowest_weight: bool = False
    least_scale: float = 2.0**-62
    most_mean_gain: float = 2.0**62
    least_add_offset: float = 0.0
    wrong_groups: frozenset[int] = frozenset()
    wrong_group_epilogue: bool = False
    least_pool: int = 0
    refuses_pad_values: bool = False
    quantizes_floats: bool = False
    concat_barrier: bool = False
    factor_barrier: bool = False
    clips_integers: bool = False
    epilogues: frozenset[str] = frozenset()
    float_adds: bool = False
    float_norms: bool = False
    sinks_strides: bool = False
    products: Literal["float", "activations", "symmetric"] = "float"
    keep_float: frozenset[str] = frozenset()
    other_activations: frozenset[Literal["uint8", "int8"]] = frozenset()
    others_may_be_faster: bool = False

    def to_dict(self) -> dict[str, Any]:
        """What decides a file, as plain JSON values; ``keep_float`` only where it names a node."""
        sets = ("ops", "wrong_groups", "epilogues", "keep_float")
        values = asdict(self) | {name: sorted(getattr(self, name)) for name in sets}
        left_out = {"other_activations", "others_may_be_faster"}
        left_out |= set() if self.keep_float else {"keep_float"}
        return {name: value for name, value in values.items() if name not in left_out}


MOST_THREADS = 4096
"""A runtime starts as many as it is told, and takes minutes and all memory for far more."""


@dataclass(frozen=True)
class BuildConfig:
    """Where an engine is to run and for which shapes.

    Attributes:
        device: ``cpu``, ``cuda:N``, ``gpu:N``, ``npu`` or ``auto``.
        threads: Intra-op threads; ``None`` leaves the choice to the runtime.
        shapes: Input name to shape range, for backends that specialize.
        options: Backend's own options by name; an unknown one is a ``UsageError``.
        tuned: Whether options and threads that were found fastest on this CPU and kept beside the
            engine (:mod:`edgeres.benchmarking.runtime_options`) fill in for what is not given here.
            What was tuned goes before what the engine was built with.

    Raises:
        UsageError: Fewer threads than one, or more than any machine has.
    """

    device: str = "cpu"
    threads: int | None = None
    shapes: Mapping[str, ShapeRange] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    tuned: bool = True

    def __post_init__(self) -> None:
        # Runtimes take 0 and -1 for "as many as there are", each in its own way.
        if self.threads is not None and not 1 <= self.threads <= MOST_THREADS:
            raise UsageError(f"expected 1 to {MOST_THREADS} threads, got {self.threads}.")


@dataclass(frozen=True)
class Engine:
    """A built engine on disk and what it came from.

    ``options`` are those of the build, without paths of this machine; running and inspecting the
    engine uses them too, unless told otherwise. ``shapes`` are the ranges that a specialized engine
    was made for, by input name; empty for one that takes any batch or is fixed by its model.
    """

    path: Path
    backend: str
    device: str
    source_sha256: str
    versions: Mapping[str, str]
    options: Mapping[str, str] = field(default_factory=dict)
    shapes: Mapping[str, ShapeRange] = field(default_factory=dict)


@dataclass(frozen=True)
class Remarks:
    """What was said about a model while its engine was built.

    Attributes:
        warnings: The builder's own warnings, each once.
        notes: What edgeres itself found that is slow, not wrong, and what it repaired.
        commands: How to build the same with the vendor's own tools, a sentence each.
    """

    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()


@dataclass(frozen=True)
class LayerInfo:
    """One layer of a built engine, as the engine itself reports it.

    Attributes:
        name: The engine's name for the layer.
        op: The engine's op type, e.g. ``QLinearConv``.
        precision: Precision that the arithmetic runs in: ``int8``, ``float16``, ``float32`` or the
            engine's own word for another one.
        nodes: Names of the ONNX nodes that this layer computes, as far as the engine tells.
        time_ms: Time of one run in milliseconds where the engine tells, else ``None``.
        reason: Why it is not in INT8 although Q/DQ stands around it, where the backend knows.
    """

    name: str
    op: str
    precision: str
    nodes: tuple[str, ...] = ()
    time_ms: float | None = None
    reason: str = ""


class Runner(Protocol):
    """A loaded engine. Synchronous: outputs are on the host when ``infer`` returns."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Inputs in the engine's order."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Outputs in the engine's order."""

    @property
    def batch_limits(self) -> BatchLimits:
        """Which batch sizes the engine takes."""

    def infer(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Runs the engine once; feeds and outputs are keyed by tensor name."""

    def close(self) -> None:
        """Frees the engine; a second call does nothing."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class Backend(Protocol):
    """One engine maker. A module in this folder exposes one as ``BACKEND``.

    Attributes:
        name: Name of the module, and of the target.
        engine_suffix: With the dot.
        default_device: What engines are for where no device is here.
        precision_options: Options that change the arithmetic of a float network; they are left out
            where one is built as the reference.
        path_options: Options whose values are paths of this machine.
        place_options: Options that say what an engine can run on; they are left out where it is
            built anew for another machine.
        portable_engines: Whether an engine file is compiled where it is loaded, and so the same for
            every architecture.
    """

    name: str
    engine_suffix: str
    default_device: str
    precision_options: frozenset[str]
    path_options: frozenset[str]
    place_options: frozenset[str]
    portable_engines: bool

    def float_builds(self, device: str) -> Mapping[str, Mapping[str, str]]:
        """Options of float engines that may be faster than FP32, by arithmetic: INT8's rivals."""

    def missing(self) -> str | None:
        """Says why this backend cannot build here, with the install hint; ``None`` if it can."""

    def not_executable(self) -> str | None:
        """Says why a built engine cannot run on this machine; ``None`` if it can."""

    def versions(self) -> dict[str, str]:
        """Versions of the runtime's packages, for manifests and reports."""

    def place(self, device: str) -> dict[str, str]:
        """What an engine for a device depends on besides versions: the GPU and its driver.

        Empty for a CPU, and for a device that is not here.
        """

    def devices(self) -> tuple[str, ...]:
        """Devices that this backend can use here, best first."""

    def named_device(self, device: str) -> str:
        """The device that a name stands for: another one only where it leaves the choice open.

        Raises:
            BackendMissingError: It is not here.
        """

    def runtime_options(self) -> Mapping[str, tuple[str, ...]]:
        """Options of ``load`` that change speed and not arithmetic, the default value first."""

    def qdq_rules(self, device: str, options: Mapping[str, str] | None = None) -> QdqRules:
        """The rule set for a device; probes the engine where only a run can tell.

        Args:
            device: Where the engine is to run.
            options: Of its build, where they choose what computes it.

        Raises:
            BackendMissingError: The runtime or the device is not here, or it has no INT8.
        """

    def check(self, config: BuildConfig) -> None:
        """Refuses settings that make no sense, before any work is done for them.

        Raises:
            UsageError: An option, a value, a device or a shape range that this backend does not
                take.
            BackendMissingError: Something that it could do, but not on this machine.
        """

    def build(
        self,
        onnx: Path,
        out: Path,
        config: BuildConfig,
        *,
        progress: ProgressCallback | None = None,
    ) -> Engine:
        """Builds ``out`` from an ONNX file.

        Args:
            onnx: FP32 or Q/DQ model.
            out: The engine file.
            config: Device, threads, shape ranges and the backend's own options.
            progress: Called with (done, known) steps, by backends whose builders tell them.

        Raises:
            BackendMissingError: The runtime or the device is not here.
            ModelError: The runtime rejects the model.
            StageError: The build crashed.
        """

    def load(self, engine: Engine, config: BuildConfig) -> Runner:
        """Loads a built engine for running.

        Raises:
            BackendMissingError: The runtime or the device is not here.
            ArtefactError: The file is not an engine of this backend and version.
        """

    def layers(self, engine: Engine) -> list[LayerInfo]:
        """Lists the layers of the built engine with the precision each really runs in."""

    def remarks(self, engine: Engine) -> Remarks:
        """What was said while the engine was built."""
