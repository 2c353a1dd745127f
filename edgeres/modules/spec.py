"""What a network that comes as a torch module is made from. No torch is imported here.

::

    mymodel.py:build   Python code; `build()` returns the module, `--weights` fills it
    net.keras, net.h5  a whole Keras model
    net.pt             TorchScript (`torch.jit.save`)
    net.pt2            an exported program (`torch.export.save`)
"""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgeres.errors import ModelError, UsageError
from edgeres.models.weights_place import weights_sha256
from edgeres.modules.code_identity import code_identity
from edgeres.system.files import file_sha256
from edgeres.system.store import json_sha256

Kind = Literal["factory", "keras", "torchscript", "program"]
KERAS_SUFFIXES = (".keras", ".h5", ".hdf5")
_CODE = re.compile(r"\.py(:[^/\\]*)?$", re.IGNORECASE)
_SCRIPT_MARK, _PROGRAM_MARK = "constants.pkl", "archive_format"


@dataclass(frozen=True)
class ModuleSpec:
    """One network as a torch module.

    Attributes:
        kind: What ``path`` is.
        path: The file.
        function: Name of the function in Python code; empty for the other kinds.
        weights: Weights that are put into what the function returns.
    """

    kind: Kind
    path: Path
    function: str = ""
    weights: Path | None = None

    @property
    def shown(self) -> str:
        """As a person names it."""
        return f"{self.path.name}:{self.function}" if self.kind == "factory" else self.path.name

    @property
    def name(self) -> str:
        """A name for the network: of the weights, else of the file."""
        return self.path.stem

    def sha256(self) -> str:
        """Hash of all that decides the network: code with what it imports, weights.

        Raises:
            ModelError: The code cannot be read.
        """
        if self.kind != "factory":
            return file_sha256(self.path)
        parts = {"code": code_identity(self.path), "function": self.function}
        if self.weights is not None:
            parts["weights"] = weights_sha256(self.weights)
        return json_sha256(parts)


def is_code(source: str) -> bool:
    """Whether a model source is Python code, which runs where it is used."""
    return _CODE.search(source) is not None


def may_train(source: str) -> bool:
    """Whether a model source may be fine-tuned, by its name: graphs of other libraries may not."""
    return Path(source).suffix.lower() not in (*KERAS_SUFFIXES, ".pt2", ".onnx")


def code_spec(source: str, weights: str | None) -> ModuleSpec:
    """Reads ``FILE.py:FUNCTION``.

    Raises:
        UsageError: No function is named.
        ModelError: A file does not exist.
    """
    path, _, function = source.rpartition(":")
    if not path.lower().endswith(".py") or not function.isidentifier():
        raise UsageError(
            f"{source!r} names Python code, but not the function in it that returns the network.",
            hint="Give FILE.py:FUNCTION, such as --model mymodel.py:build.",
        )
    for file in (path, weights):
        if file is not None and not Path(file).exists():
            raise ModelError(f"{file}: no such file.", hint="Check the path.")
    return ModuleSpec("factory", Path(path), function, None if weights is None else Path(weights))


def file_spec(path: Path) -> ModuleSpec | None:
    """What a file is, by its ending and content; ``None`` where it is no module of its own."""
    if path.suffix.lower() in KERAS_SUFFIXES:
        return ModuleSpec("keras", path)
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2] for name in archive.namelist()}
    except (OSError, ValueError, zipfile.BadZipFile):
        return None
    if _PROGRAM_MARK in names or "serialized_exported_program.json" in names:
        return ModuleSpec("program", path)
    return ModuleSpec("torchscript", path) if _SCRIPT_MARK in names else None
