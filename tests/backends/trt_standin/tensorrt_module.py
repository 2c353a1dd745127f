"""A stand-in for TensorRT 8.6, 10, 11 and for RTX that has exactly the real bindings' members.

The members are the lists in ``tests/backends/tensorrt_api``; anything else is an error, as it would
be on a user's machine. Its one "network" adds and compares pixels.
"""

from __future__ import annotations

import ast
import enum
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx

from .cuda_driver import Driver

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
MIN_BATCH = 1
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
        self.quantized = False
        self.refitted = ""
        self.weights_fit = True
        self.dla_cores = 0
        self.previews: list[str] = []
        self.contexts = 0
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
            return STRIPPED if "STRIP_PLAN" in self.flags else PLAN

        def create_network(flags: int) -> Strict:
            self.network_flags = flags
            tensor = self._strict("ITensor")
            tensor.__dict__.update(name="input", shape=(-1, 1, 4, 4))
            return self._strict(
                "INetworkDefinition",
                num_inputs=1,
                get_input=lambda index: tensor,
                num_layers=2,
                get_layer=self._layer,
            )

        def create_config() -> Strict:
            cache = self._strict("ITimingCache", serialize=lambda: b"timed")
            self.config = self._strict(
                "IBuilderConfig",
                set_preview_feature=lambda feature, on: self.previews.append(feature.name),
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

    def _layer(self, index: int) -> SimpleNamespace:
        """Of a parsed network: a quantizer where the file has one, and another layer."""
        kinds = self.module.LayerType
        return SimpleNamespace(
            type=kinds.QUANTIZE if self.quantized and index == 0 else kinds.ACTIVATION
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
        def deserialize(plan: bytes) -> Strict | None:
            self.deserialized += 1
            assert plan in (PLAN, STRIPPED)
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
                (MIN_BATCH, 1, 4, 4),
                (MIN_BATCH, 1, 4, 4),
                (MAX_BATCH, 1, 4, 4),
            ],
            create_execution_context=self._execution,
            create_serialization_config=lambda: SimpleNamespace(flags=1),
            serialize_with_config=self._serialize,
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
        self.contexts += 1
        addresses: dict[str, int] = {}
        batch = [0]

        def set_shape(name: str, shape: tuple[int, ...]) -> bool:
            batch[0] = shape[0]
            return MIN_BATCH <= shape[0] <= MAX_BATCH

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
