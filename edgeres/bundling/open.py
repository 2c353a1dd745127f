"""Opens a bundle that may come from anywhere: nothing is loaded before its hash holds."""

from __future__ import annotations

from pathlib import Path

from edgeres.bundling.archive import MANIFEST, MAX_MANIFEST_BYTES, Archive, refused
from edgeres.bundling.manifest import EngineEntry, parse_manifest
from edgeres.data.preprocess import Preprocess
from edgeres.errors import ArtefactError, EdgeResError, UsageError
from edgeres.system.closing import Closing
from edgeres.system.extras import require_packages

MAX_TEXT_BYTES = 64 << 20


class OpenBundle(Closing):
    """A bundle whose form, manifest and (where a key was given) signature hold.

    Args:
        path: The bundle.
        key: PEM file with the public key that must have signed it; ``None`` asks for no signature.

    Raises:
        ArtefactError: Not a whole bundle, or not signed by that key.
        BackendMissingError: A key was given, and the package that checks signatures is missing.
        UsageError: Not a key.
    """

    def __init__(self, path: Path, *, key: Path | None = None) -> None:
        if key is not None:
            require_packages(["cryptography"])
        self._archive = Archive(path)
        try:
            content = self._archive.read(MANIFEST, limit=MAX_MANIFEST_BYTES)
            if key is not None:
                from edgeres.bundling.signature import verify

                verify(content, path, key)
            self.path = path
            self.manifest = parse_manifest(content, path)
            self.preprocess = self._preprocess()
            self._check_sizes()
        except BaseException:
            self._archive.close()
            raise

    def check_all(self) -> None:
        """Compares the hash of every file with the manifest.

        Raises:
            ArtefactError: One differs.
        """
        for name, entry in self.manifest.files.items():
            self._archive.check(name, entry.sha256)

    def read(self, name: str) -> bytes:
        """Content of one file, after its hash was checked.

        Raises:
            ArtefactError: No such file, a huge one, or another hash.
        """
        entry = self.manifest.files.get(name)
        if entry is None:
            raise refused(self.path, f"it has no {name}")
        self._archive.check(name, entry.sha256)
        return self._archive.read(name, limit=MAX_TEXT_BYTES)

    def extract(self, name: str, folder: Path) -> Path:
        """Writes one file under its own last name into a folder, which is the only place it goes.

        Raises:
            ArtefactError: No such file, or another hash.
            StorageError: The file cannot be written.
        """
        entry = self.manifest.files.get(name)
        if entry is None:
            raise refused(self.path, f"it has no {name}")
        target = folder / name.rpartition("/")[2]
        self._archive.extract(name, target, entry.sha256)
        return target

    def engine(self, target: str) -> EngineEntry:
        """The engine for a target.

        Raises:
            UsageError: The bundle has none.
        """
        found = self.manifest.engines.get(target)
        if found is None:
            raise UsageError(
                f"{self.path}: has no engine for {target!r}.",
                hint=f"It has {', '.join(self.manifest.engines)}.",
            )
        return found

    def close(self) -> None:
        """Closes the file."""
        self._archive.close()

    def _preprocess(self) -> Preprocess:
        try:
            return Preprocess.from_dict(self.manifest.preprocess)
        except (EdgeResError, TypeError) as error:
            raise ArtefactError(f"{self.path}: {MANIFEST}: preprocess: {error}") from error

    def _check_sizes(self) -> None:
        there = {name: size for name, size in self._archive.sizes.items() if name != MANIFEST}
        said = {name: entry.size_bytes for name, entry in self.manifest.files.items()}
        if there != said:
            odd = sorted(name for name in {*there, *said} if there.get(name) != said.get(name))
            raise refused(self.path, f"{odd[0]} is not as its manifest says")
