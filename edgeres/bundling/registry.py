"""Bundles in an OCI registry, where container images lie: pushed by name, pulled with their hash.

A bundle becomes an artefact of one layer, and of a second one where it is signed. The same bundle
gives the same manifest, so the same digest. What is pulled is not believed: the bytes must have the
digest that the manifest says, the manifest the digest that was asked for, if one was, and the
file must be a whole bundle, before anything appears under the name that was asked for.

Format: OCI image manifest 1.0 with a media type of our own for the configuration, which registries
of every age take. User names and passwords are those of ``docker login``.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeres.bundling.oci import (
    MANIFEST,
    check_taken,
    described,
    download,
    open_registry,
    read_manifest,
    upload,
)
from edgeres.bundling.open import OpenBundle
from edgeres.bundling.signature import signature_path
from edgeres.errors import ArtefactError, UsageError
from edgeres.system.files import disk_errors, file_sha256
from edgeres.system.temporary import temporary_folder

ARTIFACT = "application/vnd.edgeres.bundle.config.v1+json"
BUNDLE = "application/vnd.edgeres.bundle.v1+zip"
SIGNATURE = "application/vnd.edgeres.bundle.signature.v1"
MAX_BYTES = 8 << 30
_MAX_SIGNATURE = 1 << 16
_REFERENCE = re.compile(
    r"[A-Za-z0-9.-]+(:\d+)?/[a-z0-9._/-]+(:\w[\w.-]{0,127}|@sha256:[0-9a-f]{64})"
)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Pushed:
    """A bundle in a registry.

    Attributes:
        reference: As it was asked for.
        digest: ``sha256:...`` of its manifest; ``NAME@DIGEST`` can mean nothing else, ever.
    """

    reference: str
    digest: str

    @property
    def pinned(self) -> str:
        """The reference with the digest in place of the tag."""
        name = self.reference.partition("@")[0]
        place, _, last = name.rpartition("/")
        return f"{place}/{last.partition(':')[0]}@{self.digest}"

    def to_dict(self) -> dict[str, str]:
        """As plain JSON values."""
        return {"reference": self.reference, "digest": self.digest, "pinned": self.pinned}


def push(bundle: Path, reference: str, *, plain_http: bool = False) -> Pushed:
    """Brings a bundle, and the signature beside it, into a registry.

    Args:
        bundle: The bundle; its hashes are checked first.
        reference: ``REGISTRY/NAME:TAG``.
        plain_http: Whether to speak HTTP without encryption, for a registry on this machine.

    Raises:
        ArtefactError: The file is no whole bundle, or the registry did not take it.
        BackendMissingError: The registry cannot be reached, or the package for it is missing.
        UsageError: The reference makes no sense.
    """
    if "@" in _checked(reference):
        raise UsageError(
            f"{reference}: a digest cannot be chosen.", hint="Push to REGISTRY/NAME:TAG."
        )
    with OpenBundle(bundle) as opened:
        opened.check_all()
        name = opened.manifest.name
    layers = {bundle.name: (bundle, BUNDLE)}
    if signature_path(bundle).is_file():
        layers[signature_path(bundle).name] = (signature_path(bundle), SIGNATURE)
    with open_registry(reference, plain_http) as (client, container):
        config = json.dumps({"name": name}).encode()
        manifest: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": described(config, ARTIFACT),
            "layers": [],
        }
        with tempfile.NamedTemporaryFile() as file:
            file.write(config)
            file.flush()
            upload(client, container, Path(file.name), manifest["config"])
        for title, (path, kind) in layers.items():
            layer = {
                "mediaType": kind,
                "digest": f"sha256:{file_sha256(path)}",
                "size": path.stat().st_size,
                "annotations": {"org.opencontainers.image.title": title},
            }
            upload(client, container, path, layer)
            manifest["layers"].append(layer)
        answer = client.upload_manifest(manifest, container)
        check_taken(answer, reference)
        digest = f"sha256:{hashlib.sha256(answer.request.body).hexdigest()}"
    return Pushed(reference, digest)


def pull(reference: str, output: Path, *, plain_http: bool = False) -> Pushed:
    """Brings a bundle, and its signature where there is one, from a registry.

    Args:
        reference: ``REGISTRY/NAME:TAG`` or ``REGISTRY/NAME@sha256:...``.
        output: The file to write; an earlier one is replaced when the new one is whole.
        plain_http: Whether to speak HTTP without encryption, for a registry on this machine.

    Raises:
        ArtefactError: There is no such bundle, or what came is not what the digests say.
        BackendMissingError: The registry cannot be reached, or the package for it is missing.
        StorageError: The file cannot be written.
        UsageError: The reference makes no sense.
    """
    _checked(reference)
    with open_registry(reference, plain_http) as (client, container), disk_errors(output):
        manifest, digest = read_manifest(client, container, reference)
        output.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(beside=output) as folder:
            part = folder / output.name
            download(client, container, _layer(manifest, BUNDLE, reference), part, MAX_BYTES)
            with OpenBundle(part) as opened:
                opened.check_all()
            kinds = [layer.get("mediaType") for layer in manifest["layers"]]
            if SIGNATURE in kinds:
                layer = _layer(manifest, SIGNATURE, reference)
                download(client, container, layer, signature_path(part), _MAX_SIGNATURE)
            # First away with an earlier signature, which is not one of the new bundle.
            signature_path(output).unlink(missing_ok=True)
            part.replace(output)
            if SIGNATURE in kinds:
                signature_path(part).replace(signature_path(output))
    return Pushed(reference, digest)


def _checked(reference: str) -> str:
    if not _REFERENCE.fullmatch(reference):
        raise UsageError(
            f"{reference!r}: expected REGISTRY/NAME:TAG or REGISTRY/NAME@sha256:DIGEST.",
            hint="For example: registry.example.org/models/net:1.",
        )
    return reference


def _layer(manifest: Mapping[str, Any], kind: str, reference: str) -> Mapping[str, Any]:
    found = [layer for layer in manifest["layers"] if layer["mediaType"] == kind]
    if len(found) != 1 or not _DIGEST.fullmatch(str(found[0]["digest"])):
        raise ArtefactError(
            f"{reference}: expected one layer of {kind}, got {len(found)}.",
            hint="Is it a bundle that `edgeres push` brought there?",
        )
    layer: Mapping[str, Any] = found[0]
    return layer
