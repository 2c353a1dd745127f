"""What training learned of a quantized network: weights, biases and scales, as one file.

The writer of Q/DQ files takes them in place of what calibration and search would give. The rest,
where Q/DQ stands and how integers are made, is the same code for both.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeres.errors import ArtefactError
from edgeres.quantization.scales import INT_LIMITS, QuantParams
from edgeres.system.files import file_sha256, write_atomic
from edgeres.system.foreign_json import parse_json

_FORMAT = "edgeres-trained-quantization"
_VERSION = 1
#: Smallest scale of any rule set: a float32 with all of its digits.
_TINY = float(np.finfo(np.float32).tiny)
_HINT = "Train it again, or give the file that belongs to this model and target."


@dataclass(frozen=True)
class QatLayer:
    """A layer after training.

    Attributes:
        weight: ``(M, K) float32`` before rounding.
        scales: ``(M,) float32``, or ``(1,)`` for the whole tensor.
        bias: ``(M,) float32``, or ``None`` where the op takes none.
    """

    weight: NDArray[np.float32]
    scales: NDArray[np.float32]
    bias: NDArray[np.float32] | None


@dataclass(frozen=True)
class QatParameters:
    """All that training learned.

    Attributes:
        model_sha256: Hash of the FP32 ONNX file that it started from.
        layers: Node name to its layer.
        activations: Name of the tensor whose range it is to scale and zero point; tensors that an
            op only moves share the entry of their source.
    """

    model_sha256: str
    layers: Mapping[str, QatLayer]
    activations: Mapping[str, QuantParams]

    def check(self, onnx: Path, layers: Collection[str], tensors: Collection[str]) -> None:
        """Checks that the parameters are of this model and placement.

        Args:
            onnx: FP32 model that is quantized.
            layers: Names of the layers that become INT8.
            tensors: Names of the range sources that the placement asks for.

        Raises:
            ArtefactError: They are of another model or another rule set.
        """
        if file_sha256(onnx) != self.model_sha256:
            raise ArtefactError(
                f"the trained scales are of model {self.model_sha256[:12]}, not of {onnx}.",
                hint=_HINT,
            )
        odd = sorted(set(layers) ^ set(self.layers)) or sorted(set(tensors) ^ set(self.activations))
        if odd:
            raise ArtefactError(
                f"the trained scales are of another rule set: they differ in {odd[0]!r}.",
                hint=_HINT,
            )

    def save(self, path: Path) -> None:
        """Writes a safetensors file atomically; equal content gives equal bytes.

        Raises:
            StorageError: The disk is full or the folder cannot be written.
        """
        from safetensors.numpy import save

        tensors: dict[str, NDArray[np.float32]] = {}
        for index, layer in enumerate(self.layers.values()):
            tensors[f"{index}.weight"] = layer.weight
            tensors[f"{index}.scales"] = layer.scales
            if layer.bias is not None:
                tensors[f"{index}.bias"] = layer.bias
        scales = [params.scale for params in self.activations.values()]
        tensors["activation_scales"] = np.array(scales, np.float32)
        about = {
            "format": _FORMAT,
            "version": _VERSION,
            "model_sha256": self.model_sha256,
            "layers": list(self.layers),
            "activations": {
                name: [params.zero_point, params.dtype] for name, params in self.activations.items()
            },
        }
        # One key alone: the library writes several in random order.
        write_atomic(path, save(tensors, {"about": json.dumps(about)}))

    @staticmethod
    def load(path: Path) -> QatParameters:
        """Reads the file.

        Raises:
            ArtefactError: It is missing, damaged, no such file, or holds a scale that is not valid.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                about = parse_json((file.metadata() or {})["about"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if (about["format"], about["version"]) != (_FORMAT, _VERSION):
                raise _bad(path, f"it is not version {_VERSION} of an {_FORMAT}")
            layers = {
                name: QatLayer(
                    tensors[f"{index}.weight"],
                    tensors[f"{index}.scales"],
                    tensors.get(f"{index}.bias"),
                )
                for index, name in enumerate(about["layers"])
            }
            scales = tensors["activation_scales"]
            activations = {
                name: QuantParams(float(scale), int(zero_point), dtype)
                for scale, (name, (zero_point, dtype)) in zip(
                    scales, about["activations"].items(), strict=True
                )
            }
            trained = QatParameters(str(about["model_sha256"]), layers, activations)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise _bad(path, f"{type(error).__name__}: {error}") from error
        _check_values(trained, path)
        return trained


def _check_values(trained: QatParameters, path: Path) -> None:
    for name, layer in trained.layers.items():
        parts = [layer.weight, layer.scales, *([] if layer.bias is None else [layer.bias])]
        rows = layer.weight.shape[:1]
        fits = layer.weight.ndim == 2 and layer.scales.shape in (rows, (1,))
        if not fits or (layer.bias is not None and layer.bias.shape != rows):
            raise _bad(path, f"the shapes of layer {name!r} do not fit together")
        if not all(np.isfinite(part).all() for part in parts) or (layer.scales < _TINY).any():
            raise _bad(path, f"layer {name!r} holds NaN, Inf or a scale below {_TINY:.3g}")
    for name, params in trained.activations.items():
        if params.dtype not in INT_LIMITS:
            raise _bad(path, f"tensor {name!r} has type {params.dtype!r}")
        low, high = INT_LIMITS[params.dtype]
        if not _TINY <= params.scale < np.inf or not low <= params.zero_point <= high:
            raise _bad(path, f"tensor {name!r} has scale {params.scale}, zero {params.zero_point}")


def _bad(path: Path, reason: str) -> ArtefactError:
    return ArtefactError(f"{path} holds no usable trained scales: {reason}.", hint=_HINT)
