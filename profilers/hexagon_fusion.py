"""What onnxruntime is asked for: a quantised model's fused form, all of its arrays, and small parts of it alone."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwnas.profilers.hexagon_kernels import Quantised
from hwnas.profilers.model_io import first_line, load_model, random_input
from hwnas.spaces.errors import ModelError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

__all__ = ["all_arrays", "evaluate", "fused", "quantise", "tabulate"]


def _session(data: bytes, level: str, **settings: Any) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    # processors without 8-bit dot products else saturate sums of two products: the kernels do not
    options.add_session_config_entry("session.x64quantprecision", "1")
    for name, value in settings.items():
        setattr(options, name, value)
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common base
        raise ModelError(f"onnxruntime cannot load the model: {first_line(error)}") from error


def fused(data: bytes) -> ModelProto:
    """The model with the QDQ form fused into operators on integers; raises `ModelError` if it is no model."""
    load_model(data)
    with tempfile.TemporaryDirectory(prefix="hwnas-") as folder:
        file = Path(folder) / "fused.onnx"
        _session(data, "ORT_ENABLE_EXTENDED", optimized_model_filepath=str(file))
        return load_model(file.read_bytes())


def all_arrays(model: ModelProto) -> dict[str, np.ndarray]:
    """Every array of the model by name, for one fixed random input.

    Raises
    ------
    ModelError
        If the model takes more than one image, or onnxruntime cannot run it.
    """
    import onnx
    from onnx import numpy_helper

    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    kept = {value.name for value in shown.graph.output}
    made = [name for node in model.graph.node for name in node.output if name and name not in kept]
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made)
    session = _session(shown.SerializeToString(), "ORT_DISABLE_ALL")
    rng, feeds = np.random.default_rng(0), {}
    for port in session.get_inputs():
        kind = _KINDS.get(port.type)
        if kind is None:
            raise ModelError(f"the input {port.name!r} is {port.type}, which cannot be filled in; use a float tensor")
        shape = [size if isinstance(size, int) and size > 0 else 1 for size in port.shape]
        if shape and shape[0] != 1:
            raise ModelError(f"the input {port.name!r} has batch {shape[0]}; the Hexagon kernels take one image")
        feeds[port.name] = random_input(kind, shape, rng)
    names = [port.name for port in session.get_outputs()]
    try:
        arrays = session.run(names, feeds)
    except Exception as error:  # onnxruntime's errors have no common base
        raise ModelError(f"onnxruntime cannot run the model: {first_line(error)}") from error
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return {**stored, **feeds, **dict(zip(names, arrays, strict=True))}


_KINDS = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8, "tensor(int64)": np.int64}


def tabulate(
    x: Quantised,
    nodes: Sequence[NodeProto],
    arrays: Mapping[str, np.ndarray],
    made: str,
    scale: float,
    zero: int,
    given: str = "x",
) -> np.ndarray:
    """The bytes that 256 bytes become: dequantised, through `nodes`, quantised."""
    values = (np.arange(256, dtype=np.float32) - np.float32(x.zero)) * np.float32(x.scale)
    if nodes:
        constants = {name: arrays[name] for node in nodes for name in node.input if name in arrays}
        values = evaluate(nodes, {**constants, given: values}, [made])[0]
    return quantise(values, scale, zero)


def quantise(values: np.ndarray, scale: float, zero: int) -> np.ndarray:
    """Unsigned bytes that stand for real values."""
    rounded: np.ndarray = np.clip(np.rint(values / np.float32(scale)) + zero, 0, 255)
    return rounded.astype(np.uint8)


def evaluate(nodes: Sequence[NodeProto], inputs: Mapping[str, np.ndarray], outputs: list[str]) -> list[np.ndarray]:
    """What a few nodes make of arrays.

    Raises
    ------
    ModelError
        If onnxruntime cannot run them without the rest of the model.
    """
    from onnx import ValueInfoProto, helper, numpy_helper

    inner = {name for node in nodes for name in node.output}
    stored = [numpy_helper.from_array(array, name) for name, array in inputs.items() if name not in inner]
    graph = helper.make_graph(list(nodes), "part", [], [ValueInfoProto(name=name) for name in outputs], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = _session(model.SerializeToString(), "ORT_DISABLE_ALL")
    try:
        return list(session.run(outputs, {}))
    except Exception as error:  # onnxruntime's errors have no common base
        raise ModelError(f"onnxruntime cannot run {nodes[0].op_type} alone: {first_line(error)}") from error
