"""A small network with one layer that is hard to quantize: it must come out first."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import onnx
import pytest

from edgeres.calibrators.base import ChosenRange
from edgeres.errors import DataError, ModelError, UsageError
from edgeres.quantization.effect import Judged, effect_of
from edgeres.quantization.placement import KEPT_FLOAT
from edgeres.quantization.quantize import quantize
from edgeres.quantization.sensitivity import sensitivity
from edgeres.quantization.simulate import simulated_logits
from edgeres.recipe.quantize import QuantizeSettings
from edgeres.tasks import open_tasks

from .conftest import FUSING, SYMMETRIC

HARD = "block2.conv2"


@pytest.fixture(scope="module")
def bad_table(table):
    """A table in which the range of the tensor that one layer reads is far too wide."""
    stats = table.tensors["block2.relu1_out"]
    wide = {
        name: ChosenRange(found.low, 25 * found.high, 25 * found.magnitude)
        for name, found in stats.ranges.items()
    }
    tensors = {**table.tensors, "block2.relu1_out": replace(stats, ranges=wide)}
    return replace(table, tensors=tensors)


def test_the_layer_with_a_bad_range_comes_first(resnet, bad_table, test_images) -> None:
    seen = []
    found = sensitivity(
        resnet,
        bad_table,
        SYMMETRIC,
        test_images,
        all_but=True,
        threads=1,
        progress=lambda *x: seen.append(x),
    )
    first = found.nodes[0]
    assert first.node == HARD
    assert first.op == "Conv"
    assert first.macs == 16 * 16 * 9 * 4 * 4
    assert {"fc", "block1.add", "stem.conv"} <= {node.node for node in found.nodes}
    # Alone it spoils nearly as much as everything together; without it the rest is better.
    assert first.only.sqnr_db < found.quantized.sqnr_db + 3
    assert first.all_but.sqnr_db > found.quantized.sqnr_db + 3
    assert max(found.nodes, key=lambda node: node.all_but.sqnr_db) == first
    assert seen[-1] == (len(seen), len(seen))


def test_an_output_that_is_quantized_counts_for_its_layer(resnet, bad_table, test_images) -> None:
    found = sensitivity(resnet, bad_table, FUSING, test_images, threads=1)
    assert {node.node for node in found.nodes[:2]} == {HARD, "block2.conv1"}


def test_noises_of_single_layers_add_up(resnet, table, test_images) -> None:
    found = sensitivity(resnet, table, FUSING, test_images, threads=1)
    total = sum(node.only.noise for node in found.nodes)
    assert 0.3 < total / found.quantized.noise < 3
    assert found.quantized.figure is None
    assert found.fp32 is None
    assert [n.only.sqnr_db for n in found.nodes] == sorted(n.only.sqnr_db for n in found.nodes)


def test_nothing_is_fitted_to_the_images_that_are_measured_on(resnet, table, test_images) -> None:
    plain, fitted = (
        sensitivity(resnet, table, FUSING, test_images, settings=settings, threads=1)
        for settings in (None, QuantizeSettings(rounding="learned", bias_correction="empirical"))
    )
    assert fitted == plain


def test_a_fixed_batch_is_filled_up(resnet, test_images, tmp_path) -> None:
    model = onnx.load(resnet)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 3
    onnx.save(model, tmp_path / "fixed.onnx")
    found = simulated_logits(tmp_path / "fixed.onnx", [test_images[:7]], threads=1)
    assert found.shape[0] == 7
    np.testing.assert_allclose(
        found, simulated_logits(resnet, [test_images[:7]], threads=1), rtol=1e-4, atol=1e-4
    )


def classes(labels: np.ndarray) -> Judged:
    return Judged(open_tasks([{"name": "classification"}]), {"": labels})


def test_labels_give_accuracy(resnet, table, test_images) -> None:
    exact = simulated_logits(resnet, [test_images])
    labels = exact.argmax(axis=1).astype(np.int64)
    found = sensitivity(resnet, table, FUSING, test_images, classes(labels), threads=1)
    assert (found.metric, found.unit, found.fp32) == ("top-1", "pp", 100.0)
    assert found.quantized.figure == pytest.approx(100 * found.quantized.agreement)
    with pytest.raises(DataError, match="a target for each"):
        sensitivity(resnet, table, FUSING, test_images, classes(labels[1:]))


def test_another_task_is_measured_by_its_own_figure(resnet, table, test_images) -> None:
    """Numbers have an error, and no class that could be the same."""
    exact = simulated_logits(resnet, [test_images])
    judged = Judged(open_tasks([{"name": "regression"}]), {"": exact.astype(np.float64)})
    found = sensitivity(resnet, table, FUSING, test_images, judged, classes=False, threads=1)
    assert found.fp32 == pytest.approx(0.0, abs=1e-5)
    assert found.quantized.agreement is None
    errors = {node.node: node.only.figure for node in found.nodes}
    assert all(error > 1e-5 for error in errors.values())
    assert errors[found.nodes[0].node] > np.median(list(errors.values()))
    with pytest.raises(UsageError, match="has no metric 'top1'"):
        sensitivity(
            resnet, table, FUSING, test_images, replace(judged, metric="top1"), classes=False
        )


def test_broken_logits_never_agree() -> None:
    exact = {"y": np.eye(3, dtype=np.float32)}
    broken = {"y": exact["y"].copy()}
    broken["y"][1, 1] = np.nan
    found = effect_of(exact, broken, classes(np.arange(3)))
    assert found.agreement == pytest.approx(2 / 3)
    assert found.figure == pytest.approx(200 / 3)
    assert found.sqnr_db == -200
    assert effect_of(exact, exact).sqnr_db == 200


def test_every_output_counts_as_much_as_the_others() -> None:
    """A large output does not hide what happens to a small one."""
    rng = np.random.default_rng(0)
    exact = {
        "large": 100 * rng.standard_normal((2000, 40)),
        "small": rng.standard_normal((2000, 2)),
    }
    hit = {**exact, "small": exact["small"] + 0.1 * rng.standard_normal((2000, 2))}
    found = effect_of(exact, hit, classes=False)
    with pytest.raises(ModelError, match="one output with class scores, got 2: large, small"):
        effect_of(exact, hit)
    assert found.sqnr_db == pytest.approx(20 + 10 * np.log10(2), abs=0.5)
    assert found.agreement is None


def test_nodes_that_the_rules_name_stay_float(resnet, table, images, tmp_path) -> None:
    out = tmp_path / "q.onnx"
    result = quantize(resnet, table, replace(FUSING, keep_float=frozenset({HARD})), out)
    assert result.float_nodes == {HARD: KEPT_FLOAT}
    assert HARD not in result.quantized_nodes
    assert result.warnings == ()
    nodes = {node.name: node for node in onnx.load(out).graph.node}
    assert nodes[HARD].input[1] == f"{HARD}.weight"
    assert nodes["block1.conv1"].input[1] == "block1.conv1.weight_dequantized"
    with pytest.raises(UsageError, match="not in the model: nothing"):
        quantize(resnet, table, replace(FUSING, keep_float=frozenset({"nothing"})), out)


def test_rules_name_float_nodes_only_where_there_are_some() -> None:
    assert "keep_float" not in FUSING.to_dict()
    assert replace(FUSING, keep_float=frozenset({"b", "a"})).to_dict()["keep_float"] == ["a", "b"]


def test_scales_are_searched_once_for_each_layer(resnet, table, test_images, monkeypatch) -> None:
    from edgeres.quantization import weights
    from edgeres.quantization.found_weights import FoundWeights

    searched = []
    real = weights._search_rows

    def spy(weight, *rest):
        searched.append(weight.shape)
        return real(weight, *rest)

    monkeypatch.setattr(weights, "_search_rows", spy)
    monkeypatch.setattr(weights, "_FOUND", FoundWeights(0))  # nothing from before, nor for later
    found = sensitivity(resnet, table, SYMMETRIC, test_images, all_but=True, threads=1)
    layers = [node for node in found.nodes if node.op in ("Conv", "Gemm")]
    assert len(searched) == len(layers)


@pytest.mark.parametrize("rules", [FUSING, SYMMETRIC, replace(FUSING, saturating=True)])
def test_each_variant_is_what_its_own_file_gives(
    resnet, table, test_images, tmp_path, rules
) -> None:
    """Against files written for each variant and run from their input, node by node."""
    found = sensitivity(resnet, table, rules, test_images, all_but=True, threads=1)
    exact = {"y": simulated_logits(resnet, [test_images], threads=1)}
    names = {node.node for node in found.nodes}

    def plain(kept):
        out = tmp_path / "q.onnx"
        quantize(resnet, table, replace(rules, keep_float=frozenset(kept)), out)
        return effect_of(exact, {"y": simulated_logits(out, [test_images], threads=1)})

    chosen = ("stem.conv", "stem.pool", "block1.add", "block2.down", "block3.conv1", "pool", "fc")
    pairs = [(found.quantized, plain(()))]
    for node in found.nodes:
        if node.node in chosen:
            pairs.append((node.only, plain(names - {node.node})))
            pairs.append((node.all_but, plain({node.node})))
    assert len(pairs) > 12
    for fast, slow in pairs:
        # Float rounding differs, and a sum on the edge of two integers may fall to either side.
        assert fast.sqnr_db == pytest.approx(slow.sqnr_db, abs=0.1)
        assert fast.agreement == pytest.approx(slow.agreement, abs=1 / len(test_images) + 1e-9)


def test_rounds_of_images_change_nothing(resnet, table, test_images, monkeypatch) -> None:
    whole = sensitivity(resnet, table, FUSING, test_images, all_but=True, threads=1)
    monkeypatch.setattr("edgeres.quantization.sensitivity._KEPT_BYTES", 0)
    monkeypatch.setattr("edgeres.quantization.forward._CHUNK_IMAGES", 7)
    rounds = sensitivity(resnet, table, FUSING, test_images, all_but=True, threads=1)
    assert [node.node for node in rounds.nodes] == [node.node for node in whole.nodes]
    for a, b in zip(rounds.nodes, whole.nodes, strict=True):
        assert a.only.sqnr_db == pytest.approx(b.only.sqnr_db, abs=0.02)
        assert a.all_but.sqnr_db == pytest.approx(b.all_but.sqnr_db, abs=0.02)


def test_a_variant_opens_the_pieces_it_changes_once(
    resnet, table, test_images, monkeypatch
) -> None:
    from edgeres.quantization import variants

    opened = []
    real = variants.open_session
    monkeypatch.setattr(variants, "open_session", lambda *a, **k: opened.append(1) or real(*a, **k))
    monkeypatch.setattr("edgeres.quantization.forward._CHUNK_IMAGES", 12)
    found = sensitivity(resnet, table, FUSING, test_images, threads=1)
    # Both networks in nine pieces, and for each node those that read what it reads or gives.
    assert len(opened) <= 2 * 9 + 3 * len(found.nodes)


def test_images_run_side_by_side_each_in_one_thread(
    resnet, table, test_images, monkeypatch
) -> None:
    """Engines that share small layers among threads mostly wait; and no figure may depend on it."""
    from edgeres.quantization import variants

    threads, running = [], set()
    real, real_run = variants.open_session, variants.run_feeds

    def spy_run(*arguments):
        running.add(threading.get_ident())
        return real_run(*arguments)

    monkeypatch.setattr(
        variants, "open_session", lambda *a, **k: threads.append(k["threads"]) or real(*a, **k)
    )
    monkeypatch.setattr(variants, "run_feeds", spy_run)
    monkeypatch.setattr("edgeres.quantization.forward._CHUNK_IMAGES", 4)
    alone = sensitivity(resnet, table, FUSING, test_images, all_but=True, threads=1)
    assert len(running) == 1
    assert sensitivity(resnet, table, FUSING, test_images, all_but=True, threads=3) == alone
    assert len(running) > 2
    assert set(threads) == {1}


def test_cuts_lie_where_two_tensors_go_on(resnet) -> None:
    from edgeres.graph.layers import load_model
    from edgeres.quantization.variants import pieces

    graph = load_model(resnet).graph
    found = pieces(graph)
    assert [node for piece in found for node in piece.nodes] == list(graph)
    assert [piece.gives for piece in found] == [
        ("stem.relu_out",),
        ("stem.pool_out", "block1.relu1_out"),
        ("block1.conv2_out",),
        ("block1.relu2_out", "block2.relu1_out"),
        ("block2.conv2_out",),
        ("block2.down_out",),
        ("block2.relu2_out", "block3.relu1_out"),
        ("block3.conv2_out",),
        ("logits",),
    ]
    for index, piece in enumerate(found):
        made = {name for before in found[:index] for name in before.gives} | {"input"}
        assert set(piece.reads) <= made
        read_behind = {name for behind in found[index:] for name in behind.reads}
        assert 1 <= len(made & read_behind) <= 2


def test_a_variant_begins_at_the_piece_of_its_node(resnet, table) -> None:
    """Not at the one before, which makes what the node reads."""
    from edgeres.graph.layers import load_model
    from edgeres.quantization.placement import place
    from edgeres.quantization.quantize import prepare
    from edgeres.quantization.variants import Variants, pieces

    prepared = prepare(resnet, table, FUSING, QuantizeSettings())
    graph = prepared.model.graph
    variants = Variants(prepared.model, prepared.items, prepared.params, FUSING)
    names = prepared.placement.quantized_nodes
    found = pieces(load_model(resnet).graph)
    at = {node.name: index for index, piece in enumerate(found) for node in piece.nodes}
    for name in names:
        only = variants.choose(place(graph, replace(FUSING, keep_float=frozenset(names) - {name})))
        all_but = variants.choose(place(graph, replace(FUSING, keep_float=frozenset({name}))))
        for choices, shared in ((only, variants.exact), (all_but, variants.quantized)):
            unlike = [index for index, choice in enumerate(choices) if choice != shared[index]]
            # Where all others read a sum in INT8, the engine's own INT8 sum changes nothing.
            assert unlike[:1] == [at[name]] or (shared is variants.quantized and not unlike)
