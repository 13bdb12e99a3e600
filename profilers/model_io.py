"""What every runtime needs of an ONNX model: its nodes, its precision, inputs to run it on, and short errors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hwnas.profilers.attribution import ExecutedNode
from hwnas.spaces.errors import ModelError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

__all__ = [
    "attributes_of",
    "check_quantised",
    "first_line",
    "fixed_sizes",
    "load_model",
    "model_nodes",
    "random_input",
    "with_batch",
]


def load_model(data: bytes) -> ModelProto:
    """Parse a serialised model; raises `ModelError` if it is none."""
    import onnx

    try:
        return onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's errors have no common base
        raise ModelError(f"the model is not readable ONNX: {first_line(error)}") from error


def model_nodes(model: ModelProto) -> Iterator[ExecutedNode]:
    """Its nodes; those without a name are called after their operator and number."""
    for index, node in enumerate(model.graph.node):
        name = node.name or f"{node.op_type}_{index}"
        yield ExecutedNode(name, node.op_type, tuple(node.input), tuple(node.output))


def attributes_of(node: NodeProto) -> dict[str, Any]:
    """The attributes of a node, as plain values."""
    from onnx import helper

    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def check_quantised(data: bytes, key: str) -> None:
    """Raise a `ModelError` unless the model is quantised, which the device `key` asks for."""
    nodes = load_model(data).graph.node
    if not any(node.op_type == "QuantizeLinear" or node.op_type.startswith("QLinear") for node in nodes):
        raise ModelError(f"{key} measures quantised models, but this one is float; quantise it to int8 (QDQ) first")


def with_batch(data: bytes, batch: int) -> bytes:
    """The model with so many images on the first axis of every input and output, whatever there was before."""
    model = load_model(data)
    stored = {tensor.name for tensor in model.graph.initializer}
    for value in [*model.graph.input, *model.graph.output]:
        sizes = value.type.tensor_type.shape.dim
        if sizes and value.name not in stored:
            sizes[0].dim_value = batch
    del model.graph.value_info[:]  # they carry the former batch
    return bytes(model.SerializeToString())


def fixed_sizes(data: bytes) -> bytes:
    """The model with one image where its batch is free: some runtimes take no size that is not known."""
    inputs = load_model(data).graph.input
    free = any(value.type.tensor_type.shape.dim[:1] and not _batch(value) for value in inputs)
    return with_batch(data, 1) if free else data


def _batch(value: Any) -> int:
    return int(value.type.tensor_type.shape.dim[0].dim_value)


def random_input(kind: Any, shape: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """Normally distributed floats, zeros for everything else: zeros are valid indices, masks and pixels."""
    if np.issubdtype(kind, np.floating):
        return rng.standard_normal(shape, dtype=np.float32).astype(kind)
    return np.zeros(shape, dtype=kind)


def first_line(error: Exception) -> str:
    """The first line of an error's text, or its type if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
