"""What quantization is told, as plain values that a recipe can carry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgeres.calibrators import OUTPUT
from edgeres.recipe.compress import QuantizeBlock


@dataclass(frozen=True)
class QuantizeSettings:
    """How activations and weights are quantized.

    Attributes:
        calibrator: Whose ranges of the table are used.
        bias_correction: Shift biases so that the mean output of a layer stays what it was.
        bias_method: ``analytic`` knows what weight rounding does to the mean and needs no images;
            ``empirical`` goes on from there and measures each layer on images, in order.
        rounding: ``nearest``, or ``learned``: the integers of a layer are chosen together for the
            least error of its output on images; see :mod:`edgeres.quantization.rounding`.
        saturation_safe: Make weights that no INT8 sum can take out of int16: ``auto`` where the
            rule set says that the device saturates, ``on`` always, ``off`` never.
    """

    calibrator: str = OUTPUT
    bias_correction: bool = True
    bias_method: Literal["analytic", "empirical"] = "analytic"
    saturation_safe: Literal["auto", "on", "off"] = "auto"
    rounding: Literal["nearest", "learned"] = "nearest"

    @property
    def needs_images(self) -> bool:
        """Whether calibration images are needed besides their table."""
        measured = self.bias_correction and self.bias_method == "empirical"
        return measured or self.rounding == "learned"


def quantize_settings(block: QuantizeBlock) -> QuantizeSettings:
    """What a recipe's ``quantize:`` says, for the stage; the rule set names what stays in float."""
    return QuantizeSettings(
        calibrator=block.calibrator,
        bias_correction=block.bias_correction != "off",
        bias_method="empirical" if block.bias_correction == "empirical" else "analytic",
        saturation_safe=block.saturation_safe,
        rounding=block.rounding,
    )
