"""The space `mobilenet`: ProxylessNAS's inverted residuals with a kernel size and an expansion each."""

from __future__ import annotations

from typing import ClassVar

from hwnas.spaces.graph import Graph, GraphBuilder
from hwnas.spaces.kernels import Add, Conv, DepthwiseConv, GlobalPool, Linear, SqueezeExcite
from hwnas.spaces.scaling import ScaledSpace, keep_strides, round_channels, scale_depth
from hwnas.spaces.space import Architecture, Decision

__all__ = ["MobileNet", "mbconv"]

STAGES = ((24, 4, 2), (40, 4, 2), (80, 4, 2), (96, 4, 1), (192, 4, 2), (320, 1, 1))  # channels, blocks, stride
OPERATORS = tuple((k, e) for e in (3, 6) for k in (3, 5, 7))
STEM, FIRST, HEAD = 32, 16, 1280
ACT = "relu6"


class MobileNet(ScaledSpace):
    """Inverted residuals (MBConv) with kernel 3, 5 or 7 and expansion 3 or 6, or nothing where shapes allow.

    At the default size this is ProxylessNAS's mobile skeleton (arXiv 1812.00332): 21 searched
    blocks in stages of 24, 40, 80, 96, 192 and 320 channels behind a stem of 32 and a fixed first
    block of 16; every block but the first of a stage may be skipped.

    Parameters are those of `ScaledSpace`.
    """

    name: ClassVar[str] = "mobilenet"
    summary: ClassVar[str] = "MBConv with kernel 3/5/7, expansion 3/6 or skip, on ProxylessNAS's skeleton"
    paper: ClassVar[str] = "ProxylessNAS, arXiv 1812.00332"

    def _lay_out(self) -> None:
        stem, *strides = keep_strides(self.resolution, (2, *(stride for _, _, stride in STAGES)))
        self._stem_stride = stem
        self._stem, self._first = round_channels(STEM * self.width), round_channels(FIRST * self.width)
        self._head = round_channels(HEAD * self.width)
        self._layers: list[tuple[str, int, int, bool]] = []  # name, channels, stride, may be skipped
        into = self._first
        for number, ((wide, blocks, _), stride) in enumerate(zip(STAGES, strides, strict=True), start=1):
            out = round_channels(wide * self.width)
            for index in range(scale_depth(blocks, self.depth)):
                s = stride if index == 0 else 1
                self._layers.append((f"stage{number}/{index}", out, s, index > 0 and s == 1 and into == out))
                into = out
        operators = tuple(f"mbconv(k={k},e={e})" for k, e in OPERATORS)
        self.decisions = tuple(
            Decision(name, (*operators, "skip") if skippable else operators) for name, _, _, skippable in self._layers
        )

    def build(self, architecture: Architecture) -> Graph:
        builder = GraphBuilder(self.input_shape)
        s, o = self._stem_stride, self._stem
        builder.block("stem", f"conv(k=3,s={s},o={o},act={ACT})")
        x = builder.add("stem/conv", Conv(o=o, k=3, s=s, act=ACT), "input")
        x = mbconv(builder, "first", x, k=3, e=1, s=1, o=self._first)
        for index, (choice, (name, out, stride, _)) in enumerate(zip(architecture, self._layers, strict=True)):
            if choice < len(OPERATORS):
                k, e = OPERATORS[choice]
                x = mbconv(builder, name, x, k=k, e=e, s=stride, o=out, decision=index)
        builder.block("head", f"head(o={self._head},n={self.classes},act={ACT})")
        x = builder.add("head/conv", Conv(o=self._head, k=1, act=ACT), x)
        x = builder.add("head/pool", GlobalPool(), x)
        return builder.graph(builder.add("head/classifier", Linear(o=self.classes), x))


def mbconv(
    builder: GraphBuilder,
    name: str,
    x: str,
    *,
    k: int,
    e: int,
    s: int,
    o: int,
    se: bool = False,
    decision: int | None = None,
) -> str:
    """Add an inverted residual (MobileNetV2, arXiv 1801.04381) and return its output.

    1x1 expansion by `e` (left out at 1), depthwise `k` x `k` with stride `s`, squeeze-excite by a quarter if `se`
    (MobileNetV3, arXiv 1905.02244), linear 1x1 to `o` channels, and the input added where stride and channels allow.
    """
    label = f"mbconv(k={k},e={e},s={s},o={o}{',se' if se else ''})"
    builder.block(name, label, decision)
    into = builder.shapes[x][1]
    prefix = f"{name}/k{k}e{e}{'se' if se else ''}"
    y = x
    if e != 1:
        y = builder.add(f"{prefix}/expand", Conv(o=into * e, k=1, act=ACT), y)
    y = builder.add(f"{prefix}/depthwise", DepthwiseConv(k=k, s=s, act=ACT), y)
    if se:
        y = builder.add(f"{prefix}/se", SqueezeExcite(r=round_channels(into * e / 4)), y)
    y = builder.add(f"{prefix}/project", Conv(o=o, k=1), y)
    if s == 1 and into == o:
        y = builder.add(f"{prefix}/add", Add(), x, y)
    return y
