"""Shapes of an ONNX model's tensors, and the numbers that depend on constants only."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hwnas.spaces.errors import ModelError
from hwnas.spaces.kernel import Shape

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto

    from hwnas.spaces.onnx_reader import Operator

__all__ = ["LARGEST_CONSTANT", "MOST_AXES", "MOST_NODES", "MOST_NUMBERS", "Shapes", "add_input", "few"]

#: larger constants are weights: their numbers are never looked at
LARGEST_CONSTANT = 4096
#: numbers of one that is computed from others
LARGEST_COMPUTED = 1024 * LARGEST_CONSTANT
#: a model with more nodes, or a tensor of more numbers or axes, is refused: it is no network that could run
MOST_NODES, MOST_NUMBERS, MOST_AXES = 50_000, 2**40, 32
#: how often shapes are inferred anew with what was computed; networks need less than ten
MOST_ROUNDS = 50
#: operators whose result is never larger than what they are given, if its shape is not known
_NEVER_LARGER = frozenset(
    {"Cast", "Compress", "Gather", "Identity", "Reshape", "Size", "Slice", "Squeeze", "Unsqueeze"}
)


def few(sizes: Sequence[int]) -> str:
    """Sizes as text, the first ones of many."""
    return " x ".join(map(str, sizes[:6])) + (" x ..." if len(sizes) > 6 else "")


def add_input(graph: GraphProto, name: str, kind: int, shape: Iterable[int]) -> None:
    """As `onnx.helper.make_tensor_value_info`, several times as fast."""
    value = graph.input.add()
    value.name = name
    value.type.tensor_type.elem_type = kind
    sizes = value.type.tensor_type.shape.dim
    for size in shape:
        sizes.add().dim_value = size


class Shapes:
    """Shapes of all tensors with batch 1, by ONNX's own inference, alternating with computing what is constant."""

    def __init__(
        self,
        model: ModelProto,
        inputs: dict[str, Shape],
        constants: dict[str, np.ndarray],
        renamed: dict[str, str],
    ) -> None:
        self.model, self.inputs, self.constants, self.renamed = model, inputs, constants, renamed

    def found(self, operators: list[Operator]) -> tuple[dict[str, Shape], set[Operator]]:
        """The shapes that could be inferred, and the operators whose results became constants."""
        folded: set[Operator] = set()
        for _ in range(MOST_ROUNDS):
            shapes = self._infer()
            before = len(self.constants)
            for operator in operators:
                if operator not in folded and self._fold(operator, shapes):
                    folded.add(operator)
            if len(self.constants) == before:
                break
        return shapes, folded

    def _fold(self, operator: Operator, shapes: dict[str, Shape]) -> bool:
        """Compute an operator whose inputs are small constants, or the shape of a tensor."""
        output = operator.outputs[0]
        if operator.type == "Shape":
            shape = shapes.get(operator.inputs[0])
            if shape is None:
                return False
            self.constants[output] = np.array(shape[operator.get("start", 0) : operator.get("end", None)], np.int64)
            return True
        given = [self.constants.get(name) for name in operator.inputs if name]
        if any(value is None for value in given) or len(operator.outputs) != 1:
            return False
        largest = max((value.size for value in given if value is not None), default=0)
        if largest > LARGEST_CONSTANT or operator.type.startswith("Random"):
            return self._stored(output, shapes)
        size = math.prod(shapes[output]) if output in shapes else None
        if (size is None and operator.type not in _NEVER_LARGER) or (size or 0) > LARGEST_COMPUTED:
            return self._stored(output, shapes)
        value = _compute(self.model, operator, self.constants)
        if value is None or value.size > LARGEST_COMPUTED:
            return self._stored(output, shapes)
        self.constants[output] = value
        return True

    def _stored(self, output: str, shapes: dict[str, Shape]) -> bool:
        """A large result of weights alone is a weight: only its shape counts."""
        if output not in shapes:
            return False
        self.constants[output] = np.broadcast_to(np.float32(1), shapes[output])
        return True

    def _infer(self) -> dict[str, Shape]:
        import onnx
        from onnx import TensorProto, helper, numpy_helper

        graph = onnx.GraphProto()
        graph.name = "shapes"
        known = set(self.constants)
        for node in self.model.graph.node:
            if node.op_type == "Constant" or (node.output and all(name in known for name in node.output if name)):
                continue
            graph.node.append(node)
        types = {tensor.name: tensor.data_type for tensor in self.model.graph.initializer}
        for name, array in self.constants.items():
            if array.size > LARGEST_CONSTANT:
                kind = types.get(name, TensorProto.FLOAT)
                add_input(graph, name, kind, array.shape)
            else:
                graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        for value in self.model.graph.input:
            if value.name in self.inputs:
                kind = value.type.tensor_type.elem_type
                add_input(graph, value.name, kind, self.inputs[value.name])
        model = helper.make_model(graph, opset_imports=self.model.opset_import, ir_version=self.model.ir_version)
        try:
            inferred = onnx.shape_inference.infer_shapes(model, data_prop=_stays_short(graph, self.constants))
        except Exception as error:  # the C++ inference raises several types
            raise ModelError(f"the shapes of the model do not fit together: {str(error)[:200]}") from error
        shapes = {name: tuple(array.shape) for name, array in self.constants.items()} | dict(self.inputs)
        for value in [*inferred.graph.value_info, *inferred.graph.output]:
            if not value.type.tensor_type.HasField("shape"):
                continue
            dims = value.type.tensor_type.shape.dim
            if all(dim.HasField("dim_value") and dim.dim_value > 0 for dim in dims):
                shape = tuple(dim.dim_value for dim in dims)
                if len(shape) > MOST_AXES or math.prod(shape) > MOST_NUMBERS:
                    raise ModelError(f"the tensor {value.name[:80]!r} of the model would have the size {few(shape)}")
                shapes[value.name] = shape
        for name, source in self.renamed.items():
            if source in shapes:
                shapes.setdefault(name, shapes[source])
        return shapes


def _stays_short(graph: GraphProto, constants: dict[str, np.ndarray]) -> bool:
    """Whether lists of sizes stay short as they are joined: ONNX's inference carries them along, however long."""
    lengths: dict[str, int] = {}
    for value in graph.input:
        sizes = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if len(sizes) == 1 and sizes[0] > LARGEST_COMPUTED:
            return False
    for node in graph.node:
        if node.op_type == "Concat" and node.output:
            total = 0
            for name in node.input:
                constant = constants.get(name)
                known = MOST_AXES if constant is None or constant.size > LARGEST_CONSTANT else constant.size
                total += lengths.get(name, known)
            if total > LARGEST_COMPUTED:
                return False
            lengths[node.output[0]] = total
    return True


def _compute(model: ModelProto, operator: Operator, constants: dict[str, np.ndarray]) -> np.ndarray | None:
    """The result of one operator on constants; None if it cannot be computed here."""
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    if operator.type in ("If", "Loop", "Scan"):
        return None  # what is within may run for ever
    feeds: dict[str, np.ndarray] = {name: constants[name] for name in operator.inputs if name}
    types = {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in feeds.items()}
    node = helper.make_node(operator.type, operator.inputs, operator.outputs, **_plain(operator.attributes.items()))
    graph = helper.make_graph(
        [node],
        "constant",
        [helper.make_tensor_value_info(name, kind, feeds[name].shape) for name, kind in types.items()],
        [helper.make_empty_tensor_value_info(operator.outputs[0])],
    )
    try:
        small = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
        (value,) = ReferenceEvaluator(small).run(None, feeds)
    except Exception:  # operators of other domains, and whatever else the reference does not implement
        return None
    return np.asarray(value)


def _plain(attributes: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in attributes}
