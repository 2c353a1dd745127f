"""The model card and the licence notes of a bundle, written from what was measured."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeres.data.preprocess import Preprocess
    from edgeres.report.schema import Report

_NOT_SAID = "not said by whoever made this bundle"
_RUNTIME_PACKAGES = ("edgeres", "numpy", "pillow")


def bundle_card(
    report: Report,
    targets: Sequence[str],
    preprocess: Preprocess,
    class_names: Sequence[str],
    *,
    license_name: str = "",
) -> str:
    """The run's model card for the engines of a bundle, and how to use the bundle.

    Args:
        report: Report of the conversion.
        targets: Engines of this bundle.
        preprocess: How an image becomes numbers.
        class_names: In the order of the scores.
        license_name: Licence of the weights, in the words of whoever bundles it.
    """
    from edgeres.report.model_card import model_card

    chosen = replace(
        report,
        targets={name: report.targets[name] for name in targets},
        findings=tuple(f for f in report.findings if f.target in (None, *targets)),
    )
    return f"{model_card(chosen, license_name=license_name)}\n{_use(preprocess, class_names)}\n"


def licence_notes(report: Report, packages: Sequence[str], *, license_name: str = "") -> str:
    """What is known of the licences of the network, the sample images and the runtime packages."""
    from edgeres.report.markdown import plain

    name, data = plain(report.model.name), plain(report.baseline.data or "the validation images")
    lines = [
        "# Licences",
        "",
        f"- Network {name} (SHA-256 of the original {plain(report.model.sha256)}): "
        f"{plain(license_name) or _NOT_SAID}.",
        f"- Self-test images in `samples/`: from {data}; {_data_licence(report.baseline.data)}.",
        "",
        "The bundle holds no program code. What runs it is installed apart, under its own licence:",
        "",
    ]
    for package in dict.fromkeys((*_RUNTIME_PACKAGES, *packages)):
        lines.append(f"- {package}: {_package_licence(package)}")
    return "\n".join(lines) + "\n"


def _use(preprocess: Preprocess, class_names: Sequence[str]) -> str:
    from edgeres.report.markdown import plain

    shown = ", ".join(class_names[:20]) + (", ..." if len(class_names) > 20 else "")
    classes = f"Classes ({len(class_names)}): {plain(shown)}\n\n" if class_names else ""
    return (
        f"## Use of the bundle\n\n{classes}"
        "An image is decoded, resized, cropped and turned into `(x * scale - mean) / std`:\n\n"
        f"```json\n{preprocess.to_json()}\n```\n\n"
        "`edgeres run BUNDLE IMAGE` does that; so does `edgeres.Session`."
    )


def _data_licence(data: str) -> str:
    if data.startswith("fashion-mnist"):
        return "MIT, Zalando SE 2017"
    return "their licence is that of the data set; look it up before you pass the bundle on"


def _package_licence(package: str) -> str:
    try:
        about = importlib.metadata.metadata(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed where this bundle was made"
    said = (about.get_all("License-Expression") or about.get_all("License") or [""])[0].strip()
    first = said.splitlines()[0][:80] if said else ""
    classified = [
        line.rpartition(" :: ")[2]
        for line in about.get_all("Classifier") or []
        if line.startswith("License :: ")
    ]
    return first or ", ".join(classified) or "see the package"
