"""Networks with weights that matter, and batches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgeres.models.build import build_model
from edgeres.models.plan import ChannelPlan, plan_for
from edgeres.pruning.signals import Batch
from edgeres.recipe.recipe import ExportSettings
from edgeres.stages.network import export
from edgeres.system.assets import asset_path


@pytest.fixture(autouse=True)
def one_thread() -> object:
    """One thread: small tensors, and other work on the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def network() -> Callable[..., tuple[nn.Module, ChannelPlan]]:
    """A network with every scale and statistic away from its start value."""

    def make(name: str, **arguments: object) -> tuple[nn.Module, ChannelPlan]:
        plan = plan_for(name, **{"num_classes": 5, **arguments})  # type: ignore[arg-type]
        torch.manual_seed(0)
        module = build_model(plan)
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                nn.init.uniform_(part.weight, 0.3, 1.2)
                nn.init.uniform_(part.bias, -0.2, 0.2)
                nn.init.uniform_(part.running_mean, -0.1, 0.1)
                nn.init.uniform_(part.running_var, 0.5, 1.5)
        return module.eval(), plan

    return make


@pytest.fixture(scope="session")
def data() -> Callable[..., list[Batch]]:
    """Random images and labels of five classes."""

    def make(shape: tuple[int, int, int], sizes: tuple[int, ...] = (6, 6)) -> list[Batch]:
        generator = np.random.default_rng(0)
        return [
            (
                generator.standard_normal((size, *shape), dtype=np.float32),
                np.arange(size, dtype=np.int64) % 5,
            )
            for size in sizes
        ]

    return make


@pytest.fixture(scope="session")
def reference_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained reference network as ONNX in normal form."""
    path = tmp_path_factory.mktemp("reference") / "reference.onnx"
    checkpoint = asset_path("recipes", "checkpoints/fmnist_resnet20.safetensors")
    export(checkpoint, path, image_size=(28, 28), settings=ExportSettings())
    return path
