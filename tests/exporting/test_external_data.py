"""Foreign files that reach outside themselves, or promise more than they hold, are refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgeres.errors import ModelError, StageError
from edgeres.graph.external_data import load_self_contained

WEIGHT = np.arange(108, dtype=np.float32).reshape(4, 27)
SIZE = WEIGHT.nbytes


@pytest.fixture
def write(build_graph, tmp_path: Path) -> Callable[..., Path]:
    """Writes a model whose weight lies at a location, and the data file ``data/w.bin``."""

    def run(location: str, **entries: int) -> Path:
        folder = tmp_path / "model"
        (folder / "data").mkdir(parents=True)
        (folder / "data" / "w.bin").write_bytes(b"\0" * 16 + WEIGHT.tobytes())
        (tmp_path / "secret.bin").write_bytes(b"\0" * 16 + WEIGHT.tobytes())
        model = build_graph(
            "f = Flatten(x) y = Gemm<transB=1>(f, w)", {"w": WEIGHT}, image="float[N,3,3,3] x"
        )
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in {"location": location, "offset": 16, "length": SIZE, **entries}.items():
            tensor.external_data.add(key=key, value=str(value))
        path = folder / "model.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    return run


def test_plain_file_below_the_model_is_read(write: Callable[..., Path]) -> None:
    model = load_self_contained(write("data/w.bin"))
    tensor = model.graph.initializer[0]
    np.testing.assert_array_equal(numpy_helper.to_array(tensor), WEIGHT)
    assert tensor.data_location == onnx.TensorProto.DEFAULT
    assert not tensor.external_data


@pytest.mark.parametrize(
    "location",
    [
        "../secret.bin",
        "data/../../secret.bin",
        "/etc/passwd",
        "",
        ".",
        "data//w.bin",
        "./data/w.bin",
        "data\\w.bin",
        "C:/w.bin",
        "data/w\0.bin",
        "*/_ORT_MEM_ADDR_/*",
        "_ORT_MEM_ADDR_",
    ],
)
def test_location_that_is_no_plain_path_is_refused(
    write: Callable[..., Path], location: str
) -> None:
    with pytest.raises(ModelError, match="Tensor 'w' refers to external data at"):
        load_self_contained(write(location))


def test_symbolic_link_to_a_file_is_refused(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write("data/link.bin")
    (path.parent / "data" / "link.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(ModelError, match="without following a link"):
        load_self_contained(path)


def test_symbolic_link_to_a_folder_is_refused(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write("elsewhere/secret.bin")
    (path.parent / "elsewhere").symlink_to(tmp_path)
    with pytest.raises(ModelError, match="without following a link"):
        load_self_contained(path)


def test_link_within_the_model_is_followed(write: Callable[..., Path]) -> None:
    path = write("data/link.bin")
    (path.parent / "data" / "link.bin").symlink_to("w.bin")
    tensor = load_self_contained(path).graph.initializer[0]
    np.testing.assert_array_equal(numpy_helper.to_array(tensor), WEIGHT)


def cached(path: Path, data: Path) -> tuple[Path, Path]:
    """The files as a download cache keeps them; gives the model's and the data's link."""
    cache = path.parent.parent / "hub" / "models--someone--net"
    snapshot, blobs = cache / "snapshots" / "0a1b" / "onnx", cache / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for file, name in ((path, "model.onnx"), (data, "model.onnx_data")):
        file.rename(blobs / f"{name}-hash")
        (snapshot / name).symlink_to(f"../../../blobs/{name}-hash")
    return snapshot / "model.onnx", snapshot / "model.onnx_data"


def test_links_of_a_download_cache_are_followed(write: Callable[..., Path]) -> None:
    path = write("model.onnx_data")
    model, _ = cached(path, path.parent / "data" / "w.bin")
    tensor = load_self_contained(model).graph.initializer[0]
    np.testing.assert_array_equal(numpy_helper.to_array(tensor), WEIGHT)


@pytest.mark.parametrize("target", ["secret.bin", "hub/models--someone--other/blobs/hash"])
def test_link_of_a_download_cache_to_elsewhere_is_refused(
    write: Callable[..., Path], tmp_path: Path, target: str
) -> None:
    path = write("model.onnx_data")
    model, link = cached(path, path.parent / "data" / "w.bin")
    (tmp_path / target).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / target).write_bytes((tmp_path / "secret.bin").read_bytes())
    link.unlink()
    link.symlink_to(tmp_path / target)
    with pytest.raises(ModelError, match="without following a link"):
        load_self_contained(model)


def test_blobs_that_are_a_link_themselves_are_refused(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    path = write("model.onnx_data")
    model, _ = cached(path, path.parent / "data" / "w.bin")
    blobs = model.parents[3] / "blobs"
    blobs.rename(tmp_path / "moved")
    blobs.symlink_to(tmp_path / "moved")
    with pytest.raises(ModelError, match="without following a link"):
        load_self_contained(model)


def test_hard_link_is_refused(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write("data/hard.bin")
    os.link(tmp_path / "secret.bin", path.parent / "data" / "hard.bin")
    with pytest.raises(ModelError, match="is a hard link or no regular file"):
        load_self_contained(path)


def test_pipe_is_refused_and_does_not_hang(write: Callable[..., Path]) -> None:
    path = write("data/pipe.bin")
    os.mkfifo(path.parent / "data" / "pipe.bin")
    with pytest.raises(ModelError, match="no regular file"):
        load_self_contained(path)


def test_missing_file_is_named(write: Callable[..., Path]) -> None:
    with pytest.raises(ModelError, match=r"'w' at .*data/none\.bin cannot be opened"):
        load_self_contained(write("data/none.bin"))


@pytest.mark.parametrize(
    "entries",
    [{"offset": 17}, {"offset": -16}, {"length": SIZE - 4}, {"length": -1}, {"offset": 1 << 62}],
)
def test_range_outside_the_file_or_the_shape_is_refused(
    write: Callable[..., Path], entries: dict[str, int]
) -> None:
    with pytest.raises(ModelError, match="its shape asks for 432"):
        load_self_contained(write("data/w.bin", **entries))


def test_reference_hidden_in_an_attribute_is_found(build_graph, tmp_path: Path) -> None:
    model = build_graph("c = Constant<value=float[1] {1.0}>() y = Add(x, c)")
    tensor = model.graph.node[0].attribute[0].t
    tensor.ClearField("float_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret.bin")
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="refers to external data"):
        load_self_contained(path)


def test_weights_that_are_not_there_are_refused(build_graph, tmp_path: Path) -> None:
    model = build_graph("y = Add(x, w)", {"w": WEIGHT})
    model.graph.initializer[0].dims[:] = [1 << 20, 27]
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"asks for 108 MiB, but 432 bytes"):
        load_self_contained(path)


def test_terabyte_of_weights_hits_the_limit(build_graph, tmp_path: Path) -> None:
    model = build_graph("y = Add(x, w)", {"w": WEIGHT})
    model.graph.initializer[0].dims[:] = [1 << 30, 256]
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(StageError, match=r"asks for 1 TiB of weights by tensor 'w', limit 2 GiB"):
        load_self_contained(path, max_bytes=2 << 30)


@pytest.mark.parametrize("content", [b"", b"\x08", b"GIF89a not a model", None])
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "m.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match="Expected an ONNX model at"):
        load_self_contained(path)


def test_device_is_refused() -> None:
    with pytest.raises(ModelError, match="no regular file"):
        load_self_contained(Path("/dev/zero"))


def test_file_above_the_limit_is_refused(build_graph, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(build_graph("y = Relu(x)", {"w": WEIGHT}).SerializeToString())
    with pytest.raises(StageError, match="limit 100 bytes"):
        load_self_contained(path, max_bytes=100)
