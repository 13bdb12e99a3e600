"""The space `epnas`: networks that are lists of layers, from almost empty to deep."""

from __future__ import annotations

import itertools
import re
from functools import cached_property
from typing import ClassVar

import numpy as np

from hwnas.spaces.errors import ConfigError
from hwnas.spaces.graph import Graph, GraphBuilder
from hwnas.spaces.hurricane import separable
from hwnas.spaces.kernels import Conv, GlobalPool, Linear
from hwnas.spaces.mobilenet import mbconv
from hwnas.spaces.scaling import ScaledSpace, keep_strides, round_channels, scale_depth
from hwnas.spaces.space import Architecture, Decision, Term

__all__ = ["EPNAS", "LAYERS", "NONE"]

STAGES = ((32, 1), (64, 2), (128, 2), (256, 2))  # channels at width 1, stride of the first layer
STEM, HEAD, SLOTS = 16, 512, 4
NONE = "none"
LAYERS = ("sep3", "sep5", "conv3", "conv5", "mb3e3", "mb5e3", "mb3e6", "mb5e6")
WIDTHS = (0.25, 0.5, 0.75, 1.0, 1.25)
_LAYER = re.compile(r"(sep|conv|mb)(\d)(?:e(\d))?")


class EPNAS(ScaledSpace):
    """A network is four stages of one to four layers: each stage has a width, each slot a layer or nothing.

    What EPNAS (arXiv 1907.04648) and RENA (arXiv 1806.07912) edit: a layer is inserted (a slot that was ``none``),
    removed, changed, or its stage is scaled. Neither paper's list of layers could be confirmed; the skeleton, the
    layers (separable and plain convolutions, inverted residuals) and the widths are ours. The first choices of all
    decisions are the empty network: one narrow separable convolution a stage.

    Parameters are those of `ScaledSpace`; `depth` multiplies the slots of a stage.
    """

    name: ClassVar[str] = "epnas"
    summary: ClassVar[str] = "four stages of up to four layers, inserted, removed and scaled one by one"
    paper: ClassVar[str] = "EPNAS, arXiv 1907.04648"

    def _lay_out(self) -> None:
        self._stem_stride, *strides = keep_strides(self.resolution, (2, *(stride for _, stride in STAGES)))
        self._strides = strides
        self._slots = scale_depth(SLOTS, self.depth)
        widths = tuple(f"{width:g}" for width in WIDTHS)
        self.decisions = tuple(
            Decision(f"stage{stage + 1}/{name}", choices)
            for stage in range(len(STAGES))
            for name, choices in (
                ("width", widths),
                ("layer1", LAYERS),
                *((f"layer{slot + 1}", (NONE, *LAYERS)) for slot in range(1, self._slots)),
            )
        )

    @property
    def layers(self) -> tuple[tuple[int, ...], ...]:
        """Width and slots of each stage."""
        length = 1 + self._slots
        return tuple(tuple(range(length * stage, length * (stage + 1))) for stage in range(len(STAGES)))

    def build(self, architecture: Architecture) -> Graph:
        builder = GraphBuilder(self.input_shape)
        stem, head = round_channels(STEM * self.width), round_channels(HEAD * self.width)
        builder.block("stem", f"conv(k=3,s={self._stem_stride},o={stem},act=relu)")
        x = builder.add("stem/conv", Conv(o=stem, k=3, s=self._stem_stride, act="relu"), "input")
        for stage, decisions in enumerate(self.layers):
            width, *choices = (architecture[decision] for decision in decisions)
            channels = round_channels(STAGES[stage][0] * WIDTHS[width] * self.width)
            for slot, choice in enumerate(choices):
                code = LAYERS[choice] if slot == 0 else (NONE, *LAYERS)[choice]
                if code != NONE:
                    stride = self._strides[stage] if slot == 0 else 1
                    place = f"stage{stage + 1}/layer{slot + 1}"
                    x = _layer(builder, place, x, code, s=stride, o=channels, decision=decisions[1 + slot])
        builder.block("head", f"head(o={head},n={self.classes},act=relu)")
        x = builder.add("head/conv", Conv(o=head, k=1, act="relu"), x)
        x = builder.add("head/pool", GlobalPool(), x)
        return builder.graph(builder.add("head/classifier", Linear(o=self.classes), x))

    def covering(self) -> np.ndarray:
        """Each layer in every slot, at the largest widths, whose weights the smaller ones take slices of."""
        rows = np.repeat(np.arange(1, len(LAYERS) + 1)[:, None], len(self.decisions), axis=1)
        for width, first, *_ in self.layers:
            rows[:, width] = len(WIDTHS) - 1
            rows[:, first] -= 1
        return rows

    @cached_property
    def _costs(self) -> tuple[tuple[Graph, ...], tuple[Term, ...]]:
        """A first layer depends on the width of the stage before, a later one on its stage's, the head on the last."""
        catalog: dict[str, Graph] = {}
        scopes: list[tuple[int, ...]] = []  # of each slot of each stage: what its layer depends on
        for stage, (width, first, *later) in enumerate(self.layers):
            scopes.append((*((self.layers[stage - 1][0],) if stage else ()), width, first))
            scopes += [(width, slot) for slot in later]
        scopes += [(), (self.layers[-1][0],)]
        owner = {scope[-1]: scope for scope in scopes[:-2]}
        found: dict[tuple[int, ...], dict[tuple[int, ...], str]] = {scope: {} for scope in scopes}
        widths = [stage[0] for stage in self.layers]
        for even, odd, code in itertools.product(range(len(WIDTHS)), range(len(WIDTHS)), range(len(LAYERS))):
            row = np.full(len(self.decisions), code + 1)
            row[[stage[1] for stage in self.layers]] = code
            row[widths] = [even if stage % 2 else odd for stage in range(len(widths))]
            for block in self.lower(row.tolist()).blocks:
                decision = block.block.decision
                scope = owner[decision] if decision is not None else (() if block.block.name == "stem" else scopes[-1])
                catalog.setdefault(block.signature, block)
                found[scope][tuple(row[list(scope)].tolist())] = block.signature
        column = {signature: index for index, signature in enumerate(catalog)}
        terms = []
        for scope, signatures in found.items():
            table = np.zeros((*self.radices[list(scope)].tolist(), len(catalog)), dtype=np.int64)
            for joint, signature in signatures.items():
                table[(*joint, column[signature])] = 1
            terms.append(Term(scope, table.reshape(-1, len(catalog))))
        return tuple(catalog.values()), tuple(terms)


def _layer(builder: GraphBuilder, name: str, x: str, code: str, *, s: int, o: int, decision: int) -> str:
    """Add one layer and return its output."""
    match = _LAYER.fullmatch(code)
    if match is None:
        raise ConfigError(f"epnas has no layer {code!r}; choose from {', '.join(LAYERS)}")
    family, k = match[1], int(match[2])
    if family == "sep":
        return separable(builder, name, x, k=k, s=s, o=o, se=False, decision=decision)
    if family == "mb":
        return mbconv(builder, name, x, k=k, e=int(match[3]), s=s, o=o, decision=decision)
    builder.block(name, f"conv(k={k},s={s},o={o},act=relu)", decision)
    return builder.add(f"{name}/conv{k}", Conv(o=o, k=k, s=s, act="relu"), x)
