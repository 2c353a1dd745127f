"""Which network a checkpoint says it is, from what lies in it and beside it.

Names and shapes of weights are the same for a ResNet and its relatives (anti-aliased, dilated,
Caffe-style, other activations), so whatever is said of the network is read: what can be built is
built, what contradicts the weights or cannot be built is refused, and where nothing is said that is
told, because then the plain network is a guess.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgeres.errors import ModelError
from edgeres.models.beside import CONFIG, Said, plain
from edgeres.models.choices import LOOSE, OtherNetworkError, merged, read_choice
from edgeres.models.plan import ARCHITECTURES
from edgeres.models.variant import Variant

_NAME_KEYS = ("architecture", "arch", "model_name", "model_arch", "model", "backbone", "net")
_NESTED = ("hyper_parameters", "hparams", "args", "config", "cfg", "model_config", "train_args")
_STRICT = ("model_args", "model_kwargs")
_EXPORT = (
    "Export that network to ONNX with the library that it comes from, or give the code that makes "
    "it: --model mymodel.py:build --weights FILE."
)
_MAX_DEPTH = 4
_SAFE = re.compile(r"[^\x20-\x7e]")


@dataclass(frozen=True)
class Claim:
    """What is said of a network.

    Attributes:
        architecture: A name from :data:`ARCHITECTURES`; ``None`` where none is said.
        variant: Choices that the weights do not show.
        where: Where the network is named, for messages; empty where it is not.
        facts: Counts and lengths that the weights must have: ``num_classes``, ``in_channels``,
            ``depths``, ``block``, each with where it is said.
    """

    architecture: str | None
    variant: Variant
    where: str
    facts: Mapping[str, tuple[Any, str]]

    @property
    def settled(self) -> bool:
        """Whether somebody says which network it is."""
        return bool(self.where)


def read_claim(
    beside: Mapping[str, Said], inside: Sequence[Said], *, named: str | None = None
) -> Claim:
    """Reads what the files beside the weights and the checkpoint itself say of the network.

    Args:
        beside: Files beside the weights, by name.
        inside: What the checkpoint holds beside its tensors.
        named: Architecture that the user named. A name that is not known then is no error.

    Raises:
        ModelError: A network that cannot be built is named or described, or two that differ.
    """
    names: list[tuple[str, str]] = []
    variant = Variant()
    facts: dict[str, tuple[Any, str]] = {}
    where = ""
    config = beside.get(CONFIG)
    parts = [*([] if config is None else _of_config(config)), *_of_dicts(inside)]
    for part in parts:
        for key, value in part.choices.items():
            variant = _choose(variant, part, key, value)
        facts |= {key: (value, part.where) for key, value in part.facts.items()}
        if part.name is not None:
            names.append((part.name, part.where))
        if part.describes:
            where = where or part.where
    architecture: str | None = None
    for name, place in names:
        meaning = _known(name, place)
        if meaning is None:
            _refuse_unknown(
                name, place, strict=config is not None and place == config.where, named=named
            )
            continue
        if architecture is not None and meaning[0] != architecture:
            raise ModelError(
                f"{place} says {_shown(name)}, and elsewhere it is a '{architecture}'.",
                hint="Correct the one that is wrong.",
            )
        architecture, where = meaning[0], where or place
        try:
            variant = merged(variant, meaning[1])
        except OtherNetworkError as error:
            raise ModelError(f"{place} contradicts itself: {error}.", hint=_EXPORT) from error
    return Claim(architecture, variant, where, facts)


@dataclass(frozen=True)
class _Part:
    """One mapping that says something: its name, its choices, its counts."""

    where: str
    name: str | None
    choices: Mapping[str, object]
    facts: Mapping[str, object]
    strict: bool = True
    describes: bool = False


def _of_config(said: Said) -> Iterator[_Part]:
    values = said.values
    kinds = values.get("architectures")
    kind = values.get("model_type")
    if kind == "resnet" or (isinstance(kinds, list) and any("ResNetFor" in str(k) for k in kinds)):
        facts = {
            "depths": values.get("depths"),
            "block": values.get("layer_type"),
            "in_channels": values.get("num_channels"),
            "num_classes": len(labels)
            if isinstance(labels := values.get("id2label"), dict)
            else None,
        }
        yield _Part(said.where, None, _loose(values), _present(facts), describes=True)
        return
    name = values.get("architecture")
    if isinstance(name, str):
        arguments = values.get("model_args")
        facts = {"num_classes": values.get("num_classes")}
        yield _Part(said.where, name, _loose(values), _present(facts))
        if isinstance(arguments, Mapping):
            yield _Part(said.where, None, arguments, _counts(arguments))
    elif isinstance(kind, str):
        yield _Part(said.where, kind, {}, {})


def _of_dicts(inside: Sequence[Said], depth: int = 0) -> Iterator[_Part]:
    for said in inside:
        values = said.values
        name = next((n for key in _NAME_KEYS if isinstance(n := values.get(key), str)), None)
        loose = _loose(values)
        if name is not None or loose:
            yield _Part(said.where, name, loose, {}, strict=False)
        for key in _STRICT:
            arguments = plain(values.get(key))
            if isinstance(arguments, Mapping):
                yield _Part(f"{key} of {said.where}", None, arguments, _counts(arguments))
        nested = [
            Said(f"{key} of {said.where}", inner)
            for key in _NESTED
            if isinstance(inner := plain(values.get(key)), Mapping)
        ]
        if nested and depth < _MAX_DEPTH:
            yield from _of_dicts(nested, depth + 1)


def _loose(values: Mapping[str, object]) -> dict[str, object]:
    """Choices that stand beside a network's name instead of among its arguments."""
    return {key: value for key, value in values.items() if key.lower() in LOOSE}


def _counts(values: Mapping[str, object]) -> dict[str, object]:
    facts = {
        "num_classes": values.get("num_classes"),
        "in_channels": values.get("in_chans"),
        "depths": values.get("layers"),
    }
    return _present(facts)


def _present(facts: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in facts.items() if value is not None}


def _choose(variant: Variant, part: _Part, key: str, value: object) -> Variant:
    try:
        change = read_choice(str(key), value, strict=part.strict)
        return merged(variant, change)
    except OtherNetworkError as error:
        raise ModelError(
            f"{part.where} tells of {_shown(str(error))[1:-1]}, which edgeres does not build and "
            "weights do not show.",
            hint=_EXPORT,
        ) from error


def _known(name: str, where: str) -> tuple[str, dict[str, Any]] | None:
    """The architecture that a library's name stands for, and what it changes.

    Raises:
        ModelError: It is a relative with equal weights that is not built.
    """
    word = _word(name)
    for each in ARCHITECTURES:
        if word == _word(each):
            return each, {}
    if "blur" in word or word.startswith("eca") or "preact" in word:
        raise ModelError(
            f"{where} says {_shown(name)}: its weights look like a plain network's, but edgeres "
            "does not build it.",
            hint=_EXPORT,
        )
    if match := re.fullmatch(r"(se)?(resnet|resnext)aa(\d+\w*)", word):
        base = f"{match[1] or ''}{match[2]}{match[3]}"
        for each in ARCHITECTURES:
            if base == _word(each):
                return each, {"antialias": "average"}
    return None


def _word(name: str) -> str:
    """A name without the tag of its weights and the place it is kept at."""
    word = name.rpartition("/")[2].partition(".")[0].lower()
    return re.sub(r"^(tv|ssl|swsl|ig)_", "", word).replace("-", "").replace("_", "")


def _refuse_unknown(name: str, where: str, *, strict: bool, named: str | None) -> None:
    """Another residual network by its name is not loaded as the one that its weights resemble."""
    if named is not None or not (strict or "resne" in name.lower()):
        return
    raise ModelError(
        f"{where} says {_shown(name)}, which edgeres does not know; weights of equal names and "
        "shapes can belong to other networks.",
        hint="Where it is one of edgeres' own, name it: --model NAME --weights FILE. Otherwise "
        "export it to ONNX, or keep the weights apart from files of other networks.",
    )


def _shown(text: str) -> str:
    """Foreign text, short and without anything that could steer a terminal."""
    return repr(_SAFE.sub("?", text)[:80])
