"""`report.json`: what a run of `convert` found, as frozen data with a checked JSON form.

The names and their meanings are a contract with users' scripts: fields may be added, never renamed.
A reader ignores fields that it does not know, so older versions read newer reports.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgeres.errors import ArtefactError
from edgeres.evaluation.compare import Flips
from edgeres.evaluation.coverage import FloatLayer
from edgeres.evaluation.fusions import Fusions
from edgeres.evaluation.gates import Check, Outcome
from edgeres.evaluation.judge import MetricPart, OutputPart
from edgeres.system.environment import Environment
from edgeres.system.files import write_atomic
from edgeres.system.progress import StagePart
from edgeres.tasks import CLASSIFICATION

if TYPE_CHECKING:
    from pydantic import TypeAdapter


@dataclass(frozen=True)
class Percentiles:
    """Latency in milliseconds; ``p999`` is ``None`` where there were too few runs."""

    p50: float
    p90: float
    p99: float
    p999: float | None = None


@dataclass(frozen=True)
class TaskPart:
    """What the outputs mean: name of the task, and the outputs that it reads."""

    name: str = CLASSIFICATION
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelPart:
    """The FP32 model that the user brought."""

    name: str
    parameters: int
    macs: int
    sha256: str


@dataclass(frozen=True)
class BaselinePart:
    """The user's FP32 model on the validation data; ``latency_ms`` is keyed by target."""

    top1: float | None = None
    samples: int = 0
    latency_ms: Mapping[str, Percentiles] = field(default_factory=dict)
    top5: float | None = None
    top1_interval: tuple[float, float] | None = None
    data: str = ""
    data_fingerprint: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class PruningLatency:
    """Latency that pruning by latency went by, in milliseconds (p50), and what it came to.

    Attributes:
        target: Where it was measured, in the precision of that target's engine.
        dense_ms: The dense network, measured with its layers.
        predicted_ms: The pruned network, predicted before it was built.
        measured_ms: The pruned network, in this run's benchmark.
        built_ms: The pruned network when its widths were chosen, made to be timed.
        uniform_ms: Even widths of as many multiply-adds, in that measurement.
        kept: ``latency``, or ``uniform`` where even widths were measured to be faster.
    """

    target: str
    dense_ms: float
    predicted_ms: float
    measured_ms: float | None = None
    built_ms: float | None = None
    uniform_ms: float | None = None
    kept: str = "latency"


@dataclass(frozen=True)
class PruningPart:
    """The pruned and fine-tuned FP32 model; ``drop_pp`` is against the baseline."""

    top1: float | None
    macs: int
    parameters: int
    macs_ratio: float
    drop_pp: float | None = None
    drop_upper_pp: float | None = None
    metrics: Mapping[str, MetricPart] = field(default_factory=dict)
    latency: PruningLatency | None = None


@dataclass(frozen=True)
class TargetPart:
    """One engine: what it is, what it can be trusted with, how fast it is.

    What was not measured is ``None``; ``reason`` says why.

    Attributes:
        engine: Path of the engine, relative to the report.
        size_bytes: Its size with all its files.
        built: Whether the engine was built.
        executed: Whether it ran here.
        verdict: Outcome of all checks.
        reason: Why that is the verdict.
        runtime: Runtime and version, e.g. ``TensorRT for RTX 1.7.1``.
        device: ``cpu``, ``cuda:N``, ``gpu:N`` or ``npu``.
        metrics: Of the task, by name, the gated ones first; empty for a classifier, whose figures
            are ``top1`` and those beside it.
        quantization_drops: What each loses against the FP32 model that was quantized.
        outputs: How near each output is to that model's.
        drop_pp: Percentage points of top-1 lost against the baseline, on the same samples.
        drop_upper_pp: One-sided upper confidence bound of it.
        quantization_drop_pp: Drop against the FP32 model that was quantized, as are ``agreement``,
            ``flips`` and ``sqnr_db``.
        sqnr_db: ``None`` also where the logits are equal to the last bit.
        nan_samples: Samples with NaN outputs; ``inf_samples`` with Inf and no NaN.
        int8_coverage: Share of MACs in INT8, read from the engine.
        fusions: Where additions and activations are computed, read from the engine.
        builder_warnings: What the engine's builder warned of.
        notes: What was found in the Q/DQ model that is slow, not wrong, and what was repaired.
        commands: How to build the same with the vendor's own tools, a sentence each.
        latency_ms: Of one synchronous run at the benchmark's batch size.
        fp32_latency_ms: The FP32 model on the same backend, in the same rounds.
        yardstick: Arithmetic of the fastest float engine of this backend, ``fp32``, ``fp16`` or
            ``bf16``.
        yardstick_latency_ms: Its times, in the same rounds.
        speedup: The yardstick's p50 over the engine's p50.
        speedup_interval: Two-sided confidence interval of it.
        unpruned_latency_ms: The dense network's INT8 engine, in the same rounds; only where
            something was pruned.
        pruning_speedup: Its p50 over the engine's p50; ``pruning_speedup_interval`` as above.
        stable: Whether nothing speaks against the times; ``doubts`` says what does.
        saturating: Whether INT8 sums can overflow on this device with this backend.
        saturation_safe: Whether the weights were made so that they cannot.
        precision: What was asked for, ``int8``, ``fp16``, ``bf16`` or ``fp32``.
    """

    engine: str
    size_bytes: int
    built: bool
    executed: bool
    verdict: Outcome
    reason: str = ""
    runtime: str = ""
    device: str = "cpu"
    metrics: Mapping[str, MetricPart] = field(default_factory=dict)
    quantization_drops: Mapping[str, float] = field(default_factory=dict)
    outputs: Mapping[str, OutputPart] = field(default_factory=dict)
    top1: float | None = None
    top5: float | None = None
    drop_pp: float | None = None
    drop_lower_pp: float | None = None
    drop_upper_pp: float | None = None
    quantization_drop_pp: float | None = None
    quantization_drop_upper_pp: float | None = None
    agreement: float | None = None
    flips: Flips | None = None
    sqnr_db: float | None = None
    nan_samples: int = 0
    inf_samples: int = 0
    int8_coverage: float | None = None
    float_layers: tuple[FloatLayer, ...] = ()
    fusions: Fusions | None = None
    builder_warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    latency_ms: Percentiles | None = None
    fp32_latency_ms: Percentiles | None = None
    yardstick: str = "fp32"
    yardstick_latency_ms: Percentiles | None = None
    speedup: float | None = None
    speedup_interval: tuple[float, float] | None = None
    unpruned_latency_ms: Percentiles | None = None
    pruning_speedup: float | None = None
    pruning_speedup_interval: tuple[float, float] | None = None
    throughput_per_s: float | None = None
    load_ms: float | None = None
    overhead_ms: float | None = None
    stable: bool | None = None
    doubts: tuple[str, ...] = ()
    saturating: bool | None = None
    saturation_safe: bool | None = None
    precision: str = "int8"
    checks: tuple[Check, ...] = ()


@dataclass(frozen=True)
class AgreementMatrix:
    """How alike the answers of the FP32 model and of all executed engines are, pair by pair.

    Attributes:
        names: ``fp32`` (the model that was quantized) and the targets; rows and columns.
        agreement: Share of samples with the same predicted class, in [0, 1]; symmetric.
        sqnr_db: Of the column's logits against the row's; ``None`` where they are equal to the last
            bit, as on the diagonal, or none is finite.
    """

    names: tuple[str, ...]
    agreement: tuple[tuple[float, ...], ...]
    sqnr_db: tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True)
class Finding:
    """Something a person should know, in plain words.

    ``code`` is stable, for scripts; ``target`` is ``None`` where it concerns the whole run.
    """

    level: Literal["info", "warning"]
    code: str
    text: str
    target: str | None = None


@dataclass(frozen=True)
class Winner:
    """The engine to deploy on the device that was measured.

    Attributes:
        target: Its backend.
        engine: Its path, relative to the report; empty for the float network as it came, which wins
            where no engine that passed is faster.
        p50_ms: Its latency.
        speedup: How many times as fast it is as the fastest float network, FP32 or FP16.
        fastest_float: The backend of that network.
        text: The choice and its reason, in words.
    """

    target: str
    engine: str
    p50_ms: float
    speedup: float
    fastest_float: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """The whole of ``report.json``."""

    schema: Literal[2] = 2
    environment: Environment
    model: ModelPart
    baseline: BaselinePart
    task: TaskPart = TaskPart()
    pruning: PruningPart | None = None
    stages: tuple[StagePart, ...] = ()
    targets: Mapping[str, TargetPart]
    agreement_matrix: AgreementMatrix | None = None
    findings: tuple[Finding, ...] = ()
    winner: Winner | None = None
    confidence: float = 0.95

    @property
    def exit_code(self) -> int:
        """0 where no target failed or is inconclusive, else 1."""
        verdicts = {target.verdict for target in self.targets.values()}
        return 0 if verdicts <= {"pass", "not_executed"} else 1

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values.

        Raises:
            ArtefactError: A field holds what it must not, such as NaN.
        """
        plain: dict[str, Any] = json.loads(self.to_json())
        return plain

    def to_json(self) -> str:
        """As indented JSON, UTF-8 safe, the same for equal reports.

        Raises:
            ArtefactError: A field holds what it must not, such as NaN.
        """
        from pydantic import ValidationError
        from pydantic_core import PydanticSerializationError

        try:
            # Dataclasses do not check what they are given; going through JSON and back does.
            text = _adapter().dump_json(self, indent=1, warnings="error").decode()
            _adapter().validate_json(text)
        except (ValidationError, PydanticSerializationError) as error:
            raise ArtefactError(
                f"report.json cannot be written: {_first(error)}", hint="This is a bug; report it."
            ) from error
        return text + "\n"


def write_report(report: Report, path: Path) -> None:
    """Writes ``report.json``, whole or not at all.

    Raises:
        ArtefactError: A field holds what it must not.
        StorageError: The file cannot be written.
    """
    write_atomic(path, report.to_json().encode())


def read_report(path: Path) -> Report:
    """Reads and checks a ``report.json``.

    Raises:
        ArtefactError: No such file, or not a report.
    """
    from pydantic import ValidationError

    try:
        return _adapter().validate_json(path.read_bytes())
    except OSError as error:
        raise ArtefactError(
            f"{path}: no report can be read there ({error.strerror}).",
            hint="Give the --output folder of a finished `edgeres convert`.",
        ) from error
    except ValidationError as error:
        raise ArtefactError(
            f"{path}: is not a report of edgeres: {_first(error)}", hint="Run `edgeres convert`."
        ) from error


def json_schema() -> dict[str, Any]:
    """JSON Schema of ``report.json``, for other programs."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **_adapter().json_schema(mode="serialization"),
        "title": "edgeres report",
    }


@cache
def _adapter() -> TypeAdapter[Report]:
    from pydantic import ConfigDict, TypeAdapter, with_config

    # The configuration of the outermost type holds for those inside that have none of their own.
    strict = with_config(
        ConfigDict(allow_inf_nan=False, extra="ignore", ser_json_inf_nan="constants")
    )
    return TypeAdapter(strict(Report))


def _first(error: Exception) -> str:
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        return f"{where or 'the file'}: {first['msg']}."
    return " ".join(str(error).split()) + "."
