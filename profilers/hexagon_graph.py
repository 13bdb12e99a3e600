"""From a quantised ONNX model to runs of Hexagon kernels.

onnxruntime fuses the QDQ form into operators on integers, and also computes every tensor between them: a kernel gets
the very arrays that its operator has in the network, and its output is compared with onnxruntime's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from hwnas.profilers.attribution import ExecutedNode
from hwnas.profilers.hexagon_fusion import all_arrays, evaluate, fused, quantise, tabulate
from hwnas.profilers.hexagon_generated import GeneratedCall
from hwnas.profilers.hexagon_kernels import (
    Call,
    Quantised,
    Window,
    add,
    average_pool,
    choose_channels,
    convolution,
    global_pool,
    look_up,
    max_pool,
    multiply,
    scale_channels,
)
from hwnas.profilers.hexagon_part import find_part
from hwnas.profilers.model_io import attributes_of
from hwnas.spaces.errors import ModelError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

__all__ = ["Operator", "Step", "operators"]

#: operators of one byte that are tabulated
_UNARY = frozenset(
    {
        "Clip",
        "Elu",
        "Erf",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "LeakyRelu",
        "Relu",
        "Selu",
        "Sigmoid",
        "Softplus",
        "Tanh",
    }
)
#: operators that only name an array's sizes anew: nothing is moved
_VIEWS = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
_MOVES = frozenset({"Reshape", "Transpose", "Split", "Slice", "Gather"})
_CHANGES = frozenset({"DequantizeLinear", "QuantizeLinear"})


@dataclass(frozen=True, eq=False)
class Step:
    """One kernel call of an operator, and what onnxruntime computed: unsigned bytes of the output's shape."""

    call: Call | GeneratedCall
    expected: np.ndarray


@dataclass(frozen=True, eq=False)
class Operator:
    """An operator of the fused model: its node, and the kernel calls that compute it."""

    node: ExecutedNode
    steps: tuple[Step, ...]


def operators(data: bytes, generate: bool = False) -> list[Operator]:
    """The operators of a quantised model on a fixed random input, in order.

    Conversions from and to floating point at the model's ends are left out: an application hands over bytes.

    Parameters
    ----------
    data
        The serialised model.
    generate
        Whether code is generated for what has no kernel, by TVM.

    Raises
    ------
    ModelError
        If the model is no quantised model of one image that onnxruntime can run, or has an operator without a kernel.
    """
    model = fused(data)
    reader = _Reader(model, all_arrays(model))
    return list(reader.operators(generate))


# ------------------------------------------------------------------ reading


class _Reader:
    """Makes kernel calls of the nodes of a fused model."""

    def __init__(self, model: ModelProto, arrays: Mapping[str, np.ndarray]) -> None:
        self._model = model
        self._nodes = list(model.graph.node)
        self._arrays = arrays
        self._given = {value.name for value in model.graph.input}
        self._returned = {value.name for value in model.graph.output}
        self._stored = {tensor.name for tensor in model.graph.initializer}
        self._readers: dict[str, list[NodeProto]] = {}
        for node in self._nodes:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        self._makers: dict[str, Callable[[NodeProto], list[Step]]] = {
            "QLinearConv": self._conv,
            "QGemm": self._gemm,
            "QLinearMatMul": self._matmul,
            "QLinearAdd": lambda node: self._binary(node, add),
            "QLinearMul": lambda node: self._binary(node, multiply),
            "QLinearGlobalAveragePool": self._global_pool,
            "QLinearAveragePool": self._average_pool,
            "MaxPool": self._max_pool,
            "QLinearSigmoid": lambda node: self._tabulated(node, "Sigmoid"),
            "QLinearLeakyRelu": lambda node: self._tabulated(node, "LeakyRelu"),
            "QLinearConcat": self._concat,
        }

    def operators(self, generate: bool) -> Iterator[Operator]:
        done: set[int] = set()
        for index in range(len(self._nodes)):
            if index in done:
                continue
            before = set(done)
            try:
                found = self._by_kernels(index, done)
            except ModelError as error:
                if not generate:
                    raise ModelError(f"{error}; dsp-hexagon-sim.tvm generates code for such operators") from error
                done &= before  # of a chain of nodes the first is tried alone
                found = self._generated(index, done)
            if found:
                yield found

    def _by_kernels(self, index: int, done: set[int]) -> Operator | None:
        """The operator that begins at a node, and the nodes of it that are done; None if nothing is computed."""
        node = self._nodes[index]
        if node.op_type == "DequantizeLinear" and node.input[0] in self._stored:
            return None
        if node.op_type in _UNARY and node.input[0] in self._given:
            members = self._island(index, done)
            return self._operator(members, self._first_steps(members), members[0])
        if node.op_type == "DequantizeLinear":
            members = self._island(index, done)
            return self._operator(members, self._island_steps(members), members[1]) if members else None
        if node.op_type == "QuantizeLinear":
            if node.input[0] not in self._given:
                raise _no_kernel(node, "float32 values that no DequantizeLinear gives")
            return None
        if node.op_type in _MOVES | _VIEWS:
            members = self._moved(index, done)
            steps = self._move_steps(members)
            return self._operator(members, steps, members[0]) if steps else None
        maker = self._makers.get(node.op_type)
        if maker is None:
            raise _no_kernel(node)
        try:
            steps = maker(node)
        except ModelError as error:
            raise ModelError(f"{node.op_type} {node.name!r}: {error}") from error
        return self._operator([node], steps, node)

    def _generated(self, index: int, done: set[int]) -> Operator | None:
        """The part of the network that a node belongs to, for which code is generated."""
        part = find_part(self._model, index, self._arrays)
        if part is None:
            return None
        done.update(part.members)
        members = [self._nodes[number] for number in part.members]
        named = next((node for node in members if node.op_type not in _CHANGES), members[0])
        call = GeneratedCall(part)
        node = ExecutedNode(named.name or named.output[0], named.op_type, tuple(part.inputs), tuple(part.outputs))
        return Operator(node, (Step(call, call.expected),))

    def _operator(self, members: Sequence[NodeProto], steps: Sequence[Step], named: NodeProto) -> Operator:
        inputs = tuple(name for name in members[0].input if name)
        node = ExecutedNode(named.name or named.output[0], named.op_type, inputs, tuple(members[-1].output))
        return Operator(node, tuple(steps))

    def _array(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def _number(self, name: str) -> float:
        return float(self._array(name).reshape(-1)[0])

    def _quantised(self, names: Sequence[str]) -> Quantised:
        """From the names of values, scale and zero point."""
        values, scale, zero = (self._array(name) for name in names)
        if scale.size != 1:
            raise ModelError("activations with a scale of their own for each channel have no Hexagon kernel")
        return Quantised(values, float(scale.reshape(-1)[0]), int(zero.reshape(-1)[0]))

    # -------------------------------------------------------------- convolutions

    def _conv(self, node: NodeProto) -> list[Step]:
        x, expected = self._quantised(node.input[:3]), self._array(node.output[0])
        weights, weight_scale = self._weights(node.input[3], node.input[5]), self._array(node.input[4])
        bias = self._array(node.input[8]) if len(node.input) > 8 and node.input[8] else None
        factors = (
            np.float32(x.scale) * weight_scale.reshape(-1).astype(np.float32) / np.float32(self._number(node.input[6]))
        )
        window, zero = _window(node, weights.shape[2:], x.shape[2:]), int(self._number(node.input[7]))
        groups, channels, outputs = int(attributes_of(node).get("group", 1)), x.shape[1], len(weights)
        if groups == channels == outputs and channels > 1:
            return [Step(convolution(x, weights, bias, factors, zero, window, depthwise=True), expected)]
        factors = np.broadcast_to(factors, (outputs,))
        steps, inside, made = [], channels // groups, outputs // groups
        if groups > 1 and (inside % 4 or made % 4):
            raise ModelError(f"{groups} groups of {inside} channels have no Hexagon kernel; use multiples of four")
        for first in range(groups):
            part = slice(first * made, (first + 1) * made)
            some = Quantised(x.values[:, first * inside : (first + 1) * inside], x.scale, x.zero)
            some_bias = None if bias is None else bias[part]
            call = convolution(some, weights[part], some_bias, factors[part], zero, window)
            steps.append(Step(call, expected[:, part]))
        return steps

    def _gemm(self, node: NodeProto) -> list[Step]:
        attributes = attributes_of(node)
        if attributes.get("transA") or attributes.get("alpha", 1.0) != 1.0 or len(node.input) < 9:
            raise ModelError("only a product of plain int8 arrays has a Hexagon kernel")
        weights = self._weights(node.input[3], node.input[5])
        weights = weights if attributes.get("transB") else weights.T
        bias = self._array(node.input[6]).reshape(-1) if node.input[6] else None
        return self._product(node, weights, bias, node.input[7], node.input[8])

    def _matmul(self, node: NodeProto) -> list[Step]:
        if self._array(node.input[3]).ndim != 2:
            raise ModelError("a product of two activations has no Hexagon kernel")
        return self._product(node, self._weights(node.input[3], node.input[5]).T, None, node.input[6], node.input[7])

    def _product(
        self, node: NodeProto, weights: np.ndarray, bias: np.ndarray | None, scale: str, zero: str
    ) -> list[Step]:
        x, expected = self._quantised(node.input[:3]), self._array(node.output[0])
        factors = np.float32(x.scale) * self._array(node.input[4]).reshape(-1).astype(np.float32)
        factors = factors / np.float32(self._number(scale))
        rows = x.values.reshape(-1, x.values.shape[-1])
        if x.values.ndim != 2 or len(rows) > 1:  # tokens lie as pixels of a map
            x = replace(x, values=np.ascontiguousarray(rows.T)[None, :, None])
            expected = expected.reshape(len(rows), -1).T[None, :, None]
        call = convolution(x, weights[:, :, None, None], bias, factors, int(self._number(zero)), Window())
        return [Step(call, expected)]

    def _weights(self, values: str, zeros: str) -> np.ndarray:
        """Signed bytes around zero; onnxruntime stores them as unsigned ones around 128 for some processors."""
        weights, zero = self._array(values).astype(np.int16), self._array(zeros).reshape(-1)
        if zero.size and (zero != zero[0]).any():
            raise ModelError(
                "weights with zero points of their own have no Hexagon kernel; quantise them symmetrically"
            )
        weights = weights - np.int16(zero[0] if zero.size else 0)
        if weights.min() < -128 or weights.max() > 127:
            raise ModelError("weights around a zero point have no Hexagon kernel; quantise them symmetrically")
        return weights.astype(np.int8)

    # -------------------------------------------------------------- pools and pairs

    def _global_pool(self, node: NodeProto) -> list[Step]:
        self._channels_first(node)
        call = global_pool(
            self._quantised(node.input[:3]), self._number(node.input[3]), int(self._number(node.input[4]))
        )
        return [Step(call, self._array(node.output[0]))]

    def _average_pool(self, node: NodeProto) -> list[Step]:
        self._channels_first(node)
        attributes, x = attributes_of(node), self._quantised(node.input[:3])
        call = average_pool(
            x,
            _window(node, attributes["kernel_shape"], x.shape[2:]),
            self._number(node.input[3]),
            int(self._number(node.input[4])),
            count_padding=bool(attributes.get("count_include_pad")),
        )
        return [Step(call, self._array(node.output[0]))]

    def _max_pool(self, node: NodeProto) -> list[Step]:
        x = Quantised(self._array(node.input[0]))
        window = _window(node, attributes_of(node)["kernel_shape"], x.shape[2:])
        return [Step(max_pool(x, window), self._array(node.output[0]))]

    def _channels_first(self, node: NodeProto) -> None:
        if attributes_of(node).get("channels_last"):
            raise ModelError("maps with the channels last have no Hexagon kernel")

    def _binary(self, node: NodeProto, kernel: Callable[[Quantised, Quantised, float, int], Call]) -> list[Step]:
        a, b = self._quantised(node.input[:3]), self._quantised(node.input[3:6])
        if a.values.shape == b.values.shape:
            a, b = _as_map(a), _as_map(b)
        scale, zero = self._number(node.input[6]), int(self._number(node.input[7]))
        call = (
            kernel(a, b, scale, zero)
            if a.values.size > 1 < b.values.size
            else self._with_number(node, a, b, scale, zero)
        )
        return [Step(call, self._array(node.output[0]))]

    def _with_number(self, node: NodeProto, a: Quantised, b: Quantised, scale: float, zero: int) -> Call:
        """A sum or product of a map and one number is a function of a byte."""
        if a.values.size == 1:
            a, b = b, a
        number = (float(b.values.reshape(-1)[0]) - b.zero) * b.scale
        values = (np.arange(256) - a.zero) * a.scale
        return look_up(
            _as_map(a), quantise(values + number if node.op_type == "QLinearAdd" else values * number, scale, zero)
        )

    # -------------------------------------------------------------- functions of a byte

    def _tabulated(self, node: NodeProto, op: str) -> list[Step]:
        """A fused function of a byte: input, its scale and zero point, the output's scale and zero point."""
        x = self._quantised(node.input[:3])
        alone = _node_copy(node, op, ["x"], ["y"])
        table = tabulate(x, [alone], {}, "y", self._number(node.input[3]), int(self._number(node.input[4])))
        return [Step(look_up(_as_map(x), table), self._array(node.output[0]))]

    def _island(self, index: int, done: set[int]) -> list[NodeProto]:
        """The nodes from a DequantizeLinear, or the first one, to the next QuantizeLinear; none if it is the end."""
        members = [self._nodes[index]]
        while members[-1].op_type != "QuantizeLinear":
            name = members[-1].output[0]
            readers = self._readers.get(name, [])
            if name in self._returned and not readers:
                if len(members) > 1:
                    raise _no_kernel(members[1], "float32 values")
                return []
            if len(readers) != 1:
                raise _no_kernel(readers[0], "float32 values") if readers else _no_kernel(members[-1])
            if readers[0].op_type not in _UNARY | {"BatchNormalization", "QuantizeLinear"}:
                raise _no_kernel(readers[0], "float32 values")
            members.append(readers[0])
        done.update(self._nodes.index(node) for node in members[1:])
        return members

    def _island_steps(self, members: Sequence[NodeProto]) -> list[Step]:
        first, last = members[0], members[-1]
        x, expected = self._quantised(first.input[:3]), self._array(last.output[0])
        scale, zero = self._number(last.input[1]), int(self._number(last.input[2]))
        inner = list(members[1:-1])
        if inner and inner[0].op_type == "BatchNormalization":
            if any(node.op_type != "Relu" for node in inner[1:]) or (inner[1:] and zero):
                raise _no_kernel(inner[1], "a BatchNormalization that is not folded")
            gain, bias, mean, variance = (self._array(name).astype(np.float64) for name in inner[0].input[1:5])
            gain = gain / np.sqrt(variance + attributes_of(inner[0]).get("epsilon", 1e-5))
            offsets = (bias - mean * gain - x.zero * x.scale * gain) / scale + zero
            return [Step(scale_channels(x, gain * x.scale / scale, offsets), expected)]
        table = tabulate(x, inner, self._arrays, last.input[0], scale, zero, given=first.output[0])
        return [Step(look_up(_as_map(x), table), expected)]

    def _first_steps(self, members: Sequence[NodeProto]) -> list[Step]:
        """A function that reads the model's floats, as that of the bytes that they would be inside of a network."""
        values, last = self._array(members[0].input[0]), members[-1]
        low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
        scale = (high - low) / 255 or 1.0
        x = Quantised(quantise(values, scale, round(-low / scale)), scale, round(-low / scale))
        ends = self._number(last.input[1]), int(self._number(last.input[2]))
        table = tabulate(x, members[:-1], self._arrays, last.input[0], *ends, given=members[0].input[0])
        return [Step(look_up(x, table), table[x.values])]

    # -------------------------------------------------------------- channels

    def _concat(self, node: NodeProto) -> list[Step]:
        if int(attributes_of(node)["axis"]) != 1:
            raise ModelError("concatenating along another axis than channels has no Hexagon kernel")
        scale, zero = self._number(node.input[0]), int(self._number(node.input[1]))
        steps, parts = [], []
        for first in range(2, len(node.input), 3):
            x = self._quantised(node.input[first : first + 3])
            if (x.scale, x.zero) != (scale, zero):
                table = tabulate(x, [], {}, "x", scale, zero)
                steps.append(Step(look_up(x, table), table[x.values]))
                x = Quantised(table[x.values], scale, zero)
            parts.append(x)
        call = choose_channels(parts, range(sum(part.shape[1] for part in parts)))
        return [*steps, Step(call, self._array(node.output[0]))]

    def _moved(self, index: int, done: set[int]) -> list[NodeProto]:
        """A chain of nodes that only move channels or rename sizes, up to where a map of four sizes comes out."""
        members = [self._nodes[index]]
        while members[-1].op_type in _MOVES | _VIEWS and len(members[-1].output) == 1:
            name = members[-1].output[0]
            readers = self._readers.get(name, [])
            ends = name in self._returned or len(readers) != 1 or readers[0].op_type not in _MOVES
            if ends or (self._array(name).ndim == 4 and members[-1].op_type != "Transpose"):
                break
            members.append(readers[0])
        done.update(self._nodes.index(node) for node in members[1:])
        return members

    def _move_steps(self, members: Sequence[NodeProto]) -> list[Step]:
        """Which channels the outputs take, found by moving the numbers of the channels themselves."""
        x = self._array(members[0].input[0])
        made = [self._array(name) for name in members[-1].output]
        if all(node.op_type in _VIEWS for node in members) and made[0].ndim != 4:
            return []  # the product that follows has its weights in this order
        where = f"{members[0].op_type} {members[0].name!r} of sizes {list(x.shape)} has no Hexagon kernel"
        if x.ndim != 4 or x.dtype != np.uint8 or any(array.ndim != 4 for array in made):
            raise ModelError(f"{where}; only channels can be moved")
        numbers = np.broadcast_to(np.arange(x.shape[1])[None, :, None, None], x.shape).astype(np.int64)
        inputs = {name: self._array(name) for node in members for name in node.input if name in self._arrays}
        inputs[members[0].input[0]] = numbers
        moved = evaluate(members, inputs, list(members[-1].output))
        steps = []
        for numbered, expected in zip(moved, made, strict=True):
            chosen = numbered[0, :, 0, 0]
            if numbered.shape[2:] != x.shape[2:] or (numbered != chosen[None, :, None, None]).any():
                raise ModelError(f"{where}; only whole channels can be moved")
            steps.append(Step(choose_channels([Quantised(x)], chosen.tolist()), expected))
        return steps


# ------------------------------------------------------------------ pieces of ONNX


def _as_map(x: Quantised) -> Quantised:
    """An array of any sizes as a map with the same bytes in the same order, for what takes them one by one."""
    if x.values.ndim in (2, 4) and len(x.values) == 1:
        return x
    return replace(x, values=x.values.reshape(1, 1 if x.values.size % 4 else 4, 1, -1))


def _no_kernel(node: NodeProto, what: str = "") -> ModelError:
    of = f" of {what}" if what else ""
    return ModelError(f"there is no Hexagon kernel for {node.op_type}{of} (node {node.name or node.output[0]!r})")


def _window(node: NodeProto, kernel: Sequence[int], sizes: Sequence[int]) -> Window:
    """The window of a convolution or pool."""
    found = attributes_of(node)
    strides, dilations = found.get("strides", [1, 1]), found.get("dilations", [1, 1])
    if len(kernel) != 2 or strides[0] != strides[1] or dilations[0] != dilations[1]:
        raise ModelError(f"a kernel of {list(kernel)} with strides {list(strides)} has no Hexagon kernel")
    pads, auto = list(found.get("pads", [0, 0, 0, 0])), found.get("auto_pad", b"NOTSET").decode()
    if auto.startswith("SAME"):
        reach = [(size - 1) * dilations[0] for size in kernel]
        total = [
            max(0, (math.ceil(size / strides[0]) - 1) * strides[0] + 1 + far - size)
            for size, far in zip(sizes, reach, strict=True)
        ]
        less, more = [size // 2 for size in total], [size - size // 2 for size in total]
        pads = [*less, *more] if auto == "SAME_UPPER" else [*more, *less]
    if found.get("ceil_mode"):
        for axis in (0, 1):
            span = sizes[axis] + pads[axis] + pads[axis + 2] - (kernel[axis] - 1) * dilations[0] - 1
            pads[axis + 2] += -span % strides[0]
    return Window(int(kernel[0]), int(kernel[1]), int(strides[0]), int(dilations[0]), tuple(pads))


def _node_copy(node: NodeProto, op: str, inputs: list[str], outputs: list[str]) -> NodeProto:
    import onnx

    copy = onnx.NodeProto(op_type=op, input=inputs, output=outputs)
    copy.attribute.extend(node.attribute)
    return copy
