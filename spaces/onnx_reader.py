"""Reading any ONNX model into a `Graph` of kernels, so that it can be counted and priced.

Each rule below turns one ONNX operator, or a chain of them that runtimes fuse, into a kernel. What no
rule covers becomes an `Opaque` kernel with its shapes and its weight count: never an error.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwnas.spaces.errors import ModelError
from hwnas.spaces.graph import Block, Graph, Node
from hwnas.spaces.kernel import Kernel, Opaque, Shape
from hwnas.spaces.kernels import (
    Activation,
    Add,
    BatchNorm,
    ChannelShuffle,
    Concat,
    Conv,
    DepthwiseConv,
    GlobalPool,
    Linear,
    Pool,
    Slice,
    SqueezeExcite,
    Zero,
)

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["load_onnx", "read_onnx"]

LARGEST_FILE = 2 * 1024**3


def load_onnx(model: ModelProto | bytes | str | Path) -> ModelProto:
    """Load and check an ONNX model.

    Raises
    ------
    ModelError
        If there is no such file, or it is not a valid ONNX model.
    """
    import onnx

    if isinstance(model, onnx.ModelProto):
        return model
    source = "the model" if isinstance(model, bytes) else str(model)
    try:
        if not isinstance(model, bytes):
            path = Path(model)
            if path.stat().st_size > LARGEST_FILE:
                raise ModelError(f"{source} is larger than 2 GiB, the limit of an ONNX file")
            model = path.read_bytes()
        loaded = onnx.ModelProto()
        loaded.ParseFromString(model)
        if not loaded.graph.node or not loaded.opset_import:
            raise ModelError(f"{source} is not an ONNX model; export it again")
        onnx.checker.check_model(loaded)
    except OSError as error:
        raise ModelError(f"cannot read {source}: {error.strerror}; check the path") from error
    except ModelError:
        raise
    except Exception as error:  # protobuf and the checker raise types of their own
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"{source} is not a valid ONNX model ({reason[:200]}); export it again") from error
    return loaded


def read_onnx(model: ModelProto | bytes | str | Path) -> Graph:
    """Read an ONNX model as a `Graph`; a symbolic batch axis counts as 1.

    Raises
    ------
    ModelError
        If the file is not a valid ONNX model, or an input has a symbolic size other than the batch.
    """
    return _Reader(load_onnx(model)).read()


@dataclass
class _Step:
    """A kernel being assembled: later operators may still be fused into it."""

    name: str
    kernel: Kernel
    inputs: list[str]
    output: str
    fixed: bool = field(default=False)


class _Reader:
    def __init__(self, model: ModelProto) -> None:
        from onnx import numpy_helper

        self.constants: dict[str, np.ndarray] = {}
        for tensor in model.graph.initializer:
            self.constants[tensor.name] = numpy_helper.to_array(tensor)
        for node in model.graph.node:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
                self.constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        self.model = model
        self.shapes = self._infer_shapes()
        self.uses: Counter[str] = Counter(name for node in model.graph.node for name in node.input)
        self.uses.update(value.name for value in model.graph.output)
        self.consumer: dict[str, Any] = {}
        for node in model.graph.node:
            for name in node.input:
                self.consumer.setdefault(name, node)
        self.alias: dict[str, str] = {}
        self.steps: list[_Step] = []
        self.made: dict[str, _Step] = {}
        self.done: set[int] = set()
        self.weight: dict[str, int] = {}

    # ------------------------------------------------------------------ set-up

    def _infer_shapes(self) -> dict[str, Shape]:
        import onnx

        copy = onnx.ModelProto()
        copy.CopyFrom(self.model)
        for value in copy.graph.input:
            dims = value.type.tensor_type.shape.dim
            for axis, dim in enumerate(dims):
                if not dim.HasField("dim_value") or dim.dim_value <= 0:
                    if axis:
                        raise ModelError(
                            f"the input {value.name!r} has a symbolic size on axis {axis}; "
                            "export the model with a fixed input size"
                        )
                    dim.dim_value = 1
        for value in copy.graph.output:
            if value.type.tensor_type.HasField("shape") and value.type.tensor_type.shape.dim:
                value.type.tensor_type.shape.dim[0].ClearField("dim_param")
        del copy.graph.value_info[:]  # they may hold the symbolic batch
        try:
            copy = onnx.shape_inference.infer_shapes(copy, data_prop=True)
        except Exception as error:  # the C++ inference raises several types
            raise ModelError(f"the shapes of the model do not fit together: {str(error)[:200]}") from error
        shapes = {name: tuple(array.shape) for name, array in self.constants.items()}
        for value in [*copy.graph.input, *copy.graph.value_info, *copy.graph.output]:
            dims = value.type.tensor_type.shape.dim
            shapes[value.name] = tuple(dim.dim_value if dim.dim_value > 0 else 1 for dim in dims)
        return shapes

    # ------------------------------------------------------------------ the walk

    def read(self) -> Graph:
        inputs = {
            value.name: self.shapes[value.name] for value in self.model.graph.input if value.name not in self.constants
        }
        for node in self.model.graph.node:
            if id(node) in self.done or node.op_type == "Constant":
                continue
            if node.op_type in _CONSTANT_FOLDING and all(not n or n in self.constants for n in node.input):
                continue
            rule = _RULES.get(node.op_type)
            attributes = {a.name: _attribute(a) for a in node.attribute}
            if rule is None or not rule(self, node, attributes):
                self._opaque(node)
        nodes = [
            Node(step.name, step.kernel, tuple(step.inputs), Block(step.name, step.kernel.label)) for step in self.steps
        ]
        name_of = {step.output: step.name for step in self.steps}
        nodes = [replace(node, inputs=tuple(name_of.get(name, name) for name in node.inputs)) for node in nodes]
        outputs = [self._source(value.name) for value in self.model.graph.output]
        return Graph(nodes, inputs, [name_of.get(name, name) for name in outputs])

    def _source(self, name: str) -> str:
        while name in self.alias:
            name = self.alias[name]
        return name

    def _data(self, node: Any) -> list[str]:
        """Inputs that are computed, not stored."""
        return [self._source(name) for name in node.input if name and name not in self.constants]

    def _unique(self, node: Any) -> str:
        name: str = node.name or node.output[0]
        taken = {step.name for step in self.steps} | set(self.shapes)
        while name in taken and name != node.output[0]:
            name += "_"
        return str(node.output[0]) if name in taken else name

    def emit(self, node: Any, kernel: Kernel, inputs: list[str], output: str | None = None) -> bool:
        """Add a kernel if its shape agrees with ONNX's own inference."""
        output = output or node.output[0]
        try:
            shape = kernel.output_shape(*(self.shapes[name] for name in inputs))
        except (ModelError, KeyError, ValueError, IndexError):
            return False
        if output in self.shapes and self.shapes[output] and shape != self.shapes[output]:
            return False
        self.shapes[output] = shape
        step = _Step(f"{self._unique(node)}" if output == node.output[0] else output, kernel, inputs, output)
        self.steps.append(step)
        self.made[output] = step
        return True

    def _opaque(self, node: Any) -> None:
        stored = sum(self.constants[name].size for name in node.input if name in self.constants)
        macs = 0
        for index, output in enumerate(filter(None, node.output)):
            shape = self.shapes.get(output, ())
            if index == 0 and node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul") and len(node.input) > 1:
                weight = self.constants.get(node.input[1])
                if weight is not None and shape:
                    per_output = weight.size // max(1, weight.shape[0] if node.op_type == "Conv" else shape[-1])
                    macs = math.prod(shape) * per_output
            kernel = Opaque(node.op_type, shape, stored if index == 0 else 0, macs if index == 0 else 0)
            self.shapes[output] = shape
            step = _Step(output, kernel, self._data(node) if index == 0 else [], output, fixed=True)
            self.steps.append(step)
            self.made[output] = step

    def fuse_activation(self, node: Any, act: str) -> bool:
        """Fuse an activation into the kernel before it, or make it a kernel of its own."""
        source = self._source(node.input[0])
        step = self.made.get(source)
        if (
            step is not None
            and self.uses[node.input[0]] == 1
            and isinstance(step.kernel, Conv | DepthwiseConv | BatchNorm)
            and step.kernel.act is None
        ):
            step.kernel = replace(step.kernel, act=act)
            self.alias[node.output[0]] = source
            return True
        return self.emit(node, Activation(act), [source])

    def next(self, tensor: str, *types: str) -> Any | None:
        """The only consumer of `tensor`, if it is of one of these types."""
        node = self.consumer.get(tensor)
        return node if node is not None and self.uses[tensor] == 1 and node.op_type in types else None

    def skip(self, *nodes: Any) -> None:
        """Nodes that a fused kernel has taken in."""
        self.done.update(id(node) for node in nodes)


_CONSTANT_FOLDING = {"Identity", "Cast", "Reshape", "Unsqueeze", "Squeeze", "Concat", "Gather", "Transpose", "Slice"}


def _attribute(attribute: Any) -> Any:
    from onnx import helper

    return helper.get_attribute_value(attribute)


def _window(attributes: dict[str, Any], kernel: list[int]) -> tuple[Any, Any, Any] | None:
    """Kernel, stride and symmetric padding as the kernels want them; None if the padding is lopsided."""
    pads = list(attributes.get("pads", [0] * 4))
    if len(kernel) != 2 or pads[:2] != pads[2:] or attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        return None
    strides = list(attributes.get("strides", [1, 1]))
    return _square(kernel), _square(strides), _square(pads[:2])


def _square(pair: list[int]) -> int | tuple[int, int]:
    return pair[0] if pair[0] == pair[1] else (pair[0], pair[1])


def _conv(reader: _Reader, node: Any, attributes: dict[str, Any]) -> bool:
    weight = reader.constants.get(node.input[1])
    if weight is None or weight.ndim != 4:
        return False
    window = _window(attributes, list(weight.shape[2:]))
    dilations = list(attributes.get("dilations", [1, 1]))
    if window is None or dilations[0] != dilations[1]:
        return False
    k, s, p = window
    d, groups, bias = dilations[0], int(attributes.get("group", 1)), len(node.input) > 2
    same = Conv(o=1, k=k, d=d).padding
    padding = None if (p if isinstance(p, tuple) else (p, p)) == same else p
    (source,) = reader._data(node)
    depthwise = groups > 1 and groups == weight.shape[0] == reader.shapes[source][1]
    if depthwise:
        return reader.emit(node, DepthwiseConv(k=k, s=s, d=d, p=padding, bn=False, bias=bias), [source])
    kernel = Conv(o=weight.shape[0], k=k, s=s, g=groups, d=d, p=padding, bn=False, bias=bias)
    return reader.emit(node, kernel, [source])


def _batch_norm(reader: _Reader, node: Any, _attributes: dict[str, Any]) -> bool:
    source = reader._source(node.input[0])
    step = reader.made.get(source)
    fusable = step is not None and isinstance(step.kernel, Conv | DepthwiseConv)
    if fusable and reader.uses[node.input[0]] == 1 and step.kernel.act is None and not step.kernel.bn:  # type: ignore
        step.kernel = replace(step.kernel, bn=True)  # type: ignore
        reader.alias[node.output[0]] = source
        return True
    return reader.emit(node, BatchNorm(), [source])


def _clip(reader: _Reader, node: Any, attributes: dict[str, Any]) -> bool:
    bounds = [reader.constants.get(name) for name in list(node.input)[1:3]]
    low = attributes.get("min", bounds[0] if bounds else None)
    high = attributes.get("max", bounds[1] if len(bounds) > 1 else None)
    if low is None or high is None or float(low) != 0 or float(high) != 6:
        return False
    return reader.fuse_activation(node, "relu6")


def _simple_activation(act: str) -> Callable[[_Reader, Any, dict[str, Any]], bool]:
    def rule(reader: _Reader, node: Any, _attributes: dict[str, Any]) -> bool:
        return reader.fuse_activation(node, act)

    return rule


def _gated(plain: str, product: str) -> Callable[[_Reader, Any, dict[str, Any]], bool]:
    """A gate whose only use is a product with its own input: x * sigmoid(x) is swish."""

    def rule(reader: _Reader, node: Any, _attributes: dict[str, Any]) -> bool:
        times = reader.next(node.output[0], "Mul")
        if times is not None and set(times.input) == {node.input[0], node.output[0]}:
            reader.skip(times)
            reader.uses[node.input[0]] -= 1
            if reader.fuse_activation(node, product):
                reader.alias[times.output[0]] = reader._source(node.output[0])
                return True
        return reader.fuse_activation(node, plain)

    return rule


def _pool(reader: _Reader, node: Any, attributes: dict[str, Any]) -> bool:
    window = _window(attributes, list(attributes.get("kernel_shape", [])))
    if window is None or attributes.get("ceil_mode", 0) or max(attributes.get("dilations", [1])) > 1:
        return False
    k, s, p = window
    if node.op_type == "AveragePool" and attributes.get("count_include_pad", 0) and p != 0:
        return False
    mode = "avg" if node.op_type == "AveragePool" else "max"
    return reader.emit(node, Pool(mode, k=k, s=s, p=p), [reader._source(node.input[0])])


def _global_pool(reader: _Reader, node: Any, attributes: dict[str, Any]) -> bool:
    source = reader._source(node.input[0])
    if node.op_type == "ReduceMean":
        axes = attributes.get("axes", reader.constants.get(node.input[1]) if len(node.input) > 1 else None)
        rank = len(reader.shapes.get(source, ()))
        if axes is None or sorted(int(axis) % rank for axis in axes) != [2, 3] or rank != 4:
            return False
        if not attributes.get("keepdims", 1):
            return reader.emit(node, GlobalPool(), [source])
    flat = reader.next(node.output[0], "Flatten", "Reshape", "Squeeze")
    if flat is not None and len(reader.shapes.get(flat.output[0], ())) == 2:
        reader.skip(flat)
        return reader.emit(node, GlobalPool(), [source], flat.output[0])
    return _squeeze_excite(reader, node, source)


def _squeeze_excite(reader: _Reader, node: Any, source: str) -> bool:
    """Pool, 1x1 convolution, ReLU, 1x1 convolution, gate, product with the pooled tensor."""
    reduce = reader.next(node.output[0], "Conv")
    relu = reduce and reader.next(reduce.output[0], "Relu")
    expand = relu and reader.next(relu.output[0], "Conv")
    gate = expand and reader.next(expand.output[0], "Sigmoid", "HardSigmoid")
    times = gate and reader.next(gate.output[0], "Mul")
    if not (reduce and gate and times) or source not in [reader._source(name) for name in times.input]:
        return False
    weight = reader.constants.get(reduce.input[1])
    if weight is None:
        return False
    reader.skip(reduce, relu, expand, gate, times)
    kind = "sigmoid" if gate.op_type == "Sigmoid" else "hsigmoid"
    return reader.emit(times, SqueezeExcite(r=weight.shape[0], gate=kind), [source])


def _gemm(reader: _Reader, node: Any, attributes: dict[str, Any]) -> bool:
    weight = reader.constants.get(node.input[1])
    data = reader._data(node)
    if weight is None or weight.ndim != 2 or len(data) != 1 or attributes.get("transA", 0):
        return False
    out = weight.shape[0] if attributes.get("transB", 0) else weight.shape[1]
    if node.op_type == "MatMul":
        bias = reader.next(node.output[0], "Add")
        if bias is not None and any(name in reader.constants for name in bias.input):
            reader.skip(bias)
            return reader.emit(node, Linear(o=out), data, bias.output[0])
    return reader.emit(node, Linear(o=out), data)


def _add(reader: _Reader, node: Any, _attributes: dict[str, Any]) -> bool:
    data = reader._data(node)
    return len(data) == len(node.input) and reader.emit(node, Add(), data)


def _concat(reader: _Reader, node: Any, attributes: dict[str, Any]) -> bool:
    data = reader._data(node)
    return len(data) == len(node.input) and attributes.get("axis") == 1 and reader.emit(node, Concat(), data)


def _mul(reader: _Reader, node: Any, _attributes: dict[str, Any]) -> bool:
    stored = [reader.constants[name] for name in node.input if name in reader.constants]
    return len(stored) == 1 and not stored[0].any() and reader.emit(node, Zero(), reader._data(node))


def _alias(reader: _Reader, node: Any, _attributes: dict[str, Any]) -> bool:
    reader.alias[node.output[0]] = reader._source(node.input[0])
    return True


def _quantisation(reader: _Reader, node: Any, _attributes: dict[str, Any]) -> bool:
    """A change of number format: what it stands between is the same kernel in either."""
    stored = reader.constants.get(node.input[0])
    if stored is None:
        return _alias(reader, node, _attributes)
    reader.constants[node.output[0]] = stored
    return True


def _flatten(reader: _Reader, node: Any, _attributes: dict[str, Any]) -> bool:
    """A change of shape that moves nothing; a shuffle is three of them."""
    source = reader._source(node.input[0])
    swap = reader.next(node.output[0], "Transpose")
    merge = swap and reader.next(swap.output[0], "Reshape")
    if swap and merge and list(_attribute(swap.attribute[0])) == [0, 2, 1, 3, 4]:
        groups = reader.shapes.get(node.output[0], ())[1]
        reader.skip(swap, merge)
        return reader.emit(merge, ChannelShuffle(g=groups), [source])
    return False


def _slice(reader: _Reader, node: Any, _attributes: dict[str, Any]) -> bool:
    values = [reader.constants.get(name) for name in list(node.input)[1:] if name]
    if len(values) < 3 or any(v is None or v.size != 1 for v in values):
        return False
    start, stop, axis = (int(v.reshape(-1)[0]) for v in values[:3])  # type: ignore[union-attr]
    source = reader._source(node.input[0])
    if axis != 1 or (len(values) > 3 and int(values[3].reshape(-1)[0]) != 1):  # type: ignore[union-attr]
        return False
    size = reader.shapes[source][1]
    stop = min(stop + size if stop < 0 else stop, size)
    return reader.emit(node, Slice(start + size if start < 0 else start, stop), [source])


def _split(reader: _Reader, node: Any, attributes: dict[str, Any]) -> bool:
    if attributes.get("axis", 0) != 1:
        return False
    source, start = reader._source(node.input[0]), 0
    for output in node.output:
        stop = start + reader.shapes[output][1]
        if not reader.emit(node, Slice(start, stop), [source], output):
            return False
        start = stop
    return True


_RULES: dict[str, Callable[[_Reader, Any, dict[str, Any]], bool]] = {
    "Add": _add,
    "AveragePool": _pool,
    "BatchNormalization": _batch_norm,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "DequantizeLinear": _quantisation,
    "Dropout": _alias,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_pool,
    "HardSigmoid": _gated("hsigmoid", "hswish"),
    "HardSwish": _simple_activation("hswish"),
    "Identity": _alias,
    "MatMul": _gemm,
    "MaxPool": _pool,
    "Mul": _mul,
    "QuantizeLinear": _quantisation,
    "ReduceMean": _global_pool,
    "Relu": _simple_activation("relu"),
    "Reshape": _flatten,
    "Sigmoid": _gated("sigmoid", "swish"),
    "Slice": _slice,
    "Split": _split,
    "Sum": _add,
    "Tanh": _simple_activation("tanh"),
}
