"""The networks of the zoo benchmark: named architectures and how their ONNX files come about.

Weights are random, batch normalization is live: its statistics are those of the images, its factors
differ from channel to channel. No branch is switched off as at the start of a training, but what
ends one stays small: blocks of random weights that count in full amplify any noise.
Files are written by torch's exporter, as other people write them.

`tv:NAME` is torchvision's, `own:NAME` is written here, other names are timm's; `NAME@KEY=VALUE`
hands an argument on, `NAME@side=96` gives the side of the images (64 pixels without it).
`garments:NAME` is that architecture after minutes of training (`garments.py`): what random
weights say of a network that amplifies noise is luck.
"""

from __future__ import annotations

import ast
import importlib
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from subjects import _CALIBRATION_PHOTOS, _TEST_PHOTOS, SUBJECTS, Subject, _crops

#: Family to architectures. The last family is of trained files, which `subjects.py` makes.
FAMILIES: dict[str, tuple[str, ...]] = {
    "ResNet": (
        "tv:resnet18",
        "tv:resnet34",
        "tv:resnet50",
        "resnet10t",
        "resnet14t",
        "resnet26",
        "resnet26t",
    ),
    "ResNet C, D, S": ("resnet18d", "resnet34d", "resnet26d", "resnet50c", "resnet50s"),
    "ResNeXt, wide": (
        "tv:resnext50_32x4d",
        "resnext26ts",
        "resnext50d_32x4d",
    ),
    "anti-aliased": ("resnetaa34d", "resnetaa50", "resnetblur18", "resnetblur50"),
    "dilated": ("resnet18@output_stride=8", "resnet26d@output_stride=16"),
    "SE": (
        "seresnet18",
        "legacy_seresnet18",
        "legacy_seresnext26_32x4d",
        "seresnext26d_32x4d",
        "seresnext26ts",
        "seresnet33ts",
    ),
    "ECA": ("ecaresnet26t", "ecaresnext26t_32x4d", "eca_resnext26ts"),
    "global context": ("gcresnext26ts", "gcresnet33ts"),
    "SK": ("skresnet18", "skresnet34"),
    "ResNeSt": ("resnest14d", "resnest26d", "resnest50d_1s4x24d"),
    "Res2Net": ("res2net50_48w_2s", "res2net50_14w_8s", "res2next50"),
    "RS, SiLU": ("resnetrs50", "resnet32ts", "resnet51q"),
    "pre-activation": ("resnetv2_18", "resnetv2_18d", "resnetv2_34", "resnetv2_50"),
    "GroupNorm, BiT, EvoNorm": (
        "resnet50_gn",
        "resnetv2_50d_gn",
        "resnetv2_50x1_bit",
        "resnetv2_50d_evos",
        "resnetv2_50d_frn",
    ),
    "without norms": ("nf_resnet26", "nf_seresnet26", "repvgg_a0"),
    "attention": (
        "botnet26t_256@side=128@img_size=128",
        "sebotnet33ts_256@side=128@img_size=128",
        "lambda_resnet26t@side=128@img_size=128",
        "coatnet_nano_rw_224@side=64@img_size=64",
    ),
    "RegNet": ("tv:regnet_x_400mf", "tv:regnet_y_400mf", "regnetx_002", "regnetz_005"),
    "CSP, VoVNet, DLA, HRNet": (
        "cspresnet50",
        "cspresnext50",
        "ese_vovnet19b_dw",
        "dla34",
        "dla46_c",
        "hrnet_w18_small",
        "darknet21",
        "selecsls42",
    ),
    "TResNet, GENet": ("tresnet_m", "gernet_s"),
    "face": ("own:iresnet18",),
    "inverted residuals": (
        "tv:mobilenet_v2",
        "tv:mobilenet_v3_small",
        "tv:efficientnet_b0",
        "efficientnet_lite0",
        "mnasnet_100",
        "mobilenetv4_conv_small",
        "convnext_atto",
    ),
    "trained for minutes": (
        "garments:ese_vovnet19b_dw",
        "garments:tv:mobilenet_v3_small",
        "garments:repvgg_a0",
    ),
    "trained": SUBJECTS,
}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIDE, CALIBRATION, TEST, CLASSES = 64, 24, 24, 100
#: What trained networks say is worth more images.
MORE_CALIBRATION, MORE_TEST = 128, 256
TRAINED = (*FAMILIES["trained for minutes"], *FAMILIES["trained"])
GARMENTS = "garments:"
_GARMENT_PARTS = ((SIDE, 64, 1200, 0.05),)


def names() -> tuple[str, ...]:
    """All architectures, family by family."""
    return tuple(name for family in FAMILIES.values() for name in family)


def make_subject(name: str, folder: Path, *, seed: int = 0, test: int = TEST) -> Subject:
    """Exports one architecture into a folder, with its images, and describes it.

    Args:
        name: Of the architecture.
        folder: Where it goes.
        seed: Of the weights and of the crops.
        test: Number of test images.

    Raises:
        ImportError: The package that has it is not here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    side, arguments = _arguments(name)
    images = {}
    for which, photos, count in (
        ("calibration", _CALIBRATION_PHOTOS, CALIBRATION),
        ("test", _TEST_PHOTOS, test),
    ):
        images[which] = _crops(photos, count, side, seed)
        np.save(folder / f"{which}.npy", images[which])
    subject = Subject("zoo", str(folder), 1 / 255, MEAN, STD)
    _export(_module(name, arguments, seed), subject, side, seed)
    subject.save()
    return subject


def open_garments(name: str, work: Path) -> Subject:
    """Trains an architecture for some minutes, or finds it in the work folder."""
    import torch
    from garments import pictures, train

    folder = work / name.replace(":", "-")
    told = folder / "subject.json"
    if told.exists():
        return Subject(**json.loads(told.read_text()))
    folder.mkdir(parents=True, exist_ok=True)
    side, arguments = _arguments(name)
    for which, split, count in (
        ("calibration", "train", MORE_CALIBRATION),
        ("test", "t10k", MORE_TEST),
    ):
        images, labels = pictures(split, count, seed=99, side=side)
        np.save(folder / f"{which}.npy", images)
    np.save(folder / "labels.npy", labels)
    module = _module(name.removeprefix(GARMENTS), arguments, 0, classes=10)
    train(module, _GARMENT_PARTS)
    torch.save(module.state_dict(), folder / "weights.pt")
    subject = Subject(name, str(folder), 1 / 255, MEAN, STD)
    _write(module, subject, side)
    subject.save()
    return subject


def open_normalized(subject: Subject, folder: Path) -> Subject:
    """The same images beside another file: a folder for the network that edgeres imports."""
    folder.mkdir(parents=True, exist_ok=True)
    for which in ("calibration.npy", "test.npy"):
        link = folder / which
        if not link.exists():
            link.symlink_to((Path(subject.folder) / which).resolve())
    told = json.loads((Path(subject.folder) / "subject.json").read_text())
    normalized = Subject(**told | {"folder": str(folder)})
    normalized.save()
    return normalized


def _arguments(name: str) -> tuple[int, dict[str, Any]]:
    arguments = {}
    for part in name.split("@")[1:]:
        key, value = part.split("=")
        arguments[key] = ast.literal_eval(value)
    return arguments.pop("side", SIDE), arguments


def _module(name: str, arguments: dict[str, Any], seed: int, *, classes: int = CLASSES) -> Any:
    """A torch module in eval mode whose weights are random."""
    import torch

    torch.manual_seed(seed)
    kind, _, plain = name.partition("@")[0].rpartition(":")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "own":
            from zoo_iresnet import IResNet18

            return IResNet18().eval()
        declare_operators()
        if kind == "tv":
            torchvision: Any = importlib.import_module("torchvision")
            if plain.startswith("res"):
                arguments = {"zero_init_residual": True, **arguments}
            return torchvision.models.get_model(plain, num_classes=classes, **arguments).eval()
        timm: Any = importlib.import_module("timm")
        return timm.create_model(plain, num_classes=classes, **arguments).eval()


def declare_operators() -> None:
    """A CPU torch may lack two C++ operators that torchvision asks for when it is imported."""
    torch: Any = importlib.import_module("torch")
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, operator):
            library.define(f"{operator}(Tensor a, Tensor b, float c) -> Tensor")
    _KEPT.append(library)


_KEPT: list[Any] = []  # what was declared goes away with its library


def _export(module: Any, subject: Subject, side: int, seed: int) -> None:
    import torch

    _enliven(module, seed + 1)
    batches = [torch.from_numpy(batch) for batch in subject.batches("calibration", 32)]
    norms = [m for m in module.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over all batches
        norm.train()
    with torch.no_grad():
        for batch in batches:
            module(batch)
    module.eval()
    _write(module, subject, side)


def _write(module: Any, subject: Subject, side: int) -> None:
    """Exports a module in eval mode."""
    import torch

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (torch.zeros(2, 3, side, side),),
            str(subject.fp32),
            dynamo=False,
            opset_version=17,
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": {0: "N"}, "logits": {0: "N"}},
        )


def _enliven(module: Any, seed: int) -> None:
    """Gives factors of norms and of branches values as after a training, none of them zero."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.rand(parameter.shape, generator=generator)
            is_zero = parameter.abs().max() == 0
            if name.endswith("bias"):
                parameter.add_(noise * 0.4 - 0.2)
            elif is_zero:
                parameter.copy_(0.15 + 0.2 * noise if parameter.ndim < 2 else noise * 0.1 - 0.05)
            elif parameter.ndim == 1 and parameter.numel() > 1:
                parameter.mul_(0.6 + 0.8 * noise)
