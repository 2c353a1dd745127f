"""Inputs and outputs that stay on the GPU, pinned buffers, memory that host and GPU share."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgeres.backends.base import BuildConfig, Engine
from edgeres.backends.tensorrt import dlpack
from edgeres.backends.tensorrt.resident import DeviceArray
from edgeres.errors import DataError, UsageError

from .conftest import BACKEND, CUDA
from .test_run import expected, images

Install = Callable[[str], Any]


class Given:
    """A tensor of some framework, by Numba's protocol alone."""

    def __init__(self, array: DeviceArray, **changes: Any) -> None:
        self.array = array
        self.changes = changes

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {**self.array.__cuda_array_interface__, **self.changes}


def on_gpu(driver: Any, values: np.ndarray, ordinal: int = 0) -> DeviceArray:
    array = DeviceArray(ordinal, values.shape, str(values.dtype))
    driver.floats(array.address, values.size)[:] = values.ravel()
    return array


@pytest.mark.parametrize("protocol", ["dlpack", "numba"])
@pytest.mark.parametrize("graph", [False, True])
def test_nothing_goes_through_the_host(
    install: Install, driver: Any, built: Callable[..., Engine], protocol: str, graph: bool
) -> None:
    install("10")
    config = BuildConfig("cuda:0", options={"cuda_graph": str(graph).lower()})
    feed = images(3)
    with BACKEND.load(built(), config) as runner:
        given = on_gpu(driver, feed)
        driver.copies.clear()
        for _ in range(2):
            taken = given if protocol == "dlpack" else Given(given)
            logits = runner.infer_resident({"input": taken})["logits"]
        assert set(driver.copies) == ({"across"} if graph else set())
        assert (logits.shape, logits.dtype) == ((3, 2), np.float32)
        np.testing.assert_allclose(logits.numpy(), expected(feed), rtol=1e-6)
        assert runner.device_ms > 0
        # A run with arrays of the host afterwards uses the runner's own buffers.
        again = runner.infer({"input": feed + 1})["logits"]
        np.testing.assert_allclose(again, expected(feed + 1), rtol=1e-6)
        np.testing.assert_allclose(logits.numpy(), expected(feed), rtol=1e-6)


def test_outputs_outlive_the_runner_and_free_their_memory(
    install: Install, driver: Any, built: Callable[..., Engine]
) -> None:
    install("10")
    feed = images(1)
    with BACKEND.load(built(), CUDA) as runner:
        logits = runner.infer_resident({"input": on_gpu(driver, feed)})["logits"]
    np.testing.assert_allclose(logits.numpy(), expected(feed), rtol=1e-6)
    assert driver.alive() == ["context", "memory"]
    del logits
    gc.collect()
    assert driver.alive() == []


def test_an_unaligned_tensor_is_copied_on_the_gpu(
    install: Install, driver: Any, built: Callable[..., Engine]
) -> None:
    install("10")
    feed = images(2)
    with BACKEND.load(built(), CUDA) as runner:
        whole = on_gpu(driver, np.concatenate([np.zeros((1, 1, 4, 4), np.float32), feed]))
        part = Given(whole, shape=feed.shape, data=(whole.address + 64, True))
        driver.copies.clear()
        logits = runner.infer_resident({"input": part})["logits"]
        assert driver.copies == ["across"]
        np.testing.assert_allclose(logits.numpy(), expected(feed), rtol=1e-6)


@pytest.mark.parametrize("told", [True, False])
def test_values_that_are_under_way_are_waited_for(
    install: Install, driver: Any, built: Callable[..., Engine], told: bool
) -> None:
    install("10")
    feed = images(1)
    with BACKEND.load(built(), CUDA) as runner:
        array = DeviceArray(0, feed.shape, "float32")

        def work() -> None:
            driver.floats(array.address, 16)[:] = feed.ravel()

        driver.submit(1, work)  # on the default stream
        given = Given(array, stream=1) if told else _version_2(array)
        logits = runner.infer_resident({"input": given})["logits"]
        np.testing.assert_allclose(logits.numpy(), expected(feed), rtol=1e-6)


def _version_2(array: DeviceArray) -> Any:
    record = {k: v for k, v in array.__cuda_array_interface__.items() if k != "stream"}
    return type("Older", (), {"__cuda_array_interface__": {**record, "version": 2}})()


def test_wrong_tensors_are_refused(
    install: Install, driver: Any, built: Callable[..., Engine]
) -> None:
    install("10")
    driver.count = 2
    with BACKEND.load(built(), CUDA) as runner:
        good = on_gpu(driver, images(1))
        double = DeviceArray(0, (1, 1, 4, 4), "float64")
        other = DeviceArray(1, (1, 1, 4, 4), "float32")
        steps = Given(good, strides=(64, 64, 4, 16))
        wrong: list[tuple[dict[str, Any], str]] = [
            ({}, "input is missing"),
            ({"input": good, "more": good}, "no input more"),
            ({"input": images(1)}, "expected a tensor on the GPU"),
            ({"input": [1.0]}, "expected a tensor on the GPU .*, got list"),
            ({"input": double}, "expected an array of float32, got float64"),
            ({"input": other}, "does not lie on cuda:0"),
            ({"input": steps}, "not C-contiguous"),
            ({"input": on_gpu(driver, images(4)[:, :, :2])}, r"got float32 \(4, 1, 2, 4\)"),
        ]
        for feeds, message in wrong:
            with pytest.raises(DataError, match=message):
                runner.infer_resident(feeds)
        runner.close()
        with pytest.raises(UsageError, match="closed"):
            runner.infer_resident({"input": good})
    del good, double, other, steps, wrong, feeds


def test_a_capsule_is_what_numpy_makes_and_takes(
    driver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.arange(6, dtype=np.int16).reshape(2, 3)
    found = dlpack.describe_capsule(values.__dlpack__())
    assert found == dlpack.Described(values.ctypes.data, (2, 3), "int16", True, 0)
    assert not dlpack.describe_capsule(values.T.__dlpack__()).dense
    monkeypatch.setattr(dlpack, "CUDA", 1)  # the stand-in's memory is the host's
    array = on_gpu(driver, np.arange(6, dtype=np.float32).reshape(2, 3))
    taken = np.from_dlpack(array)
    del array
    gc.collect()
    assert taken.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert driver.alive() == ["context", "memory"], "numpy still reads it"
    del taken
    gc.collect()
    assert driver.alive() == []


def test_a_capsule_that_nobody_takes_is_freed(driver: Any) -> None:
    array = DeviceArray(0, (2,), "float32")
    capsule = array.__dlpack__()
    with pytest.raises(BufferError):
        array.__dlpack__(copy=True)
    del array
    gc.collect()
    assert driver.alive() == ["context", "memory"]
    del capsule
    gc.collect()
    assert driver.alive() == []


def test_host_memory_is_pinned(install: Install, driver: Any, built: Callable[..., Engine]) -> None:
    install("10")
    with BACKEND.load(built(), CUDA) as runner:
        assert driver.alive().count("pinned memory") == 2
        first = runner.infer({"input": images(1)})["logits"]
        runner.infer({"input": images(1) + 1})
        np.testing.assert_allclose(first, expected(images(1)), rtol=1e-6)
        assert driver.copies == ["up", "down"] * 2


@pytest.mark.parametrize("graph", ["false", "true"])
def test_where_memory_is_shared_nothing_is_copied(
    install: Install, driver: Any, built: Callable[..., Engine], graph: str
) -> None:
    install("10")
    driver.integrated = True
    config = BuildConfig("cuda:0", options={"cuda_graph": graph})
    with BACKEND.load(built(), config) as runner:
        for batch in (1, 3, 1):
            feed = images(batch) * batch
            logits = runner.infer({"input": feed})["logits"]
            np.testing.assert_allclose(logits, expected(feed), rtol=1e-6)
    assert driver.copies == []
