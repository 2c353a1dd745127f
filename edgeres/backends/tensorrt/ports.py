"""The memory of one tensor that goes into or comes out of an engine, on the host and on the GPU.

The host's side is pinned, so that the GPU copies by itself. Where both use the same memory (Jetson)
there is one buffer and no copy.
"""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray

from edgeres.backends.base import Array
from edgeres.backends.tensorrt.cuda import CudaSession
from edgeres.backends.tensorrt.signature import Shape
from edgeres.graph.summary import TensorSpec


class Port:
    """Buffers of one tensor, as large as its largest shape."""

    def __init__(
        self, session: CudaSession, spec: TensorSpec, largest: int, *, shared: bool
    ) -> None:
        """Allocates.

        Args:
            session: Owns the memory.
            spec: The tensor.
            largest: Most elements that it ever has.
            shared: Whether host and GPU use the same memory.

        Raises:
            StageError: There is too little memory.
        """
        self._session = session
        self._dtype = np.dtype(spec.dtype)
        self._shared = shared
        size_bytes = largest * self._dtype.itemsize
        self._pinned: NDArray[np.uint8] = session.allocate_pinned(size_bytes)
        self.address = (
            session.shared_address(self._pinned) if shared else session.allocate(size_bytes)
        )

    def fill(self, array: Array) -> None:
        """Takes an input's values; they are on the GPU for what is queued afterwards."""
        pinned = self._view(array.shape)
        np.copyto(pinned, array)
        if not self._shared:
            self._session.upload(self.address, pinned)

    def fetch(self, shape: Shape) -> None:
        """Queues the way back of an output's values."""
        if not self._shared:
            self._session.download(self.address, self._view(shape))

    def values(self, shape: Shape) -> Array:
        """An output's values in memory of the caller's own, after :meth:`fetch` and a wait."""
        return self._view(shape).copy()

    def _view(self, shape: Shape) -> Array:
        size_bytes = int(np.prod(shape, dtype=np.int64)) * self._dtype.itemsize
        return cast(Array, self._pinned[:size_bytes].view(self._dtype).reshape(shape))
