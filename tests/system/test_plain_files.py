"""What somebody names as a file and is none is refused before it is opened."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgeres.backends.sidecar import read_engine
from edgeres.bundling.open import OpenBundle
from edgeres.bundling.signature import verify
from edgeres.data.decode import decode_file
from edgeres.data.filelist import open_list
from edgeres.data.idx import read_idx_images
from edgeres.data.label_file import read_labels
from edgeres.data.npz import open_npz
from edgeres.errors import EdgeResError, UsageError
from edgeres.evaluation.conformance import load_conformance
from edgeres.evaluation.predictions import load_predictions
from edgeres.layer_latency.table import LatencyTable
from edgeres.pipeline.recipe_file import load_recipe, load_training_recipe
from edgeres.quantization.table import CalibrationTable
from edgeres.system.foreign_json import parse_json, read_json
from edgeres.system.plain_files import refuse_special


def checkpoint(path: Path) -> object:
    pytest.importorskip("torch", reason="torch is not installed")
    from edgeres.models.checkpoint import load_checkpoint

    return load_checkpoint(path)


READERS: dict[str, Callable[[Path], object]] = {
    "checkpoint": checkpoint,
    "engine": read_engine,
    "bundle": OpenBundle,
    "key": lambda path: verify(b"", path, path),
    "labels": read_labels,
    "image": decode_file,
    "list": lambda path: open_list(path, None, "validation"),
    "idx": read_idx_images,
    "npz": lambda path: open_npz(path, "validation"),
    "conformance": load_conformance,
    "predictions": load_predictions,
    "latency table": LatencyTable.load,
    "recipe": load_recipe,
    "calibration table": CalibrationTable.load,
    "training recipe": load_training_recipe,
}


@pytest.fixture
def alarm() -> Iterator[None]:
    def late(number: int, frame: object) -> None:
        pytest.fail("it waits for a special file")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("alarm")
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", ["fifo", "/dev/zero", "folder"])
def test_no_reader_opens_what_is_no_file(tmp_path: Path, reader: str, kind: str) -> None:
    path = tmp_path / kind if kind[0] != "/" else Path(kind)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    with pytest.raises(EdgeResError) as caught:
        READERS[reader](path)
    assert caught.value.exit_code in (2, 3)
    assert "\n" not in str(caught.value)


def test_files_folders_and_nothing_pass(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for name in ("file", "link", ".", "nothing"):
        refuse_special(tmp_path / name, UsageError)
    refuse_special("a\0b", UsageError)
    with pytest.raises(UsageError, match="/dev/null: is a device, not a file"):
        refuse_special("/dev/null", UsageError)


def test_json_from_elsewhere_is_read_or_a_value_error(tmp_path: Path) -> None:
    assert parse_json(b'{"a": [1]}') == {"a": [1]}
    for text in ("", "[" * 99_999, '{"a":' * 99_999, "nul", "\ud800"):
        with pytest.raises(ValueError, match=r".+"):
            parse_json(text)
    (tmp_path / "x").write_text("[1, 2, 3]")
    assert read_json(tmp_path / "x") == [1, 2, 3]
    with pytest.raises(ValueError, match="more than 4 bytes"):
        read_json(tmp_path / "x", max_bytes=4)
