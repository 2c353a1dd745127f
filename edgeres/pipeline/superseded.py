"""What was made from an earlier run of an output folder, and does not belong to the new one.

The page, the model card, bundles and model repositories lie beside ``report.json`` under fixed
names. A new run moves them away, so that none stands beside a report that it was not made from.
Nothing is deleted: the card may have been edited, and a file of that name may be the user's own.
"""

from __future__ import annotations

from pathlib import Path

SUPERSEDED = "superseded"


def to_set_aside(output: Path) -> dict[str, str]:
    """Where what was made from an earlier run goes: ``superseded/N``, with the next free number.

    Args:
        output: Output folder of ``convert``; call it only while holding its lock.

    Returns:
        Name in the folder to its new place there; empty where nothing is to be moved.
    """
    names = [name for name in made_from_a_run() if (output / name).exists()]
    parent = output / SUPERSEDED
    there = parent.iterdir() if names and parent.is_dir() else ()
    numbers = [int(entry.name) for entry in there if entry.name.isdecimal()]
    place = f"{SUPERSEDED}/{max(numbers, default=0) + 1}"
    return {name: f"{place}/{name}" for name in names}


def made_from_a_run() -> tuple[str, ...]:
    """Names that ``edgeres report`` and ``edgeres bundle`` give to what they make."""
    from edgeres.backends.serving import server_names
    from edgeres.bundling.make import BUNDLE
    from edgeres.bundling.signature import signature_path
    from edgeres.report.write import CARD, MARKDOWN, PAGE

    served = (f"serve-{name}" for name in server_names())
    return (PAGE, MARKDOWN, CARD, BUNDLE, signature_path(Path(BUNDLE)).name, *served)
