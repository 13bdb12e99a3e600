"""Which operators a runtime takes into the one before them, found by timing pairs.

nn-Meter (Zhang et al., MobiSys 2021) compares a pair with its two members alone. Alone, both pay layout changes that
the pair pays once, which looks like fusion. So here every operator stands between two 1x1 convolutions, and what is
compared is what it *adds*: after a member that it might be fused into, and after a pooling, which takes nothing in. If
it adds less than half as much after the member, it is fused; if the intervals leave that open, the answer is open.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwnas.profilers.base import Measurement, Profiler, Progress
from hwnas.profilers.protocol import Protocol
from hwnas.spaces.errors import ConfigError
from hwnas.spaces.families import NetworkBuilder
from hwnas.spaces.graph import Graph
from hwnas.spaces.kernel import ACTIVATIONS, Kernel
from hwnas.spaces.kernels import Activation, Add, BatchNorm, Conv, DepthwiseConv, Pool
from hwnas.spaces.math_kernels import Binary

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["FIRST", "SECOND", "Fusion", "find_fusions"]

#: below this share of what it adds elsewhere, an operator is fused
SHARE = 0.5
CHANNELS, RESOLUTION = 64, 56

#: what something may be fused into, by name
FIRST: dict[str, Kernel] = {
    "conv": Conv(o=CHANNELS, k=3, bn=False, bias=True),
    "conv 1x1": Conv(o=CHANNELS, k=1, bn=False, bias=True),
    "dwconv": DepthwiseConv(bn=False, bias=True),
    "add": Add(),
}
#: what may be fused
SECOND: dict[str, Kernel] = {
    **{act: Activation(act=act) for act in ACTIVATIONS},
    "add": Add(),
    "bn": BatchNorm(),
    "mul": Binary(kind="mul"),
    "scale": Binary(kind="mul", const=(CHANNELS, 1, 1)),
    "dwconv": DepthwiseConv(bn=False, bias=True),
    "pool": Pool("max"),
}
_NEUTRAL = "pool"


@dataclass(frozen=True)
class Fusion:
    """What was found of one pair.

    Attributes
    ----------
    first, second
        Keys of `FIRST` and `SECOND`.
    adds_ms, elsewhere_ms
        Milliseconds that `second` adds after `first`, and after a pooling.
    error_ms
        Half of the interval of `adds_ms` less half of `elsewhere_ms`.
    fused
        Whether `first` takes `second` in; None if the intervals leave it open.
    """

    first: str
    second: str
    adds_ms: float
    elsewhere_ms: float
    error_ms: float
    fused: bool | None


def find_fusions(
    profiler: Profiler,
    *,
    first: Sequence[str] = tuple(FIRST),
    second: Sequence[str] = tuple(SECOND),
    protocol: Protocol | None = None,
    prepare: Callable[[ModelProto], ModelProto] | None = None,
    progress: Progress | None = None,
) -> list[Fusion]:
    """Time every pair on a device.

    Parameters
    ----------
    profiler
        The device.
    first, second
        Names of `FIRST` and `SECOND`.
    protocol
        The measuring protocol.
    prepare
        Applied to every model first, such as a quantiser.
    progress
        Called as ``progress(done, total, text)``, counting passes.

    Raises
    ------
    ConfigError
        If a name does not exist.
    """
    for names, known in ((first, FIRST), (second, SECOND)):
        for name in names:
            if name not in known:
                raise ConfigError(f"there is no operator {name!r} to test; choose from {', '.join(known)}")

    def model(before: str, after: str | None) -> ModelProto:
        written = _network(before, after).to_onnx()
        return written if prepare is None else prepare(written)

    def opener(before: str, after: str | None) -> Callable[[], ModelProto]:
        return lambda: model(before, after)

    pairs = [(before, after) for before in (_NEUTRAL, *first) for after in (None, *second)]
    sources = {pair: opener(*pair) for pair in pairs}
    measured = dict(profiler.measure_many(sources, protocol, progress=progress))

    def added(before: str, after: str) -> tuple[float, float]:
        one, two = measured[before, None], measured[before, after]
        return two.median_ms - one.median_ms, math.hypot(_half(one), _half(two))

    return [
        _judge(before, after, *added(before, after), *added(_NEUTRAL, after)) for before in first for after in second
    ]


def _half(found: Measurement) -> float:
    return (found.high_ms - found.low_ms) / 2


def _judge(first: str, second: str, adds: float, error: float, elsewhere: float, other: float) -> Fusion:
    excess, doubt = adds - SHARE * elsewhere, math.hypot(error, SHARE * other)
    fused = None if abs(excess) <= doubt or elsewhere <= other else excess < 0
    return Fusion(first, second, adds, elsewhere, doubt, fused)


def _network(first: str, second: str | None) -> Graph:
    """1x1 convolution, `first`, `second` if any, 1x1 convolution."""
    net = NetworkBuilder((1, CHANNELS, RESOLUTION, RESOLUTION))
    start = net.add(Conv(o=CHANNELS, k=1, bn=False, bias=True), "input")
    # the other operand of sums and products; a result of its own, so that it is computed in any case
    other = net.pool(start, "max", 3, 1)

    def append(kernel: Kernel, x: str) -> str:
        two = isinstance(kernel, Add) or (isinstance(kernel, Binary) and kernel.const is None)
        return net.add(kernel, x, other) if two else net.add(kernel, x)

    x = net.pool(start, "avg", 3, 1) if first == _NEUTRAL else append(FIRST[first], start)
    if second is not None:
        x = append(SECOND[second], x)
    return net.graph(net.add(Conv(o=CHANNELS, k=1, bn=False, bias=True), x), other)
