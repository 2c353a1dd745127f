"""The first half of a run: what is loaded, compared and known of the network."""

from __future__ import annotations

import json

import pytest

from edgeres.data.preprocess import Preprocess
from edgeres.errors import ArtefactError, UsageError
from edgeres.pipeline import loaded
from edgeres.pipeline import networks as module
from edgeres.pipeline.network import train_data_of
from edgeres.pipeline.networks import Networks, equalize_network, prepare_networks
from edgeres.pipeline.source import ModelFacts
from edgeres.pruning.confirmed import ConfirmedWidths
from edgeres.recipe.recipe import PreprocessBlock


def test_an_onnx_file_becomes_the_dense_network(ran):
    networks = ran.proof.networks
    assert (networks.facts.name, networks.facts.num_classes) == ("net", 10)
    assert networks.dense.label == "dense"
    assert set(networks.dense.summary.macs_by_node) == {"stem", "one", "two", "fc"}
    assert networks.final is networks.quantized is networks.dense
    assert networks.preprocess == Preprocess(mean=(0.286,), std=(0.353,), channels=1)


def test_the_import_is_compared_with_its_source_on_real_images(ran):
    (folder,) = ran.run.store.root.glob("parity-*")
    assert json.loads((folder / loaded.PARITY).read_text())


def test_equalizing_adds_a_network_that_is_quantized_instead(ran, new_run):
    plain = ran.proof.networks
    assert equalize_network(new_run, plain) is plain
    new_run.recipe = new_run.recipe.override({"quantize.equalize": True})
    networks = equalize_network(new_run, plain)
    assert networks.quantized is networks.equalized
    assert networks.equalized.label == "dense equalized"
    assert networks.final is plain.dense
    assert [part.name for part in new_run.stages] == ["equalize"]


def test_an_onnx_file_is_not_pruned_by_latency(ran, new_run):
    by_latency = {"prune.allocation": "latency", "prune.target_latency": 0.5}
    new_run.recipe = new_run.recipe.override({"prune": {}} | by_latency)
    with pytest.raises(UsageError, match="an ONNX file or code is not pruned by latency"):
        prepare_networks(new_run, ran.inputs.source, ran.inputs.everything)
    assert new_run.stages == []


def test_classes_must_be_those_of_the_network(ran, new_run):
    odd = ran.inputs.everything
    odd = type(odd)("odd", odd.images, odd.labels + 1)
    with pytest.raises(Exception, match="10"):
        prepare_networks(new_run, ran.inputs.source, odd)


def test_training_images_must_be_named(recipe):
    with pytest.raises(UsageError, match="pruning fine-tunes, and the recipe names no training"):
        train_data_of(recipe, "pruning fine-tunes")
    named = recipe.override({"data.train": "npz:a.npz"})
    assert train_data_of(named, "pruning fine-tunes") == "npz:a.npz"


def test_the_prediction_is_that_of_the_widths_that_were_kept():
    class Place:
        class target:  # noqa: N801
            name = "openvino"

    class Model:
        dense_ms = 4.0

    widths = ConfirmedWidths({"a": 8}, "uniform", 2.0, 2.5, 2.5, False, ())
    told = module._prediction(Place, Model, widths)
    assert (told.target, told.dense_ms, told.predicted_ms) == ("openvino", 4.0, 2.0)
    assert (told.built_ms, told.uniform_ms, told.kept) == (2.5, 2.5, "uniform")
    assert not told.within_budget


def test_facts_come_back_as_they_were_saved(tmp_path):
    preprocess = Preprocess(mean=(0.5,), std=(0.2,), channels=1, resize=(40, 30), crop=28)
    facts = ModelFacts("resnet20", 10, 1, preprocess, ("a", "b"), ("a note",), assumed=True)
    facts.save(tmp_path / "model.json")
    assert ModelFacts.load(tmp_path / "model.json") == facts
    assert json.loads((tmp_path / "model.json").read_text())["preprocess"] == preprocess.to_dict()
    unknown = ModelFacts("net", 10, 3, None, ())
    unknown.save(tmp_path / "other.json")
    assert ModelFacts.load(tmp_path / "other.json") == unknown


def test_damaged_facts_are_named_with_their_field(tmp_path):
    (tmp_path / "model.json").write_text('{"name": "net", "num_classes": "ten"}')
    with pytest.raises(ArtefactError, match=r"model\.json: num_classes: "):
        ModelFacts.load(tmp_path / "model.json")


def test_what_the_recipe_says_goes_over_what_travelled():
    from edgeres.pipeline.source import choose_preprocess

    facts = ModelFacts("net", 10, 1, Preprocess(mean=(0.5,), std=(0.2,), channels=1), ())
    chosen = choose_preprocess(PreprocessBlock(mean=[0.25]), facts)
    assert (chosen.mean, chosen.std, chosen.channels) == ((0.25,), (0.2,), 1)
    assert Networks(facts, chosen, None, None).final is None  # nothing was loaded
