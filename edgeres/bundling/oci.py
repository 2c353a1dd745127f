"""What a registry of the OCI distribution specification is asked, and its answers, distrusted."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgeres.errors import ArtefactError
from edgeres.system.extras import import_extra
from edgeres.system.foreign_json import parse_json

MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@contextmanager
def open_registry(reference: str, plain_http: bool) -> Iterator[tuple[Any, Any]]:
    """A client and the parsed reference; the library's errors become ours.

    Raises:
        ArtefactError: An answer that makes no sense.
        BackendMissingError: The registry cannot be reached, wants a login, or the package for it is
            missing.
    """
    import_extra("oras", extra="registry", user="a registry")
    from edgeres.bundling.registry_client import RegistryClient

    host = reference.partition("/")[0]
    client = RegistryClient(host, plain_http=plain_http)
    try:
        # Whether anybody is there is known before anything is read or sent.
        client.session.get(f"{client.prefix}://{host}/v2/")
        container = client.get_container(reference)
        client.auth.load_configs(container)
        yield client, container
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,  # a size of Infinity
        RecursionError,  # deep nesting
    ) as error:
        first = (str(error).splitlines() or ["no reason"])[0]
        raise ArtefactError(
            f"{reference}: the registry's answer makes no sense: {first[:200]}.",
            hint="Check the name, and `docker login` where the registry wants a password.",
        ) from error
    finally:
        client.session.close()  # else its sockets stay until they are collected


def described(content: bytes, kind: str) -> dict[str, Any]:
    """The descriptor of some bytes, as a manifest lists it."""
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    return {"mediaType": kind, "digest": digest, "size": len(content)}


def upload(client: Any, container: Any, path: Path, layer: Mapping[str, Any]) -> None:
    """Brings a file to the registry, unless it is there.

    Raises:
        ArtefactError: The registry did not take it.
    """
    check_taken(client.upload_blob(str(path), container, layer), str(container))


def check_taken(answer: Any, what: str) -> None:
    """Checks the answer to something that was brought.

    Raises:
        ArtefactError: The registry did not take it.
    """
    if answer.status_code not in (200, 201, 202):
        raise ArtefactError(
            f"{what}: the registry answered {answer.status_code} ({answer.reason}).",
            hint="Check the name, and that you may write there (`docker login`).",
        )


def read_manifest(client: Any, container: Any, reference: str) -> tuple[dict[str, Any], str]:
    """The manifest of a reference, and its digest.

    Raises:
        ArtefactError: There is none, or it has not the digest that was asked for.
    """
    url = f"{client.prefix}://{container.manifest_url()}"
    with client.do_request(url, "GET", headers={"Accept": MANIFEST}, stream=True) as answer:
        if answer.status_code != 200:
            raise ArtefactError(
                f"{reference}: the registry answered {answer.status_code} ({answer.reason}).",
                hint="Check the name, and that you may read it (`docker login`).",
            )
        content = b"".join(client.blocks(answer))
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    _, _, wanted = reference.partition("@")
    if wanted and digest != wanted:
        raise _damaged(reference, "its manifest", digest, wanted)
    manifest = parse_json(content)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("layers"), list):
        raise ArtefactError(f"{reference}: holds no artefact.", hint="Check the name.")
    return manifest, digest


def download(client: Any, container: Any, layer: Mapping[str, Any], path: Path, limit: int) -> None:
    """Writes a layer into a file.

    Raises:
        ArtefactError: It is too large, or its bytes have another digest than it says.
    """
    digest, size = str(layer["digest"]), int(layer["size"])
    what = f"{container}: its layer"
    if not 0 <= size <= limit:
        raise ArtefactError(
            f"{what} has {size} bytes, at most {limit} are taken.",
            hint="Is it a bundle that `edgeres push` brought there?",
        )
    found = hashlib.sha256()
    with (
        client.bodies_up_to(size + 1),
        client.get_blob(container, digest, stream=True) as answer,
        path.open("wb") as file,
    ):
        if answer.status_code != 200:
            raise ArtefactError(
                f"{what}: the registry answered {answer.status_code} ({answer.reason}).",
                hint="It lost the layer; push the bundle again.",
            )
        for block in client.blocks(answer):
            found.update(block)
            file.write(block)
    if f"sha256:{found.hexdigest()}" != digest:
        raise _damaged(str(container), "its layer", f"sha256:{found.hexdigest()}", digest)


def _damaged(where: str, what: str, found: str, wanted: str) -> ArtefactError:
    return ArtefactError(
        f"{where}: {what} has the digest {found[:19]}..., not {wanted[:19]}...",
        hint="It was damaged or exchanged on the way; pull it again, and do not run this one.",
    )
