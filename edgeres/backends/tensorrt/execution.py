"""An execution context of TensorRT, in one place that lets it go.

A traceback keeps the variables of every function that an error went through. So no other function
holds TensorRT's own object, and it goes when :meth:`Execution.release` says so: before the memory
that it uses, whatever went wrong.
"""

from __future__ import annotations

from typing import Any

from edgeres.backends.tensorrt.signature import Shape


class Execution:
    """An execution context; none of its methods raises."""

    def __init__(self, execution: Any) -> None:
        self._execution: Any | None = execution

    def choose_profile(self, profile: int, stream: int) -> bool:
        """Queues the choice of an optimization profile; false where it is refused."""
        execution = self._execution
        assert execution is not None
        return bool(execution.set_optimization_profile_async(profile, stream))

    def set_shape(self, name: str, shape: Shape) -> bool:
        """Tells an input's shape; false where it is refused."""
        execution = self._execution
        assert execution is not None
        return bool(execution.set_input_shape(name, shape))

    def shape_of(self, name: str) -> Shape:
        """A tensor's shape, once those of the inputs are set; -1 where the data decide."""
        execution = self._execution
        assert execution is not None
        return tuple(int(size) for size in execution.get_tensor_shape(name))

    def bind(self, name: str, address: int) -> bool:
        """Tells where a tensor lies; false where that is refused."""
        execution = self._execution
        assert execution is not None
        return bool(execution.set_tensor_address(name, address))

    def enqueue(self, stream: int) -> bool:
        """Queues the work; false where TensorRT cannot do it."""
        execution = self._execution
        assert execution is not None
        return bool(execution.execute_async_v3(stream))

    def release(self) -> None:
        """Lets the context go; a second call does nothing."""
        self._execution = None
