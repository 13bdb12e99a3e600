"""One rule an ONNX operator: which kernel it is. `hwnas.spaces.onnx_fusions` has the rules for chains of operators.

A rule takes the reader and the operator, gives the reader a kernel, and returns True; or returns False if the
operator is used in a way that no kernel covers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hwnas.spaces.kernel import Kernel
from hwnas.spaces.kernels import (
    Add,
    BatchNorm,
    Conv,
    DepthwiseConv,
    GlobalPool,
    Linear,
    Pool,
    Zero,
)
from hwnas.spaces.layout_kernels import Concat, Pad, Pick, Reshape, Resize, Slice, Transpose
from hwnas.spaces.math_kernels import (
    BINARY,
    UNARY,
    Binary,
    GroupNorm,
    LayerNorm,
    MatMul,
    Reduce,
    Softmax,
    TransposedConv,
    Unary,
)

if TYPE_CHECKING:
    from hwnas.spaces.onnx_reader import OnnxReader, Operator

__all__ = ["RULES", "Rule"]

Rule = Callable[["OnnxReader", "Operator"], bool]


# ---------------------------------------------------------------------- convolutions and pools


def _square(pair: list[int]) -> Any:
    return pair[0] if len(set(pair)) == 1 else tuple(pair)


def _pads(operator: Operator, kernel: list[int], size: tuple[int, ...]) -> Any:
    """Padding as kernels have it: one number, height and width, or four sides."""
    auto = operator.get("auto_pad", b"NOTSET")
    pads = [int(p) for p in operator.get("pads", [0] * 4)]
    if auto in (b"SAME_UPPER", b"SAME_LOWER"):
        strides, dilations = operator.get("strides", [1, 1]), operator.get("dilations", [1, 1])
        spans = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
        totals = [max((-(-n // s) - 1) * s + span - n, 0) for n, s, span in zip(size, strides, spans, strict=True)]
        first = [total // 2 if auto == b"SAME_UPPER" else total - total // 2 for total in totals]
        pads = [*first, *(total - part for total, part in zip(totals, first, strict=True))]
    return _square(pads[:2]) if pads[:2] == pads[2:] else tuple(pads)


def _conv(reader: OnnxReader, operator: Operator) -> bool:
    quantised = operator.type == "QLinearConv"  # its inputs: x, scale, zero, weight, scale, zero, scale, zero, bias
    weight = reader.constant(operator, 3 if quantised else 1)
    data = reader.data(operator)
    if weight is None or weight.ndim != 4 or len(data) != 1:
        return False
    shape = reader.shape(data[0])
    dilations = list(operator.get("dilations", [1, 1]))
    if len(shape) != 4 or dilations[0] != dilations[1]:
        return False
    d, groups = dilations[0], int(operator.get("group", 1))
    k, s = _square(list(weight.shape[2:])), _square(list(operator.get("strides", [1, 1])))
    p = _pads(operator, list(weight.shape[2:]), shape[2:])
    if Conv(o=1, k=k, d=d, p=p).padding == Conv(o=1, k=k, d=d).padding:
        p = None
    common: dict[str, Any] = {"k": k, "s": s, "d": d, "p": p, "bn": False}
    common["bias"] = len(operator.inputs) > (8 if quantised else 2)
    if groups > 1 and groups == weight.shape[0] == shape[1]:
        return reader.emit(operator, DepthwiseConv(**common), data)
    return reader.emit(operator, Conv(o=weight.shape[0], g=groups, **common), data)


def _transposed_conv(reader: OnnxReader, operator: Operator) -> bool:
    weight = reader.constant(operator, 1)
    if weight is None or weight.ndim != 4:
        return False
    groups = int(operator.get("group", 1))
    k, s = _square(list(weight.shape[2:])), _square(list(operator.get("strides", [1, 1])))
    p = _square(list(operator.get("pads", [0] * 4)))
    if not all(isinstance(value, int) for value in (k, s, p)) or any(operator.get("output_padding", [0])):
        return False
    kernel = TransposedConv(o=weight.shape[1] * groups, k=k, s=s, p=p, g=groups)
    return reader.emit(operator, kernel, reader.data(operator))


def _batch_norm(reader: OnnxReader, operator: Operator) -> bool:
    tensor = operator.inputs[0]
    kernel = reader.kernel(tensor)
    if isinstance(kernel, Conv | DepthwiseConv) and kernel.act is None and not kernel.bn and reader.uses[tensor] == 1:
        return reader.fuse(operator.outputs[0], tensor, replace(kernel, bn=True))
    return reader.emit(operator, BatchNorm(), reader.data(operator))


def _pool(reader: OnnxReader, operator: Operator) -> bool:
    window = list(operator.get("kernel_shape", []))
    (source,) = reader.data(operator)
    shape = reader.shape(source)
    if len(window) != 2 or len(shape) != 4 or max(operator.get("dilations", [1])) > 1:
        return False
    p = _pads(operator, window, shape[2:])
    average = operator.type == "AveragePool"
    include = int(average and p != 0 and operator.get("count_include_pad", 0))
    kernel = Pool(
        "avg" if average else "max",
        k=_square(window),
        s=_square(list(operator.get("strides", [1, 1]))),
        p=p,
        ceil=int(operator.get("ceil_mode", 0)),
        include=include,
    )
    # rounding up may come to the same as rounding down
    return reader.emit(operator, replace(kernel, ceil=0), [source]) or reader.emit(operator, kernel, [source])


def _global_pool(reader: OnnxReader, operator: Operator) -> bool:
    """A mean over the image whose result is made flat is one kernel."""
    (source,) = reader.data(operator)
    axes = [2, 3] if operator.type.startswith("Global") else _axes(reader, operator, source)
    if axes is None or len(reader.shape(source)) < 2:
        return False
    kind = "max" if "Max" in operator.type else "mean"
    keep = int(operator.get("keepdims", 1))
    if kind == "mean" and axes == [2, 3] and len(reader.shape(source)) == 4:
        if not keep:
            return reader.emit(operator, GlobalPool(), [source])
        flat = reader.next(operator.outputs[0], "Flatten", "Reshape", "Squeeze")
        if flat is not None and len(reader.shape(flat.outputs[0])) == 2:
            return reader.emit(flat, GlobalPool(), [source], flat.outputs[0]) and reader.skip(flat)
    return reader.emit(operator, Reduce(kind, _square(axes) if len(axes) == 1 else tuple(axes), keep), [source])


def _axes(reader: OnnxReader, operator: Operator, source: str) -> list[int] | None:
    stored = reader.constant(operator, 1)
    axes = operator.get("axes", None if stored is None else stored.reshape(-1).tolist())
    rank = len(reader.shape(source))
    return None if axes is None or not rank else sorted(int(axis) % rank for axis in axes)


# ---------------------------------------------------------------------- products, sums, functions


def _gemm(reader: OnnxReader, operator: Operator) -> bool:
    data, weight = reader.data(operator), reader.constant(operator, 3 if operator.type.startswith("Q") else 1)
    if operator.type == "MatMul" and len(data) == 2:
        return reader.emit(operator, MatMul(), data)
    if weight is None or weight.ndim != 2 or len(data) != 1 or operator.get("transA", 0):
        return False
    out = weight.shape[0] if operator.get("transB", 0) else weight.shape[1]
    if operator.type == "MatMul":
        shift = reader.next(operator.outputs[0], "Add")
        stored = [reader.constants[name] for name in shift.inputs if name in reader.constants] if shift else []
        if shift is not None and stored and stored[0].ndim == 1:
            return reader.emit(shift, Linear(o=out), data) and reader.skip(shift)
        return reader.emit(operator, Linear(o=out, bias=False), data)
    bias = len(operator.inputs) > 2 and operator.type == "Gemm"
    return reader.emit(operator, Linear(o=out, bias=bias), data)


def _binary(reader: OnnxReader, operator: Operator) -> bool:
    kind = next(kind for kind, name in BINARY.items() if name == operator.type)
    data = reader.data(operator)
    if len(data) == len(operator.inputs) == 2:
        if kind == "add" and reader.shape(data[0]) == reader.shape(data[1]):
            return reader.emit(operator, Add(), data)
        return reader.emit(operator, Binary(kind), data)
    if len(data) != 1 or len(operator.inputs) != 2:
        return False
    index = 0 if operator.inputs[0] in reader.constants else 1
    stored = reader.constants[operator.inputs[index]]
    if kind == "mul" and not stored.any():
        return reader.emit(operator, Zero(), data)
    if kind in ("mul", "add") and _folds_into_conv(reader, operator.inputs[1 - index], stored):
        return reader.alias(operator.outputs[0], data[0])
    shape = tuple(stored.shape) or (1,)
    return reader.emit(operator, Binary(kind, _square(list(shape)) if len(shape) == 1 else shape, index == 0), data)


def _folds_into_conv(reader: OnnxReader, tensor: str, stored: np.ndarray) -> bool:
    """A scale or shift of a convolution's channels becomes part of its weights."""
    kernel, shape = reader.kernel(tensor), reader.shape(tensor)
    if not isinstance(kernel, Conv | DepthwiseConv) or kernel.act is not None or reader.uses[tensor] != 1:
        return False
    return stored.size == 1 or (stored.ndim >= 3 and stored.size == stored.shape[-3] == shape[1])


def _sum(reader: OnnxReader, operator: Operator) -> bool:
    data = reader.data(operator)
    return len(data) == len(operator.inputs) and reader.emit(operator, Add(), data)


def _unary(reader: OnnxReader, operator: Operator) -> bool:
    kind = next(kind for kind, name in UNARY.items() if name == operator.type)
    return reader.emit(operator, Unary(kind), reader.data(operator))


def _activation(act: str) -> Rule:
    def rule(reader: OnnxReader, operator: Operator) -> bool:
        return reader.activate(operator, act, operator.inputs[0], operator.outputs[0])

    return rule


def _clip(reader: OnnxReader, operator: Operator) -> bool:
    """Clipping to 0 and 6 is an activation; to other bounds it takes as long."""
    return reader.activate(operator, "relu6", operator.inputs[0], operator.outputs[0])


def _softmax(reader: OnnxReader, operator: Operator) -> bool:
    data = reader.data(operator)
    rank = len(reader.shape(data[0]))
    if not rank or int(operator.get("axis", -1)) % rank != rank - 1:
        return False
    return reader.emit(operator, Softmax(), data)


def _layer_norm(reader: OnnxReader, operator: Operator) -> bool:
    data = reader.data(operator)[:1]
    rank = len(reader.shape(data[0]))
    return int(operator.get("axis", -1)) % max(rank, 1) == rank - 1 and reader.emit(operator, LayerNorm(), data)


def _group_norm(reader: OnnxReader, operator: Operator) -> bool:
    data = reader.data(operator)[:1]
    shape = reader.shape(data[0])
    groups = operator.get("num_groups", shape[1] if len(shape) > 1 else 0)
    return bool(groups) and reader.emit(operator, GroupNorm(g=int(groups)), data)


# ---------------------------------------------------------------------- layout


def _concat(reader: OnnxReader, operator: Operator) -> bool:
    data = reader.data(operator)
    rank = len(reader.shape(data[0])) if data else 0
    if len(data) != len(operator.inputs) or not rank:
        return False
    return reader.emit(operator, Concat(int(operator.get("axis")) % rank), data)


def _reshape(reader: OnnxReader, operator: Operator) -> bool:
    (source,) = reader.data(operator)[:1]
    shape = reader.shape(operator.outputs[0])
    if not shape:
        return False
    if shape == reader.shape(source):
        return reader.alias(operator.outputs[0], source)
    return reader.emit(operator, Reshape(shape if len(shape) > 1 else shape[0]), [source])


def _alias(reader: OnnxReader, operator: Operator) -> bool:
    return reader.alias(operator.outputs[0], operator.inputs[0])


def _transpose(reader: OnnxReader, operator: Operator) -> bool:
    data = reader.data(operator)
    rank = len(reader.shape(data[0]))
    perm = tuple(int(axis) for axis in operator.get("perm", range(rank)[::-1]))
    return rank > 1 and reader.emit(operator, Transpose(perm), data)


def _slice(reader: OnnxReader, operator: Operator) -> bool:
    (source,) = reader.data(operator)
    shape = reader.shape(source)
    given = [reader.constant(operator, index) for index in range(1, len(operator.inputs))]
    if len(given) < 2 or any(value is None for value in given) or not shape:
        return False
    lists = [value.reshape(-1).tolist() for value in given if value is not None]
    starts, stops = lists[:2]
    axes = lists[2] if len(lists) > 2 else list(range(len(starts)))
    steps = lists[3] if len(lists) > 3 else [1] * len(starts)
    cuts: list[Slice] = []
    for start, stop, axis, step in zip(starts, stops, axes, steps, strict=True):
        axis %= len(shape)
        if step < 1:
            return False
        first, last, _ = slice(start, stop, step).indices(shape[axis])
        if (first, last, step) != (0, shape[axis], 1):
            cuts.append(Slice(first, last, axis, step))
    if not cuts:
        return reader.alias(operator.outputs[0], source)
    return _chain(reader, operator, cuts, source)


def _chain(reader: OnnxReader, operator: Operator, kernels: list[Any], source: str) -> bool:
    """Several kernels for one operator, one after the other."""
    for number, kernel in enumerate(kernels):
        last = number == len(kernels) - 1
        output = operator.outputs[0] if last else f"{operator.outputs[0]}/{number}"
        if not reader.emit(operator, kernel, [source], output):
            return False
        source = output
    return True


def _split(reader: OnnxReader, operator: Operator) -> bool:
    (source,) = reader.data(operator)
    rank, start = len(reader.shape(source)), 0
    if not rank:
        return False
    axis = int(operator.get("axis", 0)) % rank
    for output in operator.outputs:
        if not reader.shape(output):
            return False
        stop = start + reader.shape(output)[axis]
        if not reader.emit(operator, Slice(start, stop, axis), [source], output):
            return False
        start = stop
    return True


def _gather(reader: OnnxReader, operator: Operator) -> bool:
    index, data = reader.constant(operator, 1), reader.data(operator)
    if index is None or index.size != 1 or len(data) != 1:
        return False
    shape = reader.shape(data[0])
    if not shape:
        return False
    axis = int(operator.get("axis", 0)) % len(shape)
    place = int(index.reshape(-1)[0]) % shape[axis]
    kernel: Kernel = Slice(place, place + 1, axis) if index.ndim else Pick(axis, place)
    return reader.emit(operator, kernel, data)


def _resize(reader: OnnxReader, operator: Operator) -> bool:
    (source,) = reader.data(operator)[:1]
    shape = reader.shape(operator.outputs[0])
    mode = operator.get("mode", b"nearest")
    if len(shape) != 4 or mode not in (b"nearest", b"linear"):
        return False
    return reader.emit(operator, Resize(_square(list(shape[2:])), mode.decode()), [source])


def _pad(reader: OnnxReader, operator: Operator) -> bool:
    """Zeros around an image before a convolution become the convolution's own padding; others are a kernel."""
    stored = reader.constant(operator, 1)
    pads = operator.get("pads", None if stored is None else stored.reshape(-1).tolist())
    if pads is None:
        return False
    if not any(pads):
        return reader.alias(operator.outputs[0], operator.inputs[0])
    if operator.get("mode") not in _ZEROS or len(operator.inputs) > 3:
        return False
    after = reader.next(operator.outputs[0], "Conv")
    inside = len(pads) == 8 and not any(pads[i] for i in (0, 1, 4, 5)) and min(pads) >= 0
    if after is None or not inside or after.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        return reader.emit(operator, Pad(tuple(map(int, pads))), reader.data(operator)[:1])
    own = after.get("pads", [0] * 4)
    after.attributes["pads"] = [a + b for a, b in zip(own, (pads[2], pads[3], pads[6], pads[7]), strict=True)]
    return reader.alias(operator.outputs[0], operator.inputs[0])


_ZEROS = (None, b"constant")

RULES: dict[str, Rule] = {
    **dict.fromkeys(BINARY.values(), _binary),
    **dict.fromkeys(UNARY.values(), _unary),
    "AveragePool": _pool,
    "BatchNormalization": _batch_norm,
    "Cast": _alias,
    "CastLike": _alias,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "ConvTranspose": _transposed_conv,
    "Elu": _activation("elu"),
    "Expand": _reshape,
    "Flatten": _reshape,
    "Gather": _gather,
    "Gelu": _activation("gelu"),
    "Gemm": _gemm,
    "GlobalAveragePool": _global_pool,
    "GlobalMaxPool": _global_pool,
    "GroupNormalization": _group_norm,
    "HardSigmoid": _activation("hsigmoid"),
    "HardSwish": _activation("hswish"),
    "InstanceNormalization": _group_norm,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": _activation("leakyrelu"),
    "MatMul": _gemm,
    "MaxPool": _pool,
    "Mish": _activation("mish"),
    "PRelu": _activation("leakyrelu"),
    "Pad": _pad,
    "QLinearConv": _conv,
    "QLinearMatMul": _gemm,
    "ReduceMax": _global_pool,
    "ReduceMean": _global_pool,
    "Relu": _activation("relu"),
    "Reshape": _reshape,
    "Resize": _resize,
    "Sigmoid": _activation("sigmoid"),
    "Slice": _slice,
    "Softmax": _softmax,
    "Softplus": _activation("softplus"),
    "Split": _split,
    "Squeeze": _reshape,
    "Sum": _sum,
    "Tanh": _activation("tanh"),
    "Transpose": _transpose,
    "Unsqueeze": _reshape,
    "Upsample": _resize,
}
