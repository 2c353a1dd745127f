"""Providers of ONNX Runtime: none falls back to the CPU without being found out.

The package for CPUs has a second provider, Azure's, that takes no node of a network: asked for it,
ONNX Runtime quietly makes a session on the CPU. That is the fall-back that a GPU session without
a working driver has, and it is real here.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from edgeres.backends.base import BuildConfig
from edgeres.backends.onnxruntime import backend, providers
from edgeres.backends.onnxruntime.backend import BACKEND
from edgeres.backends.onnxruntime.layers import _read
from edgeres.backends.onnxruntime.provider_table import PROVIDERS, Provider
from edgeres.errors import BackendMissingError, UsageError

ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
AZURE = "AzureExecutionProvider"


def build(network, folder, device="cuda:0", **options):
    return BACKEND.build(network, folder / "net.onnx", BuildConfig(device, 1, options=options))


@pytest.fixture
def takes_nothing(monkeypatch):
    """``provider=tensorrt`` stands for Azure's provider, which takes no node, on a GPU."""
    if AZURE not in ort.get_available_providers():
        pytest.skip("this onnxruntime has no second provider")
    monkeypatch.setitem(PROVIDERS, "tensorrt", Provider(AZURE, {"cuda": {}}, "-"))


@pytest.mark.parametrize("fallback", ["refuse", "allow"])
def test_a_provider_that_takes_no_node_is_found_out(takes_nothing, network, tmp_path, fallback):
    with pytest.raises(BackendMissingError, match=f"10 of 10 nodes would run on the CPU.*{AZURE}"):
        build(network, tmp_path / "out", provider="tensorrt", cpu_fallback=fallback)
    assert not list(tmp_path.rglob("*.onnx"))


def session(**nodes):
    """What a session says of itself, in the words that a real one uses (see above)."""
    return SimpleNamespace(
        disable_fallback=lambda: None,
        get_providers=lambda: [AZURE, providers.CPU],
        get_provider_graph_assignment_info=lambda: [
            SimpleNamespace(ep_name=name, get_nodes=lambda n=found: [SimpleNamespace(name=n)])
            for name, names in nodes.items()
            for found in names
        ],
    )


def test_some_nodes_on_the_cpu_are_refused_unless_allowed():
    place = providers.ExecutionProvider(Provider(AZURE, {}, "-"))
    half = session(**{AZURE: ["stem", "fc"], providers.CPU: ["pool"]})
    with pytest.raises(BackendMissingError, match=r"1 of 3 nodes .* CPU.*pool") as it:
        providers.refuse_fallback(half, place, allowed=False)
    assert "cpu_fallback=allow" in it.value.hint
    providers.refuse_fallback(half, place, allowed=True)
    providers.refuse_fallback(session(**{AZURE: ["stem"]}), place, allowed=False)


def test_float32_is_not_tf32():
    settings = ort.SessionOptions()
    place = providers.ExecutionProvider(PROVIDERS["cuda"], "cuda", 1)
    (name, options), cpu = providers.add_provider(ort, settings, place, quantized=False)
    assert (name, cpu) == ("CUDAExecutionProvider", providers.CPU)
    assert options == {"device_id": "1", "use_tf32": "0"}


def test_a_runtime_that_does_not_tell_is_not_believed():
    mute = session()
    del mute.get_provider_graph_assignment_info
    place = providers.ExecutionProvider(Provider(AZURE, {}, "-"))
    with pytest.raises(BackendMissingError, match="does not tell which nodes"):
        providers.refuse_fallback(mute, place, allowed=True)


def test_kernels_elsewhere_are_marked(network):
    def event(name, provider):
        types = {"op_name": "Conv", "input_type_shape": [{"float": [1]}], "node_index": name}
        arguments = types | {"provider": provider}
        return {"cat": "Node", "name": f"{name}_kernel_time", "args": arguments, "ts": 0, "dur": 1}

    cuda = PROVIDERS["cuda"].name
    here, away = _read([event("stem", cuda), event("one", providers.CPU)], network, cuda)
    assert (here.op, here.precision) == ("Conv", "float32")
    assert away.op == "Conv on CPUExecutionProvider"
    # A whole network compiled into one kernel does not tell its precision.
    (whole,) = _read([event("stem", AZURE)], network, AZURE)
    assert whole.precision == "unknown"


@pytest.mark.parametrize(
    ("device", "options", "error", "message"),
    [
        ("cuda:0", {"provider": "tensorrt"}, BackendMissingError, "no TensorrtExecutionProvider"),
        (
            "cpu",
            {"provider": "xnnpack"},
            BackendMissingError,
            "no XnnpackExecutionProvider for cpu",
        ),
        ("gpu:1", {"provider": "directml"}, BackendMissingError, "no DmlExecutionProvider"),
        ("npu", {"provider": "coreml"}, BackendMissingError, "no CoreMLExecutionProvider"),
        ("npu", {"provider": "qnn"}, BackendMissingError, "no QNNExecutionProvider here"),
        ("cpu", {"provider": "openvino"}, BackendMissingError, "OpenVINOExecutionProvider"),
        ("cpu", {"provider": "tensorrt"}, UsageError, "serves cuda, the device is cpu"),
        ("npu", {"provider": "directml"}, UsageError, "serves gpu, the device is npu"),
        ("gpu", {}, BackendMissingError, "several providers for gpu, and none is named"),
        ("npu:1", {}, BackendMissingError, "no device 'npu:1'"),
        ("cuda:0", {"provider": "tensor"}, UsageError, "expected one of default, cuda, tensorrt"),
    ],
)
def test_what_is_not_here_is_one_line(network, tmp_path, device, options, error, message):
    if "TensorrtExecutionProvider" in ort.get_available_providers():
        pytest.skip("this onnxruntime has TensorRT")
    with pytest.raises(error, match=message):
        build(network, tmp_path / "out", device, **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("provider", "batch"), [("xnnpack", 1), ("openvino", "batch")])
def test_a_provider_for_fixed_shapes_gets_them(network, provider, batch):
    settings = ort.SessionOptions()
    place = providers.ExecutionProvider(PROVIDERS[provider], "cpu")
    providers.fix_shapes(settings, place, backend._named_sizes(network, place))
    made = ort.InferenceSession(str(network), settings, providers=[providers.CPU])
    assert made.get_inputs()[0].shape[0] == batch
    assert backend.OnnxRuntimeRunner(made).batch_limits.fit(8) == (1 if batch == 1 else 8)


def test_a_provider_without_int8_is_not_given_a_quantized_file():
    place = providers.ExecutionProvider(PROVIDERS["coreml"], "npu")
    with pytest.raises(UsageError, match="does not compute Q/DQ in INT8"):
        providers.add_provider(ort, ort.SessionOptions(), place, quantized=True)
    ((name, options), _) = providers.add_provider(ort, ort.SessionOptions(), place, quantized=False)
    assert (name, options["MLComputeUnits"]) == ("CoreMLExecutionProvider", "CPUAndNeuralEngine")


@pytest.mark.parametrize("provider", sorted(PROVIDERS))
def test_every_row_of_the_table_is_a_provider_that_onnxruntime_knows(provider):
    kind = PROVIDERS[provider]
    known = ort.get_all_providers()
    assert kind.name in known or kind.plugin
    assert set(kind.devices) <= {"cpu", "cuda", "gpu", "npu"}
    assert kind.install.endswith(".")


def test_a_plugin_that_is_not_installed_says_what_to_install(network, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_nv_tensorrt_rtx", None)
    with pytest.raises(BackendMissingError, match="has no NvTensorRTRTXExecutionProvider") as it:
        build(network, tmp_path / "out", provider="tensorrt_rtx")
    assert "pip install onnxruntime-ep-nv-tensorrt-rtx-cu13" in it.value.hint


def test_a_plugin_that_does_not_load_says_why(network, tmp_path, monkeypatch):
    # As NVIDIA's does without a driver: its library asks for libcuda, and ONNX Runtime refuses.
    broken = tmp_path / "libprovider.so"
    broken.write_bytes(b"no library")
    plugin = SimpleNamespace(get_library_path=lambda: str(broken))
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_nv_tensorrt_rtx", plugin)
    with pytest.raises(BackendMissingError, match=r"does not load: .*libprovider\.so") as it:
        build(network, tmp_path / "out", provider="tensorrt_rtx")
    assert "\n" not in str(it.value)
    assert "libcuda" in it.value.hint
