"""What lies beside a Q/DQ file: the rules that it obeys and what was done, as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeres.backends.base import QdqRules
from edgeres.quantization.quantize import QuantizeResult
from edgeres.system.child import JsonValue
from edgeres.system.files import write_atomic
from edgeres.system.stored_json import read_stored


@dataclass(frozen=True)
class QuantizeAccount:
    """What later steps read of it; the file says more, for people.

    Attributes:
        saturation_safe: Whether no sum of two products can leave int16, whatever the image.
        weight_sqnr_db: Layer name to signal over quantization noise of its weights; ``None`` where
            INT8 represents them exactly.
    """

    saturation_safe: bool
    weight_sqnr_db: Mapping[str, float | None]

    @staticmethod
    def beside(qdq: Path) -> QuantizeAccount:
        """Reads the account of a Q/DQ file.

        Raises:
            ArtefactError: There is none, or a field is missing or of another type.
        """
        return read_stored(account_path(qdq), QuantizeAccount)


def account_path(qdq: Path) -> Path:
    """Where the account of a Q/DQ file lies."""
    return qdq.with_suffix(".json")


def write_given_account(qdq: Path, quantized_nodes: Sequence[str]) -> None:
    """Writes the account of a file that another tool has quantized: nothing is proven of it.

    Raises:
        StorageError: It cannot be written.
    """
    content = {
        "given": True,
        "quantized_nodes": list(quantized_nodes),
        "float_nodes": {},
        "saturation_safe": False,
        "weight_sqnr_db": {},
    }
    write_atomic(account_path(qdq), json.dumps(content, indent=1).encode())


def write_account(
    qdq: Path,
    rules: QdqRules,
    result: QuantizeResult,
    qat: Mapping[str, JsonValue] | None = None,
) -> None:
    """Writes the account of a Q/DQ file.

    Args:
        qdq: The file.
        rules: That it obeys.
        result: What was done.
        qat: The numbers of its training, if it was trained.

    Raises:
        StorageError: It cannot be written.
    """
    content = {"rules": rules.to_dict(), **result.to_dict()}
    if qat is not None:
        content["qat"] = dict(qat)
    write_atomic(account_path(qdq), json.dumps(content, indent=1).encode())
