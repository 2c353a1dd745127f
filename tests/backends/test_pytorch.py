"""The reference backend takes checkpoints only, and says so."""

import pytest

from edgeres.backends.base import BuildConfig
from edgeres.backends.pytorch.backend import BACKEND
from edgeres.errors import BackendMissingError, ModelError, StageError

pytest.importorskip("torch", reason="torch is not installed")


def test_onnx_is_refused_with_what_to_give(network, tmp_path):
    with pytest.raises(ModelError, match="from a checkpoint, not from ONNX") as caught:
        BACKEND.build(network, tmp_path / "net.safetensors", BuildConfig())
    assert "exported from" in caught.value.hint


def test_layers_are_modules_in_float(checkpoint, tmp_path):
    engine = BACKEND.build(checkpoint, tmp_path / "net.safetensors", BuildConfig())
    layers = {layer.name: layer for layer in BACKEND.layers(engine)}
    assert layers["conv1"].op == "Conv2d"
    assert {layer.precision for layer in layers.values()} == {"float32"}


def test_float32_is_not_tf32_and_the_process_keeps_its_choice(checkpoint, tmp_path, images):
    import torch

    seen = []
    engine = BACKEND.build(checkpoint, tmp_path / "model.safetensors", BuildConfig())
    with BACKEND.load(engine, BuildConfig()) as runner:
        runner._module.register_forward_hook(
            lambda *_: seen.append(torch.backends.cudnn.allow_tf32)
        )
        before = torch.backends.cudnn.allow_tf32
        runner.infer({"input": images})
        assert torch.backends.cudnn.allow_tf32 == before
    assert seen == [False]


def test_a_failing_run_is_a_stage_error(checkpoint, tmp_path, images):
    engine = BACKEND.build(checkpoint, tmp_path / "net.safetensors", BuildConfig())
    with BACKEND.load(engine, BuildConfig()) as runner:
        runner._module.conv1.weight.data = runner._module.conv1.weight.data[:, :2]
        with pytest.raises(StageError, match=r"PyTorch failed on input \(7, 3, 12, 12\)"):
            runner.infer({"input": images})


@pytest.mark.parametrize("device", ["cuda:99", "cuda:x", "mps"])
def test_devices_that_are_not_here(checkpoint, tmp_path, device):
    with pytest.raises(BackendMissingError, match=device):
        BACKEND.build(checkpoint, tmp_path / "net.safetensors", BuildConfig(device=device))
