"""Puts the weights of a file into a module that code made, and tells what did not fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from edgeres.errors import ModelError
from edgeres.models.unwrap import find_state_dict
from edgeres.models.weights_file import read_weights

_COUNTER = "num_batches_tracked"
_LISTED = 10


def fill(module: torch.nn.Module, path: Path, shown: str) -> list[str]:
    """Loads weights, whatever training code wrapped around them or put before their names.

    Args:
        module: Changed in place.
        path: Weights.
        shown: The module's name for messages.

    Returns:
        What a person should know: parameters of the file that are of nothing in the module.

    Raises:
        ModelError: The file cannot be read, or a parameter is missing, unknown, of another shape or
            not finite.
    """
    content, _ = read_weights(path)
    found = find_state_dict(content, source=path.name)
    expected = module.state_dict()
    given = _renamed(found.tensors, expected)
    parts = {name.partition(".")[0] for name in expected}
    missing = [n for n in expected if n not in given and not n.endswith(_COUNTER)]
    unknown = [n for n in given if n not in expected]
    # A loss or a metric that was trained beside the network is no part of it.
    beside = [n for n in unknown if n.partition(".")[0] not in parts and not missing]
    unknown = [n for n in unknown if n not in beside]
    shaped = [
        f"{n} {tuple(given[n].shape)} instead of {tuple(expected[n].shape)}"
        for n in expected
        if n in given and given[n].shape != expected[n].shape
    ]
    problems = [
        _listing(title, names)
        for title, names in (
            ("missing", missing),
            ("unknown", unknown),
            ("of another shape", shaped),
        )
        if names
    ]
    if problems:
        raise ModelError(
            f"The parameters in {path.name} do not fit {shown}: {'; '.join(problems)}.",
            hint="Check that the code makes the network that these weights were trained in.",
        )
    for name, tensor in given.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ModelError(
                f"Tensor '{name}' in {path.name} has values that are NaN or infinite.",
                hint="The training diverged or the file is damaged; use an earlier checkpoint.",
            )
    module.load_state_dict({n: t for n, t in given.items() if n in expected}, strict=False)
    return [f"parameters of nothing in {shown} are left out: {_names(beside)}."] if beside else []


def _renamed(
    tensors: Mapping[str, torch.Tensor], expected: Iterable[str]
) -> dict[str, torch.Tensor]:
    """The tensors by the module's names: with the prefix taken off or put on that fits most."""
    names = set(expected)
    best, most = dict(tensors), len(names & set(tensors))
    for prefix in _prefixes(tensors, names):
        cut = {
            (n[len(prefix) :] if n.startswith(prefix) else n): tensor
            for n, tensor in tensors.items()
        }
        if len(cut) == len(tensors) and len(names & set(cut)) > most:
            best, most = cut, len(names & set(cut))
    for prefix in _prefixes(names, set(tensors)):
        put = {(prefix + n if prefix + n in names else n): t for n, t in tensors.items()}
        if len(names & set(put)) > most:
            best, most = put, len(names & set(put))
    return best


def _prefixes(longer: Iterable[str], shorter: set[str]) -> list[str]:
    """What stands before a name of the other side, with its dot."""
    found: dict[str, None] = {}
    for name in longer:
        parts = name.split(".")
        for cut in range(1, len(parts)):
            if ".".join(parts[cut:]) in shorter:
                found[".".join(parts[:cut]) + "."] = None
    return list(found)


def _listing(title: str, names: list[str]) -> str:
    return f"{len(names)} {title}: {_names(names)}"


def _names(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{', '.join(names[:_LISTED])}{more}"
