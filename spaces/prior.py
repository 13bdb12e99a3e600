"""Random networks with the parts and proportions of real ones: what a device's kernels are measured in.

Kernels drawn one by one would mostly be such as no network has (2,000 channels on 112 x 112 pixels, say). So whole
networks are drawn: a family of blocks, a stem, widths that grow as the image shrinks, as designers choose them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hwnas.spaces.families import NetworkBuilder
from hwnas.spaces.graph import Graph

__all__ = ["FAMILIES", "prior_network"]

#: networks of more multiply-accumulates or parameters are drawn again: they take long, their kernels are like others
MOST_MACS, MOST_PARAMS = 2.5e9, 64e6
RESOLUTIONS = (96, 112, 128, 144, 160, 176, 192, 192, 200, 208, 224, 224, 224, 224, 240, 256, 260, 288, 300)
ACTIVATIONS = ("relu", "relu6", "hswish", "swish")

Layer = Callable[[str, int, int], str]


class _Draw:
    """Draws the numbers of one network."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        # most designers round channels to eight, some do not: many runtimes are fast on multiples of 8 or 16 only
        self.unit = self.of(2, 4, 8, 8, 8, 8, 16)

    def of(self, *values: int) -> int:
        return int(self.rng.choice(values))

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def width(self, low: float, high: float, unit: int = 0) -> int:
        """Log-uniform between `low` and `high`, a multiple of `unit`, or of the network's own."""
        unit = unit or self.unit
        value = float(np.exp(self.rng.uniform(np.log(low), np.log(high))))
        return max(unit, round(value / unit) * unit)


def prior_network(rng: np.random.Generator, families: tuple[str, ...] = ()) -> Graph:
    """Draw a network.

    Parameters
    ----------
    rng
        Source of chance.
    families
        Names of `FAMILIES` to draw from; all unless given.
    """
    names = families or tuple(FAMILIES)
    shares = np.array([SHARES[name] for name in names], dtype=np.float64)
    while True:
        family = names[int(rng.choice(len(names), p=shares / shares.sum()))]
        resolution = int(rng.choice(RESOLUTIONS))
        graph = FAMILIES[family](NetworkBuilder((1, 3, resolution, resolution)), _Draw(rng))
        if graph.macs <= MOST_MACS and graph.params <= MOST_PARAMS:
            return graph


def _stem(net: NetworkBuilder, draw: _Draw, act: str, low: int, high: int) -> str:
    """Halve the image, or quarter it as ResNet does."""
    o = draw.width(low, high)
    if draw.chance(0.5):
        return net.conv("input", o, 3, 2, act)
    return net.pool(net.conv("input", o, draw.of(3, 7), 2, act))


def _stages(net: NetworkBuilder, draw: _Draw, x: str, layer: Layer, growth: tuple[float, float], most: int) -> str:
    """Stages of layers, of which each first one halves the image."""
    low, high = growth
    width = net.channels(x)
    for _ in range(draw.of(3, 4, 5)):
        if net.shape(x)[2] < 8:
            break
        width = draw.width(width * low, min(width * high, most) if width * low < most else width * low + 1)
        for index in range(draw.of(1, 2, 3)):
            x = layer(x, width, 2 if index == 0 else 1)
    return x


def _residual(net: NetworkBuilder, draw: _Draw) -> Graph:
    """ResNet, ResNeXt, RegNet."""
    kind = draw.of(0, 1, 2, 2)
    squeezed = draw.chance(0.3)
    group = draw.of(4, 8, 8, 16, 16, 24, 32, 48, 64)
    shrink = draw.of(2, 4) if kind == 1 else 1

    def layer(x: str, o: int, s: int) -> str:
        if kind == 0:
            return net.basic(x, o, s)
        middle = max(8, o // shrink // draw.unit * draw.unit)
        if kind == 2:
            o = middle = max(1, round(o / group)) * group
        se = max(8, net.channels(x) // 4) if squeezed else 0
        return net.bottleneck(x, o, middle, s, 3, middle // group if kind == 2 else 1, se)

    return net.classifier(_stages(net, draw, _stem(net, draw, "relu", 16, 64), layer, (1.3, 2.6), 1024))


def _mobile(net: NetworkBuilder, draw: _Draw) -> Graph:
    """MobileNetV1 to V3, MnasNet, EfficientNet."""
    act = ACTIVATIONS[draw.of(0, 1, 2, 3)]
    gate = "hsigmoid" if act == "hswish" else "sigmoid"
    separable = draw.chance(0.25)
    squeezed = 0.0 if draw.chance(0.4) else 0.7

    def layer(x: str, o: int, s: int) -> str:
        if separable:
            return net.separable(x, o, 3, s, act)
        wide = net.channels(x) * draw.of(1, 2, 3, 4, 6, 6)
        se = max(4, wide // draw.of(4, 16, 24)) if draw.chance(squeezed) else 0
        return net.inverted(x, o, wide, draw.of(3, 3, 5, 7), s, act, se, gate)

    low, high, most = (1.5, 2.3, 1024) if separable else (1.1, 2.2, 384)
    x = net.conv("input", draw.width(8, 48), 3, 2, act)
    x = _stages(net, draw, layer(x, draw.width(8, 40), 1), layer, (low, high), most)
    if draw.chance(0.7):
        x = net.conv(x, draw.width(3 * net.channels(x), 7 * net.channels(x)), 1, 1, act)
    return net.classifier(x)


def _shuffled(net: NetworkBuilder, draw: _Draw) -> Graph:
    """ShuffleNetV2."""
    k = draw.of(3, 3, 5)

    def layer(x: str, o: int, s: int) -> str:
        return net.shuffle(x, o // 2 * 2, s, k)

    x = net.pool(net.conv("input", draw.of(16, 24, 24, 32), 3, 2, "relu"))
    x = _stages(net, draw, x, layer, (1.5, 4.0), 1024)
    return net.classifier(net.conv(x, draw.width(512, 2048), 1, 1, "relu"))


def _dense(net: NetworkBuilder, draw: _Draw) -> Graph:
    """DenseNet."""
    growth = draw.of(12, 16, 24, 32, 40)
    x = net.pool(net.conv("input", 2 * growth, draw.of(3, 7), 2, "relu"))
    for stage in range(draw.of(3, 4)):
        if stage:
            x = net.transition(x, net.channels(x) // 2)
        for _ in range(draw.of(3, 5, 7)):
            x = net.dense(x, growth, 4 * growth)
    return net.classifier(x)


def _fire(net: NetworkBuilder, draw: _Draw) -> Graph:
    """SqueezeNet."""
    x = net.pool(net.conv("input", draw.width(32, 96), draw.of(3, 7), 2, "relu"), p=0)
    width = draw.width(64, 160, 16)
    for stage in range(3):
        if stage:
            x, width = net.pool(x, p=0), width + draw.width(64, 160, 16)
        for _ in range(draw.of(2, 3)):
            x = net.fire(x, max(8, width // 8), width)
    return net.classifier(net.conv(x, 1000, 1, 1, "relu"))


def _inception(net: NetworkBuilder, draw: _Draw) -> Graph:
    """GoogLeNet, InceptionV3."""
    x = net.pool(net.conv("input", draw.width(32, 64), draw.of(3, 7), 2, "relu"))
    x = net.conv(x, draw.width(96, 192), 3, 1, "relu")
    long = draw.chance(0.4)
    for stage in range(draw.of(2, 3)):
        x = net.pool(x)
        for _ in range(draw.of(2, 3)):
            if long and stage:
                x = net.factorized(x, draw.width(192, 640), draw.width(96, 192), draw.of(5, 7))
                continue
            unit = draw.width(32, 112)
            threes = (draw.width(48, 160), 2 * unit)
            x = net.inception(x, unit, threes, (draw.width(16, 48), draw.width(32, 128)), draw.width(32, 128))
    return net.classifier(x)


def _plain(net: NetworkBuilder, draw: _Draw) -> Graph:
    """VGG, with BatchNorm; at the end a mean or two wide layers."""
    x, width = "input", draw.width(16, 64)
    for stage in range(5):
        for _ in range(draw.of(1, 2)):
            x = net.conv(x, width, 3, 1, "relu")
        x = net.pool(x, "max", 2, 2, 0)
        width = min(2 * width, 512) if stage < 3 else width
    if draw.chance(0.5):
        return net.classifier(x)
    return net.perceptron(x, draw.width(512, 4096, 64))


def _convnext(net: NetworkBuilder, draw: _Draw) -> Graph:
    """ConvNeXt."""
    width, k = draw.width(32, 96), draw.of(5, 7, 7)
    patch = draw.of(2, 4, 4)
    x = net.norm2d(net.patches("input", width, patch))
    for stage in range(4):
        if net.shape(x)[2] < 4:
            break
        if stage:
            width = draw.width(1.6 * width, 2.1 * width)
            x = net.patches(net.norm2d(x), width, 2)
        for _ in range(draw.of(1, 2, 3)):
            x = net.convnext(x, k)
    return net.classifier(x)


def _transformer(net: NetworkBuilder, draw: _Draw) -> Graph:
    """The vision transformer."""
    heads = draw.of(2, 3, 4, 6)
    x = net.tokens("input", draw.of(8, 16, 16, 32), heads * draw.of(32, 64))
    for _ in range(draw.of(2, 4, 6)):
        x = net.transformer(x, heads, draw.of(2, 4))
    return net.token_classifier(x)


#: what networks are drawn from, by name
FAMILIES: dict[str, Callable[[NetworkBuilder, _Draw], Graph]] = {
    "residual": _residual,
    "mobile": _mobile,
    "shuffle": _shuffled,
    "dense": _dense,
    "fire": _fire,
    "inception": _inception,
    "plain": _plain,
    "convnext": _convnext,
    "transformer": _transformer,
}

#: how often each of them is drawn, relative to the others: more where there are more kinds of kernels
SHARES = {
    "residual": 3,
    "mobile": 4,
    "shuffle": 2,
    "dense": 1,
    "fire": 1,
    "inception": 1,
    "plain": 1,
    "convnext": 1,
    "transformer": 1,
}
