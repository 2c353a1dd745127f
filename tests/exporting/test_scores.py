"""What comes out of a foreign network: class scores, or a true word on what it is instead."""

from __future__ import annotations

import numpy as np
import pytest

from edgeres.errors import ModelError

RANDOM = np.random.default_rng(19)
WEIGHTS = {
    "w": RANDOM.standard_normal((8, 3, 3, 3)).astype(np.float32),
    "fw": RANDOM.standard_normal((4, 8)).astype(np.float32),
    "one": RANDOM.standard_normal((1, 8)).astype(np.float32),
    "row": np.array([1]),
    "two": np.array(2, np.float32),
    "tiny": np.array(1e-12, np.float32),
}
BODY = "c = Conv(x, w) r = Relu(c) p = GlobalAveragePool(r) f = Flatten(p) "
LOGITS = BODY + "l = Gemm<transB=1>(f, fw) "


@pytest.mark.parametrize(
    "norm",
    [
        "n = ReduceL2<keepdims=1>(l, row) y = Div(l, n)",
        "n = ReduceL2<keepdims=1>(l, row) m = Clip(n, tiny) s = Shape(l) e = Expand(m, s) "
        "y = Div(l, e)",
        "q = Mul(l, l) n = ReduceSum<keepdims=1>(q, row) s = Sqrt(n) y = Div(l, s)",
        "q = Pow(l, two) n = ReduceSum<keepdims=1>(q, row) s = Sqrt(n) i = Reciprocal(s) "
        "y = Mul(l, i)",
        "y = LpNormalization<axis=1, p=2>(l)",
    ],
)
def test_embeddings_are_refused(build_graph, bring, norm: str) -> None:
    with pytest.raises(ModelError, match="embedding of 4 numbers"):
        bring(build_graph(LOGITS + norm, WEIGHTS))


@pytest.mark.parametrize(
    "end", ["y = Softmax(l)", "y = Div(l, two)", "e = Exp(l) s = ReduceSum(e, row) y = Div(e, s)"]
)
def test_class_scores_are_not_taken_for_embeddings(build_graph, bring, end: str) -> None:
    told, _ = bring(build_graph(LOGITS + end, WEIGHTS))
    assert told["num_classes"] == 4


def test_several_labels_an_image_are_refused_and_the_logits_can_be_named(
    build_graph, bring
) -> None:
    source = build_graph(LOGITS + "y = Sigmoid(l)", WEIGHTS)
    with pytest.raises(ModelError, match="several labels an image") as caught:
        bring(source)
    assert "--output-name l." in caught.value.hint
    told, model = bring(source, outputs=["l"])
    assert told["output_name"] == "l"
    assert [node.op_type for node in model.graph.node][-1] == "Gemm"


def test_one_probability_is_two_classes_and_one_number_is_not(build_graph, bring) -> None:
    body = BODY + "l = Gemm<transB=1>(f, one) "
    told, _ = bring(build_graph(body + "y = Sigmoid(l)", WEIGHTS, scores="float[N,1] y"))
    assert (told["num_classes"], told["ends_in"]) == (1, "sigmoid")
    with pytest.raises(ModelError, match="one number an image and no probability"):
        bring(build_graph(body + "y = Identity(l)", WEIGHTS, scores="float[N,1] y"))


@pytest.mark.parametrize(
    ("end", "scores"),
    [
        ("y = Reshape(l, tail)", "float[N,1,1,4] y"),
        ("y = Unsqueeze(l, row)", "float[N,1,4] y"),
    ],
)
def test_scores_of_other_shapes_become_rows(build_graph, bring, end: str, scores: str) -> None:
    weights = WEIGHTS | {"tail": np.array([-1, 1, 1, 4])}
    told, model = bring(build_graph(LOGITS + end, weights, scores=scores))
    assert told["num_classes"] == 4
    assert [d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim][1:] == [4]


def test_one_probability_without_a_row(build_graph, bring) -> None:
    body = BODY + "l = Gemm<transB=1>(f, one) s = Sigmoid(l) y = Squeeze(s, row)"
    told, model = bring(build_graph(body, WEIGHTS, scores="float[N] y"))
    assert told["num_classes"] == 1
    assert [d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim][1:] == [1]
