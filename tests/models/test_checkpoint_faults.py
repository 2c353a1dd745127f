"""Damaged, hostile and unfitting checkpoint files: one clear error each, and nothing runs."""

from __future__ import annotations

import collections
import fractions
import json
import os
import pickle
import struct
from pathlib import Path

import pytest
import torch

from edgeres.errors import ModelError
from edgeres.models.build import build_model
from edgeres.models.checkpoint import load_checkpoint
from edgeres.models.plan import plan_for

PLAN = plan_for("resnet20", num_classes=10, in_channels=1)


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return dict(build_model(PLAN).state_dict())


def refused(path: Path, match: str, **arguments: object) -> ModelError:
    with pytest.raises(ModelError, match=match) as caught:
        load_checkpoint(path, **arguments)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    return caught.value


def test_missing_empty_folder_onnx_and_text(tmp_path: Path) -> None:
    refused(tmp_path / "no.pt", r"Cannot read the checkpoint .*no\.pt: No such file")
    (tmp_path / "empty.pt").write_bytes(b"")
    refused(tmp_path / "empty.pt", r"empty\.pt is empty \(0 bytes\)")
    (tmp_path / "folder").mkdir()
    refused(tmp_path / "folder", "one file of weights in the folder .*, got none")
    (tmp_path / "m.onnx").write_bytes(b"\x08\x0a")
    refused(tmp_path / "m.onnx", "is an ONNX model, not a checkpoint")
    (tmp_path / "t.pth").write_text("an HTML page instead of the weights")
    refused(tmp_path / "t.pth", "neither safetensors nor a torch checkpoint")


def test_files_of_other_programs_are_named(tmp_path: Path) -> None:
    shard = {"weights": [{"name": "a", "shape": [1], "dtype": "float32"}], "paths": ["net.bin"]}
    kinds = {
        "face-weights_manifest.json": ([shard], "holds weights for TensorFlow.js without"),
        "layers/model.json": ({"format": "layers-model", "weightsManifest": [shard]}, "is a Keras"),
        "graph/model.json": ({"format": "graph-model", "weightsManifest": []}, "is a graph for"),
    }
    for name, (said, message) in kinds.items():
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(said))
        refused(file, message)
        for part in ("face.bin", "face-shard1.bin", "group1-shard1of2.bin"):
            if file.name == "model.json" or part.startswith("face"):
                (file.parent / part).write_bytes(bytes(range(64)))
                refused(file.parent / part, message)
    (tmp_path / "net.tflite").write_bytes(b"\x1c\0\0\0TFL3" + bytes(64))
    refused(tmp_path / "net.tflite", "is a TensorFlow Lite model")
    for text in ('{"weights": 1}', "[[[", "[1, 2, 3, 4]", "[" * 100_000):
        (tmp_path / "other.json").write_text(text)
        refused(tmp_path / "other.json", "neither safetensors nor a torch checkpoint")


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.5, 0.99, 0.9999])
@pytest.mark.parametrize("old_format", [False, True])
def test_truncated_pickle(
    share: float, old_format: bool, state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "w.pt"
    torch.save(state, path, _use_new_zipfile_serialization=not old_format)
    load_checkpoint(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    refused(path, r"w\.pt")


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.5, 0.9999])
def test_truncated_safetensors(
    share: float, state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    from safetensors.torch import save

    content = save(state)
    path = tmp_path / "w.safetensors"
    path.write_bytes(content[: int(len(content) * share)])
    refused(path, r"w\.safetensors .*not a whole safetensors file")


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 90_000_000) + b"{}",
        struct.pack("<Q", 2) + b"{]",
        struct.pack("<Q", 64) + b'{"a":{"dtype":"F32","shape":[4611686018427387904,8],"data_offset',
    ],
)
def test_lying_safetensors_header(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    refused(path, "not a whole safetensors file")


def test_a_header_length_that_looks_like_a_pickle(tmp_path: Path) -> None:
    """A safetensors header of 128 bytes starts with 0x80, as pickles do."""
    from safetensors.torch import save

    for pad in range(200):
        content = save({"conv1.weight": torch.zeros(1, 1)}, {"note": "x" * pad})
        if content[0] == 0x80:
            break
    assert content[0] == 0x80
    for name in ("w.safetensors", "w.pt"):
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, "Expected a stem convolution")


class _Hostile:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.mkdir, (str(self.mark),))


@pytest.mark.parametrize("kind", ["zip", "old", "pickle", "wrapped"])
def test_code_in_a_pickle_never_runs(kind: str, tmp_path: Path) -> None:
    mark, path = tmp_path / "it-ran", tmp_path / "w.pt"
    hostile = _Hostile(mark)
    if kind == "pickle":
        path.write_bytes(pickle.dumps(hostile, protocol=2))
    else:
        content = {"state_dict": {"a": torch.zeros(1)}, "x": hostile}
        torch.save(
            content if kind == "wrapped" else hostile,
            path,
            _use_new_zipfile_serialization=kind != "old",
        )
    refused(path, r"w\.pt is refused: .*posix\.mkdir.*none of it was run")
    assert not mark.exists()
    if kind in (
        "zip",
        "old",
    ):  # the same file is dangerous in other hands: the test means something
        torch.load(path, weights_only=False)
        assert mark.exists()


def test_a_pickled_object_is_refused_with_its_class(tmp_path: Path) -> None:
    torch.save(fractions.Fraction(1, 3), tmp_path / "w.pt")
    error = refused(tmp_path / "w.pt", r"needs fractions\.Fraction")
    assert "state_dict()" in error.hint


def test_missing_keys_list_the_first_ten(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    short = {k: v for k, v in state.items() if not k.startswith("layer2.1.")}
    torch.save(short, tmp_path / "w.pt")
    error = refused(tmp_path / "w.pt", "10 missing: layer2.1.conv1.weight, layer2.1.bn1.weight")
    assert "more" not in error.message
    short = {k: v for k, v in short.items() if not k.startswith("layer2.0.bn1")}
    torch.save(short, tmp_path / "w.pt")
    refused(tmp_path / "w.pt", r"14 missing: .* and 4 more")


def test_extra_and_misshapen_keys(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save({**state, "auxiliary.weight": torch.zeros(1)}, tmp_path / "w.pt")
    refused(tmp_path / "w.pt", r"1 unknown: auxiliary\.weight")
    torch.save({**state, "layer1.0.bn1.weight": torch.zeros(3)}, tmp_path / "w.pt")
    refused(
        tmp_path / "w.pt", r"1 of another shape: layer1\.0\.bn1\.weight \(3,\) instead of \(16,\)"
    )


def test_another_network_than_named(tmp_path: Path) -> None:
    torch.save(
        build_model(plan_for("resnet18", width_multiplier=0.25)).state_dict(), tmp_path / "w.pt"
    )
    refused(tmp_path / "w.pt", r"missing: .*conv3\.weight", architecture="resnet50")
    refused(tmp_path / "w.pt", "unknown: layer4", architecture="resnet20")


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"features.0.weight": (8, 3, 3, 3)}, "Expected a stem convolution"),
        ({"conv1.weight": (8, 3, 3, 3)}, r"Expected a classifier 'fc\.weight'"),
        ({"conv1.weight": (8, 5, 3, 3), "fc.weight": (2, 8)}, "takes 5 input channels"),
        (
            {
                "conv1.weight": (8, 3, 5, 5),
                "fc.weight": (2, 8),
                "layer1.0.conv1.weight": (8, 8, 3, 3),
            },
            r"No known architecture .*: 5x5 stem, basic blocks \[1\]",
        ),
    ],
)
def test_what_is_no_known_resnet(
    shapes: dict[str, tuple[int, ...]], message: str, tmp_path: Path
) -> None:
    torch.save({name: torch.zeros(shape) for name, shape in shapes.items()}, tmp_path / "w.pt")
    refused(tmp_path / "w.pt", message)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_name_the_tensor(
    value: float, state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    state["layer3.0.conv2.weight"][0, 0, 0, 0] = value
    torch.save(state, tmp_path / "w.pt")
    refused(
        tmp_path / "w.pt", r"'layer3\.0\.conv2\.weight' in w\.pt has 1 of 36864 values NaN or inf"
    )


def test_other_impossible_values(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    state["bn1.running_var"][2] = -1.0
    torch.save(state, tmp_path / "w.pt")
    refused(tmp_path / "w.pt", r"'bn1\.running_var' .* negative variance")
    state["bn1.running_var"][2] = 1.0
    state["conv1.weight"] = state["conv1.weight"].to(torch.int8)
    torch.save(state, tmp_path / "w.pt")
    refused(tmp_path / "w.pt", r"'conv1\.weight' in w\.pt is int8, not floating point")


def test_random_damage_never_escapes_as_another_error(
    state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    torch.save(collections.OrderedDict(list(state.items())[:12]), tmp_path / "w.pt")
    content = (tmp_path / "w.pt").read_bytes()
    generator = torch.Generator().manual_seed(1)
    for _ in range(150):
        damaged = bytearray(content)
        for place in torch.randint(len(content), (6,), generator=generator).tolist():
            damaged[place] ^= 1 << int(torch.randint(8, (1,), generator=generator))
        # the archive's directory, at the end, is where damage leads furthest
        damaged[-1 - int(torch.randint(600, (1,), generator=generator))] ^= 0x55
        (tmp_path / "w.pt").write_bytes(bytes(damaged))
        with pytest.raises(ModelError):
            load_checkpoint(tmp_path / "w.pt")
