"""Running an OpenVINO model on one of its devices, compiled for each batch size that comes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from edgeres.backends._runner import CheckedRunner, zero_feeds
from edgeres.backends.base import Array
from edgeres.backends.openvino.devices import CPU, Device, check_where
from edgeres.backends.openvino.ir import one_line_of
from edgeres.backends.openvino.kernels import compile_where_possible
from edgeres.errors import StageError
from edgeres.graph.summary import TensorSpec
from edgeres.system.extras import import_extra

_KEPT_BATCHES = 4
_DTYPES = {
    "f32": "float32",
    "f16": "float16",
    "f64": "float64",
    "u8": "uint8",
    "i8": "int8",
    "i32": "int32",
    "i64": "int64",
}


class OpenVinoRunner(CheckedRunner):
    """A model compiled for one device.

    A dynamic batch is compiled once for each batch size that comes, the last four of which are
    kept: kernels for a fixed size are faster, which shows on small networks.

    Attributes:
        model: The engine's IR (``openvino.Model``).
        device: Where it runs.
        in_float: Layers that run in float for want of an INT8 kernel, by name, with the reason.
    """

    def __init__(
        self, model: Any, settings: Mapping[str, Any], *, device: Device, specialized: bool
    ) -> None:
        super().__init__(_specs(model.inputs), _specs(model.outputs))
        self.model = model
        self._settings = dict(settings)
        self.device = device
        self._tensor = import_extra("openvino", extra="openvino").Tensor
        self._by_shapes = specialized and all(
            spec.shape and spec.shape[0] is None and None not in spec.shape[1:]
            for spec in self.inputs
        )
        self.in_float: dict[str, str] = {}
        self._requests: OrderedDict[tuple[tuple[int, ...], ...], Any] = OrderedDict()
        # Compiled at once, so that a model that does not compile fails on loading.
        batches = [tuple(1 if size is None else size for size in s.shape) for s in self.inputs]
        self._request(tuple(batches) if self._by_shapes else ())

    def _infer(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        shapes = tuple(feeds[spec.name].shape for spec in self.inputs) if self._by_shapes else ()
        try:
            request = self._request(shapes)
            # Handing over tensors spares OpenVINO's own checks of numpy arrays.
            for index, spec in enumerate(self.inputs):
                feed = np.require(feeds[spec.name], requirements=("C", "W"))
                request.set_input_tensor(index, self._tensor(feed, shared_memory=True))
            request.infer(share_outputs=True)
            return {
                spec.name: request.get_output_tensor(index).data.copy()
                for index, spec in enumerate(self.outputs)
            }
        except RuntimeError as error:
            sizes = ", ".join(f"{name} {feed.shape}" for name, feed in feeds.items())
            raise StageError(
                f"OpenVINO failed on {sizes}: {one_line_of(error)}.",
                hint="A smaller batch needs less memory.",
            ) from error

    @property
    def compiled(self) -> Any:
        """The compiled model of the last request (``openvino.CompiledModel``)."""
        return next(reversed(self._requests.values())).get_compiled_model()

    def profile(self) -> list[Any]:
        """Runs once on zeros (batch 1); gives OpenVINO's ``ProfilingInfo`` of each primitive.

        Raises:
            ModelError: An input has a dynamic size apart from the batch.
        """
        self.infer(zero_feeds(self.inputs))
        records: list[Any] = next(reversed(self._requests.values())).get_profiling_info()
        return records

    def _request(self, shapes: tuple[tuple[int, ...], ...]) -> Any:
        """An inference request for these input shapes, compiled on first use."""
        if shapes in self._requests:
            self._requests.move_to_end(shapes)
            return self._requests[shapes]
        model = self.model
        if shapes:
            model = model.clone()
            model.reshape(dict(enumerate(shapes)))
        compiled = self._compiled(model)
        check_where(compiled, self.device)
        self._requests[shapes] = compiled.create_infer_request()
        if len(self._requests) > _KEPT_BATCHES:
            self._requests.popitem(last=False)
        return self._requests[shapes]

    def _compiled(self, model: Any) -> Any:
        """A model compiled for the device; for a CPU see :mod:`.kernels`."""

        def compile_model(model: Any) -> Any:
            return core().compile_model(model, self.device.name, self._settings)

        if self.device.kind != CPU:
            return compile_model(model)
        compiled, self.in_float = compile_where_possible(model, compile_model, self.in_float)
        return compiled

    def _close(self) -> None:
        self._requests.clear()
        self.model = None


@cache
def core() -> Any:
    """OpenVINO's entry, made once: it looks for plugins and devices."""
    return import_extra("openvino", extra="openvino").Core()


def _specs(ports: list[Any]) -> tuple[TensorSpec, ...]:
    specs = []
    for port in ports:
        shape = tuple(
            None if size.is_dynamic else size.get_length() for size in port.get_partial_shape()
        )
        kind = port.get_element_type().get_type_name()
        specs.append(TensorSpec(min(port.get_names()), shape, _DTYPES.get(kind, kind)))
    return tuple(specs)
