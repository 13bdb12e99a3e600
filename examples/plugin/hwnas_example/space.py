"""A new space is one class: its parameters, its decisions, and how an architecture becomes a graph."""

from __future__ import annotations

from typing import ClassVar

from hwnas.spaces import Architecture, Decision, Graph, GraphBuilder
from hwnas.spaces.kernels import Add, Conv, GlobalPool, Linear
from hwnas.spaces.scaling import ScaledSpace, round_channels, scale_depth
from hwnas_example.kernel import LayerScale

__all__ = ["Tower"]

CHOICES = ("conv(k=3)", "conv(k=5)", "skip")


class Tower(ScaledSpace):
    """A tower of residual convolutions of one width; each has a window of 3 or 5, or is left out."""

    name: ClassVar[str] = "tower"
    summary: ClassVar[str] = "residual convolutions with kernel 3, 5 or skip, scaled per channel"

    def _lay_out(self) -> None:
        self._wide = round_channels(32 * self.width)
        self.decisions = tuple(Decision(f"block{index}", CHOICES) for index in range(scale_depth(4, self.depth)))

    def build(self, architecture: Architecture) -> Graph:
        builder, o = GraphBuilder(self.input_shape), self._wide
        # A block's label says everything that its kernels depend on, apart from its input's shape.
        builder.block("stem", f"conv(k=3,s=2,o={o})")
        x = builder.add("stem/conv", Conv(o=o, k=3, s=2, act="relu"), "input")
        for index, choice in enumerate(architecture):
            if CHOICES[choice] != "skip":
                k = (3, 5)[choice]
                builder.block(f"block{index}", f"residual(k={k})", decision=index)
                # Nodes of equal name share weights in a supernet: the name tells the choices apart.
                y = builder.add(f"block{index}/k{k}/conv", Conv(o=o, k=k, act="relu"), x)
                y = builder.add(f"block{index}/k{k}/scale", LayerScale(init=0.1), y)
                x = builder.add(f"block{index}/k{k}/add", Add(), x, y)
        builder.block("head", f"head(n={self.classes})")
        x = builder.add("head/pool", GlobalPool(), x)
        return builder.graph(builder.add("head/classifier", Linear(o=self.classes), x))
