"""Builds and times whole networks at widths that a search chose."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from edgeres.benchmarking.latency import MeasureSettings
from edgeres.layer_latency.predict import NETWORK_TIMES, measure_networks
from edgeres.layer_latency.synthetic import Widths
from edgeres.layer_latency.table import LatencyTable

if TYPE_CHECKING:
    from edgeres.backends.target import Target

Note = Callable[[str], None]


def _silent(_: str) -> None:
    """Says nothing."""


class NetworkBench(Protocol):
    """Builds and times a network at widths that a search chose."""

    def measure(self, widths: Mapping[str, Widths]) -> Mapping[str, float]:
        """p50 in milliseconds of networks that take turns, by name; no widths is the whole."""
        ...

    def note(self, message: str) -> None:
        """What a person should know meanwhile, in one line."""
        ...


@dataclass(frozen=True)
class EngineBench:
    """A bench on the engines of a target.

    Attributes:
        onnx: The dense FP32 network in normal form.
        target: Backend and device, able to run here.
        table: Of that network's layers on that target; its place says how engines are built.
        settings: How long each engine is timed.
        say: Where notes go.
    """

    onnx: Path
    target: Target
    table: LatencyTable
    settings: MeasureSettings = NETWORK_TIMES
    say: Note = _silent

    def measure(self, widths: Mapping[str, Widths]) -> Mapping[str, float]:
        """See :class:`NetworkBench`.

        Raises:
            EdgeResError: As :func:`edgeres.layer_latency.predict.measure_networks`.
        """
        return measure_networks(self.onnx, widths, self.target, self.table, self.settings)

    def note(self, message: str) -> None:
        """See :class:`NetworkBench`."""
        self.say(message)
