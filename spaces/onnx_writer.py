"""Writing graphs as ONNX directly: milliseconds a block, where an exporter that traces takes seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from onnx import ModelProto

    from hwnas.spaces.kernel import Shape

__all__ = ["OPSET", "OnnxWriter"]

#: opset 17 and IR 8 are read by every runtime that hwnas targets
OPSET = 17
IR_VERSION = 8


class OnnxWriter:
    """Collects nodes and initializers, then makes the model.

    Every value is named after the node that computes it; nodes carry the name of their kernel (or
    ``kernel/part``), so that a runtime's per-node counters lead back to kernels and blocks.
    """

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._initializers: list[Any] = []

    def tensor(self, name: str, array: np.ndarray | float) -> str:
        """Add an initializer and return its name; floats become float32."""
        from onnx import TensorProto

        array = np.asarray(array)
        kind = TensorProto.INT64 if array.dtype.kind == "i" else TensorProto.FLOAT
        array = np.asarray(array, dtype=np.int64 if kind == TensorProto.INT64 else np.float32)
        proto = TensorProto(name=name, data_type=kind, dims=array.shape, raw_data=array.tobytes())
        self._initializers.append(proto)
        return name

    def node(self, op: str, name: str, inputs: list[str], **attributes: Any) -> str:
        """Add a node called `name` and return its output, which has the same name."""
        from onnx import helper

        self._nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def activation(self, act: str | None, name: str, value: str) -> str:
        """Apply the activation `act` to `value` in the nodes ``name/<act>``; None passes it on."""
        if act is None:
            return value
        name = f"{name}/{act}"
        if act == "relu6":
            low = self.tensor(f"{name}/low", 0.0)
            return self.node("Clip", name, [value, low, self.tensor(f"{name}/high", 6.0)])
        if act == "swish":
            return self.node("Mul", name, [value, self.node("Sigmoid", f"{name}/sigmoid", [value])])
        if act == "hsigmoid":
            return self.node("HardSigmoid", name, [value], alpha=1 / 6, beta=0.5)
        if act == "gelu":
            return self._gelu(name, value)
        if act == "mish":
            gate = self.node("Tanh", f"{name}/tanh", [self.node("Softplus", f"{name}/softplus", [value])])
            return self.node("Mul", name, [value, gate])
        if act == "leakyrelu":
            return self.node("LeakyRelu", name, [value], alpha=0.01)
        simple = {"relu": "Relu", "hswish": "HardSwish", "sigmoid": "Sigmoid", "tanh": "Tanh"}
        simple |= {"elu": "Elu", "softplus": "Softplus"}
        return self.node(simple[act], name, [value])

    def _gelu(self, name: str, value: str) -> str:
        scaled = self.node("Mul", f"{name}/scaled", [value, self.tensor(f"{name}/root", 2**-0.5)])
        erf = self.node("Erf", f"{name}/erf", [scaled])
        shifted = self.node("Add", f"{name}/shifted", [erf, self.tensor(f"{name}/one", 1.0)])
        halved = self.node("Mul", f"{name}/halved", [value, self.tensor(f"{name}/half", 0.5)])
        return self.node("Mul", name, [halved, shifted])

    def rename_output(self, value: str, name: str) -> None:
        """Make `name` the name of a computed value (a graph's outputs have fixed names)."""
        for node in self._nodes:
            for names in (node.input, node.output):
                for index, current in enumerate(names):
                    if current == value:
                        names[index] = name

    def model(
        self,
        inputs: dict[str, Shape],
        outputs: dict[str, Shape],
        *,
        name: str,
        metadata: dict[str, str] | None = None,
        batch: int | str = 1,
    ) -> ModelProto:
        """The finished model; `batch` replaces the first axis of every input and output."""
        from onnx import TensorProto, helper

        def value(key: str, shape: Shape) -> Any:
            return helper.make_tensor_value_info(key, TensorProto.FLOAT, [batch, *shape[1:]])

        graph = helper.make_graph(
            self._nodes,
            name,
            [value(key, shape) for key, shape in inputs.items()],
            [value(key, shape) for key, shape in outputs.items()],
            self._initializers,
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="hwnas"
        )
        if metadata:
            helper.set_model_props(model, metadata)
        return model
