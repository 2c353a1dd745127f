"""What the names and shapes of a residual network's weights do not show.

An anti-aliased, a dilated and a Caffe-style ResNet-50 have the parameters of the plain one and are
other networks. A :class:`Variant` holds those choices; its defaults are torchvision's. No torch is
imported here: plans are read without it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from edgeres.errors import ModelError

StridedLayer = Literal["3x3", "1x1"]
Antialias = Literal["none", "average"]
StemPool = Literal["max", "none"]


@dataclass(frozen=True)
class Variant:
    """Choices of one network that its weights do not show.

    Attributes:
        output_stride: Stride of the last stage against the image, at most 32; below that, later
            stages dilate instead (arXiv:1606.00915), as timm's ``output_stride`` and torchvision's
            ``replace_stride_with_dilation`` do.
        first_stage_stride: Stride of the first stage (Hugging Face's
            ``downsample_in_first_stage``).
        stem_stride: Stride of the stem's (first) convolution.
        stem_pool: What follows the stem: a max-pooling of stride 2, or nothing.
        stride_on: Which convolution of a strided bottleneck steps: the 3x3 (torchvision, "v1.5") or
            the first 1x1 (He et al., 2015; Caffe; ``downsample_in_bottleneck``).
        antialias: What shrinks the image where a stride would: the stride, or an average pooling
            behind the convolution and instead of the stem's max-pooling (timm's ``resnetaa``).
        norm_epsilon: Added to variances in batch normalization.
    """

    output_stride: int = 32
    first_stage_stride: int = 1
    stem_stride: int = 2
    stem_pool: StemPool = "max"
    stride_on: StridedLayer = "3x3"
    antialias: Antialias = "none"
    norm_epsilon: float = 1e-5

    def __post_init__(self) -> None:
        """Checks every field.

        Raises:
            ModelError: A value that no network has.
        """
        for name, choices in (
            ("output_stride", (4, 8, 16, 32)),
            ("first_stage_stride", (1, 2)),
            ("stem_stride", (1, 2)),
            ("stem_pool", get_args(StemPool)),
            ("stride_on", get_args(StridedLayer)),
            ("antialias", get_args(Antialias)),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or value not in choices:
                raise ModelError(
                    f"Expected {name} of a network to be one of {', '.join(map(str, choices))}, "
                    f"got {value!r}."
                )
        epsilon = self.norm_epsilon
        if isinstance(epsilon, bool) or not isinstance(epsilon, int | float):
            raise ModelError(f"Expected norm_epsilon to be a number, got {epsilon!r}.")
        if not (math.isfinite(epsilon) and 0 < epsilon < 1):
            raise ModelError(f"Expected norm_epsilon in (0, 1), got {epsilon}.")

    def stages(self, count: int) -> tuple[tuple[int, int, int], ...]:
        """Stride and dilations of each stage of an ImageNet network.

        Returns:
            For each stage the stride of its first block, the dilation of that block's strided
            convolution, and the dilation of all that follow it in the stage.
        """
        stages = []
        reached, dilation = 4, 1
        for stage in range(count):
            stride = self.first_stage_stride if stage == 0 else 2
            before = dilation
            if reached >= self.output_stride:
                dilation, stride = dilation * stride, 1
            else:
                reached *= stride
            stages.append((stride, before, dilation))
        return tuple(stages)

    def to_dict(self) -> dict[str, object]:
        """What differs from the defaults: empty for a plain network."""
        plain = asdict(Variant())
        return {name: value for name, value in asdict(self).items() if value != plain[name]}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Variant:
        """Reads what :meth:`to_dict` wrote.

        Raises:
            ModelError: An unknown choice, or a value that no network has.
        """
        names = {field.name for field in fields(Variant)}
        unknown = sorted(set(values) - names)
        if unknown:
            raise ModelError(
                f"Expected choices of a network among {', '.join(sorted(names))}, got "
                f"{unknown[0]!r}."
            )
        return Variant(**values)

    def __str__(self) -> str:
        words = [f"{name.replace('_', ' ')} {value}" for name, value in self.to_dict().items()]
        return ", ".join(words) or "plain"
