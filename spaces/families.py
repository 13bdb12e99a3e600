"""The blocks that image networks are built of, family by family, on a `NetworkBuilder`.

A block takes the name of a tensor and returns another. `hwnas.spaces.prior` draws random networks of them; real
networks are written with them, too.
"""

from __future__ import annotations

import math

from hwnas.spaces.graph import Graph, GraphBuilder
from hwnas.spaces.kernel import Kernel, Shape
from hwnas.spaces.kernels import (
    Activation,
    Add,
    BatchNorm,
    Conv,
    DepthwiseConv,
    GlobalPool,
    Linear,
    Pool,
    SqueezeExcite,
)
from hwnas.spaces.layout_kernels import ChannelShuffle, Concat, Pick, Reshape, Slice, Transpose
from hwnas.spaces.math_kernels import Binary, LayerNorm, MatMul, Softmax

__all__ = ["NetworkBuilder"]


class NetworkBuilder:
    """Builds a network block by block; nodes are numbered in order.

    Examples
    --------
    >>> net = NetworkBuilder((1, 3, 32, 32))
    >>> x = net.conv("input", 16, 3, act="relu")
    >>> x = net.bottleneck(x, 64, 16)
    >>> net.classifier(x, 10).macs
    """

    def __init__(self, input_shape: Shape) -> None:
        self._builder = GraphBuilder(input_shape)
        self._builder.block("network", "network")
        self._count = 0

    def add(self, kernel: Kernel, *inputs: str) -> str:
        """Add one kernel, and return the name of its output."""
        self._count += 1
        return self._builder.add(f"{kernel.op}{self._count}", kernel, *inputs)

    def shape(self, x: str) -> Shape:
        """Shape of a tensor."""
        return self._builder.shapes[x]

    def channels(self, x: str) -> int:
        """Channels of a tensor."""
        return self.shape(x)[1]

    def graph(self, *outputs: str) -> Graph:
        """The network up to its outputs."""
        return self._builder.graph(*outputs)

    # ------------------------------------------------------------------ kernels

    def conv(self, x: str, o: int, k: int | tuple[int, int] = 1, s: int = 1, act: str | None = None, g: int = 1) -> str:
        """Convolution, BatchNorm, activation."""
        return self.add(Conv(o=o, k=k, s=s, act=act, g=g), x)

    def depthwise(self, x: str, k: int = 3, s: int = 1, act: str | None = None) -> str:
        """Depthwise convolution, BatchNorm, activation."""
        return self.add(DepthwiseConv(k=k, s=s, act=act), x)

    def pool(self, x: str, mode: str = "max", k: int = 3, s: int = 2, p: int | None = None) -> str:
        """Pooling, padded by half of its window unless given."""
        return self.add(Pool(mode=mode, k=k, s=s, p=k // 2 if p is None else p), x)

    def squeeze_excite(self, x: str, r: int, gate: str = "sigmoid", act: str = "relu") -> str:
        """Squeeze-and-excitation with `r` channels in the middle."""
        return self.add(SqueezeExcite(r=max(1, r), gate=gate, act=act), x)

    def mean(self, x: str) -> str:
        """Mean over the image, flat."""
        return self.add(GlobalPool(), x)

    def classifier(self, x: str, classes: int = 1000) -> Graph:
        """Mean over the image, a fully connected layer, and the finished graph."""
        return self.graph(self.add(Linear(o=classes), self.mean(x)))

    def perceptron(self, x: str, width: int, classes: int = 1000) -> Graph:
        """All pixels through two fully connected layers of `width` (AlexNet, VGG), a last one, the finished graph."""
        x = self.add(Reshape(to=(1, math.prod(self.shape(x)))), x)
        for _ in range(2):
            x = self.add(Activation(act="relu"), self.add(Linear(o=width), x))
        return self.graph(self.add(Linear(o=classes), x))

    # ------------------------------------------------------------------ blocks

    def _shortcut(self, x: str, o: int, s: int) -> str:
        return x if s == 1 and self.channels(x) == o else self.conv(x, o, 1, s)

    def basic(self, x: str, o: int, s: int = 1) -> str:
        """ResNet's basic block (arXiv 1512.03385): two 3x3 convolutions around a shortcut."""
        y = self.conv(self.conv(x, o, 3, s, "relu"), o, 3)
        return self.add(Add(act="relu"), self._shortcut(x, o, s), y)

    def bottleneck(self, x: str, o: int, middle: int, s: int = 1, k: int = 3, g: int = 1, se: int = 0) -> str:
        """ResNet's bottleneck; with groups ResNeXt's or RegNetX's (2003.13678), with `se` channels RegNetY's."""
        y = self.conv(self.conv(x, middle, 1, 1, "relu"), middle, k, s, "relu", g)
        if se:
            y = self.squeeze_excite(y, se)
        return self.add(Add(act="relu"), self._shortcut(x, o, s), self.conv(y, o))

    def inverted(
        self, x: str, o: int, wide: int, k: int = 3, s: int = 1, act: str = "relu6", se: int = 0, gate: str = "sigmoid"
    ) -> str:
        """Inverted residual of MobileNetV2 (1801.04381), V3, MnasNet and EfficientNet with `wide` channels inside."""
        y = x if wide == self.channels(x) else self.conv(x, wide, 1, 1, act)
        y = self.depthwise(y, k, s, act)
        if se:
            y = self.squeeze_excite(y, se, gate, "swish" if act == "swish" else "relu")
        y = self.conv(y, o)
        return self.add(Add(), x, y) if s == 1 and self.channels(x) == o else y

    def separable(self, x: str, o: int, k: int = 3, s: int = 1, act: str = "relu") -> str:
        """Depthwise, then 1x1 convolution (MobileNetV1, 1704.04861)."""
        return self.conv(self.depthwise(x, k, s, act), o, 1, 1, act)

    def shuffle(self, x: str, o: int, s: int = 1, k: int = 3) -> str:
        """ShuffleNetV2's unit (1807.11164), followed by the shuffle."""
        half = o // 2
        if s > 1:
            side, main = self.conv(self.depthwise(x, k, s), half, 1, 1, "relu"), x
        else:
            into = self.channels(x)
            side, main = self.add(Slice(0, into // 2), x), self.add(Slice(into // 2, into), x)
        main = self.depthwise(self.conv(main, half, 1, 1, "relu"), k, s)
        main = self.conv(main, o - half, 1, 1, "relu")
        return self.add(ChannelShuffle(g=2), self.add(Concat(), side, main))

    def dense(self, x: str, growth: int, middle: int) -> str:
        """DenseNet's layer (1608.06993): what it computes is joined to its input."""
        y = self.conv(self.add(BatchNorm(act="relu"), x), middle, 1, 1, "relu")
        return self.add(Concat(), x, self.add(Conv(o=growth, k=3, bn=False), y))

    def transition(self, x: str, o: int) -> str:
        """DenseNet's passage between stages: 1x1 convolution, then 2x2 mean."""
        y = self.add(Conv(o=o, k=1, bn=False), self.add(BatchNorm(act="relu"), x))
        return self.pool(y, "avg", 2, 2, 0)

    def fire(self, x: str, squeeze: int, o: int) -> str:
        """SqueezeNet's fire module (1602.07360)."""
        y = self.add(Conv(o=squeeze, k=1, act="relu", bn=False, bias=True), x)
        parts = (self.add(Conv(o=o // 2, k=k, act="relu", bn=False, bias=True), y) for k in (1, 3))
        return self.add(Concat(), *parts)

    def inception(self, x: str, ones: int, threes: tuple[int, int], fives: tuple[int, int], pooled: int) -> str:
        """GoogLeNet's module (1409.4842) with BatchNorm: 1x1, 3x3, 5x5 and pooling side by side."""
        parts = [self.conv(x, ones, 1, 1, "relu")]
        for k, (reduced, o) in ((3, threes), (5, fives)):
            parts.append(self.conv(self.conv(x, reduced, 1, 1, "relu"), o, k, 1, "relu"))
        parts.append(self.conv(self.pool(x, "max", 3, 1), pooled, 1, 1, "relu"))
        return self.add(Concat(), *parts)

    def factorized(self, x: str, o: int, middle: int, k: int = 7) -> str:
        """InceptionV3's long branch (1512.00567): 1x1, 1xk, kx1, beside a 1x1 on the mean."""
        y = self.conv(x, middle, 1, 1, "relu")
        y = self.conv(self.conv(y, middle, (1, k), 1, "relu"), o // 2, (k, 1), 1, "relu")
        side = self.conv(self.pool(x, "avg", 3, 1), o - o // 2, 1, 1, "relu")
        return self.add(Concat(), y, side)

    def convnext(self, x: str, k: int = 7, ratio: int = 4) -> str:
        """ConvNeXt's block (2201.03545): depthwise, then LayerNorm and a perceptron with channels last."""
        channels = self.channels(x)
        y = self.add(DepthwiseConv(k=k, bn=False, bias=True), x)
        y = self.add(LayerNorm(), self.add(Transpose(perm=(0, 2, 3, 1)), y))
        y = self.add(Activation(act="gelu"), self.add(Linear(o=ratio * channels), y))
        y = self.add(Binary(kind="mul", const=(channels,)), self.add(Linear(o=channels), y))
        return self.add(Add(), x, self.add(Transpose(perm=(0, 3, 1, 2)), y))

    def norm2d(self, x: str) -> str:
        """LayerNorm over the channels of an image."""
        y = self.add(LayerNorm(), self.add(Transpose(perm=(0, 2, 3, 1)), x))
        return self.add(Transpose(perm=(0, 3, 1, 2)), y)

    def patches(self, x: str, o: int, patch: int) -> str:
        """Convolution of patches that do not overlap, with bias."""
        return self.add(Conv(o=o, k=patch, s=patch, p=0, bn=False, bias=True), x)

    def tokens(self, x: str, patch: int, width: int) -> str:
        """An image as a sequence of patches, ``(1, tokens, width)``."""
        y = self.patches(x, width, patch)
        _, _, h, w = self.shape(y)
        return self.add(Transpose(perm=(0, 2, 1)), self.add(Reshape(to=(1, width, h * w)), y))

    def transformer(self, x: str, heads: int, ratio: int = 4) -> str:
        """A block of the vision transformer (2010.11929): attention, then a perceptron, each around a shortcut."""
        _, tokens, width = self.shape(x)
        y = self.add(Linear(o=3 * width), self.add(LayerNorm(), x))
        y = self.add(Transpose(perm=(2, 0, 3, 1, 4)), self.add(Reshape(to=(1, tokens, 3, heads, width // heads)), y))
        query, key, value = (self.add(Pick(axis=0, index=index), y) for index in range(3))
        query = self.add(Binary(kind="mul", const=(1,)), query)
        scores = self.add(Softmax(), self.add(MatMul(), query, self.add(Transpose(perm=(0, 1, 3, 2)), key)))
        y = self.add(Transpose(perm=(0, 2, 1, 3)), self.add(MatMul(), scores, value))
        y = self.add(Linear(o=width), self.add(Reshape(to=(1, tokens, width)), y))
        x = self.add(Add(), x, y)
        y = self.add(Activation(act="gelu"), self.add(Linear(o=ratio * width), self.add(LayerNorm(), x)))
        return self.add(Add(), x, self.add(Linear(o=width), y))

    def token_classifier(self, x: str, classes: int = 1000) -> Graph:
        """LayerNorm, one token, a fully connected layer, and the finished graph."""
        return self.graph(self.add(Linear(o=classes), self.add(Pick(axis=1, index=0), self.add(LayerNorm(), x))))
