"""What a training is told: one class for each kind, with the keys that the kind knows."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from edgeres.recipe.block import Block
from edgeres.recipe.preprocess import PreprocessBlock

Epochs = Annotated[int, Field(ge=1, description="Passes over the training images.")]
BatchSize = Annotated[
    int, Field(ge=2, description="Images a step; a last partial batch is dropped.")
]
Rate = Annotated[float, Field(gt=0.0, lt=100.0, description="Peak of the schedule.")]
Share = Annotated[float, Field(ge=0.0, lt=1.0)]
Chance = Annotated[
    float,
    Field(ge=0.0, le=1.0, description="That a random rectangle becomes noise (arXiv:1708.04896)."),
]
Area = Annotated[float, Field(gt=0.0, lt=1.0)]


class Training(Block):
    """What every training knows; its kinds add keys and have other defaults."""

    NOT_IN_KEY: ClassVar[frozenset[str]] = frozenset({"device", "threads"})
    _OF_SPECTROGRAMS: ClassVar[tuple[str, ...]] = ("time_shift", "time_mask", "frequency_mask")

    epochs: Epochs = 60
    batch_size: BatchSize = 256
    learning_rate: Rate = 0.2
    schedule: Literal["one_cycle", "cosine"] = Field(
        default="one_cycle", description="Linear warm-up, then cosine; or cosine alone."
    )
    warmup_fraction: Share = Field(
        default=0.2, description="Share of the steps that one_cycle warms up."
    )
    final_fraction: float = Field(
        default=0.001, ge=0.0, le=1.0, description="Learning rate of the last step over the peak."
    )
    momentum: float = Field(default=0.9, gt=0.0, lt=1.0, description="Nesterov's, of SGD.")
    weight_decay: Share = Field(
        default=5e-4, description="L2, of convolution and classifier weights (not of biases, BN)."
    )
    label_smoothing: Share = Field(
        default=0.05, description="Probability spread over all classes (arXiv:1512.00567)."
    )
    flip: bool = Field(default=True, description="Mirror half of the images left to right.")
    crop_padding: int = Field(
        default=2, ge=0, description="Black pixels around before a random crop back to size."
    )
    erase_probability: Chance = 0.25
    erase_area: Annotated[tuple[Area, Area], Field(strict=False)] = Field(
        default=(0.02, 0.3), description="Smallest and largest share of the image that is erased."
    )
    time_shift: int = Field(
        default=0, ge=0, description="Frames that a spectrogram or a line moves by, at most."
    )
    time_mask: int = Field(
        default=0, ge=0, description="Widest stripe of frames that is hidden (arXiv:1904.08779)."
    )
    frequency_mask: int = Field(
        default=0, ge=0, description="Widest stripe of bands or channels that is hidden."
    )
    ema_decay: Share = Field(
        default=0.998, description="Of the moving average of the weights a step; 0 is none."
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description="auto: float32 on a CPU (bfloat16 was measured slower), mixed on a GPU.",
    )
    device: str = Field(
        default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu or cuda:N."
    )
    threads: int | None = Field(default=None, ge=1, description="CPU threads; torch's own if none.")
    seed: int = Field(default=0, description="Of weights, order and augmentation.")

    @model_serializer(mode="wrap")
    def _told(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """As of every block; what spectrograms alone can have is told where it is used."""
        told: dict[str, Any] = handler(self)
        return {k: v for k, v in told.items() if v != 0 or k not in self._OF_SPECTROGRAMS}

    @model_validator(mode="after")
    def _erased_area_rises(self) -> Training:
        if self.erase_area[0] > self.erase_area[1]:
            raise ValueError(f"`erase_area` expects the smaller share first, got {self.erase_area}")
        return self


HeldOut = Annotated[
    int, Field(ge=1, description="Training images, class-balanced, that choose the epoch.")
]


class TrainSettings(Training):
    """Training from scratch, or on from a checkpoint; the defaults are the reference network's."""

    architecture: str = Field(
        default="resnet20", description="Of a training from scratch; a checkpoint has its own."
    )
    width_multiplier: float = Field(
        default=1.0, gt=0.0, le=16.0, description="Scales every width of the architecture."
    )
    zero_init_residual: bool = Field(
        default=True, description="Start each residual branch at zero, from scratch."
    )
    held_out: HeldOut = 5000


class TaughtTraining(Training):
    """A training that may follow the outputs of another network (arXiv:1503.02531)."""

    held_out: HeldOut = 5000
    distill: bool = Field(default=True, description="Follow the outputs of the network before.")
    distill_weight: float = Field(
        default=0.9, gt=0.0, le=1.0, description="Share of the loss that follows them."
    )
    distill_temperature: float = Field(
        default=4.0, gt=0.0, description="Softens both outputs before they are compared."
    )

    @model_validator(mode="after")
    def _a_teacher_is_there(self) -> TaughtTraining:
        for name in ("distill_weight", "distill_temperature"):
            if not self.distill and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"`{name}` has no effect together with `distill: false`")
        return self


class FinetuneSettings(TaughtTraining):
    """How accuracy is recovered after pruning: gentler than training, led by the dense network."""

    epochs: Epochs = 20
    learning_rate: Rate = 0.05
    warmup_fraction: Share = 0.1
    label_smoothing: Share = 0.0


class SparseSettings(Training):
    """Training before pruning that drives scales of batch normalization to zero.

    Network slimming, arXiv:1708.06519, eq. 1.
    """

    epochs: Epochs = 5
    learning_rate: Rate = 0.05
    warmup_fraction: Share = 0.1
    label_smoothing: Share = 0.0
    strength: float = Field(default=1e-4, gt=0.0, lt=1.0, description="Weight of the L1 penalty.")


class QatSettings(TaughtTraining):
    """Quantization-aware training: the calibrated INT8 network learns from the FP32 one.

    Batch normalization is folded, so nothing rescales the weights: the learning rate is small and
    weights are not decayed.
    """

    epochs: Epochs = 2
    batch_size: BatchSize = 128
    learning_rate: Rate = 0.0005
    warmup_fraction: Share = 0.1
    weight_decay: Share = 0.0
    label_smoothing: Share = 0.0
    erase_probability: Chance = 0.0
    precision: Literal["float32"] = Field(
        default="float32", description="bfloat16 has too few digits for dequantized integers."
    )


class TrainingRecipe(Block):
    """What ``edgeres train RECIPE`` runs."""

    data: str = Field(description="Images, as after --data.")
    preprocess: PreprocessBlock | None = Field(
        default=None, description="That of the start checkpoint if none."
    )
    training: TrainSettings = TrainSettings()
