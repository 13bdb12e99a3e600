"""Reading any ONNX model into a `Graph` of kernels, so that it can be counted and priced.

A model is read in three passes: what does nothing (identities, changes of number format) is bypassed, and what depends
on constants only is computed; then every operator is turned into a kernel by a rule of `hwnas.spaces.onnx_rules`, or a
chain of operators by one of `hwnas.spaces.onnx_fusions`. What no rule covers becomes an `Opaque` kernel with its
shapes and its weight count: never an error.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwnas.spaces.errors import ModelError
from hwnas.spaces.graph import Block, Graph, Node
from hwnas.spaces.kernel import Kernel, Opaque, Shape
from hwnas.spaces.kernels import Activation, BatchNorm, Conv, DepthwiseConv
from hwnas.spaces.onnx_shapes import LARGEST_CONSTANT, MOST_AXES, MOST_NODES, MOST_NUMBERS, Shapes, add_input, few

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

__all__ = ["OnnxReader", "Operator", "load_onnx", "read_onnx"]

LARGEST_FILE = 2 * 1024**3
#: do nothing, or only change how numbers are stored
BYPASSED = frozenset({"Identity", "Dropout", "QuantizeLinear", "DequantizeLinear"})
#: where operators keep their weights
WEIGHTS = {"Conv": 1, "ConvInteger": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1, "MatMulInteger": 1}


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
        _check_sizes(loaded, source)
        onnx.checker.check_model(_without_weights(loaded))
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
    loaded = load_onnx(model)
    try:
        return OnnxReader(loaded).read()
    except ModelError:
        raise
    except _ODD as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else 'no reason given'}"
        raise ModelError(f"the model uses an operator in a way that ONNX does not know ({reason})") from error


#: what rules raise over attributes and shapes that the checker of onnx lets pass
_ODD = (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError)


def _check_sizes(model: ModelProto, source: str) -> None:
    """Refuse a model whose sizes alone would cost memory or time."""
    graph = model.graph
    if len(graph.node) > MOST_NODES:
        raise ModelError(f"{source} has {len(graph.node)} nodes; hwnas reads up to {MOST_NODES}")
    for tensor in graph.initializer:
        if len(tensor.dims) > MOST_AXES or any(not 0 <= size <= MOST_NUMBERS for size in tensor.dims):
            raise ModelError(f"{source} is damaged: the weights {tensor.name[:80]!r} have the size {few(tensor.dims)}")
        if math.prod(tensor.dims) > MOST_NUMBERS:
            raise ModelError(
                f"{source} says that its weights {tensor.name[:80]!r} are {math.prod(tensor.dims)} numbers"
            )
    for value in graph.input:
        sizes = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if len(sizes) > MOST_AXES or math.prod(max(1, size) for size in sizes) > MOST_NUMBERS:
            raise ModelError(f"{source} has an input {value.name[:80]!r} of the size {few(sizes)}; give one that fits")


@dataclass(frozen=True, eq=False)
class Operator:
    """A node of the file, with the names of its tensors after what does nothing is bypassed."""

    type: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute, or `default`."""
        return self.attributes.get(name, default)


@dataclass
class _Step:
    """A kernel being assembled: later operators may still be fused into it."""

    name: str
    kernel: Kernel
    inputs: list[str]
    output: str


class OnnxReader:
    """One model being read; rules ask it for constants, shapes and neighbours, and give it kernels."""

    def __init__(self, model: ModelProto) -> None:
        from onnx import helper

        self.constants = {tensor.name: _array(tensor) for tensor in model.graph.initializer}
        self._inputs = _input_shapes(model, self.constants)
        self._renamed: dict[str, str] = {}
        operators = []
        for node in model.graph.node:
            attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
            if node.op_type == "Constant" and "value" in attributes:
                self.constants[node.output[0]] = _array(attributes["value"])
                continue
            names = tuple(self._renamed.get(name, name) for name in node.input)
            if node.op_type in BYPASSED and names and names[0]:
                self._renamed[node.output[0]] = names[0]
                continue
            operators.append(Operator(node.op_type, node.name, names, tuple(node.output), attributes))
        self.outputs = [self._renamed.get(value.name, value.name) for value in model.graph.output]
        self.shapes, folded = Shapes(model, self._inputs, self.constants, self._renamed).found(operators)
        self.operators = [operator for operator in operators if operator not in folded]
        self.uses: Counter[str] = Counter(name for operator in self.operators for name in operator.inputs)
        self.uses.update(self.outputs)
        self._consumer: dict[str, Operator] = {}
        for operator in self.operators:
            for name in operator.inputs:
                self._consumer.setdefault(name, operator)
        self._alias: dict[str, str] = {}
        self._steps: dict[str, _Step] = {}
        self._names: set[str] = set()
        self._done: set[Operator] = set()

    # ------------------------------------------------------------------ the walk

    def read(self) -> Graph:
        """Turn every operator into a kernel."""
        from hwnas.spaces.onnx_fusions import FUSIONS
        from hwnas.spaces.onnx_rules import RULES

        for operator in self.operators:
            if operator in self._done:
                continue
            rules = (*FUSIONS.get(operator.type, ()), *([RULES[operator.type]] if operator.type in RULES else []))
            if not any(rule(self, operator) for rule in rules):
                self._opaque(operator)
        nodes = [
            Node(step.name, step.kernel, tuple(step.inputs), Block(step.name, step.kernel.label))
            for step in self._steps.values()
        ]
        name_of = {step.output: step.name for step in self._steps.values()}
        nodes = [replace(node, inputs=tuple(name_of.get(name, name) for name in node.inputs)) for node in nodes]
        outputs = [self.source(name) for name in self.outputs if name not in self.constants]
        return Graph(nodes, self._inputs, [name_of.get(name, name) for name in outputs])

    def _opaque(self, operator: Operator) -> None:
        stored = sum(self.constants[name].size for name in operator.inputs if name in self.constants)
        macs = 0
        outputs = [name for name in operator.outputs if name]
        shape = self.shapes.get(outputs[0], ()) if outputs else ()
        weight = self.constant(operator, WEIGHTS.get(operator.type, len(operator.inputs)))
        if weight is not None and weight.ndim and shape:
            per_output = weight.size // max(1, weight.shape[0] if operator.type.startswith("Conv") else shape[-1])
            macs = math.prod(shape) * per_output
        for index, output in enumerate(outputs):
            shape = self.shapes.setdefault(output, ())
            kernel = Opaque(operator.type, shape, stored if index == 0 else 0, macs if index == 0 else 0)
            self._steps[output] = _Step(output, kernel, self.data(operator) if index == 0 else [], output)

    # ------------------------------------------------------------------ what rules ask for

    def source(self, name: str) -> str:
        """The tensor that `name` is once fusions are resolved."""
        while name in self._alias:
            name = self._alias[name]
        return name

    def data(self, operator: Operator) -> list[str]:
        """Inputs that are computed, not stored."""
        return [self.source(name) for name in operator.inputs if name and name not in self.constants]

    def constant(self, operator: Operator, index: int) -> np.ndarray | None:
        """The stored input at `index`, if there is one and it is stored."""
        return self.constants.get(operator.inputs[index]) if len(operator.inputs) > index else None

    def shape(self, name: str) -> Shape:
        """Shape of a tensor; empty if unknown."""
        return self.shapes.get(self.source(name), self.shapes.get(name, ()))

    def kernel(self, tensor: str) -> Kernel | None:
        """The kernel that computes a tensor."""
        step = self._steps.get(self.source(tensor))
        return step.kernel if step else None

    def next(self, tensor: str, *types: str) -> Operator | None:
        """The only consumer of `tensor`, if it is of one of these types."""
        operator = self._consumer.get(tensor)
        return operator if operator is not None and self.uses[tensor] == 1 and operator.type in types else None

    def consumers(self, tensor: str, *types: str) -> list[Operator]:
        """All operators of these types that read `tensor`."""
        return [operator for operator in self.operators if tensor in operator.inputs and operator.type in types]

    # ------------------------------------------------------------------ what rules give

    def emit(self, operator: Operator, kernel: Kernel, inputs: Sequence[str], output: str | None = None) -> bool:
        """Add a kernel if its shape agrees with ONNX's own inference; else nothing happens, and False is returned."""
        output = output or operator.outputs[0]
        try:
            shape = kernel.output_shape(*(self.shapes[name] for name in inputs))
        except (ModelError, KeyError, ValueError, IndexError):
            return False
        if self.shapes.get(output, shape) != shape:
            return False
        self.shapes[output] = shape
        name = (operator.name or output) if output == operator.outputs[0] else output
        if name in self._names or (name in self.shapes and name != output):
            name = output
        self._names.add(name)
        self._steps[output] = _Step(name, kernel, list(inputs), output)
        return True

    def fuse(self, tensor: str, into: str, kernel: Kernel) -> bool:
        """Make `kernel` the one that computes `into`, and `tensor` what it returns."""
        self._steps[self.source(into)].kernel = kernel
        self._alias[tensor] = self.source(into)
        return True

    def activate(self, operator: Operator, act: str, tensor: str, output: str, *, reads: int = 1) -> bool:
        """Fuse an activation of `tensor` into the kernel before it, or make it a kernel of its own.

        `reads` is how often the operators of the activation read `tensor` (twice in ``x * sigmoid(x)``).
        """
        kernel = self.kernel(tensor)
        takes_one = isinstance(kernel, Conv | DepthwiseConv | BatchNorm) and kernel.act is None
        if takes_one and self.uses[tensor] == reads:
            return self.fuse(output, tensor, replace(kernel, act=act))  # type: ignore[type-var, arg-type]
        return self.emit(operator, Activation(act), [self.source(tensor)], output)

    def alias(self, tensor: str, source: str) -> bool:
        """`tensor` is the same as `source`."""
        self._alias[tensor] = self.source(source)
        return True

    def skip(self, *operators: Operator) -> bool:
        """Operators that a fused kernel has taken in, once it is there; returns True, as a rule does."""
        self._done.update(operators)
        return True

    def drop(self, tensor: str) -> None:
        """Take back the kernel that computes `tensor`: a fusion has found out that it was part of it."""
        self._steps.pop(tensor, None)


def _array(tensor: TensorProto) -> np.ndarray:
    """The numbers of a constant; of large ones only shape and type."""
    from onnx import helper, numpy_helper

    try:
        if math.prod(tensor.dims) > LARGEST_CONSTANT:
            return np.broadcast_to(np.zeros((), helper.tensor_dtype_to_np_dtype(tensor.data_type)), tuple(tensor.dims))
        return numpy_helper.to_array(tensor)
    except Exception as error:  # onnx raises several types
        reason = f"the weights {tensor.name!r} of the model cannot be read ({error})"
        raise ModelError(f"{reason}; export it again") from error


def _without_weights(model: ModelProto) -> ModelProto:
    """The model with large weights as inputs: the checker and the inference copy what they are given several times."""
    import onnx

    light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    graph, given = light.graph, model.graph
    graph.name = given.name
    graph.node.extend(given.node)
    graph.input.extend(given.input)
    graph.output.extend(given.output)
    graph.sparse_initializer.extend(given.sparse_initializer)
    inputs = {value.name for value in given.input}
    for tensor in given.initializer:
        if math.prod(tensor.dims) <= LARGEST_CONSTANT:
            graph.initializer.append(tensor)
        elif tensor.name not in inputs:
            add_input(graph, tensor.name, tensor.data_type, tensor.dims)
    return light


def _input_shapes(model: ModelProto, constants: dict[str, np.ndarray]) -> dict[str, Shape]:
    shapes = {}
    for value in model.graph.input:
        if value.name in constants:
            continue
        sizes = []
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            known = dim.HasField("dim_value") and dim.dim_value > 0
            if axis and not known:
                raise ModelError(
                    f"the input {value.name!r} has a symbolic size on axis {axis}; "
                    "export the model with a fixed input size"
                )
            sizes.append(dim.dim_value if known else 1)
        shapes[value.name] = tuple(sizes)
    return shapes
