"""The space `hurricane`: 32 operators of five families in each of 20 layers, or a pool of them chosen for a device."""

from __future__ import annotations

import re
from typing import ClassVar

from hwnas.spaces.errors import ConfigError
from hwnas.spaces.graph import GraphBuilder
from hwnas.spaces.kernels import Conv, DepthwiseConv, SqueezeExcite
from hwnas.spaces.mobilenet import mbconv
from hwnas.spaces.scaling import round_channels
from hwnas.spaces.shufflenet import ShuffleNet, choice_block
from hwnas.spaces.space import Decision

__all__ = ["OPERATORS", "Hurricane", "parse_pool", "pool_text", "separable"]

_PLAIN = (
    *(f"sep{k}" for k in (3, 5, 7)),
    *(f"mb{k}e{e}" for k in (3, 5, 7) for e in (1, 3, 6)),
    *(f"shuffle{k}" for k in (3, 5, 7)),
    "xception",
)
#: every operator: separable convolutions, inverted residuals, ShuffleNetV2 choice blocks, and all of them with SE
OPERATORS = (*_PLAIN, *(f"{code}se" for code in _PLAIN))
_CODE = re.compile(r"(sep|mb|shuffle|xception)(\d*)(?:e(\d))?(se)?")


class Hurricane(ShuffleNet):
    """HURRICANE's operator pool (arXiv 1910.11609) on the skeleton of Single Path One-Shot.

    Each of 20 layers takes one of 32 operators of five families: separable convolutions ``sep3`` to ``sep7``,
    inverted residuals ``mb3e1`` to ``mb7e6``, ShuffleNetV2's choice blocks ``shuffle3`` to ``shuffle7`` and
    ``xception``, the first two families with squeeze-excite (``sep3se``, ``mb3e1se``, ...), and the choice blocks
    with it. The paper's abstract and its authors' diagram do not list the 32; this decomposition is ours.

    Parameters
    ----------
    resolution, channels, classes, width, depth
        See `ScaledSpace`.
    pool
        Which operators a layer may take: ``all``; names joined by ``+``, the same for all layers; or as many of
        these as there are layers, joined by ``/``. ``shuffle3+shuffle5+shuffle7+xception`` is SPOS's space.
    """

    name: ClassVar[str] = "hurricane"
    summary: ClassVar[str] = "32 operators of five families (or a pool of them) in 20 layers of SPOS's skeleton"
    paper: ClassVar[str] = "HURRICANE, arXiv 1910.11609"

    def __init__(
        self,
        resolution: int = 224,
        channels: int = 3,
        classes: int = 1000,
        width: float = 1.0,
        depth: float = 1.0,
        pool: str = "all",
    ) -> None:
        self.pool = pool
        super().__init__(resolution, channels, classes, width, depth)

    def _lay_out(self) -> None:
        super()._lay_out()
        pools = parse_pool(self.pool, len(self._layers))
        self.pool = pool_text(pools)
        self.decisions = tuple(Decision(layer[0], pool) for layer, pool in zip(self._layers, pools, strict=True))

    def _layer(
        self, builder: GraphBuilder, name: str, x: str, operator: str, *, s: int, o: int, widens: bool, decision: int
    ) -> str:
        match = _CODE.fullmatch(operator)
        assert match is not None
        family, k, e, se = match[1], int(match[2] or 3), int(match[3] or 0), match[4] is not None
        if family == "sep":
            return separable(builder, name, x, k=k, s=s, o=o, se=se, decision=decision)
        if family == "mb":
            return mbconv(builder, name, x, k=k, e=e, s=s, o=o, se=se, decision=decision)
        choice = f"shuffle(k={k})" if family == "shuffle" else "xception"
        return choice_block(builder, name, x, choice, s=s, o=o, widens=widens, se=se, decision=decision)


def parse_pool(text: str, layers: int) -> tuple[tuple[str, ...], ...]:
    """Read the operators of each of `layers` from text, see `Hurricane`.

    Raises
    ------
    ConfigError
        If an operator does not exist or occurs twice in a layer, or the number of layers is another.
    """
    parts = [OPERATORS if part.strip() == "all" else tuple(part.strip().split("+")) for part in text.split("/")]
    for codes in parts:
        for code in codes:
            if code not in OPERATORS:
                raise ConfigError(f"hurricane has no operator {code!r}; choose from {', '.join(OPERATORS)}")
        if len(set(codes)) < len(codes):
            raise ConfigError(f"the pool {'+'.join(codes)!r} names an operator twice; name each once")
    if len(parts) not in (1, layers):
        raise ConfigError(f"the pool has the operators of {len(parts)} layers, but there are {layers}")
    return tuple(parts * layers if len(parts) == 1 else parts)


def pool_text(pools: tuple[tuple[str, ...], ...]) -> str:
    """The shortest text that `parse_pool` reads `pools` from."""
    parts = ["all" if codes == OPERATORS else "+".join(codes) for codes in pools]
    return parts[0] if len(set(parts)) == 1 else "/".join(parts)


def separable(builder: GraphBuilder, name: str, x: str, *, k: int, s: int, o: int, se: bool, decision: int) -> str:
    """Add a depthwise-separable convolution (MobileNet, arXiv 1704.04861): depthwise ``k`` x ``k``, then 1x1."""
    builder.block(name, f"sep(k={k},s={s},o={o}{',se' if se else ''})", decision)
    prefix = f"{name}/sep{k}{'se' if se else ''}"
    into = builder.shapes[x][1]
    y = builder.add(f"{prefix}/depthwise", DepthwiseConv(k=k, s=s, act="relu"), x)
    if se:
        y = builder.add(f"{prefix}/se", SqueezeExcite(r=round_channels(into / 4)), y)
    return builder.add(f"{prefix}/pointwise", Conv(o=o, k=1, act="relu"), y)
