"""Reading signatures back: ``conv(k=5,s=2,o=40)@1x24x28x28:float32`` is a kernel on a shape."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from hwnas.spaces import kernels, layout_kernels, math_kernels, split_attention
from hwnas.spaces.errors import ModelError
from hwnas.spaces.graph import Block, Graph, Node
from hwnas.spaces.kernel import Kernel, Opaque

__all__ = ["kernel_graph", "kernel_op"]

_TEXT = re.compile(r"([a-z]+)(?:\(([^()]*)\))?@([\dx+]+):\w+")
_CLASSES: dict[str, type[Kernel]] = {
    cls.op: cls
    for module in (kernels, layout_kernels, math_kernels, split_attention)
    for cls in vars(module).values()
    if isinstance(cls, type) and issubclass(cls, Kernel) and "op" in vars(cls)
}


def kernel_op(signature: str) -> str:
    """The operator family of a signature, such as ``conv``: what stands before its settings."""
    return signature.partition("@")[0].partition("(")[0]


def kernel_graph(signature: str) -> Graph:
    """The single-kernel graph whose `Graph.signature` this is.

    Raises
    ------
    ModelError
        If the text is no signature of a kernel that hwnas has (blocks have signatures, too).
    """
    match = _TEXT.fullmatch(signature)
    if match is None:
        raise ModelError(f"{signature!r} is not the signature of a kernel")
    op, settings, shapes = match[1], match[2] or "", match[3]
    extra: dict[str, Any] = {}
    if op in ("avgpool", "maxpool"):
        op, extra = "pool", {"mode": op[:3]}
    if op == "act":
        settings = f"act={settings}"
    cls = _CLASSES.get(op)
    if cls is None or cls is Opaque:
        raise ModelError(f"{signature!r} is not the signature of a kernel that hwnas has")
    fields = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for item in filter(None, settings.split(",")):
        name, _, value = item.partition("=")
        if name not in fields:
            raise ModelError(f"the kernel {op} of {signature!r} has no setting {name!r}")
        extra[name] = _value(value)
    try:
        kernel = cls(**extra)
        inputs = {
            f"input{index}": tuple(int(size) for size in shape.split("x"))
            for index, shape in enumerate(shapes.split("+"))
        }
        graph = Graph(
            [Node("kernel", kernel, tuple(inputs), Block("kernel", kernel.label))], inputs, ["kernel"], kernel.label
        )
    except (TypeError, ValueError, IndexError) as error:
        raise ModelError(f"{signature!r} is not the signature of a kernel: {error}") from error
    return graph


def _value(text: str) -> Any:
    if text.isdigit():
        return int(text)
    if re.fullmatch(r"\d+(x\d+)+", text):
        return tuple(int(part) for part in text.split("x"))
    return text
