"""The words in which libraries tell what a residual network's weights do not show.

Each known key turns its value into a change of the :class:`~edgeres.models.variant.Variant`, or
refuses what cannot be built. Keys whose effect shows in names and shapes, or that act in training
alone, change nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from edgeres.models.variant import Variant

Change = dict[str, Any]


class OtherNetworkError(Exception):
    """A value names a network that is not built here; the text says what it is."""


def read_choice(key: str, value: object, *, strict: bool) -> Change:
    """What one key and its value say: fields of the variant, perhaps none.

    Raises:
        OtherNetworkError: The value stands for another network than can be built, or with
            ``strict`` the key is not known.
    """
    name = key.lower()
    if name in _SHOWN or name.startswith(_TRAINING):
        return {}
    reader = _READERS.get(name)
    if reader is not None:
        return reader(value)
    if strict:
        raise OtherNetworkError(f"{key} {value!r}")
    return {}


def _is_nothing(value: object) -> bool:
    return value is None or value is False or value in ("", "none", "None", "identity", [], {})


def _word(value: object) -> str:
    """A class or a layer as one lower-case word: ``torch.nn.modules.ReLU`` is ``relu``."""
    return str(value).strip("<>' ").rpartition(".")[2].lower().replace("_", "").replace("-", "")


def _one_of(words: frozenset[str], what: str) -> Callable[[object], Change]:
    def read(value: object) -> Change:
        if _is_nothing(value) or _word(value) in words:
            return {}
        raise OtherNetworkError(f"{what} {value!r}")

    return read


def _output_stride(value: object) -> Change:
    if value is None:
        return {}
    if value not in (4, 8, 16, 32) or isinstance(value, bool):
        raise OtherNetworkError(f"output stride {value!r}")
    return {"output_stride": value}


def _dilated_stages(value: object) -> Change:
    """The ``replace_stride_with_dilation`` of torchvision, a flag for each stage but one."""
    if _is_nothing(value):
        return {}
    flags = tuple(map(bool, value)) if isinstance(value, list | tuple) else ()
    strides = {
        (False, False, False): 32,
        (False, False, True): 16,
        (False, True, True): 8,
        (True, True, True): 4,
    }
    if flags not in strides:
        raise OtherNetworkError(f"dilation in the stages {value!r}")
    return {"output_stride": strides[flags]}


def _antialias(value: object) -> Change:
    if _is_nothing(value):
        return {}
    if _word(value) in ("avg", "avgpool", "avgpool2d", "average"):
        return {"antialias": "average"}
    raise OtherNetworkError(f"anti-aliasing by {value!r}")


def _epsilon(value: object) -> Change:
    if value is None:
        return {}
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise OtherNetworkError(f"batch normalization with epsilon {value!r}")
    return {"norm_epsilon": float(value)}


def _norm_arguments(value: object) -> Change:
    return _epsilon(value.get("eps")) if isinstance(value, Mapping) else {}


def _norm_layer(value: object) -> Change:
    words = ("batchnorm", "batchnorm2d", "bn", "bn2d", "frozenbatchnorm2d", "syncbatchnorm")
    if isinstance(value, Mapping):  # OpenMMLab: {type: BN, eps: ...}
        kind = value.get("type", "BN")
        return _norm_layer({"SyncBN": "syncbatchnorm"}.get(str(kind), kind)) | _norm_arguments(
            value
        )
    if _is_nothing(value) or _word(value) in words:
        return {}
    raise OtherNetworkError(f"normalization by {value!r}")


def _attention(value: object) -> Change:
    # Squeeze-and-excitation shows in the weights; kinds without weights do not.
    if _is_nothing(value) or _word(value) in ("se", "eca", "cbam", "ge", "sk"):
        return {}
    raise OtherNetworkError(f"attention {value!r}")


def _block_arguments(value: object) -> Change:
    if not isinstance(value, Mapping):
        return {}
    unknown = sorted(set(value) - {"attn_layer"})
    if unknown:
        raise OtherNetworkError(f"blocks with {unknown[0]} {value[unknown[0]]!r}")
    return _attention(value.get("attn_layer"))


def _refused_if_set(what: str) -> Callable[[object], Change]:
    def read(value: object) -> Change:
        if _is_nothing(value) or value == 0:
            return {}
        raise OtherNetworkError(what)

    return read


def _early_stride(value: object) -> Change:
    return {"stride_on": "1x1"} if value is True else {}


def _style(value: object) -> Change:
    return {"stride_on": "1x1"} if value == "caffe" else {}


def _first_stage(value: object) -> Change:
    return {"first_stage_stride": 2} if value is True else {}


def _stem_stride(value: object) -> Change:
    if value in (1, 2) and not isinstance(value, bool):
        return {"stem_stride": value}
    raise OtherNetworkError(f"a stem of stride {value!r}")


def _has_stem_pool(value: object) -> Change:
    return {"stem_pool": "none"} if _is_nothing(value) else {}


def _has_no_stem_pool(value: object) -> Change:
    return {} if _is_nothing(value) else {"stem_pool": "none"}


_ACTIVATION = _one_of(frozenset({"relu", "relu0", "relu()"}), "the activation")
_POOL = _one_of(
    frozenset({"avg", "average", "mean", "fast", "fastavg", "adaptiveavgpool2d"}), "pooling by"
)
_SHORTCUT = _one_of(frozenset({"b", "conv", "projection"}), "shortcuts of type")

_READERS: Mapping[str, Callable[[object], Change]] = {
    "output_stride": _output_stride,
    "replace_stride_with_dilation": _dilated_stages,
    "aa_layer": _antialias,
    "antialias": _antialias,
    "anti_alias": _antialias,
    "blur": _refused_if_set("blur pooling"),
    "blur_pool": _refused_if_set("blur pooling"),
    "act_layer": _ACTIVATION,
    "activation": _ACTIVATION,
    "hidden_act": _ACTIVATION,
    "activation_layer": _ACTIVATION,
    "norm_layer": _norm_layer,
    "norm_cfg": _norm_layer,
    "norm_kwargs": _norm_arguments,
    "bn_eps": _epsilon,
    "norm_eps": _epsilon,
    "batch_norm_eps": _epsilon,
    "bn_epsilon": _epsilon,
    "attn_layer": _attention,
    "block_args": _block_arguments,
    "global_pool": _POOL,
    "gp": _POOL,
    "pool_type": _POOL,
    "shortcut_type": _SHORTCUT,
    "replace_stem_pool": _refused_if_set("a convolution in place of the stem's pooling"),
    "stem_stride": _stem_stride,
    "conv1_stride": _stem_stride,
    "stem_pool": _has_stem_pool,
    "maxpool": _has_stem_pool,
    "no_maxpool": _has_no_stem_pool,
    "remove_maxpool": _has_no_stem_pool,
    "no_max_pool": _has_no_stem_pool,
    "downsample_in_bottleneck": _early_stride,
    "downsample_in_first_stage": _first_stage,
    "style": _style,
    "preact": _refused_if_set("activation before the convolutions"),
    "pre_act": _refused_if_set("activation before the convolutions"),
    "preactivation": _refused_if_set("activation before the convolutions"),
}

_SHOWN = frozenset(
    {
        *("layers", "channels", "block", "depths", "hidden_sizes", "embedding_size", "layer_type"),
        *("num_classes", "in_chans", "num_channels", "in_channels", "cardinality", "base_width"),
        *("groups", "width_per_group", "block_reduce_first", "stem_width", "stem_type", "avg_down"),
        *("down_kernel_size", "num_features", "head_hidden_size"),
    }
)
"""Their effect shows in names and shapes, where a contradiction is found."""

_TRAINING = (
    *("drop_", "zero_init", "pretrained", "checkpoint_path", "img_size", "scriptable", "cache_dir"),
    *("exportable", "no_jit", "progress", "weights", "features_only", "out_indices", "device"),
    *("dtype", "init_"),
)
"""Beginnings of keys that change nothing once trained weights are loaded."""

LOOSE = frozenset(_READERS) - {
    *("activation", "style", "blur", "maxpool", "stem_pool", "pool_type", "norm_cfg", "antialias"),
    *("norm_layer", "shortcut_type"),
}
"""Keys that say the same wherever they stand; the others may be of a head, a loss or a loader."""


def merged(variant: Variant, change: Change) -> Variant:
    """The variant with a change put over it.

    Raises:
        OtherNetworkError: It says something else than was said before.
    """
    before = variant.to_dict()
    for name, value in change.items():
        if before.get(name, value) != value:
            raise OtherNetworkError(f"{name.replace('_', ' ')} {value!r} and {before[name]!r}")
    return Variant(**{**before, **change})
