"""The blocks of a recipe that make a network smaller: `prune:` and `quantize:`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from edgeres.calibrators import OUTPUT, calibrator_names
from edgeres.recipe.block import Block, OpenShare


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


def _named_correction(value: Any) -> Any:
    """``true`` and ``false`` are the older words for ``analytic`` and ``off``."""
    return ("analytic" if value else "off") if isinstance(value, bool) else value


def _known_calibrator(name: str) -> str:
    names = calibrator_names()
    if name not in names:
        raise PydanticCustomError(
            "calibrator", "Input should be one of {names}", {"names": ", ".join(names)}
        )
    return name


CalibratorName = Annotated[
    str,
    AfterValidator(_known_calibrator),
    WithJsonSchema({"enum": list(calibrator_names()), "type": "string"}),
]


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

    precision: Literal["int8", "fp32"] = Field(
        default="int8", description="fp32: engines of the network as it is, nothing quantized."
    )
    calibrator: CalibratorName = OUTPUT
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
    def _fp32_quantizes_nothing(self) -> QuantizeBlock:
        if self.precision == "fp32":
            set_anyway = sorted(self.model_fields_set - {"precision", "calibrator"})
            default = QuantizeBlock()
            differing = [k for k in set_anyway if getattr(self, k) != getattr(default, k)]
            if differing:
                raise ValueError(f"{differing[0]} has no effect together with precision: fp32")
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
