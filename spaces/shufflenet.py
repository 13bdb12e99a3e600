"""The space `shufflenet`: Single Path One-Shot's choice blocks."""

from __future__ import annotations

from typing import ClassVar

from hwnas.spaces.errors import ConfigError
from hwnas.spaces.graph import Graph, GraphBuilder
from hwnas.spaces.kernels import Conv, DepthwiseConv, GlobalPool, Linear, SqueezeExcite
from hwnas.spaces.layout_kernels import ChannelShuffle, Concat, Slice
from hwnas.spaces.scaling import ScaledSpace, keep_strides, round_channels, scale_depth
from hwnas.spaces.space import Architecture, Decision

__all__ = ["ShuffleNet", "choice_block"]

STAGES = ((64, 4, 2), (160, 4, 2), (320, 8, 2), (640, 4, 2))  # channels, blocks, stride
CHOICES = ("shuffle(k=3)", "shuffle(k=5)", "shuffle(k=7)", "xception")
STEM, HEAD = 16, 1024


class ShuffleNet(ScaledSpace):
    """ShuffleNetV2 blocks with kernel 3, 5 or 7, or an Xception-like one, in each of 20 places.

    The skeleton of Single Path One-Shot (arXiv 1904.00420): stem of 16 channels, stages of 4, 4, 8
    and 4 blocks with 64, 160, 320 and 640 channels, head of 1024.

    Parameters are those of `ScaledSpace`.
    """

    name: ClassVar[str] = "shufflenet"
    summary: ClassVar[str] = "ShuffleNetV2 blocks with kernel 3/5/7 or Xception, SPOS's 20 choice blocks"
    paper: ClassVar[str] = "Single Path One-Shot, arXiv 1904.00420"

    def _lay_out(self) -> None:
        self._stem_stride, *strides = keep_strides(self.resolution, (2, *(stride for _, _, stride in STAGES)))
        self._stem, self._head = round_channels(STEM * self.width), round_channels(HEAD * self.width)
        self._layers = [
            (f"stage{number}/{index}", round_channels(wide * self.width, 16), stride if index == 0 else 1, index == 0)
            for number, ((wide, blocks, _), stride) in enumerate(zip(STAGES, strides, strict=True), start=1)
            for index in range(scale_depth(blocks, self.depth))
        ]  # name, channels, stride, whether it widens
        into = self._stem
        for name, out, _, widens in self._layers:
            if widens and out <= into:  # one branch carries the input's channels, the other adds the rest
                raise ConfigError(
                    f"{self.name} needs a larger width than {self.width:g}: {name} would not widen its {into} channels"
                )
            into = out
        self.decisions = tuple(Decision(name, CHOICES) for name, *_ in self._layers)

    def build(self, architecture: Architecture) -> Graph:
        builder = GraphBuilder(self.input_shape)
        s, o = self._stem_stride, self._stem
        builder.block("stem", f"conv(k=3,s={s},o={o},act=relu)")
        x = builder.add("stem/conv", Conv(o=o, k=3, s=s, act="relu"), "input")
        for index, (choice, (name, out, stride, widens)) in enumerate(zip(architecture, self._layers, strict=True)):
            operator = self.decisions[index].choices[choice]
            x = self._layer(builder, name, x, operator, s=stride, o=out, widens=widens, decision=index)
        builder.block("head", f"head(o={self._head},n={self.classes},act=relu)")
        x = builder.add("head/conv", Conv(o=self._head, k=1, act="relu"), x)
        x = builder.add("head/pool", GlobalPool(), x)
        return builder.graph(builder.add("head/classifier", Linear(o=self.classes), x))

    def _layer(
        self, builder: GraphBuilder, name: str, x: str, operator: str, *, s: int, o: int, widens: bool, decision: int
    ) -> str:
        """Add the chosen operator of one layer and return its output."""
        return choice_block(builder, name, x, operator, s=s, o=o, widens=widens, decision=decision)


def choice_block(
    builder: GraphBuilder,
    name: str,
    x: str,
    choice: str,
    *,
    s: int,
    o: int,
    widens: bool,
    se: bool = False,
    decision: int | None = None,
) -> str:
    """Add one of SPOS's choice blocks, if asked with squeeze-excite at the end of its branch; return its output.

    A widening block (the first of a stage) runs two branches on the whole input; any other shuffles
    the channels, passes one half on, and runs the main branch on the other half.
    """
    kind, _, k_text = choice.partition("(k=")
    k = int(k_text[:-1]) if k_text else 3
    inner = f"k={k}," if kind == "shuffle" else ""
    label = f"{kind}({inner}s={s},o={o},{'widen' if widens else 'keep'}{',se' if se else ''})"
    builder.block(name, label, decision)
    prefix = f"{name}/{kind}{k if kind == 'shuffle' else ''}{'se' if se else ''}"
    channels = builder.shapes[x][1]
    if widens:
        side = builder.add(f"{prefix}/side/depthwise", DepthwiseConv(k=k, s=s), x)
        side = builder.add(f"{prefix}/side/pointwise", Conv(o=channels, k=1, act="relu"), side)
        main, into = x, channels
    else:
        shuffled = builder.add(f"{prefix}/shuffle", ChannelShuffle(g=2), x)
        into = channels // 2
        side = builder.add(f"{prefix}/pass", Slice(0, into), shuffled)
        main = builder.add(f"{prefix}/split", Slice(into, channels), shuffled)
    middle, out = o // 2, o - into
    if kind == "shuffle":
        main = builder.add(f"{prefix}/expand", Conv(o=middle, k=1, act="relu"), main)
        main = builder.add(f"{prefix}/depthwise", DepthwiseConv(k=k, s=s), main)
        main = builder.add(f"{prefix}/project", Conv(o=out, k=1, act="relu"), main)
    else:
        for step, (wide, stride) in enumerate(((middle, s), (middle, 1), (out, 1))):
            main = builder.add(f"{prefix}/depthwise{step}", DepthwiseConv(k=3, s=stride), main)
            main = builder.add(f"{prefix}/pointwise{step}", Conv(o=wide, k=1, act="relu"), main)
    if se:
        main = builder.add(f"{prefix}/se", SqueezeExcite(r=round_channels(out / 4)), main)
    return builder.add(f"{prefix}/concat", Concat(), side, main)
