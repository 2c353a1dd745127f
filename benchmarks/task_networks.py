"""Trains the small residual networks of other tasks that the tests convert, and exports them.

`embedding`: a vector of 128 numbers at length 1, learnt by naming garments by its cosine to one
direction for each. `segmentation`: a fully convolutional network, whose class scores of two depths
are joined by a transposed convolution and enlarged to the image. `heads`: what the garment is, and
by how many quarters it is turned. `lines`: a network over time, which names garments read line by
line. Each takes one to three minutes on two cores.

    python benchmarks/task_networks.py [NAME ...] --out tests/convert/trained
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from task_sets import CANVAS, IGNORED, MEAN, SETS, SIDE, STD, lines_set
from torch import nn
from torch.nn import functional

CLASSES = 10
WIDTHS = (16, 32, 48)
TRAINED = 24_000
STEPS = {"embedding": 420, "segmentation": 420, "heads": 420, "lines": 800}
BATCH = {"embedding": 128, "segmentation": 64, "heads": 128, "lines": 128}
_SHARP = 16.0


class Block(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if stride != 1 or before != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps ``(N, C, H, W)`` to ``(N, C', H / stride, W / stride)``."""
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class Backbone(nn.Module):
    """A stem and three stages of two blocks, as of ResNet-14."""

    def __init__(self, stride: int = 1) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, WIDTHS[0], 3, stride, 1, bias=False)
        self.bn = nn.BatchNorm2d(WIDTHS[0])
        stages, before = [], WIDTHS[0]
        for place, width in enumerate(WIDTHS):
            first = Block(before, width, 1 if place == 0 else 2)
            stages.append(nn.Sequential(first, Block(width, width, 1)))
            before = width
        self.stages = nn.ModuleList(stages)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """What each stage gives."""
        x = functional.relu(self.bn(self.stem(x)))
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found


class TaskNetwork(nn.Module):
    """A network that knows its loss.

    Attributes:
        outputs: Names of its outputs.
    """

    outputs: tuple[str, ...]

    def loss(self, x: torch.Tensor, targets: dict[str, torch.Tensor]) -> torch.Tensor:
        """Of pictures and what is right for them."""
        raise NotImplementedError


class Embedding(TaskNetwork):
    """128 numbers of length 1; the directions of the classes are for the training alone."""

    outputs = ("embedding",)

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.project = nn.Linear(WIDTHS[-1], 128)
        self.directions = nn.Parameter(torch.randn(CLASSES, 128))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps pictures to ``(N, 128)``."""
        return functional.normalize(self.project(self.backbone(x)[-1].mean((2, 3))))

    def loss(self, x: torch.Tensor, targets: dict[str, torch.Tensor]) -> torch.Tensor:
        """Of naming the garment by the nearest direction."""
        near = self(x) @ functional.normalize(self.directions).T
        return functional.cross_entropy(_SHARP * near, targets["garment"])


class Segmentation(TaskNetwork):
    """Scores of the garments and of what is behind them, for each pixel."""

    outputs = ("map",)

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone(stride=2)
        self.deep = nn.Conv2d(WIDTHS[2], CLASSES + 1, 1)
        self.enlarge = nn.ConvTranspose2d(CLASSES + 1, CLASSES + 1, 4, 2, 1)
        self.fine = nn.Conv2d(WIDTHS[1], CLASSES + 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps canvases to ``(N, 11, 64, 64)``."""
        _, fine, deep = self.backbone(x)
        scores = self.enlarge(self.deep(deep)) + self.fine(fine)
        return functional.interpolate(scores, scale_factor=4, mode="bilinear")

    def loss(self, x: torch.Tensor, targets: dict[str, torch.Tensor]) -> torch.Tensor:
        """Of naming each pixel."""
        return functional.cross_entropy(self(x), targets["mask"], ignore_index=IGNORED)


class Heads(TaskNetwork):
    """The garment and its turn."""

    outputs = ("garment", "turn")

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.garment = nn.Linear(WIDTHS[-1], CLASSES)
        self.turn = nn.Linear(WIDTHS[-1], 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Maps pictures to ``(N, 10)`` and ``(N, 4)``."""
        features = self.backbone(x)[-1].mean((2, 3))
        return self.garment(features), self.turn(features)

    def loss(self, x: torch.Tensor, targets: dict[str, torch.Tensor]) -> torch.Tensor:
        """Of naming both."""
        garment, turn = self(x)
        both = functional.cross_entropy(garment, targets["garment"])
        return both + functional.cross_entropy(turn, targets["turn"])


class LineBlock(nn.Module):
    """Two convolutions over time and a shortcut."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(before, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm1d(width)
        self.conv2 = nn.Conv1d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm1d(width)
        self.shortcut = nn.Sequential(
            nn.Conv1d(before, width, 1, stride, bias=False), nn.BatchNorm1d(width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps ``(N, C, T)`` to ``(N, C', T / stride)``."""
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class Lines(TaskNetwork):
    """Names garments from their lines."""

    outputs = ("scores",)

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            LineBlock(SIDE, 64, 1), LineBlock(64, 64, 2), LineBlock(64, 96, 2)
        )
        self.name = nn.Linear(96, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps features over time ``(N, 28, 28)`` to ``(N, 10)``."""
        scores: torch.Tensor = self.name(self.blocks(x).mean(2))
        return scores

    def loss(self, x: torch.Tensor, targets: dict[str, torch.Tensor]) -> torch.Tensor:
        """Of naming the garment."""
        return functional.cross_entropy(self(x), targets["labels"])


NETWORKS: dict[str, type[TaskNetwork]] = {
    "embedding": Embedding,
    "segmentation": Segmentation,
    "heads": Heads,
    "lines": Lines,
}


def train(name: str) -> TaskNetwork:
    """A network that has learnt its task from the training split."""
    torch.manual_seed(0)
    if name == "lines":
        features, targets = lines_set("train", TRAINED)
        inputs = torch.from_numpy(features)
    else:
        pictures, targets = SETS[name]("train", 8_000 if name == "segmentation" else TRAINED)
        inputs = torch.from_numpy((pictures[:, None] / np.float32(255) - MEAN) / STD).float()
    right = {target: torch.from_numpy(values) for target, values in targets.items()}
    network = NETWORKS[name]()
    steps, batch = STEPS[name], BATCH[name]
    optimizer = torch.optim.SGD(network.parameters(), 0.1, 0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)
    for step in range(steps):
        rows = torch.randint(len(inputs), (batch,))
        loss = network.loss(inputs[rows], {k: v[rows] for k, v in right.items()})
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if step % 60 == 0 or step == steps - 1:
            print(f"{name} step {step}: loss {loss.item():.3f}", flush=True)
    return network.eval()


def export(name: str, network: TaskNetwork, folder: Path) -> None:
    """Writes the network as a user would."""
    side = CANVAS if name == "segmentation" else SIDE
    shape = (2, side, side) if name == "lines" else (2, 1, side, side)
    torch.onnx.export(
        network,
        (torch.zeros(shape),),
        folder / f"{name}.onnx",
        dynamo=True,
        opset_version=20,
        input_names=["features" if name == "lines" else "image"],
        output_names=list(NETWORKS[name].outputs),
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        external_data=False,
        verbose=False,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of all networks, or these")
    parser.add_argument("--out", type=Path, default=Path("tests/convert/trained"))
    told = parser.parse_args()
    told.out.mkdir(parents=True, exist_ok=True)
    for name in told.names or NETWORKS:
        start = time.perf_counter()
        export(name, train(name), told.out)
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
