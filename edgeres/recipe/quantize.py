"""The recipe's `quantize:`, and the part of it that decides the integers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from edgeres.calibrators import OUTPUT, calibrator_names
from edgeres.recipe.block import Block
from edgeres.recipe.training import QatSettings


def _known_calibrator(name: str) -> str:
    names = calibrator_names()
    if name not in names:
        raise PydanticCustomError(
            "calibrator", "Input should be one of {names}", {"names": ", ".join(names)}
        )
    return name


Calibrator = Annotated[
    str,
    AfterValidator(_known_calibrator),
    WithJsonSchema({"enum": list(calibrator_names()), "type": "string"}),
]


def _named_correction(value: Any) -> Any:
    """``true`` and ``false`` are the older words for ``analytic`` and ``off``."""
    return ("analytic" if value else "off") if isinstance(value, bool) else value


BiasCorrection = Annotated[
    Literal["off", "analytic", "empirical"],
    BeforeValidator(
        _named_correction, json_schema_input_type=bool | Literal["off", "analytic", "empirical"]
    ),
]


class QuantizeSettings(Block):
    """How activations and weights are quantized; the rule set says what is."""

    calibrator: Calibrator = Field(default=OUTPUT, description="Where ranges come from.")
    bias_correction: BiasCorrection = Field(
        default="analytic",
        description="Mend the mean error of each layer in its bias: from the calibration table "
        "(analytic, also `true`) or measured on images (empirical); off, also `false`.",
    )
    saturation_safe: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Weights that no INT8 sum can take out of int16; auto: where the device "
        "saturates.",
    )
    rounding: Literal["nearest", "learned"] = Field(
        default="nearest",
        description="Learned: the integers of a layer together, for the least error of its output.",
    )
    measured_samples: int = Field(
        default=64,
        ge=2,
        le=512,
        description="Calibration images that empirical bias correction and learned rounding use; "
        "they are in memory all at once.",
    )

    @model_validator(mode="after")
    def _samples_are_measured_on(self) -> QuantizeSettings:
        if self.measured_samples != 64 and not self.needs_images:
            raise ValueError(
                "`measured_samples` has no effect without `rounding: learned` or "
                "`bias_correction: empirical`"
            )
        return self

    @property
    def needs_images(self) -> bool:
        """Whether calibration images are needed besides their table."""
        return self.bias_correction == "empirical" or self.rounding == "learned"

    def part(self) -> QuantizeSettings:
        """These settings alone, where they stand in a recipe's block."""
        return QuantizeSettings(**{n: getattr(self, n) for n in QuantizeSettings.model_fields})

    def without_images(self) -> QuantizeSettings:
        """These settings with nothing in them that measures on images."""
        correction = "analytic" if self.bias_correction == "empirical" else self.bias_correction
        return QuantizeSettings(
            calibrator=self.calibrator,
            bias_correction=correction,
            saturation_safe=self.saturation_safe,
        )


class MixedPrecisionSettings(Block):
    """Keeps layers in float until a budget holds on held-out calibration images."""

    max_drop: float | None = Field(
        default=None,
        ge=0.0,
        description="Largest loss of the first gated metric against the model brought, in its "
        "unit: percentage points for top-1. Needs labelled calibration data.",
    )
    min_agreement: Annotated[float, Field(gt=0.0, le=1.0)] | None = Field(
        default=None, description="Share of images with the FP32 model's class."
    )
    min_sqnr_db: float | None = Field(default=None, description="Of the outputs, against FP32.")
    samples: int = Field(default=256, ge=2, description="Calibration images held out.")
    candidates: int = Field(default=12, ge=1, description="Layers whose latency cost is measured.")
    seconds: float = Field(default=0.5, gt=0.0, le=60.0, description="Time to measure each engine.")

    @model_validator(mode="after")
    def _has_a_budget(self) -> MixedPrecisionSettings:
        if self.max_drop is None and self.min_agreement is None and self.min_sqnr_db is None:
            raise ValueError("give `max_drop`, `min_agreement` or `min_sqnr_db`")
        return self


class QuantizeBlock(QuantizeSettings):
    """Calibration and INT8 quantization."""

    precision: Literal["int8", "fp16", "bf16", "fp32"] = Field(
        default="int8",
        description="fp32: engines of the network as it is, nothing quantized. fp16 and "
        "bf16: the same in half precision, on targets that make such engines.",
    )
    activations: Literal["auto", "uint8", "int8"] = Field(
        default="auto",
        description="Type of the activations, where a target has a choice; auto: what is never "
        "wrong and mostly fastest.",
    )
    portable: bool = Field(default=False, description="One Q/DQ file that every target accepts.")
    equalize: bool = Field(
        default=False, description="Bring the channels inside a block to like size beforehand."
    )
    qat: QatSettings | None = Field(
        default=None, description="Train the quantized network; needs training images."
    )
    mixed_precision: MixedPrecisionSettings | None = None

    @model_validator(mode="after")
    def _one_file_or_one_for_each_target(self) -> QuantizeBlock:
        if self.portable and self.mixed_precision is not None:
            raise ValueError(
                "`portable` is one file for all targets, `mixed_precision` one for each"
            )
        if self.portable and self.activations != "auto":
            raise ValueError("`portable` takes the type of activations that serves every target")
        return self

    @model_validator(mode="after")
    def _floats_quantize_nothing(self) -> QuantizeBlock:
        if self.precision != "int8":
            for name in sorted(self.model_fields_set - {"precision", "calibrator"}):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(
                        f"`{name}` has no effect together with `precision: {self.precision}`"
                    )
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
            raise ValueError(
                f"`{measured[0]}` has no effect together with `qat`, which trains instead"
            )
        if self.mixed_precision is not None and (measured or self.qat is not None):
            other = measured[0] if measured else "qat"
            raise ValueError(
                f"`mixed_precision` and `{other}` do not go together: the budget would be proven "
                "on another engine than the one that is shipped"
            )
        return self
