"""Prints every dependency that pyproject.toml names at its lowest version, as constraints for pip.

    python scripts/lowest.py > floors.txt
    python -m pip install --constraint floors.txt --editable ".[all,dev]"

`make test-lowest` does both in an environment of its own and runs tests there.
"""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

PROJECT = Path(__file__).parent.parent / "pyproject.toml"
OWN = "edgeres"


def requirements(project: dict[str, Any]) -> list[Requirement]:
    """Every requirement on another package, of the package itself and of all of its extras."""
    extras = project["optional-dependencies"].values()
    named = [*project["dependencies"], *(text for texts in extras for text in texts)]
    return [found for found in map(Requirement, named) if found.name != OWN]


def floor(requirement: Requirement) -> str:
    """The lowest version that a requirement takes.

    Raises:
        ValueError: It has none.
    """
    floors = [one.version for one in requirement.specifier if one.operator in (">=", "==")]
    if len(floors) != 1:
        raise ValueError(f"{requirement}: expected one lowest version, got {floors}")
    return floors[0]


def constraints(project: dict[str, Any]) -> list[str]:
    """One line for each package, in the order of their names."""
    found = {one.name: f"{one.name}=={floor(one)}" for one in requirements(project)}
    return [found[name] for name in sorted(found)]


def main() -> None:
    """Prints the constraints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--project", type=Path, default=PROJECT)
    arguments = parser.parse_args()
    print("\n".join(constraints(tomllib.loads(arguments.project.read_text())["project"])))


if __name__ == "__main__":
    main()
