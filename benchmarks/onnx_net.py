"""Writing networks as ONNX node by node, with random weights: what the kernels of hwnas have no word for as well."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Net:
    """Builds one network; every method takes names of tensors and gives the name of one.

    Parameters
    ----------
    shape
        Of the input, ``(1, channels, height, width)``.
    gain
        Variance that random weights bring: 2 keeps that of rectified numbers, less is for networks that add up.
    """

    def __init__(self, shape: tuple[int, int, int, int], gain: float = 2.0) -> None:
        self._shape, self._gain, self._nodes, self._weights = shape, gain, [], []
        self._rng = np.random.default_rng(0)
        self.channels = {"input": shape[1]}

    def _add(self, op: str, inputs: list[str], channels: int, **attributes: object) -> str:
        name = f"{op.lower()}{len(self._nodes)}"
        self._nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        self.channels[name] = channels
        return name

    def _weight(self, array: np.ndarray) -> str:
        name = f"weight{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def _random(self, *shape: int) -> str:
        fan = max(1, int(np.prod(shape[1:])))
        return self._weight(self._rng.standard_normal(shape, dtype=np.float32) * np.float32((self._gain / fan) ** 0.5))

    def conv(
        self,
        x: str,
        o: int,
        k: int | tuple[int, int] = 1,
        s: int = 1,
        act: str | None = "relu",
        g: int = 1,
        p: int | None = None,
        d: int = 1,
    ) -> str:
        """Convolution with a bias of its own (a folded BatchNorm); same padding unless `p` is given."""
        into, (kh, kw) = self.channels[x], (k, k) if isinstance(k, int) else k
        pads = [d * (kh // 2), d * (kw // 2)] * 2 if p is None else [p] * 4
        bias = self._weight(self._rng.standard_normal(o, dtype=np.float32) * np.float32(0.1))
        y = self._add(
            "Conv",
            [x, self._random(o, into // g, kh, kw), bias],
            o,
            kernel_shape=[kh, kw],
            strides=[s, s],
            pads=pads,
            group=g,
            dilations=[d, d],
        )
        return self.act(y, act)

    def depthwise(self, x: str, k: int = 3, s: int = 1, act: str | None = "relu") -> str:
        return self.conv(x, self.channels[x], k, s, act, self.channels[x])

    def up_conv(self, x: str, o: int) -> str:
        """Transposed convolution that doubles the size."""
        weight, bias = self._random(self.channels[x], o, 2, 2), self._weight(np.zeros(o, np.float32))
        return self._add("ConvTranspose", [x, weight, bias], o, kernel_shape=[2, 2], strides=[2, 2])

    def act(self, x: str, kind: str | None) -> str:
        if kind is None:
            return x
        if kind in ("relu6", "hardtanh"):
            ends = [self._weight(np.float32(v)) for v in ((0, 6) if kind == "relu6" else (0, 1))]
            return self._add("Clip", [x, *ends], self.channels[x])
        if kind == "prelu":
            slope = self._weight(np.full((self.channels[x], 1, 1), 0.25, np.float32))
            return self._add("PRelu", [x, slope], self.channels[x])
        return self._add({"relu": "Relu", "sigmoid": "Sigmoid", "leaky": "LeakyRelu"}[kind], [x], self.channels[x])

    def norm(self, x: str, act: str | None = "relu") -> str:
        """BatchNorm that no convolution precedes."""
        o = self.channels[x]
        scales = [self._weight(np.full(o, value, np.float32)) for value in (1, 0.1, 0, 1)]
        return self.act(self._add("BatchNormalization", [x, *scales], o), act)

    def add(self, *xs: str, act: str | None = None) -> str:
        total = xs[0]
        for x in xs[1:]:
            total = self._add("Add", [total, x], self.channels[x])
        return self.act(total, act)

    def mul(self, x: str, gate: str) -> str:
        return self._add("Mul", [x, gate], self.channels[x])

    def concat(self, *xs: str) -> str:
        return self._add("Concat", list(xs), sum(self.channels[x] for x in xs), axis=1)

    def slice(self, x: str, start: int, stop: int) -> str:
        ends = [self._weight(np.array([value], np.int64)) for value in (start, stop, 1)]
        return self._add("Slice", [x, *ends], stop - start)

    def pool(self, x: str, k: int = 3, s: int = 2, p: int | None = None, mode: str = "Max") -> str:
        pads = [k // 2 if p is None else p] * 4
        return self._add(f"{mode}Pool", [x], self.channels[x], kernel_shape=[k, k], strides=[s, s], pads=pads)

    def mean(self, x: str) -> str:
        return self._add("GlobalAveragePool", [x], self.channels[x])

    def resize(self, x: str, scale: int, mode: str = "nearest") -> str:
        scales = self._weight(np.array([1, 1, scale, scale], np.float32))
        form = "asymmetric" if mode == "nearest" else "half_pixel"
        near = {"nearest_mode": "floor"} if mode == "nearest" else {}
        return self._add(
            "Resize", [x, "", scales], self.channels[x], mode=mode, coordinate_transformation_mode=form, **near
        )

    def to_space(self, x: str, block: int) -> str:
        return self._add("DepthToSpace", [x], self.channels[x] // block**2, blocksize=block, mode="CRD")

    def linear(self, x: str, o: int) -> str:
        """Fully connected on the channels of a tensor of one pixel."""
        flat = self._add("Flatten", [x], self.channels[x])
        weight, bias = self._random(o, self.channels[x]), self._weight(np.zeros(o, np.float32))
        return self._add("Gemm", [flat, weight, bias], o, transB=1)

    def model(self, *outputs: str) -> onnx.ModelProto:
        """The network, checked, with the shapes of all its tensors."""
        graph = helper.make_graph(
            self._nodes,
            "net",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, self._shape)],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            self._weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
        onnx.checker.check_model(model)
        return model
