"""What a recipe may say: every block, key, type, range and default.

A recipe is data for one run of :func:`edgeres.convert`. The classes here are the whole schema;
:mod:`edgeres.recipe_file` reads YAML into them and turns what is wrong into file, line and key.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from edgeres.backends import target_names

if TYPE_CHECKING:
    from edgeres.pruning.settings import PruneSettings
    from edgeres.quantization.quantize import QuantizeSettings

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


class PruneBlock(Block):
    """Structured channel pruning of residual groups."""

    importance: Literal["l1", "l2", "fpgm", "bn_scale", "taylor", "taylor_hessian"] = (
        "taylor_hessian"
    )
    normalization: Literal["none", "mean", "lamp"] = "none"
    allocation: Literal["uniform", "global", "per_layer"] = "global"
    macs_ratio: OpenShare = Field(default=0.5, description="MACs kept, as a share of the dense.")
    widths: dict[str, int] = Field(default={}, description="Kept channels by group (per_layer).")
    round_to: int = Field(default=8, ge=1)
    steps: int = Field(default=1, ge=1, le=100)
    samples: int = Field(default=1024, ge=2)
    finetune: FinetuneBlock | None = FinetuneBlock()

    def to_settings(self) -> PruneSettings:
        """The same for the pruning stage.

        Raises:
            UsageError: Values that do not go together.
        """
        from edgeres.pruning.settings import PruneSettings, finetune_settings

        values = self.model_dump(exclude={"finetune"})
        tune = None
        if self.finetune is not None:
            training = self.finetune.model_dump(exclude={"distill"})
            weight = {} if self.finetune.distill else {"distill_weight": 0.0}
            tune = finetune_settings(**training, **weight)
        return PruneSettings(**values, finetune=tune)


class QuantizeBlock(Block):
    """Calibration and INT8 quantization."""

    calibrator: Literal["minmax", "moving_average", "percentile", "entropy", "mse"] = "mse"
    bias_correction: bool = True
    saturation_safe: Literal["auto", "on", "off"] = "auto"
    portable: bool = Field(default=False, description="One Q/DQ file that every target accepts.")

    def to_settings(self) -> QuantizeSettings:
        """The same for the quantization stage."""
        from edgeres.quantization.quantize import QuantizeSettings

        return QuantizeSettings(**self.model_dump(exclude={"portable"}))


class ExportBlock(Block):
    """Torch to ONNX."""

    opset: int = Field(default=20, ge=18, le=24)
    dynamic_batch: bool = True


class ChecksBlock(Block):
    """The gates. A run whose verdict is not ``pass`` ends with exit code 1."""

    max_drop_pp: float = Field(default=0.5, ge=0.0, le=100.0)
    confidence: OpenShare = 0.95
    min_int8_coverage: float = Field(default=0.9, ge=0.0, le=1.0)
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
