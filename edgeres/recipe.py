"""What a recipe may say: every block, key, type, range and default.

A recipe is data for one run of :func:`edgeres.convert`. The classes here are the whole schema;
:mod:`edgeres.recipe_file` reads YAML into them and turns what is wrong into file, line and key.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from edgeres.backends import target_names

if TYPE_CHECKING:
    from edgeres.backends.base import BuildConfig
    from edgeres.pruning.settings import PruneSettings
    from edgeres.quantization.quantize import QuantizeSettings
    from edgeres.training.settings import TrainSettings

OpenShare = Annotated[float, Field(gt=0.0, lt=1.0)]
Size = Annotated[int, Field(gt=0)] | tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]]


class Block(BaseModel):
    """Base of all blocks: immutable, unknown keys are errors, NaN and Inf are not numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelBlock(Block):
    """The trained network: an architecture with weights, a checkpoint, or an ONNX file."""

    source: str = Field(description="Architecture name, .safetensors/.pt checkpoint or .onnx file.")
    weights: str | None = Field(default=None, description="Checkpoint for a named architecture.")
    num_classes: int | None = Field(default=None, ge=2)
    declared_top1: OpenShare | None = Field(
        default=None, description="Top-1 that the model is known to reach, in (0, 1); checked."
    )


class PreprocessBlock(Block):
    """Decode, resize, crop, channel order, then ``(x * scale - mean) / std``, x in 0..255."""

    scale: float = Field(default=1 / 255, gt=0.0)
    mean: tuple[float, ...] = (0.0,)
    std: tuple[Annotated[float, Field(gt=0.0)], ...] = (1.0,)
    resize: Size | None = None
    crop: Size | None = None
    channel_order: Literal["rgb", "bgr"] = "rgb"
    layout: Literal["nchw", "nhwc"] = "nchw"
    channels: Literal[1, 3] | None = None


class DataBlock(Block):
    """Where calibration, validation and training images come from."""

    calibration: str = "fashion-mnist"
    validation: str = "fashion-mnist"
    train: str | None = Field(default=None, description="Needed only where fine-tuning has to run.")
    calibration_samples: int = Field(default=512, ge=2)
    validation_samples: int | None = Field(default=None, ge=1)


class FinetuneBlock(Block):
    """How accuracy is recovered after pruning."""

    epochs: int = Field(default=20, ge=1)
    learning_rate: float = Field(default=0.05, gt=0.0)
    batch_size: int = Field(default=256, ge=2)
    distill: bool = Field(default=True, description="Follow the dense network's outputs.")
    held_out: int = Field(default=5000, ge=1, description="Training images that choose the epoch.")
    flip: bool = True
    crop_padding: int = Field(default=2, ge=0)
    erase_probability: float = Field(default=0.25, ge=0.0, le=1.0)
    seed: int = 0


class SparseBlock(Block):
    """Training before pruning that drives scales of batch normalization to zero."""

    epochs: int = Field(default=5, ge=1)
    strength: float = Field(default=1e-4, gt=0.0, lt=1.0, description="Weight of the L1 penalty.")


class PruneBlock(Block):
    """Structured channel pruning of residual groups."""

    importance: Literal["l1", "l2", "fpgm", "bn_scale", "taylor", "taylor_hessian"] = (
        "taylor_hessian"
    )
    normalization: Literal["none", "mean", "lamp"] = "none"
    allocation: Literal["uniform", "global", "latency", "per_layer"] = "global"
    macs_ratio: OpenShare = Field(default=0.5, description="MACs kept, as a share of the dense.")
    widths: dict[str, int] = Field(default={}, description="Kept channels by group (per_layer).")
    round_to: int = Field(default=8, ge=1)
    steps: int = Field(default=1, ge=1, le=100)
    samples: int = Field(default=1024, ge=2)
    finetune: FinetuneBlock | None = FinetuneBlock()
    target_latency: OpenShare | None = Field(
        default=None, description="Share of the dense INT8 latency to reach (latency)."
    )
    latency_on: str | None = Field(
        default=None, description="Target whose latency counts; the first that runs here if none."
    )
    min_share: float = Field(
        default=0.1, gt=0.0, le=1.0, description="Least share of a group's channels that stays."
    )
    exclude: tuple[str, ...] = Field(default=(), description="Groups that stay whole.")
    seed: int = Field(default=0, description="Chooses the images for importance.")
    epochs_between: int = Field(
        default=0, ge=0, description="Epochs of training after each step but the last."
    )

    sparse: SparseBlock | None = Field(
        default=None, description="Sparse learning first, for importance: bn_scale."
    )

    @model_validator(mode="after")
    def _latency_has_a_goal(self) -> PruneBlock:
        if (self.allocation == "latency") != (self.target_latency is not None):
            raise ValueError("`target_latency` goes with `allocation: latency`, and only with it")
        if self.latency_on is not None and self.target_latency is None:
            raise ValueError("`latency_on` goes with `allocation: latency`, and only with it")
        return self

    def stage_settings(self) -> dict[str, Any]:
        """What the key of a stored pruning holds.

        Keys that came later are left out at their defaults, so that earlier results are found.
        """
        later = ("target_latency", "min_share", "exclude", "seed", "epochs_between", "sparse")
        default = PruneBlock()
        same = {name for name in later if getattr(self, name) == getattr(default, name)}
        # Which device counts is in the key by its latency table.
        return self.model_dump(exclude={*same, "latency_on"})

    def to_settings(self) -> PruneSettings:
        """The same for the pruning stage.

        Raises:
            UsageError: Values that do not go together.
        """
        from edgeres.pruning.settings import PruneSettings, finetune_settings, sparse_settings

        values = self.model_dump(exclude={"finetune", "latency_on", "sparse"})
        tune = None
        if self.finetune is not None:
            training = self.finetune.model_dump(exclude={"distill"})
            weight = {} if self.finetune.distill else {"distill_weight": 0.0}
            tune = finetune_settings(**training, **weight)
        sparse = None
        if self.sparse is not None:
            same = () if self.finetune is None else ("batch_size", "held_out", "seed")
            shared = {name: getattr(self.finetune, name) for name in same}
            sparse = sparse_settings(self.sparse.epochs, self.sparse.strength, **shared)
        return PruneSettings(**values, finetune=tune, sparse=sparse)


def _named_correction(value: Any) -> Any:
    """``true`` and ``false`` are the older words for ``analytic`` and ``off``."""
    return ("analytic" if value else "off") if isinstance(value, bool) else value


BiasCorrection = Annotated[
    Literal["off", "analytic", "empirical"],
    BeforeValidator(
        _named_correction, json_schema_input_type=bool | Literal["off", "analytic", "empirical"]
    ),
]


class QatBlock(Block):
    """Quantization-aware training: the calibrated INT8 network learns from the FP32 one."""

    epochs: int = Field(default=2, ge=1)
    learning_rate: float = Field(default=0.0005, gt=0.0)
    batch_size: int = Field(default=128, ge=2)
    distill: bool = Field(default=True, description="Follow the FP32 network's outputs.")
    held_out: int = Field(default=5000, ge=1, description="Training images that choose the epoch.")
    flip: bool = True
    crop_padding: int = Field(default=2, ge=0)
    seed: int = 0

    def to_settings(self) -> TrainSettings:
        """The same for the training loop."""
        from edgeres.training.qat_settings import qat_settings

        weight = {} if self.distill else {"distill_weight": 0.0}
        return qat_settings(**self.model_dump(exclude={"distill"}), **weight)


class MixedPrecisionBlock(Block):
    """Keeps layers in float until a budget holds on held-out calibration images."""

    max_drop_pp: float | None = Field(
        default=None, ge=0.0, le=100.0, description="Of top-1, against the model brought; labels."
    )
    min_agreement: Annotated[float, Field(gt=0.0, le=1.0)] | None = Field(
        default=None, description="Share of images with the FP32 model's class."
    )
    min_sqnr_db: float | None = Field(default=None, description="Of the logits, against FP32.")
    samples: int = Field(default=256, ge=2, description="Calibration images held out.")
    candidates: int = Field(default=12, ge=1, description="Layers whose latency cost is measured.")
    seconds: float = Field(default=0.5, gt=0.0, le=60.0, description="Time to measure each engine.")

    @model_validator(mode="after")
    def _has_a_budget(self) -> MixedPrecisionBlock:
        if self.max_drop_pp is None and self.min_agreement is None and self.min_sqnr_db is None:
            raise ValueError("give max_drop_pp, min_agreement or min_sqnr_db")
        return self


class QuantizeBlock(Block):
    """Calibration and INT8 quantization."""

    calibrator: Literal["minmax", "moving_average", "percentile", "entropy", "mse"] = "mse"
    bias_correction: BiasCorrection = Field(
        default="analytic",
        description="Mend the mean error of each layer in its bias: from the calibration table "
        "(analytic, also `true`) or measured on images (empirical); off, also `false`.",
    )
    saturation_safe: Literal["auto", "on", "off"] = "auto"
    portable: bool = Field(default=False, description="One Q/DQ file that every target accepts.")
    rounding: Literal["nearest", "learned"] = Field(
        default="nearest",
        description="Learned: the integers of a layer together, for the least error of its output.",
    )
    equalize: bool = Field(
        default=False, description="Bring the channels inside a block to like size beforehand."
    )
    measured_samples: int = Field(
        default=64,
        ge=2,
        le=512,
        description="Calibration images that empirical bias correction and learned rounding use; "
        "they are in memory all at once.",
    )
    qat: QatBlock | None = Field(
        default=None, description="Train the quantized network; needs training images."
    )
    mixed_precision: MixedPrecisionBlock | None = None

    @model_validator(mode="after")
    def _one_file_or_one_for_each_target(self) -> QuantizeBlock:
        if self.portable and self.mixed_precision is not None:
            raise ValueError("portable is one file for all targets, mixed_precision one for each")
        return self

    @model_validator(mode="after")
    def _what_is_set_takes_effect(self) -> QuantizeBlock:
        measured = [
            text
            for text, used in (
                ("rounding: learned", self.rounding == "learned"),
                ("bias_correction: empirical", self.bias_correction == "empirical"),
            )
            if used
        ]
        if self.qat is not None and measured:
            raise ValueError(f"{measured[0]} has no effect together with qat, which trains instead")
        if self.mixed_precision is not None and (measured or self.qat is not None):
            other = measured[0] if measured else "qat"
            raise ValueError(
                f"mixed_precision and {other} do not go together: the budget would be proven on "
                "another engine than the one that is shipped"
            )
        return self

    def to_settings(self) -> QuantizeSettings:
        """The same for the quantization stage, whose rule set names the layers kept in float."""
        from edgeres.quantization.quantize import QuantizeSettings

        return QuantizeSettings(
            calibrator=self.calibrator,
            bias_correction=self.bias_correction != "off",
            bias_method="empirical" if self.bias_correction == "empirical" else "analytic",
            saturation_safe=self.saturation_safe,
            rounding=self.rounding,
        )


class ExportBlock(Block):
    """Torch to ONNX."""

    opset: int = Field(default=20, ge=18, le=24)
    dynamic_batch: bool = True


class ChecksBlock(Block):
    """The gates. A run whose verdict is not ``pass`` ends with exit code 1."""

    max_drop_pp: float = Field(default=0.5, ge=0.0, le=100.0)
    confidence: OpenShare = 0.95
    min_int8_coverage: float = Field(default=0.9, ge=0.0, le=1.0)
    min_fused_adds: float | None = Field(
        default=None,
        ge=0.0,
        le=1.0,
        description="Share of residual additions that must run inside a convolution.",
    )
    max_p99_ms: float | None = Field(default=None, gt=0.0)
    min_speedup: float | None = Field(default=None, gt=0.0, description="FP32 p50 over INT8 p50.")
    max_size_bytes: int | None = Field(default=None, gt=0)
    untrained: bool = Field(
        default=False, description="Let an FP32 network pass that answers at random."
    )


class BenchmarkBlock(Block):
    """How latency is measured."""

    batch_size: int = Field(default=1, ge=1)
    threads: int | None = Field(default=None, ge=1)
    seconds: float = Field(default=4.0, gt=0.0, le=3600.0)


class ShapesBlock(Block):
    """Shape range of one input, the batch first, for engines that are made for a range."""

    min: tuple[Annotated[int, Field(ge=1)], ...]
    opt: tuple[Annotated[int, Field(ge=1)], ...]
    max: tuple[Annotated[int, Field(ge=1)], ...]


OptionValue = bool | int | float | str


class BuildBlock(Block):
    """How one target's engine is built and run; the target knows which options there are."""

    options: dict[str, OptionValue | tuple[OptionValue, ...]] = Field(
        default={}, description="The target's own options; see its page in docs/."
    )
    shapes: dict[str, ShapesBlock] = Field(
        default={}, description="Shape range by input name; TensorRT only."
    )

    def to_config(self, device: str) -> BuildConfig:
        """The same for a backend: option values as text, lists with commas."""
        from edgeres.backends.base import BuildConfig, ShapeRange

        return BuildConfig(
            device=device,
            shapes={
                name: ShapeRange(block.min, block.opt, block.max)
                for name, block in self.shapes.items()
            },
            options={name: _as_text(value) for name, value in self.options.items()},
        )


class Recipe(Block):
    """One run of the pipeline, from a trained network to proven engines."""

    name: str = "model"
    model: ModelBlock
    preprocess: PreprocessBlock | None = None
    data: DataBlock = DataBlock()
    prune: PruneBlock | None = None
    quantize: QuantizeBlock = QuantizeBlock()
    export: ExportBlock = ExportBlock()
    targets: tuple[str, ...] = Field(min_length=1)
    build: dict[str, BuildBlock] = Field(
        default={}, description="Options and shapes of a target's engines, by target."
    )
    checks: ChecksBlock = ChecksBlock()
    benchmark: BenchmarkBlock = BenchmarkBlock()

    @model_validator(mode="after")
    def _targets_exist_once(self) -> Recipe:
        known = (*target_names(), "all")
        for target in self.targets:
            if target not in known:
                raise ValueError(f"no target {target!r}; choose of: {', '.join(known)}")
        if len(set(self.targets)) != len(self.targets):
            raise ValueError("each target may be named once")
        for target in self.build:
            if target not in known[:-1]:
                raise ValueError(f"build: no target {target!r}; choose of: {', '.join(known[:-1])}")
        return self

    def override(self, changes: dict[str, Any]) -> Recipe:
        """Returns a copy with dotted keys replaced, e.g. ``{"checks.max_drop_pp": 1.0}``.

        Raises:
            pydantic.ValidationError: The result is not a valid recipe.
        """
        data = self.model_dump(exclude_unset=True)  # what is left out stays left out
        for dotted, value in changes.items():
            *parents, last = dotted.split(".")
            target = data
            for key in parents:
                if target.get(key) is None:
                    target[key] = {}
                target = target[key]
            target[last] = value
        return Recipe.model_validate(data)


def _as_text(value: OptionValue | tuple[OptionValue, ...]) -> str:
    if isinstance(value, tuple):
        return ",".join(_as_text(part) for part in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def json_schema() -> dict[str, Any]:
    """JSON Schema of a recipe, for editors (written to ``recipes/recipe.schema.json``)."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Recipe.model_json_schema(),
        "title": "edgeres recipe",
    }


def is_onnx(source: str) -> bool:
    """True where a model source is an ONNX file rather than a checkpoint or an architecture."""
    return Path(source).suffix.lower() == ".onnx"
