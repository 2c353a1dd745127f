"""What a recipe's ``model:`` block names: which file, of which kind, and the hash of all in it.

A network comes as a checkpoint (of edgeres or of other training code, in one file, in shards or in
a model hub's folder), as an architecture name with weights, as a torch module (Python code, a Keras
file, an exported program), or as an ONNX file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from edgeres.data.label_file import read_labels
from edgeres.errors import ModelError, UsageError
from edgeres.models.beside import files_beside
from edgeres.models.plan import ARCHITECTURES
from edgeres.models.weights_place import SUFFIXES, weights_place, weights_sha256
from edgeres.modules.spec import KERAS_SUFFIXES, ModuleSpec, code_spec, file_spec, is_code
from edgeres.recipe.prune import PruneSettings
from edgeres.recipe.recipe import ModelBlock, Recipe, is_onnx
from edgeres.system.files import file_sha256
from edgeres.system.store import json_sha256

_FILES = (*SUFFIXES, *KERAS_SUFFIXES, ".pt2", ".onnx")


@dataclass(frozen=True)
class Source:
    """Where the network lies and which kind of file it is.

    Attributes:
        kind: Which kind of file.
        path: The file.
        sha256: Its hash, with that of the files that hold its weights.
        architecture: As the recipe names it.
        num_classes: Likewise.
        labels: Class names that the user says, in the order of the scores.
        outputs: The outputs of an ONNX file that are judged, where they are named.
        classes: Whether it is taken for a classifier.
        input_size: Height and width of an ONNX file or a module that leaves them open, where they
            are said.
        beside: SHA-256 of each other file that tells something of a checkpoint: the ones in its
            folder that describe it, and its sample answer.
        sample_answer: The sample answer's file, where there is one.
        given_scales: What becomes of the scales of an ONNX file that is quantized already.
        module: What a torch module is made from, where the kind is that.
    """

    kind: Literal["checkpoint", "onnx", "module"]
    path: Path
    sha256: str
    architecture: str | None
    num_classes: int | None
    outputs: tuple[str, ...] = ()
    classes: bool = True
    input_size: tuple[int, int] | None = None
    beside: Mapping[str, str] = field(default_factory=dict)
    sample_answer: Path | None = None
    module: ModuleSpec | None = None
    given_scales: Literal["remove", "keep"] | None = None
    labels: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The file's name without its ending: what a network without a known architecture is."""
        return self.path.stem

    def settings(self) -> dict[str, object]:
        """All that decides what is loaded, where the files lie and its own hash aside."""
        values = asdict(self)
        for name in ("path", "sha256", "beside", "sample_answer", "module"):
            del values[name]
        if not self.labels:
            del values["labels"]
        return values


def find_source(
    block: ModelBlock, *, outputs: tuple[str, ...] = (), classes: bool = True
) -> Source:
    """Says what a recipe's ``model:`` block names.

    Args:
        block: The block.
        outputs: Outputs that are kept; empty where nobody names any.
        classes: Whether a classifier is expected.

    Raises:
        ModelError: The file does not exist, or is of a kind that is not read.
        UsageError: Neither a file nor an architecture, an architecture without weights, or an
            option that is for another kind of file.
    """
    if block.labels is not None and not classes:
        raise UsageError(
            "labels are the names of a classifier's classes; another task is asked for.",
            hint="Leave --labels (`model: {labels: ...}`) out.",
        )
    source = _find(block, outputs=outputs, classes=classes)
    labels = () if block.labels is None else read_labels(Path(block.labels))
    return replace(source, labels=labels)


def _find(block: ModelBlock, *, outputs: tuple[str, ...], classes: bool) -> Source:
    if is_code(block.source):
        spec = code_spec(block.source, block.weights)
        return _module(spec, block, outputs, classes=classes)
    given, architecture = Path(block.source), None
    if block.source in ARCHITECTURES and not given.is_file():
        architecture = block.source
        if block.weights is None:
            raise UsageError(
                f"{block.source!r} is an architecture; its trained weights are missing.",
                hint="Give --weights FILE, or a .safetensors, .pt or .onnx file as the model.",
            )
        given = Path(block.weights)
    elif given.suffix.lower() not in _FILES and not given.exists():
        raise UsageError(
            f"{block.source!r} is neither a model file nor an architecture.",
            hint=f"Give a file ({', '.join(_FILES)}), the folder of one, FILE.py:FUNCTION, or one "
            f"of {', '.join(sorted(ARCHITECTURES))} with --weights FILE.",
        )
    elif block.weights is not None:
        raise UsageError(
            f"both {block.source} and {block.weights} are given as weights.",
            hint="--weights goes with an architecture name, --model resnet18 --weights FILE, or "
            "with code, --model mymodel.py:build --weights FILE.",
        )
    if not given.exists():
        raise ModelError(f"{given}: no such model file.", hint="Check the path.")
    path = weights_place(given)
    if is_onnx(str(path)):
        return _onnx(path, block, outputs, classes=classes)
    file = None if architecture is not None else file_spec(path)
    if file is not None:
        return _module(file, block, outputs, classes=classes)
    return _checkpoint(path, architecture, block)


def model_name(source: str, weights: str | Path | None) -> str:
    """What a run without a recipe is called: after the weights, else after the model's file."""
    if is_code(source):
        return Path(weights).stem if weights is not None else Path(source.rpartition(":")[0]).stem
    return Path(source).stem or "model"


def _onnx(path: Path, block: ModelBlock, outputs: tuple[str, ...], *, classes: bool) -> Source:
    _refuse_answer(block, "an ONNX file says itself what it computes")
    return Source(
        kind="onnx",
        path=path,
        sha256=_onnx_sha256(path),
        architecture=None,
        num_classes=block.num_classes,
        outputs=outputs,
        classes=classes,
        input_size=block.input_size,
        given_scales=block.given_scales,
    )


def _module(
    spec: ModuleSpec, block: ModelBlock, outputs: tuple[str, ...], *, classes: bool
) -> Source:
    _refuse_answer(block, "a module is run as it is")
    _refuse_scales(block)
    return Source(
        kind="module",
        path=spec.path,
        sha256=spec.sha256(),
        architecture=None,
        num_classes=block.num_classes,
        outputs=outputs,
        classes=classes,
        input_size=block.input_size,
        module=spec,
    )


def _checkpoint(path: Path, architecture: str | None, block: ModelBlock) -> Source:
    if block.outputs is not None or block.input_size is not None:
        raise UsageError(
            "outputs and an input size are chosen for an .onnx file or code, not for a checkpoint.",
            hint="Leave --output-name and --input-size (`model: {outputs: ..., input_size: ...}`) "
            "out; --resize and --crop say the size of a checkpoint's images.",
        )
    _refuse_scales(block)
    answer = None if block.sample_answer is None else Path(block.sample_answer)
    if answer is not None and not answer.is_file():
        raise ModelError(f"{answer}: no such sample answer.", hint="Check the path.")
    return Source(
        kind="checkpoint",
        path=path,
        sha256=weights_sha256(path),
        architecture=architecture,
        num_classes=block.num_classes,
        beside={
            **{file.name: file_sha256(file) for file in files_beside(path)},
            **({"sample_answer": file_sha256(answer)} if answer is not None else {}),
        },
        sample_answer=answer,
    )


def _refuse_answer(block: ModelBlock, why: str) -> None:
    if block.sample_answer is not None:
        raise UsageError(
            f"a sample answer is for a checkpoint; {why}.",
            hint="Leave --sample-answer (`model: {sample_answer: ...}`) out.",
        )


def _refuse_scales(block: ModelBlock) -> None:
    if block.given_scales is not None:
        raise UsageError(
            "scales are kept in or taken out of an .onnx file only.",
            hint="Leave --given-scales (`model: {given_scales: ...}`) out.",
        )


def _onnx_sha256(path: Path) -> str:
    """Hash of an ONNX file, and of the files that it names as its weights."""
    own = file_sha256(path)
    weights = [
        (name, file_sha256(path.parent / name))
        for name in sorted(_weight_files(path.read_bytes()))
        if _is_file(path.parent / name)
    ]
    return json_sha256([own, weights]) if weights else own


def _weight_files(content: bytes) -> set[str]:
    """Relative paths that an ONNX file gives as the location of its weights.

    Its entries are found without parsing it: a file from elsewhere is parsed only where that may
    fail. A path that leads out of the folder is left out here and refused when it is loaded.
    """
    files = set()
    for match in re.finditer(rb"\x0a\x08location\x12", content):
        start, length, shift = match.end(), 0, 0
        while start < len(content) and shift < 21:  # the length is a varint
            byte = content[start]
            length, shift, start = length | (byte & 127) << shift, shift + 7, start + 1
            if byte < 128:
                break
        name = content[start : start + length].decode(errors="replace")
        if name and not Path(name).is_absolute() and ".." not in Path(name).parts:
            files.add(name)
    return files


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def check_prunable_source(recipe: Recipe, source: Source) -> None:
    """Refuses pruning that a network cannot have, before any work.

    Raises:
        UsageError: The recipe prunes by latency what is no checkpoint, or a quantized file whose
            scales are kept.
    """
    if recipe.prune is None or source.kind == "checkpoint":
        return
    check_graph_pruning(recipe.prune)
    if source.given_scales == "keep":
        raise UsageError(
            "`model: {given_scales: keep}` keeps the weights of a quantized file; pruning changes "
            "them.",
            hint="Set `given_scales: remove`, or leave `prune:` out.",
        )


def check_graph_pruning(settings: PruneSettings) -> None:
    """Refuses what a network without a channel plan cannot have.

    Raises:
        UsageError: Widths by latency.
    """
    if settings.allocation == "latency":
        raise UsageError(
            "an ONNX file or code is not pruned by latency: its layers are not those that the "
            "latency table knows.",
            hint="Set `prune: {allocation: global}` with `macs_ratio`, or give a checkpoint.",
        )


def prunes_graph(source: Source) -> bool:
    """Whether the network is pruned in its graph: neither a checkpoint nor code that is trained."""
    is_code = source.module is not None and source.module.kind == "factory"
    return source.kind != "checkpoint" and not is_code
