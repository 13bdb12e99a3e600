"""Well-known image networks as graphs: what predictors of latency are tested on.

Widths, depths and blocks are those of the publications, as far as they bear on latency; the few
places where they are not say so. Weights are random.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from hwnas.spaces.families import NetworkBuilder
from hwnas.spaces.graph import Graph
from hwnas.spaces.kernels import Activation, BatchNorm, Linear


def start(resolution: int) -> NetworkBuilder:
    return NetworkBuilder((1, 3, resolution, resolution))


def eights(value: float) -> int:
    """The nearest multiple of eight, as MobileNets round."""
    rounded = max(8, int(value + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * value else rounded


def resnet(depths: tuple[int, ...], deep: bool, resolution: int = 224, width: float = 1.0, group: int = 0) -> Graph:
    """ResNet-18, 34, 50 and ResNeXt (`group` channels each; 32x4d has half of 256 inside)."""
    net = start(resolution)
    x = net.pool(net.conv("input", round(64 * width), 7, 2, "relu"))
    for stage, depth in enumerate(depths):
        base = round(64 * width) * 2**stage
        for index in range(depth):
            s = 2 if index == 0 and stage else 1
            if not deep:
                x = net.basic(x, base, s)
            else:
                middle = 2 * base if group else base
                x = net.bottleneck(x, 4 * base, middle, s, 3, 32 if group else 1)
    return net.classifier(x)


def mobilenet_v1(width: float = 1.0, resolution: int = 224) -> Graph:
    net = start(resolution)
    x = net.conv("input", eights(32 * width), 3, 2, "relu")
    for o, s in ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)):
        x = net.separable(x, eights(o * width), 3, s)
    return net.classifier(x)


def mobilenet_v2(width: float = 1.0, resolution: int = 224) -> Graph:
    net = start(resolution)
    x = net.conv("input", eights(32 * width), 3, 2, "relu6")
    for e, o, n, s in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for index in range(n):
            x = net.inverted(x, eights(o * width), e * net.channels(x), 3, s if index == 0 else 1)
    return net.classifier(net.conv(x, max(1280, eights(1280 * width)), 1, 1, "relu6"))


#: window, inner channels, channels, squeeze-excite, activation, stride
V3_LARGE = (
    (3, 16, 16, 0, "relu", 1),
    (3, 64, 24, 0, "relu", 2),
    (3, 72, 24, 0, "relu", 1),
    (5, 72, 40, 1, "relu", 2),
    (5, 120, 40, 1, "relu", 1),
    (5, 120, 40, 1, "relu", 1),
    (3, 240, 80, 0, "hswish", 2),
    (3, 200, 80, 0, "hswish", 1),
    (3, 184, 80, 0, "hswish", 1),
    (3, 184, 80, 0, "hswish", 1),
    (3, 480, 112, 1, "hswish", 1),
    (3, 672, 112, 1, "hswish", 1),
    (5, 672, 160, 1, "hswish", 2),
    (5, 960, 160, 1, "hswish", 1),
    (5, 960, 160, 1, "hswish", 1),
)
V3_SMALL = (
    (3, 16, 16, 1, "relu", 2),
    (3, 72, 24, 0, "relu", 2),
    (3, 88, 24, 0, "relu", 1),
    (5, 96, 40, 1, "hswish", 2),
    (5, 240, 40, 1, "hswish", 1),
    (5, 240, 40, 1, "hswish", 1),
    (5, 120, 48, 1, "hswish", 1),
    (5, 144, 48, 1, "hswish", 1),
    (5, 288, 96, 1, "hswish", 2),
    (5, 576, 96, 1, "hswish", 1),
    (5, 576, 96, 1, "hswish", 1),
)


def mobilenet_v3(rows: tuple[tuple[int, int, int, int, str, int], ...], last: int, resolution: int = 224) -> Graph:
    net = start(resolution)
    x = net.conv("input", 16, 3, 2, "hswish")
    for k, wide, o, se, act, s in rows:
        x = net.inverted(x, o, wide, k, s, act, eights(wide / 4) if se else 0, "hsigmoid")
    x = net.conv(x, rows[-1][1], 1, 1, "hswish")
    x = net.add(Linear(o=last), net.mean(x))
    return net.graph(net.add(Linear(o=1000), net.add(Activation(act="hswish"), x)))


def efficientnet(width: float, depth: float, resolution: int, lite: bool = False) -> Graph:
    """EfficientNet B0 to B2, and Lite (no squeeze-excite, ReLU6)."""
    act = "relu6" if lite else "swish"
    net = start(resolution)
    x = net.conv("input", 32 if lite else eights(32 * width), 3, 2, act)
    for e, o, n, k, s in (
        (1, 16, 1, 3, 1),
        (6, 24, 2, 3, 2),
        (6, 40, 2, 5, 2),
        (6, 80, 3, 3, 2),
        (6, 112, 3, 5, 1),
        (6, 192, 4, 5, 2),
        (6, 320, 1, 3, 1),
    ):
        for index in range(-(-round(10 * n * depth) // 10)):
            into = net.channels(x)
            x = net.inverted(
                x, eights(o * width), e * into, k, s if index == 0 else 1, act, 0 if lite else max(1, into // 4)
            )
    return net.classifier(net.conv(x, 1280 if lite else eights(1280 * width), 1, 1, act))


def mnasnet(width: float = 1.0, resolution: int = 224, se: bool = False) -> Graph:
    """MnasNet-B1 and, with squeeze-excite, A1."""
    net = start(resolution)
    x = net.conv("input", eights(32 * width), 3, 2, "relu")
    x = net.inverted(x, eights(16 * width), net.channels(x), 3, 1, "relu")
    rows = (
        ((6, 24, 2, 3, 2, 0), (3, 40, 3, 5, 2, 1), (6, 80, 4, 3, 2, 0), (6, 112, 2, 3, 1, 1), (6, 160, 3, 5, 2, 1))
        if se
        else ((3, 24, 3, 3, 2, 0), (3, 40, 3, 5, 2, 0), (6, 80, 3, 5, 2, 0), (6, 96, 2, 3, 1, 0), (6, 192, 4, 5, 2, 0))
    )
    for e, o, n, k, s, squeezed in (*rows, (6, 320, 1, 3, 1, 0)):
        for index in range(n):
            into = net.channels(x)
            x = net.inverted(
                x, eights(o * width), e * into, k, s if index == 0 else 1, "relu", into // 4 if squeezed else 0
            )
    return net.classifier(net.conv(x, 1280, 1, 1, "relu"))


def shufflenet_v2(widths: tuple[int, int, int, int], resolution: int = 224) -> Graph:
    net = start(resolution)
    x = net.pool(net.conv("input", 24, 3, 2, "relu"))
    for o, n in zip(widths[:3], (4, 8, 4), strict=True):
        for index in range(n):
            x = net.shuffle(x, o, 2 if index == 0 else 1)
    return net.classifier(net.conv(x, widths[3], 1, 1, "relu"))


def regnet(
    depths: tuple[int, ...], widths: tuple[int, ...], group: int, se: bool = False, resolution: int = 224
) -> Graph:
    """RegNetX and, with squeeze-excite, RegNetY."""
    net = start(resolution)
    x = net.conv("input", 32, 3, 2, "relu")
    for depth, o in zip(depths, widths, strict=True):
        for index in range(depth):
            into = net.channels(x)
            x = net.bottleneck(x, o, o, 2 if index == 0 else 1, 3, o // group, max(1, into // 4) if se else 0)
    return net.classifier(x)


def densenet(depths: tuple[int, ...], growth: int = 32, resolution: int = 224) -> Graph:
    net = start(resolution)
    x = net.pool(net.conv("input", 2 * growth, 7, 2, "relu"))
    for stage, depth in enumerate(depths):
        if stage:
            x = net.transition(x, net.channels(x) // 2)
        for _ in range(depth):
            x = net.dense(x, growth, 4 * growth)
    return net.classifier(net.add(BatchNorm(act="relu"), x))


def squeezenet(first: bool, resolution: int = 224) -> Graph:
    """SqueezeNet 1.0 and 1.1; the mean comes before the fully connected layer."""
    net = start(resolution)
    x = net.pool(net.conv("input", 96 if first else 64, 7 if first else 3, 2, "relu"), p=0)
    pools = (3, 7) if first else (2, 4)
    for index, (squeeze, o) in enumerate(
        ((16, 128), (16, 128), (32, 256), (32, 256), (48, 384), (48, 384), (64, 512), (64, 512))
    ):
        if index in pools:
            x = net.pool(x, p=0)
        x = net.fire(x, squeeze, o)
    return net.classifier(net.conv(x, 1000, 1, 1, "relu"))


def googlenet(resolution: int = 224, width: float = 1.0) -> Graph:
    def wide(value: int) -> int:
        return eights(value * width)

    net = start(resolution)
    x = net.pool(net.conv("input", wide(64), 7, 2, "relu"))
    x = net.pool(net.conv(net.conv(x, wide(64), 1, 1, "relu"), wide(192), 3, 1, "relu"))
    rows = (
        (64, (96, 128), (16, 32), 32),
        (128, (128, 192), (32, 96), 64),
        None,
        (192, (96, 208), (16, 48), 64),
        (160, (112, 224), (24, 64), 64),
        (128, (128, 256), (24, 64), 64),
        (112, (144, 288), (32, 64), 64),
        (256, (160, 320), (32, 128), 128),
        None,
        (256, (160, 320), (32, 128), 128),
        (384, (192, 384), (48, 128), 128),
    )
    for row in rows:
        if row is None:
            x = net.pool(x)
            continue
        ones, (three, threes), (five, fives), pooled = row
        x = net.inception(x, wide(ones), (wide(three), wide(threes)), (wide(five), wide(fives)), wide(pooled))
    return net.classifier(x)


def vgg(depths: tuple[int, ...], resolution: int = 224, width: float = 1.0) -> Graph:
    """VGG with BatchNorm; at the end a mean over the image and one layer, as its slim variants have."""
    net, x = start(resolution), "input"
    for depth, o in zip(depths, (64, 128, 256, 512, 512), strict=True):
        for _ in range(depth):
            x = net.conv(x, eights(o * width), 3, 1, "relu")
        x = net.pool(x, "max", 2, 2, 0)
    return net.classifier(x)


def convnext(depths: tuple[int, ...], widths: tuple[int, ...], resolution: int = 224) -> Graph:
    net = start(resolution)
    x = net.norm2d(net.patches("input", widths[0], 4))
    for stage, (depth, o) in enumerate(zip(depths, widths, strict=True)):
        if stage:
            x = net.patches(net.norm2d(x), o, 2)
        for _ in range(depth):
            x = net.convnext(x)
    return net.classifier(x)


def vit(width: float, depth: int, heads: int, patch: int = 16, resolution: int = 224) -> Graph:
    net = start(resolution)
    x = net.tokens("input", patch, int(width))
    for _ in range(depth):
        x = net.transformer(x, heads)
    return net.token_classifier(x)


def alexnet(resolution: int = 224) -> Graph:
    """AlexNet without groups, with BatchNorm: its fully connected layers are like no other network's here."""
    net = start(resolution)
    x = net.pool(net.conv("input", 64, 11, 4, "relu"), p=0)
    x = net.pool(net.conv(x, 192, 5, 1, "relu"), p=0)
    x = net.conv(net.conv(net.conv(x, 384, 3, 1, "relu"), 256, 3, 1, "relu"), 256, 3, 1, "relu")
    x = net.pool(x, p=0)
    return net.perceptron(x, 4096)


#: name to family and what makes the graph
ZOO: dict[str, tuple[str, Callable[[], Graph]]] = {
    "resnet18": ("ResNet", partial(resnet, (2, 2, 2, 2), False)),
    "resnet18@160": ("ResNet", partial(resnet, (2, 2, 2, 2), False, 160)),
    "resnet34": ("ResNet", partial(resnet, (3, 4, 6, 3), False)),
    "resnet50": ("ResNet", partial(resnet, (3, 4, 6, 3), True)),
    "resnet50@128": ("ResNet", partial(resnet, (3, 4, 6, 3), True, 128)),
    "resnext50-32x4d": ("ResNeXt", partial(resnet, (3, 4, 6, 3), True, 224, 1.0, 4)),
    "resnext50-32x4d@160": ("ResNeXt", partial(resnet, (3, 4, 6, 3), True, 160, 1.0, 4)),
    "mobilenetv1": ("MobileNetV1", mobilenet_v1),
    "mobilenetv1-0.5": ("MobileNetV1", partial(mobilenet_v1, 0.5)),
    "mobilenetv1-0.75@160": ("MobileNetV1", partial(mobilenet_v1, 0.75, 160)),
    "mobilenetv2": ("MobileNetV2", mobilenet_v2),
    "mobilenetv2-0.5": ("MobileNetV2", partial(mobilenet_v2, 0.5)),
    "mobilenetv2-1.4": ("MobileNetV2", partial(mobilenet_v2, 1.4)),
    "mobilenetv2@160": ("MobileNetV2", partial(mobilenet_v2, 1.0, 160)),
    "mobilenetv3-large": ("MobileNetV3", partial(mobilenet_v3, V3_LARGE, 1280)),
    "mobilenetv3-small": ("MobileNetV3", partial(mobilenet_v3, V3_SMALL, 1024)),
    "mobilenetv3-large@192": ("MobileNetV3", partial(mobilenet_v3, V3_LARGE, 1280, 192)),
    "efficientnet-b0": ("EfficientNet", partial(efficientnet, 1.0, 1.0, 224)),
    "efficientnet-b1": ("EfficientNet", partial(efficientnet, 1.0, 1.1, 240)),
    "efficientnet-b2": ("EfficientNet", partial(efficientnet, 1.1, 1.2, 260)),
    "efficientnet-lite0": ("EfficientNet", partial(efficientnet, 1.0, 1.0, 224, True)),
    "mnasnet-b1": ("MnasNet", mnasnet),
    "mnasnet-a1": ("MnasNet", partial(mnasnet, 1.0, 224, True)),
    "mnasnet-b1-0.5": ("MnasNet", partial(mnasnet, 0.5)),
    "shufflenetv2-0.5": ("ShuffleNetV2", partial(shufflenet_v2, (48, 96, 192, 1024))),
    "shufflenetv2-1.0": ("ShuffleNetV2", partial(shufflenet_v2, (116, 232, 464, 1024))),
    "shufflenetv2-1.5": ("ShuffleNetV2", partial(shufflenet_v2, (176, 352, 704, 1024))),
    "shufflenetv2-2.0": ("ShuffleNetV2", partial(shufflenet_v2, (244, 488, 976, 2048))),
    "regnetx-200mf": ("RegNet", partial(regnet, (1, 1, 4, 7), (24, 56, 152, 368), 8)),
    "regnetx-400mf": ("RegNet", partial(regnet, (1, 2, 7, 12), (32, 64, 160, 400), 16)),
    "regnetx-800mf": ("RegNet", partial(regnet, (1, 3, 7, 5), (64, 128, 288, 672), 16)),
    "regnety-400mf": ("RegNet", partial(regnet, (1, 3, 6, 6), (48, 104, 208, 440), 8, True)),
    "regnety-800mf": ("RegNet", partial(regnet, (1, 3, 8, 2), (64, 144, 320, 784), 16, True)),
    "densenet121": ("DenseNet", partial(densenet, (6, 12, 24, 16))),
    "densenet121@160": ("DenseNet", partial(densenet, (6, 12, 24, 16), 32, 160)),
    "densenet-bc-24": ("DenseNet", partial(densenet, (6, 12, 18, 12), 24)),
    "squeezenet1.0": ("SqueezeNet", partial(squeezenet, True)),
    "squeezenet1.1": ("SqueezeNet", partial(squeezenet, False)),
    "squeezenet1.1@160": ("SqueezeNet", partial(squeezenet, False, 160)),
    "googlenet": ("Inception", googlenet),
    "googlenet@160": ("Inception", partial(googlenet, 160)),
    "googlenet-0.5": ("Inception", partial(googlenet, 224, 0.5)),
    "vgg11-0.5": ("VGG", partial(vgg, (1, 1, 2, 2, 2), 224, 0.5)),
    "vgg16-0.5@128": ("VGG", partial(vgg, (2, 2, 3, 3, 3), 128, 0.5)),
    "alexnet": ("AlexNet", alexnet),
    "convnext-atto": ("ConvNeXt", partial(convnext, (2, 2, 6, 2), (40, 80, 160, 320))),
    "convnext-femto": ("ConvNeXt", partial(convnext, (2, 2, 6, 2), (48, 96, 192, 384))),
    "convnext-pico@192": ("ConvNeXt", partial(convnext, (2, 2, 6, 2), (64, 128, 256, 512), 192)),
    "vit-tiny": ("ViT", partial(vit, 192, 12, 3)),
    "vit-small": ("ViT", partial(vit, 384, 12, 6)),
    "vit-tiny@160": ("ViT", partial(vit, 192, 12, 3, 16, 160)),
}
