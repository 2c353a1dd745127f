"""The parity gate: the ONNX file must compute what the network that it came from computes.

An exporter can be silently wrong (a folded normalization on the wrong branch, a batch baked in),
so every export is run against its source on the same inputs: at several batch sizes, with ONNX
Runtime's graph optimizations as they come and switched off, since each hides faults of the other.

Some networks magnify rounding: layer after layer raises small differences. There a file that
computes the same in another order is off by more than others may be. Where a difference is too
large, the source is asked how much it answers otherwise to inputs that differ in the last bits; so
much, several times, is rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgeres.errors import GateError, ModelError
from edgeres.graph.session import open_session, run_feeds

F32 = NDArray[np.float32]
Outputs = Mapping[str, F32]
Reference = Callable[[F32], Outputs]

BATCH_SIZES = (1, 2, 7)
_LAST_BITS = 2.0**-20
"""Relative change of an input: eight steps of float32, as many layers round one after another."""
_TIMES, _MOST = 4.0, 0.02
"""What such a change moves the source by, times this, is allowed; of the largest output at most."""
_WRONG = "The export is wrong and was not written; report it with the model's layers."
_UNDECIDED = (
    "Nothing was written. The source itself moves by {:.1%} of its largest output where its inputs "
    "move by a millionth, so float32 does not decide what it computes: are its weights trained, "
    "and its batch normalizations used to such inputs?"
)
_VARIANTS = {"optimized": True, "unoptimized": False}


@dataclass(frozen=True)
class Tolerance:
    """Largest error allowed: ``absolute + relative * max|reference|`` of the same batch.

    Both sides compute in float32 and differ by the order of their sums and by the rounding of
    folded weights; errors of 1e-6 to 1e-5 of the largest output are usual.
    """

    absolute: float = 1e-6
    relative: float = 2e-4


@dataclass(frozen=True)
class ParityReport:
    """How near the ONNX file is to its source.

    Attributes:
        batch_sizes: Batch sizes that were run.
        samples: Different inputs that were compared.
        max_abs_error: Largest absolute difference of any output value.
        max_rel_error: Largest difference over the largest output value of its batch.
    """

    batch_sizes: tuple[int, ...]
    samples: int
    max_abs_error: float
    max_rel_error: float


@dataclass(frozen=True)
class _Difference:
    """The worst value of one output of one batch; ``excess`` is above 1 where it is too large."""

    excess: float
    absolute: float
    relative: float
    text: str


@dataclass(frozen=True)
class _Run:
    """One batch: what the source says, and what each graph of the ONNX file says to it."""

    text: str
    batch: F32
    expected: Outputs
    found: dict[str, Outputs]


def check_parity(
    reference: Reference,
    model: bytes,
    *,
    sample_shape: Sequence[int],
    batch_sizes: Sequence[int] = BATCH_SIZES,
    images: F32 | None = None,
    tolerance: Tolerance | None = None,
    whole: bool = False,
) -> ParityReport:
    """Compares an ONNX model with its source on random inputs, and on real ones where given.

    Args:
        reference: The source: images ``(N, *sample_shape) float32`` to outputs by tensor name,
            each ``(N, K) float32``. The ONNX model must have outputs of these names.
        model: Content of an ONNX file with one input.
        sample_shape: Shape of one sample, without the batch.
        batch_sizes: Batch sizes to run.
        images: Real inputs ``(M, *sample_shape) float32``; the first few are used.
        tolerance: Largest error allowed.
        whole: The source takes whole numbers: random inputs are 0 to 255.

    Raises:
        GateError: An output differs too much, or the predicted class does; the worst one is named.
        BackendMissingError: ONNX Runtime is not installed.
        ModelError: The source itself gives NaN or infinity.
        StageError: ONNX Runtime cannot run the model.
    """
    allowed = tolerance or Tolerance()
    runs: list[_Run] = []
    for kind, batch in _batches(tuple(sample_shape), batch_sizes, images, whole=whole):
        expected = reference(batch)
        for name, values in expected.items():
            if not np.isfinite(values).all():
                raise ModelError(
                    f"The source network gives NaN or infinity at '{name}' for {kind} input.",
                    hint="Check the weights; nothing was exported.",
                )
        runs.append(_Run(f"batch size {len(batch)}, {kind} input", batch, expected, {}))
    for variant, way in _VARIANTS.items():  # one after the other: each holds all weights
        session = open_session(model, optimize=way)
        fed = session.get_inputs()[0].name
        for run in runs:
            found = run_feeds(session, {fed: run.batch}, list(run.expected))
            run.found[f"{run.text}, {variant} graph"] = found
        del session
    differences, moved = _compared(runs, allowed), 0.0
    if not _worst(differences).excess <= 1.0:
        moved = _own_rounding(reference, runs)
        more = min(_TIMES * moved, _MOST)
        differences = _compared(runs, replace(allowed, relative=allowed.relative + more))
    worst = _worst(differences)
    if not worst.excess <= 1.0:
        raise GateError(
            f"The ONNX model differs from its source: {worst.text}.",
            hint=_WRONG if _TIMES * moved <= _MOST else _UNDECIDED.format(moved),
        )
    return ParityReport(
        batch_sizes=tuple(batch_sizes),
        samples=sum(len(run.batch) for run in runs),
        max_abs_error=max(d.absolute for d in differences),
        max_rel_error=max(d.relative for d in differences),
    )


def _compared(runs: Sequence[_Run], allowed: Tolerance) -> list[_Difference]:
    return [
        _compare(name, values, found[name], allowed, where)
        for run in runs
        for where, found in run.found.items()
        for name, values in run.expected.items()
    ]


def _worst(differences: Sequence[_Difference]) -> _Difference:
    return max(differences, key=lambda difference: difference.excess)


def _own_rounding(reference: Reference, runs: Sequence[_Run]) -> float:
    """How far the last bits of the inputs move the source, of the largest output of a batch."""
    generator = np.random.default_rng(1)
    moved = []
    for run in runs:
        bits = generator.choice((-_LAST_BITS, _LAST_BITS), run.batch.shape)
        near = reference((run.batch * (1 + bits)).astype(np.float32))
        for name, values in run.expected.items():
            scale = float(np.abs(values).max())
            moved.append(float(np.abs(near[name] - values).max()) / scale if scale else 0.0)
    return max(value for value in moved if np.isfinite(value))


def _batches(
    sample_shape: tuple[int, ...], sizes: Sequence[int], images: F32 | None, *, whole: bool
) -> Iterator[tuple[str, F32]]:
    generator = np.random.default_rng(0)
    for size in sizes:
        shape = (size, *sample_shape)
        if whole:
            yield "random", generator.integers(0, 256, shape).astype(np.float32)
        else:
            yield "random", generator.standard_normal(shape, dtype=np.float32)
    start = 0
    for size in sizes if images is not None else ():
        batch = images[start : start + size] if images is not None else np.zeros(0, np.float32)
        start += size
        if len(batch) == size:
            yield "real", np.ascontiguousarray(batch, np.float32)


def _compare(name: str, expected: F32, found: F32, allowed: Tolerance, where: str) -> _Difference:
    if expected.ndim == 2 and len(found) == len(expected):  # the source's outputs come flat
        found = found.reshape(len(found), -1)
    if expected.shape != found.shape:
        text = f"output '{name}' has shape {found.shape}, expected {expected.shape} ({where})"
        return _Difference(np.inf, np.inf, np.inf, text)
    error = np.abs(expected.astype(np.float64) - found)
    error[~np.isfinite(error)] = np.inf
    index = np.unravel_index(int(np.argmax(error)), error.shape)
    largest, scale = float(error[index]), float(np.abs(expected).max())
    limit = allowed.absolute + allowed.relative * scale
    place = ", ".join(str(int(i)) for i in index)
    text = (
        f"output '{name}' at [{place}] is {float(found[index]):.6g}, expected "
        f"{float(expected[index]):.6g} (error {largest:.3g}, allowed {limit:.3g}; "
        f"{_flips(expected, found, limit)} of {len(expected)} predicted classes differ; {where})"
    )
    excess = largest / limit
    if _flips(expected, found, limit):
        excess = max(excess, np.nextafter(1.0, 2.0))
    return _Difference(float(excess), largest, largest / scale if scale else largest, text)


def _flips(expected: F32, found: F32, limit: float) -> int:
    """Samples whose predicted class differs, other than by a tie within twice the allowed error."""
    rows, other = expected.reshape(len(expected), -1), found.reshape(len(found), -1)
    best, chosen = rows.argmax(axis=1), other.argmax(axis=1)
    every = np.arange(len(rows))
    margin = rows[every, best].astype(np.float64) - rows[every, chosen]
    return int(((best != chosen) & (margin > 2 * limit)).sum())
