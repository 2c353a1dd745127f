"""Where the weights of a checkpoint lie: one file, a folder of a model hub, or several shards.

A folder is that of Hugging Face or timm: weights with a ``config.json`` beside them. Shards are
named by an index (``model.safetensors.index.json``), tensor by tensor. No torch is imported.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from edgeres.errors import ModelError, one_line
from edgeres.system.files import file_sha256
from edgeres.system.foreign_json import read_json
from edgeres.system.store import json_sha256

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar", ".pkl")
INDEX = ".index.json"
_USUAL = (
    "model.safetensors",
    f"model.safetensors{INDEX}",
    "pytorch_model.bin",
    f"pytorch_model.bin{INDEX}",
)
_MAX_INDEX_BYTES = 64 << 20
_LISTED = 5


def weights_place(path: Path) -> Path:
    """The file of weights, or the index of its shards, that a path stands for.

    Raises:
        ModelError: A folder without weights, with several, or of another library.
    """
    if not path.is_dir():
        return path
    if (path / "saved_model.pb").is_file():
        raise ModelError(
            f"{path} is a TensorFlow SavedModel, which only TensorFlow can read.",
            hint="Save it as net.keras with Keras 3, which is read here, or convert it with "
            f"`python -m tf2onnx.convert --saved-model {path.name} --output net.onnx`.",
        )
    for name in _USUAL:
        if (path / name).is_file():
            return path / name
    found = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
    indices = sorted(path.glob(f"*{INDEX}"))
    if len(found) == 1 and not indices:
        return found[0]
    if len(indices) == 1:
        return indices[0]
    listed = ", ".join(file.name for file in found[:_LISTED]) or "none"
    raise ModelError(
        f"Expected one file of weights in the folder {path}, got {listed}.",
        hint=f"Name the file itself ({', '.join(SUFFIXES)}).",
    )


def shards_of(index: Path) -> dict[str, Path]:
    """Which file holds each tensor, as an index says.

    Raises:
        ModelError: It is no index, names a file outside its folder, or one that is not there.
    """
    hint = "Download the whole folder again."
    try:
        if index.stat().st_size > _MAX_INDEX_BYTES:
            raise ModelError(f"The index {index} is larger than {_MAX_INDEX_BYTES} bytes.")
        content = read_json(index)
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"The index {index} cannot be read: {one_line(error)}.", hint=hint
        ) from error
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not places:
        raise ModelError(f"{index} is no index of weights: it has no `weight_map`.", hint=hint)
    for name in sorted(set(map(str, places.values()))):
        inside = PurePosixPath(name)
        if inside.is_absolute() or ".." in inside.parts or "\\" in name:
            raise ModelError(f"{index} names {name!r}, which is outside its folder.", hint=hint)
        if not (index.parent / name).is_file():
            raise ModelError(f"{index} names {name!r}, which is not there.", hint=hint)
    return {str(tensor): index.parent / str(name) for tensor, name in places.items()}


def weights_sha256(path: Path) -> str:
    """Hash of the weights that a path stands for, of all shards where there are several.

    Raises:
        ModelError: As :func:`weights_place` and :func:`shards_of`.
    """
    place = weights_place(path)
    own = file_sha256(place)
    if not place.name.endswith(INDEX):
        return own
    shards = sorted(set(shards_of(place).values()))
    return json_sha256([own, *((shard.name, file_sha256(shard)) for shard in shards)])
