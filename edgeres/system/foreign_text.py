"""Text from elsewhere, made harmless where it is shown.

Names of classes, keys, targets and files come from files that nobody here wrote. A terminal obeys
control characters in them, a page or an editor shows bidirectional ones as other text than is
there, and XML cannot carry some at all. So each exit, to a terminal, Markdown, HTML, SVG or JUnit,
passes what it shows through :func:`visible`.
"""

from __future__ import annotations

import re
import unicodedata

_ACTING = ("Cc", "Cf", "Cs", "Zl", "Zp")
_HARMLESS = re.compile(r"[ -~]*")
_LINES = frozenset("\n\t")


def visible(text: str, *, lines: bool = False) -> str:
    """A text whose control, bidirectional and invalid characters are spelt out, as in Python.

    Args:
        text: The text.
        lines: Whether line ends and tabs stay, for a text of several lines.
    """
    if _HARMLESS.fullmatch(text):
        return text
    return "".join(
        char.encode("unicode_escape").decode()
        if _acts(char) and not (lines and char in _LINES)
        else char
        for char in text
    )


def _acts(char: str) -> bool:
    """Whether it acts on what shows it, or is no character for interchange (Unicode 23.7)."""
    number = ord(char)
    no_character = number & 0xFFFE == 0xFFFE or 0xFDD0 <= number <= 0xFDEF
    return no_character or unicodedata.category(char) in _ACTING
