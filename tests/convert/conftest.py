"""One run of the main job on the reference network, with real engines and images, for all tests."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from edgeres.backends import get_backend, target_names
from edgeres.cli import app
from edgeres.system.assets import asset_path
from edgeres.system.store import StageResult, Store, content_key

CHECKPOINT = "checkpoints/fmnist_resnet20.safetensors"
SAMPLES = 400
FEW = 2000
TEST_IMAGES = ("fmnist-test-images.idx3-ubyte.gz", "fmnist-test-labels.idx1-ubyte.gz")
RECIPE = """\
name: small
model: {{source: net.safetensors}}
data: {{validation_samples: {samples}, calibration_samples: 64}}
targets: [{targets}]
gates: {{max_drop: 5}}
benchmark: {{seconds: 0.2, threads: 1}}
"""


def installed() -> list[str]:
    return [name for name in target_names() if get_backend(name).missing() is None]


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file that a run hands over, by its path in the folder."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and ".stages" not in file.parts
    }


class Pool:
    """What stages that take long gave, by their keys: each is made once a session.

    A test that patches something may make it as it likes, so it neither takes nor leaves anything.
    """

    STAGES = ("export", "calibrate", "quantize", "evaluate")

    def __init__(self, folder: Path) -> None:
        self.on = True
        self._folder = folder
        self._stage = Store.stage

    def stage(
        self, store: Store, name: str, *, produce: Callable[[Path, Path], None], **key: Any
    ) -> StageResult:
        kept = self._folder / f"{name}-{content_key(name, **key)}"

        def make(new: Path, work: Path) -> None:
            if kept.exists():
                shutil.copytree(kept, new, dirs_exist_ok=True)
                return
            produce(new, work)
            shutil.copytree(new, kept)

        pooled = self.on and name in self.STAGES
        return self._stage(store, name, produce=make if pooled else produce, **key)


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    pool = Pool(tmp_path_factory.mktemp("pool"))

    def stage(store: Store, name: str, **named: Any) -> StageResult:
        return pool.stage(store, name, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "stage", stage)
        yield pool


@pytest.fixture(autouse=True)
def pooled_where_nothing_is_patched(pool: Pool, request: pytest.FixtureRequest) -> None:
    pool.on = "monkeypatch" not in request.fixturenames


@pytest.fixture(scope="session")
def workplace(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe, the reference network, and the output of one run; only to read.

    A test that writes takes ``own_copy``.
    """
    folder = tmp_path_factory.mktemp("convert")
    shutil.copyfile(asset_path("recipes", CHECKPOINT), folder / "net.safetensors")
    text = RECIPE.format(samples=SAMPLES, targets=", ".join(installed()))
    (folder / "recipe.yaml").write_text(text)
    result = invoke("convert", folder / "recipe.yaml", "--output", folder / "out", "--json")
    assert result.exit_code == 0, result.output
    (folder / "stdout.json").write_text(result.stdout)
    return folder


@pytest.fixture(scope="session")
def report(workplace: Path) -> dict[str, Any]:
    return json.loads((workplace / "out" / "report.json").read_text())


@pytest.fixture(scope="session")
def few_images(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The first 2,000 of the embedded test images, as ``--data`` takes them."""
    folder = tmp_path_factory.mktemp("few")
    for name in TEST_IMAGES:
        whole = gzip.decompress(asset_path("calibration", name).read_bytes())
        rank = whole[3]
        sizes = np.frombuffer(whole, ">u4", rank, 4)
        end = 4 + 4 * rank + FEW * int(sizes[1:].prod())
        (folder / name).write_bytes(
            gzip.compress(whole[:4] + FEW.to_bytes(4, "big") + whole[8:end], 1)
        )
    return "idx:" + ",".join(str(folder / name) for name in TEST_IMAGES)


@pytest.fixture
def own_copy(workplace: Path, tmp_path: Path) -> Path:
    """A copy of the workplace, cached stages and all, for one test to change."""
    return Path(shutil.copytree(workplace, tmp_path / "work"))


@pytest.fixture(autouse=True)
def workplace_is_left_alone(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test that changes what the others read."""
    if "workplace" not in request.fixturenames:
        yield
        return
    folder = request.getfixturevalue("workplace")
    before = _state(folder)
    yield
    assert _state(folder) == before, "changes what other tests read: let it take `own_copy`"


def _state(folder: Path) -> dict[Path, tuple[int, int]]:
    """Size in bytes and time of the last change, in ns, of every file."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {file: (file.stat().st_size, file.stat().st_mtime_ns) for file in files}
