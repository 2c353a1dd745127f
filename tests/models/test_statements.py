"""What checkpoints and the files beside them say: believed, refused, or told to be missing."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from edgeres.errors import ModelError
from edgeres.models.build import build_model
from edgeres.models.checkpoint import load_checkpoint, save_checkpoint
from edgeres.models.plan import ChannelPlan, plan_for
from edgeres.models.variant import Variant

DEEP = plan_for("resnet50", num_classes=3, width_multiplier=0.125)
FLAT = plan_for("resnet18", num_classes=3, width_multiplier=0.125)
HF = {
    "architectures": ["ResNetForImageClassification"],
    "model_type": "resnet",
    "depths": [3, 4, 6, 3],
    "downsample_in_bottleneck": False,
    "downsample_in_first_stage": False,
    "hidden_act": "relu",
    "layer_type": "bottleneck",
    "num_channels": 3,
    "id2label": {"0": "cat", "1": "dog", "2": "owl"},
}
TIMM = {"architecture": "resnet50", "num_classes": 3, "global_pool": "avg"}


def weights(plan: ChannelPlan, folder: Path) -> Path:
    torch.manual_seed(0)
    save_file(dict(build_model(plan).state_dict()), folder / "model.safetensors")
    return folder / "model.safetensors"


def pickled(plan: ChannelPlan, folder: Path, **beside: Any) -> Path:
    torch.manual_seed(0)
    torch.save({"state_dict": build_model(plan).state_dict(), **beside}, folder / "w.pth")
    return folder / "w.pth"


def say(folder: Path, content: object, name: str = "config.json") -> None:
    (folder / name).write_text(json.dumps(content))


def test_nothing_said_is_told(tmp_path: Path) -> None:
    plan = load_checkpoint(weights(DEEP, tmp_path)).plan
    assert plan.assumed
    assert plan == DEEP
    assert ChannelPlan.from_json(plan.to_json()).assumed


def test_the_doubt_outlives_saving_and_a_statement_ends_it(tmp_path: Path) -> None:
    loaded = load_checkpoint(weights(DEEP, tmp_path))
    save_checkpoint(tmp_path / "ours.safetensors", loaded)
    assert load_checkpoint(tmp_path / "ours.safetensors").plan.assumed
    say(tmp_path, TIMM)
    assert not load_checkpoint(tmp_path / "model.safetensors").plan.assumed
    # What edgeres wrote is not read by the words of another file beside it.
    say(tmp_path, {"architecture": "vit_base"})
    assert load_checkpoint(tmp_path / "ours.safetensors").plan.assumed


@pytest.mark.parametrize(
    ("config", "variant"),
    [
        (HF, Variant()),
        ({**HF, "downsample_in_bottleneck": True}, Variant(stride_on="1x1")),
        ({**HF, "downsample_in_first_stage": True}, Variant(first_stage_stride=2)),
        (TIMM, Variant()),
        ({**TIMM, "architecture": "resnet50.a1_in1k"}, Variant()),
        ({**TIMM, "architecture": "resnetaa50"}, Variant(antialias="average")),
        ({**TIMM, "model_args": {"output_stride": 8}}, Variant(output_stride=8)),
        ({**TIMM, "output_stride": 8}, Variant(output_stride=8)),
        ({**TIMM, "replace_stride_with_dilation": [0, 1, 1]}, Variant(output_stride=8)),
        ({**TIMM, "model_args": {"aa_layer": "avg"}}, Variant(antialias="average")),
        ({**TIMM, "model_args": {"drop_rate": 0.2, "act_layer": "relu"}}, Variant()),
        ({**TIMM, "model_args": {"norm_kwargs": {"eps": 1e-3}}}, Variant(norm_epsilon=1e-3)),
        ({**TIMM, "model_type": "timm_wrapper"}, Variant()),
    ],
)
def test_config_beside_the_weights_is_believed(
    config: dict[str, Any], variant: Variant, tmp_path: Path
) -> None:
    path = weights(DEEP, tmp_path)
    say(tmp_path, config)
    plan = load_checkpoint(path).plan
    assert plan.variant == variant
    assert not plan.assumed


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({**HF, "hidden_act": "silu"}, "the activation 'silu'"),
        ({**TIMM, "hidden_act": "relu6"}, "the activation 'relu6'"),
        ({**HF, "layer_type": "basic"}, "says block basic, but model.safetensors has bottleneck"),
        ({**HF, "depths": [3, 4, 23, 3]}, r"says depths \[3, 4, 23, 3\]"),
        ({**HF, "id2label": {"0": "a", "1": "b"}}, "says num classes 2"),
        ({"model_type": "vit"}, "says 'vit', which edgeres does not know"),
        ({**TIMM, "architecture": "resnetblur50"}, "'resnetblur50'.*does not build"),
        ({**TIMM, "architecture": "ecaresnet50d"}, "'ecaresnet50d'.*does not build"),
        ({**TIMM, "architecture": "resnet50_clip"}, "does not know"),
        ({**TIMM, "architecture": "resnet101"}, "says 'resnet101', but model.safetensors holds"),
        ({**TIMM, "global_pool": "catavgmax"}, "pooling by 'catavgmax'"),
        ({**TIMM, "num_classes": 1000}, "says num classes 1000"),
        ({**TIMM, "model_args": {"act_layer": "leaky_relu"}}, "the activation 'leaky_relu'"),
        ({**TIMM, "model_args": {"aa_layer": "blurpool"}}, "anti-aliasing by 'blurpool'"),
        ({**TIMM, "model_args": {"block_args": {"attn_layer": "simam"}}}, "attention 'simam'"),
        ({**TIMM, "model_args": {"norm_layer": "groupnorm"}}, "normalization by 'groupnorm'"),
        ({**TIMM, "model_args": {"a_new_kind": 3}}, "a_new_kind 3"),
        ({**TIMM, "model_args": {"output_stride": 5}}, "output stride 5"),
        ({**TIMM, "architecture": "resnet\x1b[31m9"}, r"'resnet\?\[31m9'"),
    ],
)
def test_config_that_contradicts_or_is_not_built_is_refused(
    config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = weights(DEEP, tmp_path)
    say(tmp_path, config)
    with pytest.raises(ModelError, match=message):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("beside", "variant"),
    [
        ({"arch": "resnet50"}, Variant()),
        ({"args": Namespace(model="resnet50", lr=0.1, activation="x")}, Variant()),
        ({"hyper_parameters": {"backbone": "resnet50", "output_stride": 16}}, Variant(16)),
        (
            {"arch": "resnet50", "model_args": {"replace_stride_with_dilation": [0, 1, 1]}},
            Variant(output_stride=8),
        ),
        ({"arch": "resnetaa50"}, Variant(antialias="average")),
        ({"args": {"model": "resnet50", "bn_eps": 1e-3}}, Variant(norm_epsilon=1e-3)),
        # A name and its relative agree on the architecture: the relative holds.
        ({"arch": "resnet50", "config": {"model": "resnetaa50"}}, Variant(antialias="average")),
    ],
)
def test_what_lies_in_a_pickle_is_believed(
    beside: dict[str, Any], variant: Variant, tmp_path: Path
) -> None:
    plan = load_checkpoint(pickled(DEEP, tmp_path, **beside)).plan
    assert plan.variant == variant
    assert not plan.assumed


@pytest.mark.parametrize(
    ("beside", "message"),
    [
        ({"arch": "resnetblur50"}, "'resnetblur50'"),
        ({"arch": "my_resnet_with_extras"}, "does not know"),
        ({"arch": "resnet18"}, "says 'resnet18', but w.pth holds another network"),
        ({"args": {"arch": "resnet50", "act_layer": "silu"}}, "the activation 'silu'"),
    ],
)
def test_what_lies_in_a_pickle_is_refused(
    beside: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = pickled(DEEP, tmp_path, **beside)
    with pytest.raises(ModelError, match=message):
        load_checkpoint(path)


def test_a_name_that_the_user_gives_stands_against_an_unknown_one(tmp_path: Path) -> None:
    path = pickled(DEEP, tmp_path, arch="my_resnet_with_extras")
    assert load_checkpoint(path, architecture="resnet50").plan.assumed
    path = pickled(DEEP, tmp_path, arch="resnetblur50")
    with pytest.raises(ModelError, match="resnetblur50"):
        load_checkpoint(path, architecture="resnet50")
    path = pickled(FLAT, tmp_path, arch="resnet18")
    with pytest.raises(ModelError, match="'resnet34' was asked for"):
        load_checkpoint(path, architecture="resnet34")


def test_safetensors_metadata_is_read(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    state = dict(build_model(DEEP).state_dict())
    save_file(state, path, {"arch": "resnet50", "model_args": '{"output_stride": 16}'})
    assert load_checkpoint(path).plan.variant == Variant(output_stride=16)


@pytest.mark.parametrize("content", ["{", "[1]", "[" * 100_000, '{"a": "' + "x" * (9 << 20) + '"}'])
def test_broken_files_beside_are_one_line(content: str, tmp_path: Path) -> None:
    path = weights(FLAT, tmp_path)
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelError, match=r"config\.json beside the weights") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_built_is_refused(tmp_path: Path) -> None:
    small = plan_for("resnet20", num_classes=3)
    for plan in (
        replace(small, variant=Variant(stem_stride=1)),
        replace(FLAT, variant=Variant(stride_on="1x1")),
        replace(plan_for("resnet50d"), variant=Variant(output_stride=8)),
    ):
        with pytest.raises(ModelError, match="cannot be built"):
            build_model(plan)
    with pytest.raises(ModelError, match="output_stride"):
        Variant.from_dict({"output_stride": 7})
    with pytest.raises(ModelError, match="stem"):
        Variant.from_dict({"stem": 7})
