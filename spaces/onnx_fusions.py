"""Chains of ONNX operators that are one kernel: gates, decomposed activations and norms, squeeze-excite, shuffles.

Exporters write these in several ways; every rule here starts at the first operator of its chain, takes the rest in if
it is complete, and otherwise leaves everything to `hwnas.spaces.onnx_rules`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwnas.spaces.kernels import SqueezeExcite
from hwnas.spaces.layout_kernels import ChannelShuffle
from hwnas.spaces.math_kernels import LayerNorm

if TYPE_CHECKING:
    from hwnas.spaces.onnx_reader import OnnxReader, Operator
    from hwnas.spaces.onnx_rules import Rule

__all__ = ["FUSIONS"]

ROOT_HALF = 0.5**0.5


def _scalar(reader: OnnxReader, operator: Operator) -> float | None:
    """The single stored number that an operator of two inputs takes."""
    stored = [reader.constants[name] for name in operator.inputs if name in reader.constants]
    return float(stored[0].reshape(-1)[0]) if len(stored) == 1 and stored[0].size == 1 else None


def _factor(reader: OnnxReader, operator: Operator) -> float | None:
    """What a product or quotient with a stored number multiplies by."""
    value = _scalar(reader, operator)
    if value is None or operator.type not in ("Mul", "Div"):
        return None
    if operator.type == "Mul":
        return value
    return 1 / value if value and operator.inputs[1] in reader.constants else None


def _other(operator: Operator, tensor: str) -> str:
    return operator.inputs[1] if operator.inputs[0] == tensor else operator.inputs[0]


# ---------------------------------------------------------------------- activations


def _gate(reader: OnnxReader, operator: Operator) -> bool:
    """x * sigmoid(x) is swish, x * hard-sigmoid(x) is hard-swish."""
    (x,) = operator.inputs
    product = reader.next(operator.outputs[0], "Mul")
    if product is None or set(product.inputs) != {x, operator.outputs[0]}:
        return False
    act = "swish" if operator.type == "Sigmoid" else "hswish"
    return reader.activate(product, act, x, product.outputs[0], reads=2) and reader.skip(product)


def _mish(reader: OnnxReader, operator: Operator) -> bool:
    """x * tanh(softplus(x))."""
    (x,) = operator.inputs
    tanh = reader.next(operator.outputs[0], "Tanh")
    product = reader.next(tanh.outputs[0], "Mul") if tanh else None
    if tanh is None or product is None or set(product.inputs) != {x, tanh.outputs[0]}:
        return False
    return reader.activate(product, "mish", x, product.outputs[0], reads=2) and reader.skip(tanh, product)


def _hard_gate(reader: OnnxReader, operator: Operator) -> tuple[str, list[Operator]] | None:
    """clip(x + 3, 0, 6) / 6 from its first operator on: the tensor that it comes to, and its operators."""
    if operator.type != "Add" or _scalar(reader, operator) != 3:
        return None
    clip = reader.next(operator.outputs[0], "Clip", "Relu6")
    scale = reader.next(clip.outputs[0], "Div", "Mul") if clip else None
    factor = _factor(reader, scale) if scale else None
    if clip is None or scale is None or factor is None or abs(factor - 1 / 6) > 1e-4:
        return None
    return scale.outputs[0], [operator, clip, scale]


def _hard_swish(reader: OnnxReader, operator: Operator) -> bool:
    """x * clip(x + 3, 0, 6) / 6, divided before or after the product; without the product it is a hard sigmoid."""
    if _scalar(reader, operator) != 3:
        return False
    x = _other(operator, next(name for name in operator.inputs if name in reader.constants))
    gate = _hard_gate(reader, operator)
    if gate is not None:
        tensor, chain = gate
        product = reader.next(tensor, "Mul")
        if product is not None and set(product.inputs) == {x, tensor}:
            return reader.activate(product, "hswish", x, product.outputs[0], reads=2) and reader.skip(*chain, product)
        return reader.activate(chain[-1], "hsigmoid", x, tensor) and reader.skip(*chain)
    clip = reader.next(operator.outputs[0], "Clip")
    product = reader.next(clip.outputs[0], "Mul") if clip else None
    if clip is None or product is None or set(product.inputs) != {x, clip.outputs[0]}:
        return False
    scale = reader.next(product.outputs[0], "Div", "Mul")
    if scale is None or abs((_factor(reader, scale) or 0) - 1 / 6) > 1e-4:
        return False
    return reader.activate(scale, "hswish", x, scale.outputs[0], reads=2) and reader.skip(clip, product, scale)


def _gelu(reader: OnnxReader, operator: Operator) -> bool:
    """x * 0.5 * (1 + erf(x / sqrt 2)), with the half anywhere."""
    if abs((_factor(reader, operator) or 0) - ROOT_HALF) > 1e-4:
        return False
    x = _other(operator, next(name for name in operator.inputs if name in reader.constants))
    erf = reader.next(operator.outputs[0], "Erf")
    plus = reader.next(erf.outputs[0], "Add") if erf else None
    product = reader.next(plus.outputs[0], "Mul") if plus else None
    if erf is None or plus is None or product is None or _scalar(reader, plus) != 1:
        return False
    factor, chain = _other(product, plus.outputs[0]), [operator, erf, plus, product]
    if factor == x:
        half = reader.next(product.outputs[0], "Mul", "Div")
        if half is None or _factor(reader, half) != 0.5:
            return False
        return reader.activate(half, "gelu", x, half.outputs[0], reads=2) and reader.skip(*chain, half)
    if _factor(reader, product) == 0.5:
        last = reader.next(product.outputs[0], "Mul")
        if last is None or _other(last, product.outputs[0]) != x:
            return False
        return reader.activate(last, "gelu", x, last.outputs[0], reads=2) and reader.skip(*chain, last)
    half = next((o for o in reader.consumers(x, "Mul", "Div") if factor in o.outputs), None)
    if half is None or _factor(reader, half) != 0.5 or reader.uses[factor] != 1:
        return False
    if not reader.activate(product, "gelu", x, product.outputs[0], reads=2):
        return False
    reader.drop(factor)  # the half may stand before or after this operator in the file
    return reader.skip(*chain, half)


# ---------------------------------------------------------------------- norms


def _layer_norm(reader: OnnxReader, operator: Operator) -> bool:
    """(x - mean) / sqrt(mean((x - mean)^2) + eps) * weight + bias over the last axis."""
    x, mean = operator.inputs[0], operator.outputs[0]
    stored = reader.constant(operator, 1)
    axes = operator.get("axes", None if stored is None else stored.reshape(-1).tolist())
    rank = len(reader.shape(x))
    if not rank or axes is None or [int(axis) % rank for axis in axes] != [rank - 1]:
        return False
    apart = reader.next(mean, "Sub")
    if apart is None or apart.inputs != (x, mean):
        return False
    square = next(iter(reader.consumers(apart.outputs[0], "Pow", "Mul")), None)
    variance = reader.next(square.outputs[0], "ReduceMean") if square else None
    shifted = reader.next(variance.outputs[0], "Add") if variance else None
    root = reader.next(shifted.outputs[0], "Sqrt") if shifted else None
    quotient = reader.next(root.outputs[0], "Div") if root else None
    scale = reader.next(quotient.outputs[0], "Mul") if quotient else None
    shift = reader.next(scale.outputs[0], "Add") if scale else None
    chain = [operator, apart, square, variance, shifted, root, quotient, scale, shift]
    if shift is None or quotient is None or quotient.inputs[0] != apart.outputs[0]:
        return False
    taken = (part for part in chain if part is not None)
    return reader.emit(shift, LayerNorm(), [reader.source(x)]) and reader.skip(*taken)


# ---------------------------------------------------------------------- squeeze-excite and shuffle


def _squeeze_excite(reader: OnnxReader, operator: Operator) -> bool:
    """A mean over the image, two 1x1 convolutions with an activation between, a gate, and a product with the image."""
    x = operator.inputs[0]
    if operator.type == "ReduceMean":
        stored = reader.constant(operator, 1)
        axes = operator.get("axes", None if stored is None else stored.reshape(-1).tolist())
        if axes is None or sorted(int(axis) % 4 for axis in axes) != [2, 3] or not operator.get("keepdims", 1):
            return False
    chain = [operator]
    reduce = reader.next(operator.outputs[0], "Conv")
    if reduce is None:
        return False
    act, tensor, parts = _between(reader, reduce.outputs[0])
    expand = reader.next(tensor, "Conv") if act else None
    if act is None or expand is None:
        return False
    chain += [reduce, *parts, expand]
    tensor = expand.outputs[0]
    gate = reader.next(tensor, "Sigmoid", "HardSigmoid", "Add")
    if gate is None:
        return False
    if gate.type == "Add":
        found = _hard_gate(reader, gate)
        if found is None:
            return False
        tensor, parts = found
        chain += parts
        kind = "hsigmoid"
    else:
        kind, tensor = ("sigmoid" if gate.type == "Sigmoid" else "hsigmoid"), gate.outputs[0]
        chain.append(gate)
    product = reader.next(tensor, "Mul")
    weight = reader.constant(reduce, 1)
    if product is None or weight is None or reader.source(_other(product, tensor)) != reader.source(x):
        return False
    kernel = SqueezeExcite(r=weight.shape[0], gate=kind, act=act)
    return reader.emit(product, kernel, [reader.source(x)]) and reader.skip(*chain, product)


def _between(reader: OnnxReader, tensor: str) -> tuple[str | None, str, list[Operator]]:
    """The activation that follows `tensor`: its name, its result, its operators."""
    simple = reader.next(tensor, "Relu", "HardSwish")
    if simple is not None:
        return ("relu" if simple.type == "Relu" else "hswish"), simple.outputs[0], [simple]
    sigmoids = reader.consumers(tensor, "Sigmoid")
    if len(sigmoids) == 1 and reader.uses[tensor] == 2:
        product = reader.next(sigmoids[0].outputs[0], "Mul")
        if product is not None and set(product.inputs) == {tensor, sigmoids[0].outputs[0]}:
            return "swish", product.outputs[0], [sigmoids[0], product]
    return None, tensor, []


def _shuffle(reader: OnnxReader, operator: Operator) -> bool:
    """Channels apart in groups, groups and their channels swapped, and together again."""
    swap = reader.next(operator.outputs[0], "Transpose")
    merge = reader.next(swap.outputs[0], "Reshape") if swap else None
    apart = reader.shape(operator.outputs[0])
    if swap is None or merge is None or len(apart) != 5 or list(swap.get("perm", [])) != [0, 2, 1, 3, 4]:
        return False
    source = reader.source(operator.inputs[0])
    if reader.shape(merge.outputs[0]) != reader.shape(source):
        return False
    return reader.emit(merge, ChannelShuffle(g=apart[1]), [source]) and reader.skip(swap, merge)


FUSIONS: dict[str, tuple[Rule, ...]] = {
    "Add": (_hard_swish,),
    "Div": (_gelu,),
    "GlobalAveragePool": (_squeeze_excite,),
    "HardSigmoid": (_gate,),
    "Mul": (_gelu,),
    "ReduceMean": (_squeeze_excite, _layer_norm),
    "Reshape": (_shuffle,),
    "Sigmoid": (_gate,),
    "Softplus": (_mish,),
}
