"""Modules become ONNX files that answer alike, by one exporter or the other."""

from __future__ import annotations

import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from edgeres.errors import ModelError
from edgeres.graph.session import open_session, run_session
from edgeres.modules.answers import outputs_of, scores_of
from edgeres.modules.bring import bring_module, write_module
from edgeres.modules.opened import open_module
from edgeres.modules.spec import ModuleSpec, code_spec
from edgeres.modules.to_onnx import write_onnx


def answers(path: Path, images: np.ndarray) -> np.ndarray:
    return run_session(open_session(path.read_bytes()), images)["logits"]


class Branching(torch.nn.Module):
    """Chooses its way by values, which the newer exporter refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3)

    def forward(self, x):
        y = self.conv(x).mean((2, 3))
        return {"features": y * 2, "logits": y if float(y.detach().abs().sum()) >= 0 else -y}


def test_code_is_written_in_a_child(code: Path, tmp_path: Path) -> None:
    spec = code_spec(f"{code}:build", None)
    brought = bring_module(spec, tmp_path / "x.onnx", said={"crop": 10}, image=(14, 12))
    assert (brought.layout, brought.sample_shape, brought.notes) == ("nchw", (3, 10, 10), ())
    images = np.random.default_rng(0).standard_normal((3, 3, 10, 10)).astype(np.float32)
    with torch.inference_mode():
        expected = open_module(spec).module(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(answers(tmp_path / "x.onnx", images), expected, atol=1e-5)
    names = [node.name for node in onnx.load(tmp_path / "x.onnx").graph.node]
    assert "block.conv1" in names
    assert len(set(names)) == len(names)
    sys.path.remove(str(code.parent))


def test_code_that_the_newer_exporter_refuses(tmp_path: Path) -> None:
    network = Branching().eval()
    notes = write_onnx(network, (3, 6, 6), tmp_path / "x.onnx", scripted=False)
    assert notes == [
        "of the dict that it returns, the scores are judged.",
        "it was exported by torch's older exporter.",
    ]
    images = np.random.default_rng(0).standard_normal((5, 3, 6, 6)).astype(np.float32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(images))["logits"].numpy()
    np.testing.assert_allclose(answers(tmp_path / "x.onnx", images), expected, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", ["torchscript", "program"])
def test_exported_programs(kind: str, code: Path, tmp_path: Path) -> None:
    module = open_module(code_spec(f"{code}:build", None)).module
    sys.path.remove(str(code.parent))
    images = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, 9, 9)))
    images = images.float()
    path = tmp_path / "net.pt2"
    if kind == "torchscript":
        torch.jit.trace(module, images).save(path)
    else:
        free = torch.export.Dim("N", min=1)
        torch.export.save(torch.export.export(module, (images,), dynamic_shapes=({0: free},)), path)
    told = write_module(
        ModuleSpec(kind, path), tmp_path / "x.onnx", said={}, image=(9, 9), input_size=None
    )
    assert told["sample_shape"] == [3, 9, 9]
    with torch.inference_mode():
        expected = module(images).numpy()
    np.testing.assert_allclose(answers(tmp_path / "x.onnx", images.numpy()), expected, atol=1e-5)


def test_scores_among_what_a_network_returns() -> None:
    two, three = torch.zeros(2), torch.ones(3)
    output = namedtuple("Output", "logits hidden")
    assert scores_of(two) is two
    assert scores_of((two, three)) is two
    assert scores_of({"aux": two, "logits": three}) is three
    assert scores_of(output(three, two)) is three
    with pytest.raises(ModelError, match="got a list"):
        scores_of([])
    with pytest.raises(ModelError, match="got a int"):
        scores_of(3)


class Several(torch.nn.Module):
    """Gives its numbers in one of three forms."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form, self.conv = form, torch.nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> object:
        maps = self.conv(x)
        mean = maps.mean((2, 3))
        if self.form == "names":
            return {"map": maps, "mean": mean}
        return (maps, mean) if self.form == "row" else mean


@pytest.mark.parametrize(
    ("form", "names"),
    [("names", ["map", "mean"]), ("row", ["output_0", "output_1"]), ("one", ["logits"])],
)
def test_every_tensor_may_be_an_output(form: str, names: list[str], tmp_path: Path) -> None:
    network = Several(form).eval()
    assert write_onnx(network, (3, 6, 6), tmp_path / "x.onnx", scripted=False, every=True) == []
    session = open_session((tmp_path / "x.onnx").read_bytes())
    assert [one.name for one in session.get_outputs()] == names
    images = np.random.default_rng(0).standard_normal((5, 3, 6, 6)).astype(np.float32)
    with torch.inference_mode():
        expected = outputs_of(network(torch.from_numpy(images)))
    found = run_session(session, images)
    for name, wanted in zip(names, expected.values(), strict=True):
        np.testing.assert_allclose(found[name], wanted.numpy(), atol=1e-5)
    with pytest.raises(ModelError, match="got a list"):
        outputs_of([])


def test_a_network_that_does_not_run_is_told_in_its_own_words(tmp_path: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(5, 2)).eval()
    with pytest.raises(ModelError, match=r"two images of shape \(3, 6, 6\): RuntimeError"):
        write_onnx(network, (3, 6, 6), tmp_path / "x.onnx", scripted=False)
    assert not (tmp_path / "x.onnx").exists()
