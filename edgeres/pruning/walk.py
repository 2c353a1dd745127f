"""A network that runs node by node, each node for all images before the next one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx, nn

from edgeres.errors import ModelError
from edgeres.pruning.signals import Batch


class NodeWalk:
    """The values of a network at one node, for all batches, and what is still needed of them.

    Attributes:
        module: In evaluation mode.
        nodes: In the order in which they run.
    """

    def __init__(self, module: nn.Module, batches: Sequence[Batch]) -> None:
        """Follows the module's code; nothing is computed yet.

        Args:
            module: Layers may change between two steps.
            batches: Images ``(N, C, H, W) float32``; the labels are not looked at.

        Raises:
            ModelError: The code chooses its way by values, so that it cannot be followed.
        """
        self.module = module.eval()
        try:
            traced = fx.symbolic_trace(module)
        except (fx.proxy.TraceError, TypeError) as error:
            raise ModelError(
                f"the network's code cannot be followed: {' '.join(str(error).split())[:200]}.",
                hint="Prune without `reconstruct`.",
            ) from error
        self.nodes = list(traced.graph.nodes)
        device = next(module.parameters()).device
        self._runs: list[fx.Interpreter] = []
        for images, _ in batches:
            run = fx.Interpreter(traced)
            run.args_iter = iter([torch.from_numpy(images).to(device)])
            run.env = {}
            self._runs.append(run)
        self._last_read: dict[fx.Node, list[fx.Node]] = {}
        seen: set[fx.Node] = set()
        for node in reversed(self.nodes):
            self._last_read[node] = [read for read in node.all_input_nodes if read not in seen]
            seen.update(node.all_input_nodes)

    def layer(self, node: fx.Node) -> nn.Module | None:
        """The module that a node calls, if it calls one."""
        return self.module.get_submodule(str(node.target)) if node.op == "call_module" else None

    def step(self, node: fx.Node) -> None:
        """Computes a node for all batches."""
        for run in self._runs:
            run.env[node] = run.run_node(node)

    def forget(self, node: fx.Node) -> None:
        """Frees what nothing behind a node reads."""
        for run in self._runs:
            for read in self._last_read[node]:
                del run.env[read]

    @property
    def held_bytes(self) -> int:
        """Of all values that are there."""
        tensors = {
            id(value): value.nbytes
            for run in self._runs
            for value in run.env.values()
            if isinstance(value, torch.Tensor)
        }
        return sum(tensors.values())

    def values(self, node: fx.Node) -> list[torch.Tensor]:
        """What a node gave, by batch."""
        return [run.env[node] for run in self._runs]

    def has(self, node: fx.Node) -> bool:
        """Whether the values of a node are there."""
        return node in self._runs[0].env


def only_reader(node: fx.Node) -> fx.Node | None:
    """The one node that reads a node; ``None`` where there are several or none."""
    readers = list(node.users)
    return readers[0] if len(readers) == 1 else None
