"""Calibrators by name: each chooses the range of a tensor from its statistics alone.

A calibrator is one module here with a function ``choose``; it is found by the module's name. The
calibrator ``output`` is none of them: it chooses among them by what the network's output loses
(:mod:`edgeres.quantization.output_ranges`).
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeres.calibrators.base import ChosenRange, Summary

OUTPUT = "output"
_NO_CALIBRATORS = {"base"}


def plain_calibrators() -> tuple[str, ...]:
    """Names of the calibrators that need the statistics of a tensor alone. Imports none of them."""
    names = {module.name for module in pkgutil.iter_modules(__path__)}
    return tuple(sorted(names - _NO_CALIBRATORS))


def calibrator_names() -> tuple[str, ...]:
    """All names that a recipe may give."""
    return (*plain_calibrators(), OUTPUT)


def choose_all(summary: Summary) -> dict[str, ChosenRange]:
    """The range of every plain calibrator for one tensor, by its name.

    A sample can miss the rare values that a tensor carries its message in; where it holds next to
    nothing but zeros, all keep the whole range.
    """
    from edgeres.calibrators.base import ENOUGH, whole_range  # loads NumPy

    names = plain_calibrators()
    if summary.width == 0.0 or int(summary.counts.sum()) < ENOUGH:
        return dict.fromkeys(names, whole_range(summary))
    modules = {name: importlib.import_module(f"{__name__}.{name}") for name in names}
    return {name: module.choose(summary) for name, module in modules.items()}
