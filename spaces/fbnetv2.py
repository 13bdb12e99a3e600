"""The space `fbnetv2`: inverted residuals with five variables a layer, as FP-NAS searches them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from hwnas.spaces.errors import ConfigError
from hwnas.spaces.graph import Graph, GraphBuilder
from hwnas.spaces.kernel import ACTIVATIONS
from hwnas.spaces.kernels import Add, Conv, DepthwiseConv, GlobalPool, Linear
from hwnas.spaces.scaling import ScaledSpace, keep_strides, round_channels, scale_depth
from hwnas.spaces.space import Architecture, Decision, Term
from hwnas.spaces.split_attention import SplitAttention

__all__ = ["FBNetV2"]

STAGES = ((24, 3, 2), (40, 4, 2), (80, 4, 2), (112, 4, 1), (184, 4, 2))  # channels, blocks, stride
STEM, HEAD = 16, 1280
#: The variables of a layer, in the order of its decisions.
VARIABLES = ("kernel", "act", "expansion", "width", "splits")
K, A, E, W, S = range(5)


class FBNetV2(ScaledSpace):
    """Inverted residuals whose kernel, activation, expansion, output width and attention are searched one by one.

    The variables are those of FP-NAS's FBNetV2-F++ (arXiv 2011.10949, after FBNetV2, arXiv 2004.05565): the number of
    splits is 0 for no attention, 1 for squeeze-and-excitation, 2 or 4 for split attention over as many depthwise
    convolutions. The skeleton and the steps are ours, since neither search was published: five stages behind a stem of
    16 channels, widths of 0.75, 1 and 1.25 times the stage's, and inner channels that count from the *nominal* width
    of the layer's input, so that a layer's inside does not depend on its neighbour's choice.

    Layers keep one name whatever is chosen, so a supernet slices one set of weights.

    Parameters
    ----------
    resolution, channels, classes, width, depth
        See `ScaledSpace`.
    kernels, acts, expansions, widths, splits
        What each layer may choose, joined by ``+``, rising: ``splits=0+1`` searches squeeze-and-excitation on or off
        (FBNetV2-F), ``splits=0`` has none, ``expansions=1.5+2+2.5+3+3.5+4+5+6`` has finer steps (F-Fine).

    Raises
    ------
    ConfigError
        If a choice cannot be had, or they do not rise.
    """

    name: ClassVar[str] = "fbnetv2"
    summary: ClassVar[str] = "kernel, activation, expansion, width and attention splits of each layer, one by one"
    paper: ClassVar[str] = "FP-NAS, arXiv 2011.10949"
    is_chain: ClassVar[bool] = False  # a residual passes by the blocks inside a layer

    def __init__(
        self,
        resolution: int = 224,
        channels: int = 3,
        classes: int = 1000,
        width: float = 1.0,
        depth: float = 1.0,
        kernels: str = "3+5+7",
        acts: str = "relu+hswish",
        expansions: str = "2+3+4+6",
        widths: str = "0.75+1+1.25",
        splits: str = "0+1+2+4",
    ) -> None:
        self.kernels, self.acts, self.expansions, self.widths, self.splits = kernels, acts, expansions, widths, splits
        self._choices = (
            _numbers("kernels", kernels, int, lambda k: k % 2 == 1 and 1 <= k <= 31, "odd numbers up to 31"),
            _acts(acts),
            _numbers("expansions", expansions, float, lambda e: 0 < e <= 64, "numbers above 0, up to 64"),
            _numbers("widths", widths, float, lambda w: 0 < w <= 64, "numbers above 0, up to 64"),
            _numbers("splits", splits, int, lambda s: 0 <= s <= 16, "whole numbers from 0 to 16"),
        )
        super().__init__(resolution, channels, classes, width, depth)

    def _lay_out(self) -> None:
        self._stem_stride, *strides = keep_strides(self.resolution, (2, *(stride for *_, stride in STAGES)))
        self._stem, self._head = round_channels(STEM * self.width), round_channels(HEAD * self.width)
        self._layers: list[tuple[str, int, int, int]] = []  # name, nominal channels in and out, stride
        into = self._stem
        for number, ((wide, blocks, _), stride) in enumerate(zip(STAGES, strides, strict=True), start=1):
            out = round_channels(wide * self.width)
            for index in range(scale_depth(blocks, self.depth)):
                self._layers.append((f"stage{number}/{index}", into, out, stride if index == 0 else 1))
                into = out
        self.decisions = tuple(
            Decision(f"{name}/{variable}", tuple(f"{value:g}" if variable != "act" else value for value in values))
            for name, *_ in self._layers
            for variable, values in zip(VARIABLES, self._choices, strict=True)
        )

    @property
    def layers(self) -> tuple[tuple[int, ...], ...]:
        """The five variables of each layer."""
        return tuple(tuple(range(5 * layer, 5 * layer + 5)) for layer in range(len(self._layers)))

    def build(self, architecture: Architecture) -> Graph:
        builder = GraphBuilder(self.input_shape)
        builder.block("stem", f"conv(k=3,s={self._stem_stride},o={self._stem},act=hswish)")
        x = builder.add("stem/conv", Conv(o=self._stem, k=3, s=self._stem_stride, act="hswish"), "input")
        for index, layer in enumerate(self._layers):
            chosen = zip(self._choices, architecture[5 * index : 5 * index + 5], strict=True)
            x = _layer(builder, x, *layer, *(values[choice] for values, choice in chosen))
        builder.block("head", f"head(o={self._head},n={self.classes},act=hswish)")
        x = builder.add("head/conv", Conv(o=self._head, k=1, act="hswish"), x)
        x = builder.add("head/pool", GlobalPool(), x)
        return builder.graph(builder.add("head/classifier", Linear(o=self.classes), x))

    # ------------------------------------------------------------------ costs

    def _scope(self, block: str) -> tuple[int, ...]:
        """The decisions that a block depends on."""
        if block == "stem":
            return ()
        last = 5 * len(self._layers) - 5
        if block == "head":
            return (last + W,)
        layer, part = block.rsplit("/", 1)
        number = [name for name, *_ in self._layers].index(layer)
        first, before = 5 * number, (5 * number - 5 + W,) if number else ()
        if part == "expand":
            return (*before, first + A, first + E)
        if part == "mix":
            return (first + K, first + A, first + E, first + S)
        _, _, _, stride = self._layers[number]
        return (*(before if stride == 1 else ()), first + E, first + W)

    def _covering(self) -> np.ndarray:
        """Architectures that show every block: all joint choices of what a block depends on, in all layers at once."""
        k_all, a_all, e_all, w_all, s_all = (range(len(values)) for values in self._choices)
        rows = []
        for even, odd, e, a in itertools.product(w_all, w_all, e_all, a_all):
            rows.append([[0, a, e, odd if number % 2 else even, 0] for number in range(len(self._layers))])
        for k, a, e, s in itertools.product(k_all, a_all, e_all, s_all):
            rows.append([[k, a, e, 0, s]] * len(self._layers))
        return np.array(rows).reshape(len(rows), -1)

    @cached_property
    def _costs(self) -> tuple[tuple[Graph, ...], tuple[Term, ...]]:
        """Catalog, and one term for the decisions that blocks share."""
        catalog: dict[str, Graph] = {}
        found: dict[tuple[int, ...], dict[int, dict[str, str]]] = {}  # scope, joint choice, block, signature
        for row in self._covering():
            for block in self.lower(row.tolist()).blocks:
                scope = self._scope(block.block.name)
                shape = tuple(self.radices[list(scope)].tolist())
                joint = int(np.ravel_multi_index(tuple(row[list(scope)]), shape)) if scope else 0
                catalog.setdefault(block.signature, block)
                found.setdefault(scope, {}).setdefault(joint, {})[block.block.name] = block.signature
        column = {signature: index for index, signature in enumerate(catalog)}
        terms = []
        for scope, joints in found.items():
            table = np.zeros((int(np.prod(self.radices[list(scope)])) if scope else 1, len(catalog)), dtype=np.int64)
            for joint, signatures in joints.items():
                for signature in signatures.values():
                    table[joint, column[signature]] += 1
            terms.append(Term(scope, table))
        return tuple(catalog.values()), tuple(terms)


def _numbers(
    name: str, text: str, kind: Callable[[str], float], fits: Callable[[float], bool], what: str
) -> tuple[Any, ...]:
    """Rising numbers from text such as ``3+5+7``."""
    try:
        values = tuple(kind(part) for part in text.split("+"))
    except ValueError:
        values = ()
    if not values or not all(math.isfinite(value) and fits(value) for value in values):
        raise ConfigError(f"fbnetv2 cannot have {name}={text}; write {what}, joined by +")
    if any(left >= right for left, right in itertools.pairwise(values)):
        raise ConfigError(f"fbnetv2 needs {name} that rise, not {text}; the last one's weights hold all others")
    return values


def _acts(text: str) -> tuple[str, ...]:
    values = tuple(part.strip() for part in text.split("+"))
    if not set(values) <= set(ACTIVATIONS) or len(set(values)) < len(values):
        known = ", ".join(ACTIVATIONS)
        raise ConfigError(f"fbnetv2 cannot have acts={text}; write some of {known}, each once, joined by +")
    return values


def _layer(
    builder: GraphBuilder,
    x: str,
    name: str,
    into: int,
    out: int,
    stride: int,
    k: int,
    act: str,
    expansion: float,
    width: float,
    splits: int,
) -> str:
    """Expansion, depthwise convolutions with attention, projection, and the input added where shapes allow."""
    inner, wide = round_channels(into * expansion), round_channels(out * width)
    builder.block(f"{name}/expand", f"expand(o={inner},act={act})")
    y = builder.add(f"{name}/expand/conv", Conv(o=inner, k=1, act=act), x)
    builder.block(f"{name}/mix", f"mix(k={k},s={stride},act={act},splits={splits})")
    kernel = DepthwiseConv(k=k, s=stride, act=act)
    maps = [builder.add(f"{name}/mix/depthwise{split}", kernel, y) for split in range(max(1, splits))]
    y = maps[0]
    if splits:
        y = builder.add(f"{name}/mix/attention", SplitAttention(r=round_channels(inner / 4)), *maps)
    residual = stride == 1 and builder.shapes[x] == (*builder.shapes[y][:1], wide, *builder.shapes[y][2:])
    builder.block(f"{name}/project", f"project(o={wide}{',add' if residual else ''})")
    y = builder.add(f"{name}/project/conv", Conv(o=wide, k=1), y)
    return builder.add(f"{name}/project/add", Add(), x, y) if residual else y
