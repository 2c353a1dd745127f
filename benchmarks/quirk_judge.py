"""What an engine may answer: the arithmetic of its Q/DQ file, give or take one step at every Q.

The file is evaluated by ONNX Runtime with every optimization off: each QuantizeLinear and each
DequantizeLinear is then a node of its own and everything between is float32, the same kernels that
run float networks. (``onnx.reference`` gives the same, see the tests, and is fifty times slower.)

How far an engine may be off follows from the file, too. An engine that is right gives at each Q one
of the two neighbouring integers: sums in another order, multipliers of fixed point and fused
requantization tip values that lie near the middle. The widest error of that kind is known: each
value rounds up or down at random, with the nearer integer the likelier one. So the file is
evaluated again, twelve times, with a uniform draw of one step added in front of every Q. An engine
that only rounds is at most one more such draw: its root mean square error lies below the draws'
mean plus four of their standard deviations. Halves are the exception: where two scales have a
simple ratio, many values lie exactly between two integers, and an engine may round all of them one
way, which a mean over pixels does not average out. So the file is evaluated twice more with every
value moved by a thousandth of a step, up and down, and what that changes is allowed, too. Clipped
sums, wrong padding, lost scales and overflown biases are off by many steps at once, or all in one
direction.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

DRAWS, DEVIATIONS = 12, 4.0
TIE = 2.0**-10
"""Of a step: moves an exact half to one side, and next to nothing else."""
FLOAT_ERROR = 2.0**-16
"""Of the largest output: what float32 sums in another order may differ by."""
_AMOUNT, _TIE = "quirk_amount", "quirk_tie"


@dataclass(frozen=True)
class Expected:
    """What a Q/DQ file says, and how far rounding alone can lead from it.

    Attributes:
        outputs: ``(N, K) float32``.
        tolerance: Largest root mean square error that rounding at every Q can cause.
    """

    outputs: NDArray[np.float32]
    tolerance: float

    def steps(self, outputs: NDArray[np.float32]) -> float:
        """An engine's distance in tolerances: at most 1 where it only rounds."""
        return _rms(outputs, self.outputs) / self.tolerance


def expected(qdq: onnx.ModelProto, images: NDArray[np.float32]) -> Expected:
    """Evaluates a Q/DQ model as it is written, and with rounding at random."""
    session = _session(_with_draws(qdq))
    name = session.get_inputs()[0].name

    def run(amount: float, tie: float = 0.0) -> NDArray[np.float32]:
        moved = {_AMOUNT: np.array(amount, np.float32), _TIE: np.array(tie, np.float32)}
        return np.asarray(session.run(None, {name: images, **moved})[0])

    outputs = run(0.0)
    draws = [_rms(run(1.0), outputs) for _ in range(DRAWS)]
    rounding = np.mean(draws) + DEVIATIONS * np.std(draws)
    rounding += max(_rms(run(0.0, tie), outputs) for tie in (-TIE, TIE))
    return Expected(outputs, float(rounding + FLOAT_ERROR * np.abs(outputs).max()))


def _with_draws(qdq: onnx.ModelProto) -> onnx.ModelProto:
    """The model with a draw, times an input that is 0 or 1, in front of each Q of an activation.

    Another input, in steps, is added to all.
    """
    model = onnx.ModelProto()
    model.CopyFrom(qdq)
    graph = model.graph
    scales = {each.name: each for each in graph.initializer}
    nodes = []
    for number, node in enumerate(graph.node):
        if node.op_type == "QuantizeLinear":
            step = float(numpy_helper.to_array(scales[node.input[1]]))
            draw, part, off, away, moved = (
                f"quirk_{kind}{number}" for kind in ("draw", "part", "off", "away", "moved")
            )
            nodes += [
                helper.make_node(
                    "RandomUniformLike", [node.input[0]], [draw],
                    low=-0.5, high=0.5, seed=float(number), dtype=TensorProto.FLOAT,
                ),
                helper.make_node("Mul", [draw, _AMOUNT], [part]),
                helper.make_node("Add", [part, _TIE], [off]),
                helper.make_node("Mul", [off, f"quirk_scale{number}"], [away]),
                helper.make_node("Add", [node.input[0], away], [moved]),
            ]  # fmt: skip
            graph.initializer.append(
                numpy_helper.from_array(np.asarray(step, np.float32), f"quirk_scale{number}")
            )
            node.input[0] = moved
        nodes.append(node)
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)
    for name in (_AMOUNT, _TIE):
        graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, []))
    return model


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _rms(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    difference = first.astype(np.float64) - second
    return float(np.sqrt(np.mean(np.square(difference))))
