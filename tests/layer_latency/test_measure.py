"""Tables are filled on the engines, resumed, and never mixed with another machine's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgeres.backends.target import Target
from edgeres.errors import ArtefactError, UsageError
from edgeres.layer_latency import measure as module
from edgeres.layer_latency import predict
from edgeres.layer_latency.measure import (
    liked_multiple,
    measure_layers,
    measurement_context,
    width_grid,
)
from edgeres.layer_latency.predict import latency_model
from edgeres.layer_latency.shapes import network_layers
from edgeres.layer_latency.table import LatencyTable

from .conftest import SHORT, small_network


@pytest.mark.slow  # the times must order, which other work on the machine can prevent
@pytest.mark.parametrize("precision", ["int8", "float32"])
def test_a_table_is_filled_and_found_again(
    precision: str, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = small_network(tmp_path / "net.onnx", size=96)  # large enough to tell widths apart
    # Such short times say little; how well they fit is not what is tested here.
    monkeypatch.setattr(predict, "_LARGEST_ERROR", 100.0)
    monkeypatch.setattr(predict, "_LARGEST_CREDIT", 100.0)
    path = tmp_path / "table.json"
    seen: list[tuple[int, int]] = []

    def model() -> object:
        return latency_model(
            network,
            target,
            precision=precision,  # type: ignore[arg-type]
            threads=1,
            path=path,
            layer_times=SHORT,
            network_times=replace(SHORT, seconds=0.1, max_seconds=1.0),
            progress=lambda *step: seen.append(step),
        )

    first = model()
    assert seen[-1] == (6, 6)  # five shapes and the multiples
    table = LatencyTable.load(path)
    assert table.multiples is not None
    assert set(table.probes) == {"inputs", "outputs"}
    assert set(table.shapes) == {layer.shape.key for layer in network_layers(network)}
    assert [time.share for time in first.networks] == [1.0, 0.7, 0.4]  # type: ignore[attr-defined]
    assert first.dense_ms > 0  # type: ignore[attr-defined]

    def never(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(module, "measure", never)
    again = model()
    assert again.networks == LatencyTable.load(path).networks[next(iter(table.networks))]  # type: ignore[attr-defined]


def test_a_table_of_another_place_is_refused(network: Path, target: Target, tmp_path: Path) -> None:
    place = measurement_context(target, precision="int8", threads=1)
    LatencyTable(replace(place, cpu="another", threads=2)).save(tmp_path / "t.json")
    with pytest.raises(ArtefactError, match="threads, cpu differ"):
        measure_layers(network_layers(network), target, place, path=tmp_path / "t.json")


def test_a_table_of_the_same_cpu_with_fewer_instruction_sets_is_refused(
    network: Path, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = measurement_context(target, precision="int8", threads=1)
    machine = module.describe_environment(())
    less = replace(machine, isa=(*machine.isa[:-1], "another"))
    monkeypatch.setattr(module, "describe_environment", lambda _: less)
    other = measurement_context(target, precision="int8", threads=1)
    assert other.file_name != place.file_name
    LatencyTable(place).save(tmp_path / "t.json")
    with pytest.raises(ArtefactError, match="isa differ"):
        measure_layers(network_layers(network), target, other, path=tmp_path / "t.json")


def test_rules_and_options_belong_to_the_place_and_reach_the_engines(
    network: Path, target: Target, tmp_path: Path
) -> None:
    plain = measurement_context(target, precision="int8", threads=1)
    LatencyTable(plain).save(tmp_path / "t.json")
    assert LatencyTable.load(tmp_path / "t.json").place == plain
    other = replace(
        target,
        rules=replace(target.rules, name="other"),
        config=replace(target.config, options={"answer": "42"}),
    )
    place = measurement_context(other, precision="int8", threads=1)
    with pytest.raises(ArtefactError, match="rules, options differ"):
        measure_layers(network_layers(network), other, place, path=tmp_path / "t.json")
    with pytest.raises(UsageError, match="no option 'answer'"):
        measure_layers(network_layers(network), other, place, settings=SHORT)


@pytest.mark.slow
def test_a_killed_run_goes_on(
    tmp_path: Path, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = network_layers(small_network(tmp_path / "net.onnx", unit=4))
    place = measurement_context(target, precision="float32", threads=1)
    measured: list[str] = []
    times = module._times

    def stopped(shape, *rest):  # type: ignore[no-untyped-def]
        if len(measured) == 2:
            measured.append("stop")
            raise KeyboardInterrupt
        measured.append(shape.key)
        return times(shape, *rest)

    monkeypatch.setattr(module, "_times", stopped)
    path = tmp_path / "t.json"
    with pytest.raises(KeyboardInterrupt):
        measure_layers(layers, target, place, path=path, settings=SHORT)
    assert len(LatencyTable.load(path).shapes) == 2
    table = measure_layers(layers, target, place, path=path, settings=SHORT)
    assert measured.count(measured[0]) == 1
    grouped = next(layer.shape.key for layer in layers if layer.shape.unit)
    assert table.shapes[grouped].inputs == (0,)


def test_grids_hold_what_can_change(network: Path) -> None:
    layers = {layer.name: layer for layer in network_layers(network)}
    assert width_grid([layers["conv1"]]) == ((3,), (8, 16))
    assert width_grid([layers["fc"]]) == ((8, 16, 32), (10,))
    wide = replace(layers["a.conv2"], inputs=64, outputs=256)
    assert width_grid([wide, layers["a.conv2"]]) == ((8, 32, 64), (32, 128, 256))


@pytest.mark.parametrize(
    ("times", "multiple"),
    [
        ({32: 4.0, 40: 5.0, 48: 6.0, 56: 7.0, 64: 8.0}, 8),
        ({32: 4.0, 40: 6.1, 48: 6.0, 56: 8.0, 64: 8.1}, 16),
        ({32: 4.0, 40: 8.1, 48: 8.0, 56: 8.0, 64: 8.1}, 32),
    ],
)
def test_stairs_are_seen(times: dict[int, float], multiple: int) -> None:
    assert liked_multiple(times) == multiple
