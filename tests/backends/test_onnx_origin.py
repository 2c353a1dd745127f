"""From an optimizer's layer names back to the ONNX nodes."""

from edgeres.backends._onnx_origin import SourceNode, origins, read_nodes

from .conftest import write_network


def node(name, op, inputs, output):
    return SourceNode(name, op, tuple(inputs.split()), (output,))


BLOCK = (
    node("c1", "Conv", "x w1 b1", "t1"),
    node("r1", "Relu", "t1", "t2"),
    node("c2", "Conv", "t2 w2 b2", "t3"),
    node("down", "Conv", "x w3 b3", "t4"),
    node("add", "Add", "t3 t4", "t5"),
    node("r2", "Relu", "t5", "t6"),
    node("fc", "Gemm", "t6 w4 b4", "logits"),
)


def test_names_that_were_kept():
    assert origins(BLOCK, ["c1", "r1", "c2", "down", "add", "r2", "fc"]) == [
        (n.name,) for n in BLOCK
    ]


def test_decorations_are_taken_off():
    assert origins(BLOCK, ["c1_token_12", "c2/duplicated", "down_nchwc"])[:2] == [
        ("c1", "r1"),
        ("c2",),
    ]


def test_a_product_that_took_its_activation_in():
    dense = (*BLOCK, node("r3", "Relu", "logits", "t7"))
    assert origins(dense, ["fused fc"]) == [("fc", "r3")]


def test_a_layer_named_after_the_tensor_of_its_last_node():
    # As ONNX Runtime does for NCHWc convolutions with a fused Relu.
    assert origins(BLOCK, ["t2_nchwc", "down", "c2", "add", "fc"])[0] == ("c1", "r1")


def test_a_fused_add_belongs_to_the_convolution_that_runs_last():
    assert origins(BLOCK, ["t2_nchwc", "t4_nchwc", "t3_nchwc", "fc"]) == [
        ("c1", "r1"),
        ("down",),
        ("c2", "add", "r2"),
        ("fc",),
    ]
    assert origins(BLOCK, ["t2_nchwc", "t3_nchwc", "t4_nchwc", "fc"])[2] == ("down", "add", "r2")


def test_a_convolution_is_never_guessed():
    # Its reader is another convolution: nothing says where it went.
    nodes = (node("c1", "Conv", "x w", "t1"), node("c2", "Conv", "t1 v", "t2"))
    assert origins(nodes, ["c2"]) == [("c2",)]
    # Two readers: the fused layer of one of them need not hold it.
    assert origins((*BLOCK[:2], node("n", "Neg", "t1", "t9")), ["r1", "n"]) == [("r1",), ("n",)]


def test_layers_that_the_engine_added_have_no_nodes():
    assert origins(BLOCK, ["ReorderInput", "Transpose_token_3"]) == [(), ()]


def test_q_and_dq_are_looked_through():
    nodes = (
        node("c", "Conv", "x w", "t1"),
        node("q", "QuantizeLinear", "t1 s z", "t2"),
        node("dq", "DequantizeLinear", "t2 s z", "t3"),
        node("r", "Relu", "t3", "t4"),
    )
    assert origins(nodes, ["c"]) == [("c", "r")]


def test_nodes_of_a_file(tmp_path):
    nodes = read_nodes(write_network(tmp_path / "net.onnx"))
    assert [n.op for n in nodes if n.name in ("stem", "add", "fc")] == ["Conv", "Add", "Gemm"]
    assert nodes[0].inputs[0] == "input"


def test_an_operator_that_was_written_out_is_in_the_nameless_layers_behind_its_input():
    nodes = (
        node("c", "Conv", "x w", "t1"),
        node("q", "QuantizeLinear", "t1 s z", "t2"),
        node("d", "DequantizeLinear", "t2 s z", "t3"),
        node("act", "HardSwish", "t3", "t4"),
        node("q2", "QuantizeLinear", "t4 s z", "t5"),
    )
    layers = ["c", "d", "HardSigmoid_1", "Mul_2", "q2", "Transpose"]
    assert origins(nodes, layers) == [("c",), ("d",), ("act",), ("act",), ("q2",), ()]
    # Behind a layer that gives floats there is no DequantizeLinear.
    dense = (
        node("fc", "Gemm", "x w", "t1"),
        node("act", "HardSwish", "t1", "t2"),
        node("r", "Relu", "t1", "t3"),
    )
    layers = ["fc", "HardSigmoid_1", "Mul_2", "Transpose_token_3"]
    assert origins(dense, layers) == [("fc", "r"), ("act",), ("act",), ()]
    assert origins(dense, ["fc", "Transpose_token_3"]) == [("fc", "act", "r"), ()]
    # A DequantizeLinear that did not run stands in an INT8 layer with what reads it.
    assert origins(nodes, ["c", "q2"]) == [("c", "act"), ("q2",)]
