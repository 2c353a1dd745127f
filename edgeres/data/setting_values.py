"""Values of single preprocessing settings: what each may be, and the error where it is not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING

import numpy as np

from edgeres.data.geometry import Size
from edgeres.errors import UsageError

if TYPE_CHECKING:
    from edgeres.data.preprocess import Preprocess

MAX_SIDE = 16_384
"""Longest side, in pixels, that ``resize`` and ``crop`` may ask for."""

SETTINGS_HINT = (
    "See the 'preprocess' block of the recipe or --scale, --mean, --std, --resize, --crop."
)


def check_names(of: str, given: Iterable[object], names: Sequence[str], hint: str) -> None:
    """Checks that settings are among those that there are.

    Args:
        of: What the settings are of, e.g. ``log_mel``.
        given: Names that somebody gave.
        names: Those that there are.
        hint: What to do about another one that is like none of them.

    Raises:
        UsageError: One is not.
    """
    for name in given:
        if name not in names:
            close = get_close_matches(str(name), names, n=1)
            raise UsageError(
                f"Expected {of} settings among {', '.join(names)}, got {name!r}.",
                hint=f"Did you mean {close[0]!r}?" if close else hint,
            )


def wrong_setting(name: str, expected: str, value: object) -> UsageError:
    """The error of one setting."""
    return UsageError(
        f"Preprocess: `{name}`: expected {expected}, got {value!r}.", hint=SETTINGS_HINT
    )


def number(name: str, value: object) -> float:
    """Checks a finite number.

    Raises:
        UsageError: It is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise wrong_setting(name, "a number", value)
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    if not math.isfinite(found):
        raise wrong_setting(name, "a finite number", value)
    return found


def numbers(name: str, value: object) -> tuple[float, ...]:
    """Checks a list of finite numbers.

    Raises:
        UsageError: It is none, or empty.
    """
    if not isinstance(value, list | tuple | np.ndarray) or len(value) == 0:
        raise wrong_setting(name, "a list of numbers", value)
    return tuple(number(name, item) for item in value)


def size(name: str, value: object) -> Size | None:
    """Checks a size in pixels: a whole number, a pair of them, or ``None``.

    Raises:
        UsageError: It is none of these, or out of range.
    """
    if value is None:
        return None
    sides = tuple(value) if isinstance(value, list | tuple) else (value, value)
    whole = [side for side in sides if isinstance(side, int) and not isinstance(side, bool)]
    if len(sides) != 2 or len(whole) != 2 or not all(1 <= side <= MAX_SIDE for side in whole):
        raise wrong_setting(name, f"a length or [height, width] in 1 to {MAX_SIDE:,} pixels", value)
    return (whole[0], whole[1]) if isinstance(value, list | tuple) else whole[0]


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Checks that a word is one of some.

    Raises:
        UsageError: It is not.
    """
    if value not in choices:
        raise wrong_setting(name, " or ".join(repr(choice) for choice in choices), value)


def check_placing(said: Preprocess) -> None:
    """Checks that settings of resize, crop and letterbox go together.

    Raises:
        UsageError: They do not.
    """
    if type(said.antialias) is not bool:
        raise wrong_setting("antialias", "true or false", said.antialias)
    if not said.antialias and said.interpolation == "lanczos":
        raise wrong_setting("antialias", "true for lanczos", said.antialias)
    if said.letterbox is not None and (said.resize is not None or said.crop is not None):
        raise wrong_setting("letterbox", "no resize and no crop beside it", said.letterbox)
    if type(said.letterbox_fill) is not int or not 0 <= said.letterbox_fill <= 255:
        raise wrong_setting("letterbox_fill", "0 to 255", said.letterbox_fill)
