"""An answer among whatever else a host prints: messages of the day, profiles, native libraries.

The program on the host begins the line of its answer with a mark, and only that line is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from edgeres.system.foreign_json import parse_json

MARK = "edgeres-answer: "


def framed(content: Mapping[str, object]) -> str:
    """The answer as the program prints it, on a line of its own."""
    return f"\n{MARK}{json.dumps(content)}"


# What a host answers may be anything, hence ``Any``.
def unframed(printed: bytes) -> Any:
    """The answer in what a host printed, as JSON values; the last one where there are more.

    Raises:
        ValueError: There is none.
    """
    mark = f"\n{MARK}".encode()
    _, found, rest = (b"\n" + printed.replace(b"\r\n", b"\n")).rpartition(mark)
    if not found:
        raise ValueError("no answer")
    return parse_json(rest.partition(b"\n")[0])
