"""Optional signature of a bundle: Ed25519 (RFC 8032) over its manifest, in a file beside it.

The manifest holds the hash of every file, so its signature covers the whole bundle. Keys are PEM
files as OpenSSL makes them (``openssl genpkey -algorithm ed25519``), and the signature is the plain
64 bytes, so OpenSSL alone can check it as well.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgeres.errors import ArtefactError, UsageError, one_line
from edgeres.system.extras import import_extra
from edgeres.system.files import write_atomic
from edgeres.system.plain_files import refuse_special

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

SUFFIX = ".sig"
_MAX_KEY_BYTES = 1 << 16


def signature_path(bundle: Path) -> Path:
    """Where the signature of a bundle lies."""
    return bundle.with_name(bundle.name + SUFFIX)


def sign(manifest: bytes, bundle: Path, key: Path) -> Path:
    """Writes the signature of a bundle.

    Args:
        manifest: The bundle's manifest.
        bundle: The bundle.
        key: PEM file with an Ed25519 private key, without a password.

    Returns:
        The file of the signature.

    Raises:
        UsageError: Not such a key.
        BackendMissingError: The package for signatures is not installed.
        StorageError: The file cannot be written.
    """
    signature = _private_key(key).sign(manifest)
    write_atomic(signature_path(bundle), signature)
    return signature_path(bundle)


def verify(manifest: bytes, bundle: Path, key: Path) -> None:
    """Checks the signature of a bundle.

    Args:
        manifest: The bundle's manifest.
        bundle: The bundle.
        key: PEM file with the Ed25519 public key of whoever made it.

    Raises:
        ArtefactError: No signature, or not one of this manifest by this key.
        UsageError: Not such a key.
        BackendMissingError: The package for signatures is not installed.
    """
    public = _public_key(key)
    from cryptography.exceptions import InvalidSignature

    path = signature_path(bundle)
    refuse_special(path, ArtefactError)
    try:
        with path.open("rb") as stream:
            public.verify(stream.read(_MAX_KEY_BYTES), manifest)
    except OSError as error:
        raise ArtefactError(
            f"{path}: no signature can be read there ({error.strerror}).",
            hint="Copy it along with the bundle, or leave --key out.",
        ) from error
    except InvalidSignature as error:
        raise ArtefactError(
            f"{bundle}: its signature is not one of this bundle by the key {key}.",
            hint="Do not run it; get it again from whoever made it.",
        ) from error


def _private_key(path: Path) -> Ed25519PrivateKey:
    import_extra("cryptography", extra="sign", user="a signature")
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError) as error:
        raise _wrong(path, "private", error) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _wrong(path, "private", None)
    return key


def _public_key(path: Path) -> Ed25519PublicKey:
    import_extra("cryptography", extra="sign", user="a signature")
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(_read(path))
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _wrong(path, "public", error) from error
    if not isinstance(key, Ed25519PublicKey):
        raise _wrong(path, "public", None)
    return key


def _read(path: Path) -> bytes:
    refuse_special(path, UsageError)
    try:
        with path.open("rb") as stream:
            return stream.read(_MAX_KEY_BYTES)
    except OSError as error:
        raise UsageError(
            f"{path}: no key can be read there ({error.strerror}).", hint="Check the path."
        ) from error


def _wrong(path: Path, kind: str, error: Exception | None) -> UsageError:
    reason = f": {one_line(error, 120)}" if error else ""
    return UsageError(
        f"{path}: expected a PEM file with an Ed25519 {kind} key{reason}.",
        hint="Make one with: openssl genpkey -algorithm ed25519 -out key.pem; "
        "openssl pkey -in key.pem -pubout -out key.pub.pem.",
    )
