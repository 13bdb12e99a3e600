"""Parts of a fused model that no Hexagon kernel computes, as small models of standard operators.

A part takes and gives bytes: an operator on integers alone, or all operators that hand floating-point values to each
other. Operators on integers become what they stand for: dequantise, compute, quantise.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hwnas.profilers.model_io import attributes_of
from hwnas.spaces.errors import ModelError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

__all__ = ["Part", "find_part"]

#: operators on integers whose inputs are values, scale and zero point each, and then the output's scale and zero point
_PLAIN = {
    "QLinearAdd": ("Add", 2),
    "QLinearAveragePool": ("AveragePool", 1),
    "QLinearGlobalAveragePool": ("GlobalAveragePool", 1),
    "QLinearLeakyRelu": ("LeakyRelu", 1),
    "QLinearMatMul": ("MatMul", 2),
    "QLinearMul": ("Mul", 2),
    "QLinearReduceMean": ("ReduceMean", 1),
    "QLinearSigmoid": ("Sigmoid", 1),
    "QLinearSoftmax": ("Softmax", 1),
}
#: attributes that only onnxruntime's operators have
_OWN = frozenset({"channels_last", "opset"})
_BYTES = (np.dtype(np.uint8), np.dtype(np.int8))
#: constants of so few whole numbers are sizes, axes and the like, and decide what is computed
_FEW = 64


@dataclass(frozen=True, eq=False)
class Part:
    """A part of a network, as a model of its own.

    Attributes
    ----------
    members
        Numbers of its nodes in the fused model.
    model
        The same in standard operators; its constants are inside.
    inputs, outputs
        Arrays that it takes, and those that onnxruntime made of them, by name.
    macs
        Its multiply-accumulates.
    signature
        Its operators and sizes: parts of equal signatures differ in numbers alone.
    """

    members: tuple[int, ...]
    model: ModelProto
    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]
    macs: int
    signature: tuple[object, ...]


def find_part(model: ModelProto, index: int, arrays: Mapping[str, np.ndarray]) -> Part | None:
    """The part of a fused model that a node belongs to; None if it only hands bytes over as floats at the model's end.

    Parameters
    ----------
    model
        The fused model.
    index
        Of the node.
    arrays
        Every array of the model by name, see `hwnas.profilers.hexagon_fusion.all_arrays`.
    """
    from onnx import helper, numpy_helper

    nodes, constants = list(model.graph.node), _constants(model)
    inner = {name for name, array in arrays.items() if name not in constants and array.dtype not in _BYTES}
    inner -= {value.name for value in model.graph.input}
    numbers = _connected(nodes, index, inner)
    members = [nodes[number] for number in numbers]
    if all(node.op_type == "DequantizeLinear" for node in members):
        return None
    made = {name for node in members for name in node.output if name}
    ends = {value.name for value in model.graph.output}
    ends |= {name for number, node in enumerate(nodes) if number not in numbers for name in node.input}
    inputs = {
        name: arrays[name]
        for node in members
        for name in node.input
        if name and name not in made and name not in constants
    }
    outputs = {name: arrays[name] for node in members for name in node.output if name in ends}
    written = [step for node in members for step in _standard(node, arrays, constants)]
    stored = {name: arrays[name] for step in written for name in step.input if name in constants}
    stored.update((name, array) for step in written for name, array in step.constants.items())
    graph = helper.make_graph(
        [step.node() for step in written],
        "part",
        [_value(name, array) for name, array in inputs.items()],
        [_value(name, array) for name, array in outputs.items()],
        [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in stored.items()],
    )
    version = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=21)
    domains = {node.domain for node in graph.node if node.domain not in ("", "ai.onnx")}
    opsets = [helper.make_opsetid("", version), *(helper.make_opsetid(domain, 1) for domain in sorted(domains))]
    alone = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return Part(
        tuple(numbers),
        alone,
        inputs,
        outputs,
        sum(_macs(node, arrays) for node in members),
        tuple(_signature(step, arrays) for step in written),
    )


@dataclass(frozen=True, eq=False)
class _Step:
    """A node of the part's model."""

    op: str
    input: Sequence[str]
    output: Sequence[str]
    attributes: Mapping[str, Any]
    constants: Mapping[str, np.ndarray]
    domain: str = ""

    def node(self) -> NodeProto:
        from onnx import helper

        return helper.make_node(
            self.op, list(self.input), list(self.output), name=self.output[0], domain=self.domain, **self.attributes
        )


def _constants(model: ModelProto) -> set[str]:
    """Names of what no input changes."""
    known = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        if all(name in known for name in node.input if name):
            known.update(node.output)
    return known


def _connected(nodes: Sequence[NodeProto], index: int, inner: set[str]) -> list[int]:
    """Numbers of the nodes that hand each other any of the arrays `inner`, from one node on."""
    links: dict[str, list[int]] = {}
    for number, node in enumerate(nodes):
        for name in inner & {*node.input, *node.output}:
            links.setdefault(name, []).append(number)
    found, left = {index}, [index]
    while left:
        node = nodes[left.pop()]
        near = {number for name in (*node.input, *node.output) for number in links.get(name, ())}
        left += sorted(near - found)
        found |= near
    return sorted(found)


def _standard(node: NodeProto, arrays: Mapping[str, np.ndarray], constants: Collection[str]) -> list[_Step]:
    """The node in standard operators."""
    attributes, names = attributes_of(node), list(node.input)
    if not node.op_type.startswith("Q") or node.op_type == "QuantizeLinear":
        return [_Step(node.op_type, names, node.output, attributes, {}, node.domain)]
    if attributes.get("channels_last"):
        raise ModelError("maps with the channels last have no Hexagon kernel")
    attributes = {name: value for name, value in attributes.items() if name not in _OWN}
    if node.op_type in _PLAIN:
        op, count = _PLAIN[node.op_type]
        values, ends = [names[3 * i : 3 * i + 3] for i in range(count)], names[3 * count :]
        if op == "ReduceMean" and "axes" in attributes:
            axes = np.array(attributes.pop("axes"), np.int64)
            return _around(node, op, values, ends, attributes, arrays, constants, {f"{node.output[0]}/axes": axes})
        return _around(node, op, values, ends, attributes, arrays, constants)
    if node.op_type == "QLinearConcat":
        values = [names[first : first + 3] for first in range(2, len(names), 3)]
        return _around(node, "Concat", values, names[:2], attributes, arrays, constants)
    if node.op_type in ("QLinearConv", "QGemm"):
        # the output's scale stands before the biases in one, and behind them in the other
        values, bias, ends = [names[:3], names[3:6]], names[6:7], names[7:9]
        if node.op_type == "QLinearConv":
            bias, ends = names[8:9], names[6:8]
        more = {}
        if bias and bias[0]:
            scale = _number(arrays[names[1]]) * arrays[names[4]].astype(np.float64)
            more[f"{node.output[0]}/bias"] = (arrays[bias[0]] * scale).astype(np.float32)
        op = "Conv" if node.op_type == "QLinearConv" else "Gemm"
        return _around(node, op, values, ends, attributes, arrays, constants, more)
    raise ModelError(f"there is no Hexagon kernel for {node.op_type}, and none can be generated")


def _around(
    node: NodeProto,
    op: str,
    values: Sequence[Sequence[str]],
    ends: Sequence[str],
    attributes: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    constants: Collection[str],
    more: Mapping[str, np.ndarray] | None = None,
) -> list[_Step]:
    """Dequantise each of `values`, compute, quantise; constants are dequantised here."""
    steps, inputs, stored, out = [], [], dict(more or {}), node.output[0]
    for number, (name, scale, zero) in enumerate(values):
        inputs.append(f"{out}/{number}")
        if name in constants:
            stored[inputs[-1]] = _real(arrays[name], arrays[scale], arrays[zero], op, attributes)
        else:
            steps.append(_Step("DequantizeLinear", [name, scale, zero], [inputs[-1]], {}, {}))
    inputs += list(more or ())
    steps.append(_Step(op, inputs, [f"{out}/real"], attributes, stored))
    return [*steps, _Step("QuantizeLinear", [f"{out}/real", *ends], [out], {}, {})]


def _real(
    values: np.ndarray, scale: np.ndarray, zero: np.ndarray, op: str, attributes: Mapping[str, Any]
) -> np.ndarray:
    """Constants as they are meant; scales of their own belong to outputs."""
    along = 0 if op == "Conv" or attributes.get("transB") else values.ndim - 1
    shape = [-1 if axis == along else 1 for axis in range(values.ndim)]
    scales, zeros = (one.reshape(shape) if one.size > 1 else one.reshape(()) for one in (scale, zero))
    return ((values.astype(np.float32) - zeros.astype(np.float32)) * scales.astype(np.float32)).astype(np.float32)


def _macs(node: NodeProto, arrays: Mapping[str, np.ndarray]) -> int:
    """Products of an operator's two arrays."""
    op, out = node.op_type, arrays[node.output[0]]
    if op in ("QLinearConv", "Conv"):
        weights = arrays[node.input[3 if op == "QLinearConv" else 1]]
        return int(out.size * math.prod(weights.shape[1:]))
    if op in ("QLinearMatMul", "MatMul"):
        return int(out.size * arrays[node.input[0]].shape[-1])
    if op in ("QGemm", "Gemm"):
        return int(out.size * arrays[node.input[0]].shape[0 if attributes_of(node).get("transA") else 1])
    return 0


def _signature(step: _Step, arrays: Mapping[str, np.ndarray]) -> tuple[object, ...]:
    read: list[object] = []
    for name in step.input:
        array = step.constants.get(name, arrays.get(name))
        if array is None:
            continue
        few = array.dtype not in _BYTES and array.dtype.kind in "iu" and array.size <= _FEW
        read.append((str(array.dtype), array.shape, tuple(array.reshape(-1).tolist()) if few else None))
    return (step.op, repr(sorted(step.attributes.items())), tuple(read))


def _number(array: np.ndarray) -> float:
    return float(array.reshape(-1)[0])


def _value(name: str, array: np.ndarray) -> Any:
    from onnx import helper

    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
