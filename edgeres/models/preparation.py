"""Preprocessing and class names beside weights, in the words of timm and of Hugging Face.

timm's evaluation transform resizes the shorter side to ``floor(size / crop_pct)`` and cuts ``size``
from the centre. Hugging Face's ConvNeXT processor, which its ResNets use, does the same up to 384
pixels and squeezes the whole image from there on; other processors name both sizes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from edgeres.data.preprocess import Preprocess
from edgeres.errors import ModelError, UsageError
from edgeres.models.beside import CONFIG, PROCESSOR, Said, plain

_PIL_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
_CONVNEXT_CROP, _SQUEEZED_FROM = 224 / 256, 384
_NAME_KEYS = ("label_names", "class_names", "classes", "categories")


def told_preprocess(beside: Mapping[str, Said], inside: tuple[Said, ...]) -> Preprocess | None:
    """The preprocessing that is said, ``None`` where none is said or it has no equal here.

    Raises:
        ModelError: Values that make no sense, with the file that has them.
    """
    candidates = []
    config = beside.get(CONFIG)
    if config is not None:
        candidates.append((config, "pretrained_cfg", _of_timm))
    if PROCESSOR in beside:
        candidates.insert(0, (beside[PROCESSOR], "", _of_processor))
    candidates += [
        (said, key, _of_timm) for said in inside for key in ("pretrained_cfg", "default_cfg")
    ]
    for said, key, read in candidates:
        values = plain(said.values.get(key)) if key else said.values
        if not isinstance(values, Mapping):
            continue
        try:
            settings = read(values)
            if settings is not None:
                return Preprocess.from_dict(settings)
        except (UsageError, TypeError, ValueError, OverflowError, KeyError) as error:
            reason = error.message if isinstance(error, UsageError) else str(error)
            raise ModelError(
                f"The preprocessing in {said.where} makes no sense: {reason}",
                hint="Correct the file, or move the weights to a folder without it.",
            ) from error
    return None


def told_names(
    beside: Mapping[str, Said], inside: tuple[Said, ...], num_classes: int
) -> tuple[str, ...]:
    """Class names in the order of the logits; empty where none are said.

    Raises:
        ModelError: Another number of names than classes, in a file beside the weights.
    """
    config = beside.get(CONFIG)
    for said in (*([] if config is None else [config]), *inside):
        names = _names(said.values)
        if not names:
            continue
        if len(names) == num_classes:
            return names
        if said is config:
            raise ModelError(
                f"{said.where} names {len(names)} classes, the weights have {num_classes}.",
                hint="The file belongs to other weights; bring the two that belong together.",
            )
    return ()


def _names(values: Mapping[str, Any]) -> tuple[str, ...]:
    ids = values.get("id2label")
    if isinstance(ids, Mapping):
        ordered = [ids.get(str(place)) for place in range(len(ids))]
        made_up = [f"LABEL_{place}" for place in range(len(ids))]
        return () if None in ordered or ordered == made_up else tuple(map(str, ordered))
    index = values.get("class_to_idx")
    if isinstance(index, Mapping) and sorted(index.values(), key=str) == sorted(
        range(len(index)), key=str
    ):
        return tuple(str(name) for name, _ in sorted(index.items(), key=lambda item: item[1]))
    for key in _NAME_KEYS:
        names = values.get(key)
        if isinstance(names, list | tuple) and names and all(isinstance(n, str) for n in names):
            return tuple(names)
    return ()


def _of_timm(values: Mapping[str, Any]) -> dict[str, Any] | None:
    """From timm's ``pretrained_cfg``."""
    if not {"mean", "std", "input_size"} <= set(values):
        return None
    channels, height, width = values["input_size"]
    mode = values.get("crop_mode") or "center"
    share = float(values.get("crop_pct") or 0.875)
    if mode == "squash":
        resize: Any = [math.floor(height / share), math.floor(width / share)]
    elif mode == "center" and height == width:
        resize = math.floor(height / share)
    else:
        return None  # padded or oblong: no resize here gives the same pixels
    return {
        "mean": list(values["mean"]),
        "std": list(values["std"]),
        "resize": resize,
        "crop": height if height == width else [height, width],
        "channels": channels,
        "interpolation": values.get("interpolation") or "bilinear",
    }


def _of_processor(values: Mapping[str, Any]) -> dict[str, Any] | None:
    """From Hugging Face's ``preprocessor_config.json``."""
    kind = str(values.get("image_processor_type") or values.get("feature_extractor_type") or "")
    if not kind:
        return None
    normalize = values.get("do_normalize", True)
    settings: dict[str, Any] = {
        "scale": values.get("rescale_factor", 1 / 255) if values.get("do_rescale", True) else 1.0,
        "mean": list(values["image_mean"]) if normalize else [0.0],
        "std": list(values["image_std"]) if normalize else [1.0],
        "interpolation": _PIL_FILTERS.get(values.get("resample", 2), "another filter"),
    }
    if not values.get("do_resize", True):
        return settings
    size, crop = values.get("size", 224), values.get("crop_size")
    edge = size.get("shortest_edge") if isinstance(size, Mapping) else size
    if "crop_pct" in values or kind.startswith("ConvNext"):
        if not isinstance(edge, int):
            return None
        share = values.get("crop_pct") or _CONVNEXT_CROP
        if edge >= _SQUEEZED_FROM:
            return {**settings, "resize": [edge, edge]}
        return {**settings, "resize": int(edge / share), "crop": edge}
    if isinstance(size, Mapping) and edge is None:
        edge = [size["height"], size["width"]]
    elif isinstance(size, int) and not values.get("do_center_crop", False):
        edge = [size, size]
    settings["resize"] = edge
    if values.get("do_center_crop", False):
        settings["crop"] = _pair(crop if crop is not None else 224)
    return settings


def _pair(size: Any) -> Any:
    return [size["height"], size["width"]] if isinstance(size, Mapping) else size
