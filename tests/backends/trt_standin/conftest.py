# ruff: noqa: N802 - the driver's functions keep their own names
"""Stand-ins for what this machine lacks: TensorRT 8.6, 10 and 11, a CUDA driver and a GPU.

The stand-in for TensorRT has exactly the members that the real bindings of that version have (the
lists in ``tests/backends/tensorrt_api``): anything else is an ``AttributeError``, as it would be on
a user's machine. The stand-in for the driver keeps device memory on the host and, like a stream,
does nothing before it is waited for. They prove names, call order, memory and messages; they say
nothing about what a GPU computes.
"""

from __future__ import annotations

import ast
import ctypes
import enum
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

LISTS = Path(__file__).parents[1] / "tensorrt_api"
FILES = {
    "8.6": "tensorrt-8.6.1.txt",
    "10": "tensorrt-10.13.3.txt",
    "11": "tensorrt-11.4.0.txt",
    "rtx": "tensorrt-rtx-1.7.1.txt",
}
LAYER = {
    "Name": "conv + relu",
    "LayerType": "CaskConvolution",
    "Inputs": [{"Name": "x", "Dimensions": [1, 1, 4, 4], "Format/Datatype": "Int8"}],
    "Outputs": [{"Name": "y", "Dimensions": [1, 2, 4, 4], "Format/Datatype": "Float"}],
    "Weights": {"Type": "Int8", "Count": 18},
    "Metadata": "[ONNX Layer: conv]",
}
LOG = (
    "Layers:\nName: conv + relu, LayerType: CaskConvolution, "
    "Inputs: [ { Name: x, Location: Device, Dimensions: [1,1,4,4], "
    "Format/Datatype: Row major Int8 format }], Outputs: [ { Name: y, "
    "Location: Device, Dimensions: [1,2,4,4], Format/Datatype: Row major linear FP32 }], "
    'ParameterType: Convolution, Weights: {"Type": "Int8", "Count": 18}, TacticName: t, '
    "StreamId: 0, Metadata: [ONNX Layer: conv]"
)
PLAN = b"a plan"
MAX_BATCH = 4


class Strict:
    """An object with the listed members and no others; members without an answer are ``None``."""

    def __init__(self, kind: str, members: frozenset[str], **answers: Any) -> None:
        unknown = set(answers) - members
        assert not unknown, f"the stand-in answers {unknown}, which {kind} does not have"
        self.__dict__.update(_kind=kind, _members=members, set_values={}, **answers)

    def __getattr__(self, name: str) -> Any:
        if name not in self.__dict__["_members"]:
            raise AttributeError(f"{self.__dict__['_kind']} has no {name}")
        return self.set_values.get(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self._members:
            raise AttributeError(f"{self._kind} has no {name}")
        self.set_values[name] = value


class StandIn:
    """One version of TensorRT: ``module`` for the code under test, the rest for the tests."""

    def __init__(self, version: str, driver: Driver) -> None:
        first, *lines = (LISTS / FILES[version]).read_text().splitlines()
        self.version = first
        self.driver = driver
        self.flags: list[str] = []
        self.network_flags = -1
        self.deserialized = 0
        self.valid = True
        self.loads_plan = True
        self.log_has_layers = True
        self.parses = True
        self.parsed = ""
        self.dla_cores = 0
        self.timings: list[bytes] = []
        self.kernels: list[bytes] = []
        self.config: Strict | None = None
        self.runtime_config: Strict | None = None
        self.profile: dict[str, tuple[Any, ...]] = {}
        self._members: dict[str, frozenset[str]] = {}
        enums: dict[str, Any] = {}
        names: frozenset[str] = frozenset()
        for line in lines:
            listed = re.fullmatch(r"(== )?(\w+) (None|\[.*\])", line)
            if listed:
                members = ast.literal_eval(listed.group(3))
                self._members[listed.group(2)] = frozenset(members or ())
                if members and not listed.group(1):
                    enums[listed.group(2)] = enum.IntEnum(listed.group(2), members, start=0)
            elif line.startswith("["):
                names = frozenset(ast.literal_eval(line))
        answers = {name: value for name, value in enums.items() if name in names}
        answers |= {
            "ILogger": Logger,
            "TensorIOMode": enum.Enum("TensorIOMode", ["INPUT", "OUTPUT"]),
            "LayerInformationFormat": enum.Enum("LayerInformationFormat", ["JSON", "ONELINE"]),
            "Builder": self._builder,
            "OnnxParser": self._parser,
            "Runtime": self._runtime,
            "nptype": lambda kind: np.float32,
        }
        if "IProgressMonitor" in names:
            answers["IProgressMonitor"] = type("IProgressMonitor", (), {})
        self.module = Strict("module", names | {"__version__"}, **answers)
        self.module.__dict__["__version__"] = first

    def _strict(self, kind: str, **answers: Any) -> Strict:
        members = self._members[kind]
        # A version without a member simply does not get the answer.
        known = {name: value for name, value in answers.items() if name in members}
        return Strict(kind, members, **known)

    def _builder(self, log: Any) -> Strict:
        def build(network: Strict, config: Strict) -> bytes | None:
            if self.log_has_layers:
                log.log(Logger.Severity.VERBOSE, LOG)
            log.log(Logger.Severity.WARNING, "a warning")
            return PLAN

        def create_network(flags: int) -> Strict:
            self.network_flags = flags
            tensor = self._strict("ITensor")
            tensor.__dict__.update(name="input", shape=(-1, 1, 4, 4))
            return self._strict("INetworkDefinition", num_inputs=1, get_input=lambda index: tensor)

        def create_config() -> Strict:
            cache = self._strict("ITimingCache", serialize=lambda: b"timed")
            self.config = self._strict(
                "IBuilderConfig",
                set_flag=lambda flag: self.flags.append(flag.name),
                add_optimization_profile=lambda profile: 0,
                create_timing_cache=lambda data: self.timings.append(data) or cache,
                set_timing_cache=lambda cache, ignore: True,
                set_compute_capability=lambda capability, index: True,
                set_memory_pool_limit=lambda pool, size: None,
            )
            return self.config

        return self._strict(
            "Builder",
            create_network=create_network,
            create_builder_config=create_config,
            create_optimization_profile=lambda: self._strict(
                "IOptimizationProfile",
                set_shape=lambda name, *shapes: self.profile.update({name: shapes}),
            ),
            build_serialized_network=build,
            num_DLA_cores=self.dla_cores,
        )

    def _parser(self, network: Strict, log: Any) -> Strict:
        def parse(path: str) -> bool:
            assert Path(path).is_file()
            self.parsed = Path(path).name
            return self.parses

        return self._strict(
            "OnnxParser",
            parse_from_file=parse,
            num_errors=1,
            get_error=lambda index: "In node 3:\n  no such thing.",
        )

    def _runtime(self, log: Any) -> Strict:
        def deserialize(plan: bytes) -> Strict | None:
            self.deserialized += 1
            assert plan == PLAN
            if not self.loads_plan:
                log.log(Logger.Severity.ERROR, "wrong GPU In load at runtime.cpp:12")
                return None
            return self._engine()

        def validity(plan: bytes) -> tuple[Any, int]:
            kinds = self.module.EngineValidity
            return (kinds.VALID if self.valid else kinds.INVALID), 0

        return self._strict(
            "Runtime", deserialize_cuda_engine=deserialize, get_engine_validity=validity
        )

    def _engine(self) -> Strict:
        modes = self.module.TensorIOMode
        shapes = {"input": (-1, 1, 4, 4), "logits": (-1, 2)}
        document = {"Layers": [LAYER], "Bindings": ["input", "logits"]}
        return self._strict(
            "ICudaEngine",
            num_io_tensors=2,
            get_tensor_name=lambda index: list(shapes)[index],
            get_tensor_shape=lambda name: shapes[name],
            get_tensor_dtype=lambda name: self.module.DataType.FLOAT,
            get_tensor_mode=lambda name: modes.INPUT if name == "input" else modes.OUTPUT,
            get_tensor_profile_shape=lambda name, index: [
                (1, 1, 4, 4),
                (1, 1, 4, 4),
                (MAX_BATCH, 1, 4, 4),
            ],
            create_execution_context=self._execution,
            create_runtime_config=self._make_runtime_config,
            create_engine_inspector=lambda: self._strict(
                "EngineInspector", get_engine_information=lambda kind: json.dumps(document)
            ),
        )

    def _make_runtime_config(self) -> Strict:
        cache = None
        if self._members["IRuntimeCache"]:
            cache = self._strict(
                "IRuntimeCache",
                deserialize=self.kernels.append,
                serialize=lambda: b"compiled kernels",
            )
        self.runtime_config = self._strict(
            "IRuntimeConfig", create_runtime_cache=lambda: cache, set_runtime_cache=lambda c: True
        )
        return self.runtime_config

    def _execution(self, config: Strict | None = None) -> Strict:
        """The "network": for each image the sum and the largest of its 16 pixels."""
        addresses: dict[str, int] = {}
        batch = [0]

        def set_shape(name: str, shape: tuple[int, ...]) -> bool:
            batch[0] = shape[0]
            return shape[0] <= MAX_BATCH

        def shape_of(name: str) -> tuple[int, ...]:
            return (batch[0], 1, 4, 4) if name == "input" else (batch[0], 2)

        def execute(stream: int) -> bool:
            rows = batch[0]

            def run() -> None:
                images = self.driver.floats(addresses["input"], rows * 16).reshape(rows, 16)
                results = np.stack([images.sum(1), images.max(1)], 1)
                self.driver.floats(addresses["logits"], rows * 2)[:] = results.ravel()

            self.driver.submit(stream, run)
            return True

        return self._strict(
            "IExecutionContext",
            set_input_shape=set_shape,
            get_tensor_shape=shape_of,
            set_tensor_address=lambda name, address: addresses.update({name: address}),
            execute_async_v3=execute,
        )


class Logger:
    """TensorRT's logger base class, the same in all versions."""

    class Severity(enum.IntEnum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2
        INFO = 3
        VERBOSE = 4


_int_out = ctypes.POINTER(ctypes.c_int)
_handle_out = ctypes.POINTER(ctypes.c_void_p)
_handle = ctypes.c_void_p
# Prototypes as in the CUDA Driver API reference, written down apart from the code under test.
PROTOTYPES: dict[str, tuple[Any, ...]] = {
    "cuInit": (ctypes.c_uint,),
    "cuDriverGetVersion": (_int_out,),
    "cuDeviceGetCount": (_int_out,),
    "cuDeviceGet": (_int_out, ctypes.c_int),
    "cuDeviceGetName": (ctypes.POINTER(ctypes.c_char), ctypes.c_int, ctypes.c_int),
    "cuDeviceGetAttribute": (_int_out, ctypes.c_int, ctypes.c_int),
    "cuDevicePrimaryCtxRetain": (_handle_out, ctypes.c_int),
    "cuDevicePrimaryCtxRelease_v2": (ctypes.c_int,),
    "cuCtxSetCurrent": (_handle,),
    "cuMemAlloc_v2": (ctypes.POINTER(ctypes.c_ulonglong), ctypes.c_size_t),
    "cuMemFree_v2": (ctypes.c_ulonglong,),
    "cuMemcpyHtoDAsync_v2": (ctypes.c_ulonglong, _handle, ctypes.c_size_t, _handle),
    "cuMemcpyDtoHAsync_v2": (_handle, ctypes.c_ulonglong, ctypes.c_size_t, _handle),
    "cuStreamCreate": (_handle_out, ctypes.c_uint),
    "cuStreamSynchronize": (_handle,),
    "cuStreamDestroy_v2": (_handle,),
    "cuEventCreate": (_handle_out, ctypes.c_uint),
    "cuEventRecord": (_handle, _handle),
    "cuEventElapsedTime": (ctypes.POINTER(ctypes.c_float), _handle, _handle),
    "cuEventDestroy_v2": (_handle,),
    "cuStreamBeginCapture_v2": (_handle, ctypes.c_int),
    "cuStreamEndCapture": (_handle, _handle_out),
    "cuGraphInstantiateWithFlags": (_handle_out, _handle, ctypes.c_ulonglong),
    "cuGraphLaunch": (_handle, _handle),
    "cuGraphExecDestroy": (_handle,),
    "cuGraphDestroy": (_handle,),
    "cuGetErrorString": (ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)),
}


class Driver:
    """A CUDA driver whose device memory is the host's and whose stream runs when waited for."""

    def __init__(self) -> None:
        self.gpu = "NVIDIA Stand-In"
        self.capability = (8, 6)
        self.count = 1
        self.fails: dict[str, int] = {}
        self.memory: dict[int, Any] = {}
        self.handles: dict[int, str] = {}
        self.made: list[str] = []
        self.current = 0
        self.launches = 0
        self._retained = 0
        self._queues: dict[int, list[Callable[[], None]]] = {}
        self._recording: dict[int, list[Callable[[], None]]] = {}
        self._graphs: dict[int, list[Callable[[], None]]] = {}
        self._clock = 0.0
        self._marks: dict[int, float] = {}
        self.library = type("library", (), {})()
        for name, arguments in PROTOTYPES.items():
            kind = ctypes.CFUNCTYPE(ctypes.c_int, *arguments)
            setattr(self.library, name, kind(self._wrapped(name)))

    def _wrapped(self, name: str) -> Callable[..., int]:
        def call(*arguments: Any) -> int:
            if name in self.fails:
                return self.fails[name]
            needs_context = name.startswith(("cuMem", "cuStream", "cuEvent", "cuGraph"))
            if needs_context and not self.current:
                return 201  # CUDA_ERROR_INVALID_CONTEXT
            answer = getattr(self, f"_{name}", lambda *_: None)(*arguments)
            return int(answer or 0)

        return call

    def floats(self, address: int, count: int) -> Any:
        assert count * 4 <= len(self.memory[address])
        return np.frombuffer(self.memory[address], np.float32, count)

    def submit(self, stream: int, work: Callable[[], None]) -> None:
        self._recording.get(stream, self._queues[stream]).append(work)

    def _new(self, out: Any, kind: str) -> int:
        self.made.append(kind)
        handle = 0x1000 + len(self.made)
        self.handles[handle] = kind
        out[0] = handle
        return handle

    def alive(self) -> list[str]:
        return [*self.handles.values(), *("memory" for _ in self.memory)]

    def _drop(self, handle: int) -> None:
        self.handles.pop(handle)

    def _cuDriverGetVersion(self, out: Any) -> None:
        out[0] = 12080

    def _cuDeviceGetCount(self, out: Any) -> None:
        out[0] = self.count

    def _cuDeviceGet(self, out: Any, ordinal: int) -> None:
        out[0] = ordinal

    def _cuDeviceGetName(self, out: Any, size: int, device: int) -> None:
        ctypes.memmove(out, self.gpu.encode() + b"\0", len(self.gpu) + 1)

    def _cuDeviceGetAttribute(self, out: Any, attribute: int, device: int) -> None:
        out[0] = {75: self.capability[0], 76: self.capability[1]}[attribute]

    def _cuDevicePrimaryCtxRetain(self, out: Any, device: int) -> None:
        context = next((key for key, kind in self.handles.items() if kind == "context"), None)
        out[0] = context or self._new(out, "context")
        self._retained += 1

    def _cuDevicePrimaryCtxRelease_v2(self, device: int) -> None:
        self._retained -= 1
        if self._retained == 0:
            self._drop(next(key for key, kind in self.handles.items() if kind == "context"))
            self.current = 0

    def _cuCtxSetCurrent(self, context: int) -> None:
        assert self.handles[context] == "context"
        self.current = context

    def _cuMemAlloc_v2(self, out: Any, size: int) -> None:
        buffer = (ctypes.c_char * size)()
        self.memory[ctypes.addressof(buffer)] = buffer
        out[0] = ctypes.addressof(buffer)

    def _cuMemFree_v2(self, address: int) -> None:
        del self.memory[address]

    def _cuMemcpyHtoDAsync_v2(self, target: int, source: int, size: int, stream: int) -> int:
        return self._copy(target, source, size, stream, self.memory[target])

    def _cuMemcpyDtoHAsync_v2(self, target: int, source: int, size: int, stream: int) -> int:
        return self._copy(target, source, size, stream, self.memory[source])

    def _copy(self, target: int, source: int, size: int, stream: int, device: Any) -> int:
        if stream not in self._queues or size > len(device):
            return 1  # CUDA_ERROR_INVALID_VALUE
        self.submit(stream, lambda: ctypes.memmove(target, source, size))
        return 0

    def _cuStreamCreate(self, out: Any, flags: int) -> None:
        self._queues[self._new(out, "stream")] = []

    def _cuStreamSynchronize(self, stream: int) -> None:
        queue, self._queues[stream] = self._queues[stream], []
        for work in queue:
            self._clock += 0.5
            work()

    def _cuStreamDestroy_v2(self, stream: int) -> None:
        self._drop(stream)
        del self._queues[stream]

    def _cuEventCreate(self, out: Any, flags: int) -> None:
        self._new(out, "event")

    def _cuEventRecord(self, event: int, stream: int) -> None:
        self.submit(stream, lambda: self._marks.update({event: self._clock}))

    def _cuEventElapsedTime(self, out: Any, start: int, end: int) -> None:
        out[0] = self._marks[end] - self._marks[start]

    def _cuEventDestroy_v2(self, event: int) -> None:
        self._drop(event)

    def _cuStreamBeginCapture_v2(self, stream: int, mode: int) -> None:
        self._recording[stream] = []

    def _cuStreamEndCapture(self, stream: int, out: Any) -> None:
        self._graphs[self._new(out, "graph")] = self._recording.pop(stream)

    def _cuGraphInstantiateWithFlags(self, out: Any, graph: int, flags: int) -> None:
        self._graphs[self._new(out, "executable graph")] = self._graphs[graph]

    def _cuGraphLaunch(self, graph: int, stream: int) -> None:
        self.launches += 1
        for work in self._graphs[graph]:
            self.submit(stream, work)

    def _cuGraphDestroy(self, graph: int) -> None:
        self._drop(graph)

    def _cuGraphExecDestroy(self, graph: int) -> None:
        self._drop(graph)

    def _cuGetErrorString(self, code: int, out: Any) -> None:
        out[0] = b"a reason"


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    """A driver with one GPU in place of libcuda."""
    stand_in = Driver()
    real = ctypes.CDLL

    def load(name: str, *arguments: Any, **options: Any) -> Any:
        wanted = name in {"libcuda.so.1", "nvcuda.dll"}
        return stand_in.library if wanted else real(name, *arguments, **options)

    monkeypatch.setattr(ctypes, "CDLL", load)
    return stand_in


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> Iterator[Callable[[str], StandIn]]:
    """``install("10")`` puts the stand-in of a version where ``import`` finds it, alone."""

    def put(version: str) -> StandIn:
        stand_in = StandIn(version, driver)
        for name in ("tensorrt", "tensorrt_bindings", "tensorrt_rtx", "tensorrt_rtx_bindings"):
            monkeypatch.setitem(sys.modules, name, None)
        name = "tensorrt_rtx" if version == "rtx" else "tensorrt"
        monkeypatch.setitem(sys.modules, name, stand_in.module)
        return stand_in

    yield put
    assert not driver.alive(), "something was not freed"


@pytest.fixture
def qdq_file(tmp_path: Path) -> Path:
    """One quantized convolution."""
    constants = {
        "scale": np.float32(0.1),
        "zero": np.int8(0),
        "w": np.ones((2, 1, 3, 3), np.int8),
        "w_scale": np.full(2, 0.1, np.float32),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "scale", "zero"], ["q"], name="q"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"], name="dq"),
        helper.make_node("DequantizeLinear", ["w", "w_scale"], ["w_dq"], name="w_dq", axis=0),
        helper.make_node("Conv", ["dq", "w_dq"], ["y"], name="conv", pads=[1] * 4),
        helper.make_node("GlobalMaxPool", ["y"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["logits"], name="flatten"),
    ]
    floats = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("input", floats, ["N", 1, 4, 4])],
        [helper.make_tensor_value_info("logits", floats, ["N", 2])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    opset = [helper.make_opsetid("", 20)]
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return path
