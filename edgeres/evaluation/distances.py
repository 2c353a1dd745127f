"""How far apart two models are, tensor by tensor: what is added up and what is told."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from edgeres.sqnr import bounded_db, ratio_db


@dataclass
class Distance:
    """Sums over all images of one tensor: signal, noise, and the largest difference.

    ``clipped`` is the number of reference values beyond the range that the other can hold,
    ``common`` the sum of the products of both.
    """

    signal: float = 0.0
    noise: float = 0.0
    largest: float = 0.0
    count: int = 0
    clipped: int = 0
    common: float = 0.0

    def add(
        self,
        reference: NDArray[np.float32],
        other: NDArray[np.float32],
        limits: tuple[float, float] | None = None,
    ) -> None:
        """Adds some images; a NaN or Inf on either side makes the noise infinite.

        Args:
            reference: Of any shape, float32.
            other: Of the same.
            limits: Smallest and largest value that the other can hold, where it is quantized.
        """
        exact = reference.astype(np.float64)
        with np.errstate(invalid="ignore"):
            error = np.abs(exact - other)
        error = np.where(np.isfinite(error), error, np.inf)
        self.signal += float(np.square(exact).sum())
        self.noise += float(np.square(error).sum())
        self.largest = max(self.largest, float(error.max(initial=0.0)))
        self.count += error.size
        self.common += float((exact * np.where(np.isfinite(other), other, 0.0)).sum())
        if limits is not None:
            self.clipped += int(np.count_nonzero((exact < limits[0]) | (exact > limits[1])))

    @property
    def sqnr_db(self) -> float:
        """``10 log10(signal / noise)``, within plus and minus :data:`edgeres.sqnr.EQUAL_DB`."""
        return bounded_db(ratio_db(self.signal, self.noise))

    @property
    def rms(self) -> float:
        """Root of the mean squared difference."""
        return math.sqrt(self.noise / self.count) if self.count else 0.0

    @property
    def signal_rms(self) -> float:
        """Root of the mean squared reference value."""
        return math.sqrt(self.signal / self.count) if self.count else 0.0

    @property
    def gain(self) -> float:
        """The factor of the reference that is nearest to the other, in least squares."""
        return self.common / self.signal if self.signal else 1.0

    @property
    def gain_explains(self) -> float:
        """Share of the noise that is gone without that factor, in [0, 1]."""
        explained = self.signal * (self.gain - 1.0) ** 2
        return explained / self.noise if self.noise and math.isfinite(self.noise) else 0.0

    @property
    def clipped_share(self) -> float:
        """Share of the reference values beyond the other's range, in [0, 1]."""
        return self.clipped / self.count if self.count else 0.0


@dataclass(frozen=True)
class EngineDistance:
    """A layer of an engine against the arithmetic that its ONNX source asks for.

    Attributes:
        sqnr_db: Engine against the simulated source, both run from the image on.
        own_sqnr_db: What the layer alone adds: the source computes it from the engine's own inputs.
        rms_steps: Root mean square of that difference in steps of the tensor's quantization;
            ``None`` where the tensor is float.
        max_steps: Largest such difference.
        precision: Precision that the engine runs the layer in, by its own word.
        int8_asked: Whether the source asks for INT8.
        probe_exact: Whether the engine with this tensor as an output gives the same final output
            to the last bit.
    """

    sqnr_db: float
    own_sqnr_db: float
    rms_steps: float | None
    max_steps: float | None
    precision: str
    int8_asked: bool
    probe_exact: bool


@dataclass(frozen=True)
class LayerDistance:
    """One layer of two models.

    Attributes:
        node: ONNX name of the layer.
        op: Its op type.
        tensor: ONNX name of the tensor compared: the layer's output behind what is fused with it.
        nodes: All ONNX nodes between the tensors compared before and this one.
        int8_asked: Whether the candidate's ONNX file asks for INT8.
        sqnr_db: Candidate against reference, both run from the image on.
        own_sqnr_db: Noise of this layer alone: the reference computes it from the candidate's own
            inputs; ``None`` where the reference is an engine, which cannot.
        reference: The reference against its own source, where it is an engine.
        candidate: The candidate likewise.
        gain: Factor by which the candidate's layer alone is larger than it should be, in least
            squares; 1 where that is not known.
        gain_explains: Share of its own noise that this factor explains, in [0, 1].
        clipped: Share of its values beyond the range that the candidate's Q/DQ gives them; ``None``
            where that is not known.
        coarseness: One quantization step over the root mean square of its values, likewise.
    """

    node: str
    op: str
    tensor: str
    nodes: tuple[str, ...]
    int8_asked: bool
    sqnr_db: float
    own_sqnr_db: float | None
    reference: EngineDistance | None
    candidate: EngineDistance | None
    gain: float = 1.0
    gain_explains: float = 0.0
    clipped: float | None = None
    coarseness: float | None = None

    def to_dict(self) -> dict[str, object]:
        """As plain JSON values."""
        return asdict(self) | {"nodes": list(self.nodes)}


@dataclass(frozen=True)
class OutputDistance:
    """The logits of two models: ``agreement`` is the share of samples with the same class."""

    samples: int
    sqnr_db: float
    agreement: float
    largest_difference: float
