"""A stand-in for TensorRT 8.6, 10, 11 and for RTX that has exactly the real bindings' members.

The members are the lists in ``tests/backends/tensorrt_api``; anything else is an error, as it would
be on a user's machine. Its one "network" adds and compares pixels.
"""

from __future__ import annotations

import ast
import enum
import json
import re
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx

from .cuda_driver import ALIGNMENT, Driver
from .strict import Logger, Strict

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
STRIPPED = b"a plan without weights"
IMAGE = (1, 4, 4)
MIN_BATCH = 1
MAX_BATCH = 4


class StandIn:
    """One version of TensorRT: ``module`` for the code under test, the rest for the tests.

    Attributes:
        complaints: What TensorRT's documentation forbids and the code under test did.
    """

    def __init__(self, version: str, driver: Driver) -> None:
        first, *lines = (LISTS / FILES[version]).read_text().splitlines()
        self.version = first
        self.driver = driver
        self.complaints: list[str] = []
        self.flags: list[str] = []
        self.cleared: list[str] = []
        self.network_flags = -1
        self.built_on: int | None = None
        self.deserialized = 0
        self.valid = True
        self.loads_plan = True
        self.log_has_layers = True
        self.layer = LAYER
        self.parses = True
        self.parsed = ""
        self.quantized = False
        self.refitted = ""
        self.weights_fit = True
        self.dla_cores = 0
        self.dla_takes = {"conv": True, "pool": True, "flatten": False}
        self.previews: list[str] = []
        self.contexts = 0
        self.says: str | None = None
        self.capturable = True
        self.before_run: Callable[[], None] = lambda: None
        self.output_is_open = False
        self.shape: tuple[int, ...] = (-1, 1, 4, 4)
        self.timings: list[bytes] = []
        self.kernels: list[bytes] = []
        self.config: Strict | None = None
        self.runtime: dict[str, Any] = {}
        self.runtime_config: Strict | None = None
        self.profiles: list[dict[str, tuple[Any, ...]]] = []
        self.loaded_profiles = [(MIN_BATCH, MAX_BATCH)]
        self._logger: Any = None
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
            "LayerType": enum.Enum("LayerType", ["QUANTIZE", "ACTIVATION"]),
            "LayerInformationFormat": enum.Enum("LayerInformationFormat", ["JSON", "ONELINE"]),
            "Builder": self._builder,
            "OnnxParser": self._parser,
            "Runtime": self._runtime,
            "nptype": lambda kind: np.float32,
        }
        if "OnnxParserRefitter" in names:
            answers |= {"Refitter": self._refitter, "OnnxParserRefitter": self._parser_refitter}
        if "IProgressMonitor" in names:
            answers["IProgressMonitor"] = type("IProgressMonitor", (), {})
        self.module = Strict("module", names | {"__version__"}, **answers)
        self.module.__dict__["__version__"] = first

    @property
    def profile(self) -> dict[str, tuple[Any, ...]]:
        """The one profile of the last build."""
        (only,) = self.profiles
        return only

    def _strict(self, kind: str, **answers: Any) -> Strict:
        members = self._members[kind]
        # A version without a member simply does not get the answer.
        known = {name: value for name, value in answers.items() if name in members}
        return Strict(kind, members, **known)

    def _owned(self, thing: Strict, needs: Strict | None = None) -> Strict:
        """An object that holds memory of the GPU: it must go before what it needs, in a context."""
        kind = thing.__dict__["_kind"]
        device = self.driver.device
        if device is None:
            self.complaints.append(f"{kind} made without a CUDA context")
        # Weakly, for Python alone would not keep what it needs.
        needed = None if needs is None else weakref.ref(needs)

        def gone() -> None:
            if self.driver.device != device:
                self.complaints.append(f"{kind} freed outside of its CUDA context")
            if needed is not None and needed() is None:
                self.complaints.append(f"{kind} freed after what it needs")

        weakref.finalize(thing, gone)
        return thing

    def _take_logger(self, log: Any) -> None:
        """TensorRT keeps the first logger of the process and warns about another one."""
        if self._logger is None:
            self._logger = log
        elif self._logger is not log:
            self.complaints.append("another logger than the first")

    def _error(self, text: str) -> None:
        self._logger.log(Logger.Severity.ERROR, text)

    def _builder(self, log: Any) -> Strict:
        self._take_logger(log)
        self.built_on = self.driver.device
        self.profiles = []

        def build(network: Strict, config: Strict) -> bytes | None:
            if self.log_has_layers:
                log.log(Logger.Severity.VERBOSE, LOG)
            log.log(Logger.Severity.WARNING, "a warning")
            return STRIPPED if "STRIP_PLAN" in self.flags else PLAN

        def layer(index: int, name: str) -> Strict:
            made = self._strict("ILayer")
            kinds = self.module.LayerType
            kind = kinds.QUANTIZE if self.quantized and index == 0 else kinds.ACTIVATION
            metadata = f"[ONNX Layer: {name}]"
            made.__dict__.update(name=name, num_inputs=1, metadata=metadata, type=kind)
            return made

        def create_network(flags: int) -> Strict:
            self.network_flags = flags
            tensor = self._strict("ITensor")
            tensor.__dict__.update(name="input", shape=self.shape)
            return self._strict(
                "INetworkDefinition",
                num_inputs=1,
                get_input=lambda index: tensor,
                num_layers=len(self.dla_takes),
                get_layer=lambda index: layer(index, list(self.dla_takes)[index]),
            )

        def create_config() -> Strict:
            cache = self._strict("ITimingCache", serialize=lambda: b"timed")
            self.config = self._strict(
                "IBuilderConfig",
                set_preview_feature=lambda feature, on: self.previews.append(feature.name),
                set_flag=lambda flag: self.flags.append(flag.name),
                clear_flag=lambda flag: self.cleared.append(flag.name),
                can_run_on_DLA=lambda layer: self.dla_takes[layer.name],
                add_optimization_profile=lambda profile: 0,
                create_timing_cache=lambda data: self.timings.append(data) or cache,
                set_timing_cache=lambda cache, ignore: True,
                set_compute_capability=lambda capability, index: True,
                set_memory_pool_limit=lambda pool, size: None,
            )
            return self.config

        def create_profile() -> Strict:
            made: dict[str, tuple[Any, ...]] = {}
            self.profiles.append(made)
            return self._strict(
                "IOptimizationProfile",
                set_shape=lambda name, *shapes: made.update({name: shapes}),
            )

        return self._strict(
            "Builder",
            create_network=create_network,
            create_builder_config=create_config,
            create_optimization_profile=create_profile,
            build_serialized_network=build,
            num_DLA_cores=self.dla_cores,
        )

    def _parser(self, network: Strict, log: Any) -> Strict:
        self._take_logger(log)

        def parse(path: str) -> bool:
            assert Path(path).is_file()
            self.parsed = Path(path).resolve().name
            model = onnx.load(path, load_external_data=False)
            self.quantized = any(node.op_type == "QuantizeLinear" for node in model.graph.node)
            return self.parses

        return self._strict(
            "OnnxParser",
            parse_from_file=parse,
            num_errors=1,
            get_error=lambda index: "In node 3:\n  no such thing.",
        )

    def _refitter(self, engine: Strict, log: Any) -> Strict:
        return self._strict("Refitter", refit_cuda_engine=lambda: bool(self.refitted))

    def _parser_refitter(self, refitter: Strict, log: Any) -> Any:
        def refit(path: str) -> bool:
            self.refitted = path if self.weights_fit else ""
            return self.weights_fit

        return SimpleNamespace(refit_from_file=refit)

    def _serialize(self, serialization: SimpleNamespace) -> bytes:
        """A plan with its weights, if there are some and they are not left out."""
        assert not serialization.flags & 1
        assert self.refitted
        return PLAN

    def _runtime(self, log: Any) -> Strict:
        self._take_logger(log)

        def deserialize(plan: bytes) -> Strict | None:
            self.deserialized += 1
            assert plan in (PLAN, STRIPPED)
            if not self.loads_plan:
                self._error("wrong GPU In load at runtime.cpp:12")
                return None
            trusted = self.runtime.get("engine_host_code_allowed")
            if "VERSION_COMPATIBLE" in self.flags and not trusted:
                self._error("Engine host code is not allowed to be executed")
                return None
            runtime = this()
            assert runtime is not None
            return self._engine(runtime)

        def validity(plan: bytes) -> tuple[Any, int]:
            kinds = self.module.EngineValidity
            return (kinds.VALID if self.valid else kinds.INVALID), 0

        made = self._strict(
            "Runtime",
            deserialize_cuda_engine=deserialize,
            get_engine_validity=validity,
            num_DLA_cores=self.dla_cores,
        )
        this = weakref.ref(made)
        self.runtime = made.set_values
        return self._owned(made)

    def _engine(self, runtime: Strict) -> Strict:
        modes = self.module.TensorIOMode
        shapes = {"input": self.shape, "logits": (-1, 2)}
        document = {"Layers": [self.layer], "Bindings": ["input", "logits"]}

        def profile_shape(name: str, index: int) -> list[tuple[int, ...]]:
            low, high = self.loaded_profiles[index]
            return [(low, *IMAGE), (low, *IMAGE), (high, *IMAGE)]

        made = self._strict(
            "ICudaEngine",
            num_io_tensors=2,
            num_optimization_profiles=len(self.loaded_profiles),
            get_tensor_name=lambda index: list(shapes)[index],
            get_tensor_shape=lambda name: shapes[name],
            get_tensor_dtype=lambda name: self.module.DataType.FLOAT,
            get_tensor_mode=lambda name: modes.INPUT if name == "input" else modes.OUTPUT,
            get_tensor_profile_shape=profile_shape,
            create_execution_context=lambda *config: self._execution(engine()),
            create_runtime_config=self._make_runtime_config,
            create_serialization_config=lambda: SimpleNamespace(flags=1),
            serialize_with_config=self._serialize,
            create_engine_inspector=lambda: self._owned(
                self._strict(
                    "EngineInspector", get_engine_information=lambda kind: json.dumps(document)
                ),
                needs=engine(),
            ),
        )
        engine = weakref.ref(made)
        return self._owned(made, needs=runtime)

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

    def _execution(self, engine: Strict | None) -> Strict:
        """The "network": for each image the sum and the largest of its 16 pixels."""
        self.contexts += 1
        device = self.driver.device
        addresses: dict[str, int] = {}
        # Only the first context of an engine has a profile by itself.
        state: dict[str, Any] = {"batch": 0, "times": 0, "profile": 0 if self.contexts == 1 else -1}

        def choose_profile(index: int, stream: int) -> bool:
            state["profile"] = index
            return 0 <= index < len(self.loaded_profiles)

        def set_shape(name: str, shape: tuple[int, ...]) -> bool:
            if state["profile"] < 0:
                self._error("no optimization profile was chosen")
                return False
            if shape[0] != state["batch"]:
                state["times"] += 1
            state["batch"] = shape[0]
            low, high = self.loaded_profiles[state["profile"]]
            return low <= shape[0] <= high

        def set_address(name: str, address: int) -> bool:
            addresses[name] = address
            return address % ALIGNMENT == 0

        def shape_of(name: str) -> tuple[int, ...]:
            rows = -1 if self.output_is_open else state["batch"]
            return (state["batch"], *IMAGE) if name == "input" else (rows, 2)

        def execute(stream: int) -> bool:
            rows, times, bound = state["batch"], state["times"], dict(addresses)
            if self.driver.device != device:
                self.complaints.append("ran outside of its CUDA context")
            if self.says is not None or (self.driver.is_recording(stream) and not self.capturable):
                self._error(self.says or "not in a recording In enqueue at context.cpp:7")
                return False

            def run() -> None:
                self.before_run()
                images = self.driver.floats(bound["input"], rows * 16).reshape(rows, 16)
                results = np.stack([images.sum(1), images.max(1)], 1)
                if state["times"] != times:
                    results = np.full_like(results, np.nan)  # another shape has its memory now
                self.driver.floats(bound["logits"], rows * 2)[:] = results.ravel()

            self.driver.submit(stream, run)
            return True

        made = self._strict(
            "IExecutionContext",
            set_optimization_profile_async=choose_profile,
            set_input_shape=set_shape,
            get_tensor_shape=shape_of,
            set_tensor_address=set_address,
            execute_async_v3=execute,
        )
        return self._owned(made, needs=engine)
