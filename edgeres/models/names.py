"""Parameter names of other libraries' ResNets, mapped to the ones used here.

The names here are torchvision's, and timm's for the variants that torchvision lacks (deep stem,
average-pooled shortcut, squeeze-and-excitation), so those two need no translation. Translated are
Hugging Face's ResNets and the habits of widespread training code. Nothing here reads a tensor.

Deliberately not translated, because the same weights mean another network there: timm's
``legacy_seresnet*`` (strides on the first convolution, names ``layer0.``/``se_module``). Their keys
are reported as unknown. Weights cannot tell every network apart: see :mod:`.statements`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from edgeres.errors import ModelError

# Wrapper modules whose attribute name stands before every parameter.
PREFIXES = (
    "module.",
    "_orig_mod.",
    "model.",
    "_model.",
    "backbone.",
    "net.",
    "network.",
    "base_model.",
    "resnet.",
    "timm_model.",
)

# Buffers that profilers and averagers leave in a state dict.
_IGNORED = re.compile(r"(^|\.)(total_ops|total_params|n_averaged|initted|step)$")

# What a loss or a metric has of its own, beside the network. The mean and deviation of images are
# not among them: a network that normalizes is another one.
_BESIDE = re.compile(
    r"^((train|val|valid|test)_\w*|\w*criterion\w*|\w*loss\w*|\w*metrics?)(\.|$)|"
    r"^(pos_weight|class_weights?)$|^head\.loss_module\."
)

_HEAD = r"(?:fc|linear|last_linear|cls_head|head\.fc|head|classifier)"
_PARAMETER = r"(weight|bias|running_mean|running_var|num_batches_tracked)"

_RULES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        # Hugging Face (transformers.ResNetModel)
        (r"^embedder\.embedder\.convolution\.", "conv1."),
        (r"^embedder\.embedder\.normalization\.", "bn1."),
        (
            r"^encoder\.stages\.(\d+)\.layers\.(\d+)\.shortcut\.convolution\.",
            r"<\1>\2.downsample.0.",
        ),
        (
            r"^encoder\.stages\.(\d+)\.layers\.(\d+)\.shortcut\.normalization\.",
            r"<\1>\2.downsample.1.",
        ),
        (
            r"^encoder\.stages\.(\d+)\.layers\.(\d+)\.layer\.(\d+)\.convolution\.",
            r"<\1>\2.conv<\3>",
        ),
        (
            r"^encoder\.stages\.(\d+)\.layers\.(\d+)\.layer\.(\d+)\.normalization\.",
            r"<\1>\2.bn<\3>",
        ),
        # CIFAR training code
        (r"^(layer\d+\.\d+)\.shortcut\.(\d+)\.", r"\1.downsample.\2."),
        # OpenMMLab
        (r"^stem\.6\.", "conv1.6."),
        (r"^stem\.7\.", "bn1."),
        (r"^stem\.(\d)\.", r"conv1.\1."),
        (r"^(layer\d+\.\d+)\.se_layer\.conv(\d)\.conv\.", r"\1.se.fc\2."),
        # fastai: Sequential(body, head), the body numbered too
        (r"^0\.0\.", "conv1."),
        (r"^0\.1\.", "bn1."),
        (r"^0\.([4-7])\.", r"<body\1>"),
        (r"^1\.(?=\d)", "fc."),
        # classifiers, in one part or several; Hugging Face's is Sequential(Flatten, Linear)
        (r"^classifier\.1\.(weight|bias)$", r"fc.\1"),
        (rf"^{_HEAD}\.((?:\w+\.)*){_PARAMETER}$", r"fc.\1\2"),
    )
)


def canonical_name(name: str) -> str | None:
    """The name used here for a parameter of another library's ResNet.

    Args:
        name: A key of a state dict, e.g. ``module.resnet.encoder.stages.0.layers.1...``.

    Returns:
        The name; unchanged where no rule applies; ``None`` for leftovers of profilers.
    """
    if _IGNORED.search(name):
        return None
    stripped = _stripped(name)
    for pattern, replacement in _RULES:
        result, count = pattern.subn(replacement, stripped)
        if count:
            return _count_from_one(result)
    return stripped


def left_out(name: str) -> bool:
    """Whether a parameter is of something that was trained or saved beside the network."""
    return _BESIDE.search(_stripped(name)) is not None or _BESIDE.search(name) is not None


def canonical_names(names: Iterable[str], *, source: str) -> dict[str, str]:
    """Maps the keys of a state dict: canonical name to the key it came from.

    Raises:
        ModelError: Two keys would get the same name, e.g. of a student and a teacher.
    """
    mapped: dict[str, str] = {}
    for name in names:
        canonical = canonical_name(name)
        if canonical is None:
            continue
        if canonical in mapped:
            raise ModelError(
                f"{source} holds two networks: both '{mapped[canonical]}' and '{name}' "
                f"are '{canonical}'.",
                hint="Save the state dict of one of them only.",
            )
        mapped[canonical] = name
    return mapped


def _stripped(name: str) -> str:
    """The name without what wrapper modules put before it."""
    while True:
        prefix = next((p for p in PREFIXES if name.startswith(p)), None)
        if prefix is None:
            return name
        name = name[len(prefix) :]


def _count_from_one(name: str) -> str:
    """Turns ``<0>1.conv<2>weight`` (counted from 0) into ``layer1.1.conv3.weight``.

    ``<body4>`` of fastai, where the stem has four parts, is ``layer1.``.
    """
    name = re.sub(r"^<body(\d)>", lambda match: f"layer{int(match[1]) - 3}.", name)
    name = re.sub(r"^<(\d+)>", lambda match: f"layer{int(match[1]) + 1}.", name)
    return re.sub(r"(conv|bn)<(\d+)>", lambda match: f"{match[1]}{int(match[2]) + 1}.", name)
