"""Networks whose latencies on phones Qualcomm publishes, rebuilt: widths, depths and sizes of the publications.

Weights are random. What is published begins with its image's normalisation where the package ``qai-hub-models`` says
so, and so does what is rebuilt. Where the published file's graph is known to differ, the function says so. `NETWORKS`
gives each the name under which its latencies are published (``model|component`` of that package), `QUANTISED` what is
to be changed in a network's int8 form: published with a latency is how many layers a file has.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx_net import Net
from zoo import (
    V3_LARGE,
    convnext,
    eights,
    mobilenet_v2,
    mobilenet_v3,
    regnet,
    resnet,
    shufflenet_v2,
    squeezenet,
    start,
    vit,
)

from hwnas.spaces.graph import Graph

#: How images of 0 to 1 are brought to what a network was trained on: operators and their constants, one a channel or
#: one for all.
IMAGENET = (("Sub", (0.485, 0.456, 0.406)), ("Div", (0.229, 0.224, 0.225)))
HALVES = (("Sub", (0.498,) * 3), ("Div", (0.502,) * 3))
TWICE = (("Mul", (2.0,)), ("Sub", (1.0,)))


def prepared(
    steps: tuple[tuple[str, tuple[float, ...]], ...], build: Callable[[], Graph | onnx.ModelProto]
) -> onnx.ModelProto:
    """A network that begins with these operators on its image."""
    made = build()
    model = made if isinstance(made, onnx.ModelProto) else made.to_onnx()
    graph, image, nodes = model.graph, model.graph.input[0].name, []
    last = image
    for index, (op, values) in enumerate(steps):
        constant, out = f"prepare{index}_constant", f"prepare{index}"
        array = np.array(values, np.float32).reshape((1, -1, 1, 1) if len(values) > 1 else ())
        graph.initializer.append(numpy_helper.from_array(array, constant))
        nodes.append(helper.make_node(op, [last, constant], [out], out))
        last = out
    kept = list(graph.node)
    for node in kept:
        node.input[:] = [last if name == image else name for name in node.input]
    del graph.node[:]
    graph.node.extend([*nodes, *kept])
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    onnx.checker.check_model(model)
    return model


def bottlenecks(depths: tuple[int, ...], ratio: int, groups: int = 1) -> Graph:
    """ResNets of bottlenecks with `ratio` times 64, 128, ... channels inside: Wide-ResNet, ResNeXt 32x8d."""
    net = start(224)
    x = net.pool(net.conv("input", 64, 7, 2, "relu"))
    for stage, depth in enumerate(depths):
        base = 64 * 2**stage
        for index in range(depth):
            x = net.bottleneck(x, 4 * base, ratio * base, 2 if index == 0 and stage else 1, 3, groups)
    return net.classifier(x)


def efficientnet_lite4() -> Graph:
    """Width 1.4, depth 1.8; stem, head, first and last stage are not scaled in depth."""
    net = start(300)
    x = net.conv("input", 32, 3, 2, "relu6")
    rows = ((1, 24, 1, 3, 1), (6, 32, 4, 3, 2), (6, 56, 4, 5, 2), (6, 112, 6, 3, 2))
    rows += ((6, 160, 6, 5, 1), (6, 272, 8, 5, 2), (6, 448, 1, 3, 1))
    for e, o, n, k, s in rows:
        for index in range(n):
            x = net.inverted(x, o, e * net.channels(x), k, s if index == 0 else 1, "relu6")
    return net.classifier(net.conv(x, 1280, 1, 1, "relu6"))


def mobilenet_v4() -> onnx.ModelProto:
    """MobileNetV4-Conv-M: universal inverted bottlenecks, at 224."""
    net = Net((1, 3, 224, 224))
    x = net.conv(net.conv("input", 32, 3, 2), 128, 3, 2)
    x = net.conv(x, 48, 1, act=None)
    stages = (
        (80, ((3, 5, 2, 4), (3, 3, 1, 2))),
        (160, ((3, 5, 2, 6), (3, 3, 1, 4), (3, 3, 1, 4), (3, 5, 1, 4), (3, 3, 1, 4), (3, 0, 1, 4), (0, 0, 1, 2))),
        (160, ((3, 0, 1, 4),)),
        (256, ((5, 5, 2, 6), (5, 5, 1, 4), (3, 5, 1, 4), (3, 5, 1, 4), (0, 0, 1, 4), (3, 0, 1, 4), (3, 5, 1, 2))),
        (256, ((5, 5, 1, 4), (0, 0, 1, 4), (0, 0, 1, 4), (5, 0, 1, 2))),
    )
    for o, blocks in stages:
        for first, middle, s, e in blocks:
            y = net.depthwise(x, first, 1 if middle else s, None) if first else x
            y = net.conv(y, eights(e * net.channels[x]))
            y = net.depthwise(y, middle, s) if middle else y
            y = net.conv(y, o, act=None)
            x = net.add(x, y) if s == 1 and net.channels[x] == o else y
    return net.model(net.linear(net.conv(net.mean(net.conv(x, 960)), 1280), 1000))


def googlenet() -> onnx.ModelProto:
    """As torchvision has it: windows of 3 where the paper has 5, and a last pooling of 2."""
    net = Net((1, 3, 224, 224))
    c = net.conv
    x = net.pool(c(c(net.pool(c("input", 64, 7, 2)), 64), 192, 3))
    rows = (
        (64, 96, 128, 16, 32, 32),
        (128, 128, 192, 32, 96, 64),
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
        (256, 160, 320, 32, 128, 128),
        (384, 192, 384, 48, 128, 128),
    )
    for index, (one, before, three, before_third, third, pooled) in enumerate(rows):
        x = net.pool(x) if index == 2 else net.pool(x, 2, 2, 0) if index == 7 else x
        sides = c(c(x, before), three, 3), c(c(x, before_third), third, 3)
        x = net.concat(c(x, one), *sides, c(net.pool(x, 3, 1), pooled))
    return net.model(net.linear(net.mean(x), 1000))


def inception_v3() -> onnx.ModelProto:
    net = Net((1, 3, 299, 299))
    c = net.conv
    x = c(c(c("input", 32, 3, 2, p=0), 32, 3, p=0), 64, 3)
    x = net.pool(c(c(net.pool(x, p=0), 80), 192, 3, p=0), p=0)
    for pooled in (32, 64, 64):
        five, three = c(c(x, 48), 64, 5), c(c(c(x, 64), 96, 3), 96, 3)
        x = net.concat(c(x, 64), five, three, c(net.pool(x, 3, 1, 1, "Average"), pooled))
    x = net.concat(c(x, 384, 3, 2, p=0), c(c(c(x, 64), 96, 3), 96, 3, 2, p=0), net.pool(x, p=0))
    for w in (128, 160, 160, 192):
        seven = c(c(c(x, w), w, (1, 7)), 192, (7, 1))
        twice = c(c(c(c(c(x, w), w, (7, 1)), w, (1, 7)), w, (7, 1)), 192, (1, 7))
        x = net.concat(c(x, 192), seven, twice, c(net.pool(x, 3, 1, 1, "Average"), 192))
    seven = c(c(c(c(x, 192), 192, (1, 7)), 192, (7, 1)), 192, 3, 2, p=0)
    x = net.concat(c(c(x, 192), 320, 3, 2, p=0), seven, net.pool(x, p=0))
    for _ in range(2):
        a, b = c(x, 384), c(c(x, 448), 384, 3)
        sides = [c(y, 384, k) for y in (a, b) for k in ((1, 3), (3, 1))]
        x = net.concat(c(x, 320), *sides, c(net.pool(x, 3, 1, 1, "Average"), 192))
    return net.model(net.linear(net.mean(x), 1000))


def inception_v4() -> onnx.ModelProto:
    net = Net((1, 3, 299, 299))
    c = net.conv
    x = c(c(c("input", 32, 3, 2, p=0), 32, 3, p=0), 64, 3)
    x = net.concat(net.pool(x, p=0), c(x, 96, 3, 2, p=0))
    long = c(c(c(c(x, 64), 64, (1, 7)), 64, (7, 1)), 96, 3, p=0)
    x = net.concat(c(c(x, 64), 96, 3, p=0), long)
    x = net.concat(c(x, 192, 3, 2, p=0), net.pool(x, p=0))
    for _ in range(4):
        three, twice = c(c(x, 64), 96, 3), c(c(c(x, 64), 96, 3), 96, 3)
        x = net.concat(c(x, 96), three, twice, c(net.pool(x, 3, 1, 1, "Average"), 96))
    x = net.concat(c(x, 384, 3, 2, p=0), c(c(c(x, 192), 224, 3), 256, 3, 2, p=0), net.pool(x, p=0))
    for _ in range(7):
        seven = c(c(c(x, 192), 224, (1, 7)), 256, (7, 1))
        twice = c(c(c(c(c(x, 192), 192, (7, 1)), 224, (1, 7)), 224, (7, 1)), 256, (1, 7))
        x = net.concat(c(x, 384), seven, twice, c(net.pool(x, 3, 1, 1, "Average"), 128))
    seven = c(c(c(c(x, 256), 256, (1, 7)), 320, (7, 1)), 320, 3, 2, p=0)
    x = net.concat(c(c(x, 192), 192, 3, 2, p=0), seven, net.pool(x, p=0))
    for _ in range(3):
        a, b = c(x, 384), c(c(c(x, 384), 448, (3, 1)), 512, (1, 3))
        sides = [c(y, 256, k) for y in (a, b) for k in ((1, 3), (3, 1))]
        x = net.concat(c(x, 256), *sides, c(net.pool(x, 3, 1, 1, "Average"), 256))
    return net.model(net.linear(net.mean(x), 1000))


def densenet() -> onnx.ModelProto:
    """DenseNet-121 as torchvision has it: every layer joins all that came before anew."""
    net = Net((1, 3, 224, 224))
    x = net.pool(net.conv("input", 64, 7, 2))
    for stage, depth in enumerate((6, 12, 24, 16)):
        if stage:
            x = net.pool(net.conv(net.norm(x), net.channels[x] // 2, act=None), 2, 2, 0, "Average")
        features = [x]
        for _ in range(depth):
            joined = features[0] if len(features) == 1 else net.concat(*features)
            features.append(net.conv(net.conv(net.norm(joined), 128), 32, 3, act=None))
        x = net.concat(*features)
    return net.model(net.linear(net.mean(net.norm(x)), 1000))


def yamnet() -> onnx.ModelProto:
    """MobileNetV1 on a spectrogram of 96 × 64."""
    net = Net((1, 1, 96, 64))
    x = net.conv("input", 32, 3, 2)
    for o, s in ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)):
        x = net.conv(net.depthwise(x, 3, s), o)
    return net.model(net.act(net.linear(net.mean(x), 521), "sigmoid"))


def posenet() -> onnx.ModelProto:
    """MobileNetV1 with a stride of 16 on 513 × 257, and four heads."""
    net = Net((1, 3, 513, 257))
    x = net.conv("input", 32, 3, 2, "relu6")
    for o, s, d in ((64, 1, 1), (128, 2, 1), (128, 1, 1), (256, 2, 1), (256, 1, 1), (512, 2, 1), *[(512, 1, 1)] * 5):
        x = net.conv(net.conv(x, net.channels[x], 3, s, "relu6", net.channels[x], d=d), o, act="relu6")
    for o, d in ((1024, 1), (1024, 2)):
        x = net.conv(net.conv(x, net.channels[x], 3, 1, "relu6", net.channels[x], d=d), o, act="relu6")
    heat = net.conv(x, 17, act="sigmoid")
    return net.model(heat, *(net.conv(x, o, act=None) for o in (34, 32, 32)))


def dncnn() -> onnx.ModelProto:
    """Seventeen convolutions, without BatchNorm; the noise is subtracted, and the ends of the range are kept."""
    net = Net((1, 1, 256, 256))
    x = net.conv("input", 64, 3)
    for _ in range(15):
        x = net.conv(x, 64, 3)
    return net.model(net.add("input", net.conv(x, 1, 3, act=None), act="hardtanh"))


def quicksrnet(width: int, middle: int, anchored: bool = False) -> onnx.ModelProto:
    """QuickSRNet, four times larger; `anchored` adds the image, each pixel sixteen times."""
    net = Net((1, 3, 128, 128))
    x = net.conv("input", width, 3, act="hardtanh")
    for _ in range(middle):
        x = net.conv(x, width, 3, act="hardtanh")
    x = net.conv(x, 48, 3, act=None)
    if anchored:
        x = net.add(net.conv("input", 48, act=None), x)
    return net.model(net.to_space(net.act(x, "hardtanh"), 4))


def sesr() -> onnx.ModelProto:
    """SESR-M5, four times larger: its blocks are published as they are trained, widened to 256 channels inside."""
    net = Net((1, 3, 128, 128))

    def block(x: str, o: int, k: int) -> str:
        return net.conv(net.conv(x, 256, k, act=None), o, act=None)

    first = x = net.act(block("input", 16, 5), "relu")
    for _ in range(5):
        x = net.add(x, block(x, 16, 3), act="relu")
    x = net.add(block(net.add(x, first), 48, 5), net.conv("input", 48, act=None))
    return net.model(net.to_space(x, 4))


def xlsr() -> onnx.ModelProto:
    """XLSR: three blocks of grouped convolutions, four groups of eight channels."""
    net = Net((1, 3, 128, 128))
    side = net.conv("input", 16, 3, act=None)
    x = net.conv(net.conv("input", 32, 3), 32, act=None)
    for _ in range(3):
        x = net.conv(net.conv(x, 32, 3, g=4), 32, act=None)
    x = net.conv(net.conv(net.concat(x, side), 32), 48, 3, act=None)
    return net.model(net.act(net.to_space(x, 4), "hardtanh"))


def srresnet() -> onnx.ModelProto:
    net = Net((1, 3, 128, 128))
    first = x = net.conv("input", 64, 9, act="prelu")
    for _ in range(16):
        x = net.add(x, net.conv(net.conv(x, 64, 3, act="prelu"), 64, 3, act=None))
    x = net.add(first, net.conv(x, 64, 3, act=None))
    for _ in range(2):
        x = net.act(net.to_space(net.conv(x, 256, 3, act=None), 2), "prelu")
    return net.model(net.conv(x, 3, 9, act="hardtanh"))


def compact_esrgan() -> onnx.ModelProto:
    """Real-ESRGAN's compact network: 32 convolutions of 64 channels, the enlarged input is added."""
    net = Net((1, 3, 128, 128))
    x = net.conv("input", 64, 3, act="prelu")
    for _ in range(32):
        x = net.conv(x, 64, 3, act="prelu")
    x = net.to_space(net.conv(x, 48, 3, act=None), 4)
    return net.model(net.add(x, net.resize("input", 4)))


def rrdb_esrgan() -> onnx.ModelProto:
    """Real-ESRGAN's large network: 23 residual blocks of three dense blocks; the scales of 0.2 are folded."""
    net = Net((1, 3, 128, 128))
    first = x = net.conv("input", 64, 3, act=None)
    for _ in range(23):
        outer = x
        for _ in range(3):
            dense = [x]
            for _ in range(4):
                joined = dense[0] if len(dense) == 1 else net.concat(*dense)
                dense.append(net.conv(joined, 32, 3, act="leaky"))
            x = net.add(x, net.conv(net.concat(*dense), 64, 3, act=None))
        x = net.add(outer, x)
    x = net.add(first, net.conv(x, 64, 3, act=None))
    for _ in range(2):
        x = net.conv(net.resize(x, 2), 64, 3, act="leaky")
    return net.model(net.conv(net.conv(x, 64, 3, act="leaky"), 3, 3, act=None))


def unet() -> onnx.ModelProto:
    net = Net((1, 3, 640, 1280))
    x = net.conv(net.conv("input", 64, 3), 64, 3)
    kept = []
    for o in (128, 256, 512, 1024):
        kept.append(x)
        x = net.conv(net.conv(net.pool(x, 2, 2, 0), o, 3), o, 3)
    for o in (512, 256, 128, 64):
        x = net.concat(kept.pop(), net.up_conv(x, o))
        x = net.conv(net.conv(x, o, 3), o, 3)
    return net.model(net.conv(x, 2, act=None))


def fcn_resnet50() -> onnx.ModelProto:
    """ResNet-50 with a stride of eight, and a head; the last enlargement is eightfold and linear."""
    net = Net((1, 3, 520, 520))
    x = net.pool(net.conv("input", 64, 7, 2))
    for stage, (depth, base, s, d) in enumerate(((3, 64, 1, 1), (4, 128, 2, 1), (6, 256, 1, 2), (3, 512, 1, 4))):
        for index in range(depth):
            # the first block of a stage that is dilated instead of strided keeps the dilation before it
            step, wide = (s, max(1, d // 2) if stage > 1 else d) if index == 0 else (1, d)
            y = net.conv(net.conv(net.conv(x, base), base, 3, step, d=wide), 4 * base, act=None)
            x = net.add(y, x if index else net.conv(x, 4 * base, 1, step, act=None), act="relu")
    x = net.conv(net.conv(x, 512, 3), 21, act=None)
    return net.model(net.resize(x, 8, "linear"))


def hrnet(width: int, shape: tuple[int, int, int, int], face: bool) -> onnx.ModelProto:
    """HRNet for poses (its finest branch ends it), or for faces (all branches, enlarged)."""
    net = Net(shape)

    def basic(x: str) -> str:
        o = net.channels[x]
        return net.add(x, net.conv(net.conv(x, o, 3), o, 3, act=None), act="relu")

    x = net.conv(net.conv("input", 64, 3, 2), 64, 3, 2)
    for index in range(4):
        y = net.conv(net.conv(net.conv(x, 64), 64, 3), 256, act=None)
        x = net.add(y, x if index else net.conv(x, 256, act=None), act="relu")
    branches = [net.conv(x, width, 3), net.conv(x, 2 * width, 3, 2)]
    for modules, count in ((1, 2), (4, 3), (3, 4)):
        if len(branches) < count:
            branches.append(net.conv(branches[-1], width * 2 ** (count - 1), 3, 2))
        for module in range(modules):
            for index, x in enumerate(branches):
                for _ in range(4):
                    x = basic(x)
                branches[index] = x
            last = count == 4 and module == modules - 1 and not face
            branches = [_fused(net, branches, index, width) for index in range(1 if last else count)]
    if not face:
        return net.model(net.conv(branches[0], 17, act=None))
    x = net.concat(branches[0], *(net.resize(b, 2 ** (i + 1), "linear") for i, b in enumerate(branches[1:])))
    return net.model(net.conv(net.conv(x, 15 * width), 29, act=None))


def _fused(net: Net, branches: list[str], target: int, width: int) -> str:
    parts = []
    for source, x in enumerate(branches):
        if source > target:
            x = net.resize(net.conv(x, width * 2**target, act=None), 2 ** (source - target))
        for step in range(source, target):
            last = step == target - 1
            x = net.conv(x, width * 2**target if last else net.channels[x], 3, 2, None if last else "relu")
        parts.append(x)
    return net.add(*parts, act="relu")


def osnet() -> onnx.ModelProto:
    """OSNet x1.0; what is published also brings its 512 results to length 1."""
    net = Net((1, 3, 256, 128), gain=1.0)

    def block(x: str, o: int) -> str:
        middle, streams = o // 4, []
        entry = net.conv(x, middle)
        for depth in range(1, 5):
            y = entry
            for _ in range(depth):
                y = net.depthwise(net.conv(y, middle, act=None))
            gate = net.conv(net.conv(net.mean(y), middle // 16), middle, act="sigmoid")
            streams.append(net.mul(y, gate))
        y = net.conv(net.add(*streams), o, act=None)
        return net.add(y, x if net.channels[x] == o else net.conv(x, o, act=None), act="relu")

    x = net.pool(net.conv("input", 64, 7, 2))
    for o, shrink in ((256, True), (384, True), (512, False)):
        x = block(block(x, o), o)
        if shrink:
            x = net.pool(net.conv(x, o), 2, 2, 0, "Average")
    return net.model(net.act(net.linear(net.mean(net.conv(x, 512)), 512), "relu"))


def float_norms(model: onnx.ModelProto) -> onnx.ModelProto:
    """Norms that nothing absorbs, and ReLUs behind them, in floating point.

    DenseNet is published with 440 layers: these are its operators, ReLUs behind norms among them, and a conversion
    before and one behind each of its 62 norms. In int8 it is slower than in float, too.
    """
    graph, nodes, zeros = model.graph, [], set()
    readers = {name: node for node in graph.node for name in node.input}
    for node in graph.node:
        nodes.append(node)
        if node.op_type == "BatchNormalization":
            out = node.output[0]
            zeros.add(readers[out].input[2])
            node.output[0] = f"{out}/norm"
            nodes.append(helper.make_node("Relu", [f"{out}/norm"], [out], f"{out}/relu"))
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)
    for tensor in graph.initializer:
        if tensor.name in zeros:  # from a zero point of 0 on, quantising would do for the ReLU
            tensor.CopyFrom(numpy_helper.from_array(np.uint8(1), tensor.name))
    return model


def whole_hard_swish(model: onnx.ModelProto) -> onnx.ModelProto:
    """HardSwish as one operator; onnxruntime's preparation for its quantiser takes it apart.

    MobileNetV3 is published with 134 layers: taken apart it had 144 operators and the ends, whole it has 123.
    """
    nodes = list(model.graph.node)
    made = {name: node for node in nodes for name in node.output}
    gone: set[str] = set()
    for node in nodes:
        if node.op_type != "Mul":
            continue
        for gate, x in (node.input, reversed(node.input)):
            chain = [made[gate], made[made[gate].input[0]]] if gate in made else []
            inner = made.get(chain[-1].input[0]) if chain else None
            if inner is not None and inner.op_type == "HardSigmoid" and inner.input[0] == x:
                node.op_type, node.input[:] = "HardSwish", [x]
                gone |= {inner.output[0], *(one.output[0] for one in chain)}
                break
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes if node.output[0] not in gone]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model


#: published name to what builds the network
NETWORKS: dict[str, Callable[[], Graph | onnx.ModelProto]] = {
    "resnet18|ResNet18": partial(prepared, IMAGENET, partial(resnet, (2, 2, 2, 2), False)),
    "resnet50|ResNet50": partial(prepared, IMAGENET, partial(resnet, (3, 4, 6, 3), True)),
    "resnet101|ResNet101": partial(prepared, IMAGENET, partial(resnet, (3, 4, 23, 3), True)),
    "resnext50|ResNeXt50": partial(prepared, IMAGENET, partial(resnet, (3, 4, 6, 3), True, 224, 1.0, 4)),
    "resnext101|ResNeXt101": partial(prepared, IMAGENET, partial(bottlenecks, (3, 4, 23, 3), 4, 32)),
    "wideresnet50|WideResNet50": partial(prepared, IMAGENET, partial(bottlenecks, (3, 4, 6, 3), 2)),
    "mobilenet_v2|MobileNet-v2": partial(prepared, IMAGENET, mobilenet_v2),
    "mobilenet_v3_large|MobileNet-v3-Large": partial(prepared, IMAGENET, partial(mobilenet_v3, V3_LARGE, 1280)),
    "mobilenet_v4|MobileNet-v4": partial(prepared, IMAGENET, mobilenet_v4),
    "shufflenet_v2|Shufflenet-v2": partial(prepared, IMAGENET, partial(shufflenet_v2, (48, 96, 192, 1024))),
    "squeezenet1_1|SqueezeNet-1.1": partial(prepared, IMAGENET, partial(squeezenet, False)),
    "googlenet|GoogLeNet": partial(prepared, TWICE, googlenet),
    "inception_v3|Inception-v3": partial(prepared, TWICE, inception_v3),
    "inception_v4|Inception-v4": partial(prepared, TWICE, inception_v4),
    "densenet121|DenseNet-121": partial(prepared, IMAGENET, densenet),
    "regnet|RegNet": partial(prepared, IMAGENET, partial(regnet, (2, 6, 15, 2), (96, 192, 432, 1008), 48)),
    "regnet_y_800mf|RegNet-Y-800MF": partial(
        prepared, IMAGENET, partial(regnet, (1, 3, 8, 2), (64, 144, 320, 784), 16, True)
    ),
    "efficientnet_lite4|EfficientNet-Lite4": partial(prepared, HALVES, efficientnet_lite4),
    "convnext_tiny|ConvNext-Tiny": partial(prepared, IMAGENET, partial(convnext, (3, 3, 9, 3), (96, 192, 384, 768))),
    "vit|VIT": partial(prepared, IMAGENET, partial(vit, 768, 12, 12)),
    "yamnet|YamNet": yamnet,
    "posenet_mobilenet|Posenet-Mobilenet": partial(prepared, TWICE, posenet),
    "dncnn|DnCNN": dncnn,
    "quicksrnetsmall|QuickSRNetSmall": partial(quicksrnet, 32, 2),
    "quicksrnetmedium|QuickSRNetMedium": partial(quicksrnet, 32, 5),
    "quicksrnetlarge|QuickSRNetLarge": partial(quicksrnet, 64, 11, True),
    "sesr_m5|SESR-M5": sesr,
    "xlsr|XLSR": xlsr,
    "srgan|SRGAN": srresnet,
    "real_esrgan_general_x4v3|Real-ESRGAN-General-x4v3": compact_esrgan,
    "real_esrgan_x4plus|Real-ESRGAN-x4plus": rrdb_esrgan,
    "unet_segmentation|Unet-Segmentation": unet,
    "fcn_resnet50|FCN-ResNet50": fcn_resnet50,
    "hrnet_pose|HRNetPose": partial(prepared, IMAGENET, partial(hrnet, 32, (1, 3, 256, 192), False)),
    "hrnet_face|HRNetFace": partial(prepared, IMAGENET, partial(hrnet, 18, (1, 3, 256, 256), True)),
    "osnet|OSNet": partial(prepared, IMAGENET, osnet),
}

#: published name to what changes its int8 form
QUANTISED: dict[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
    "densenet121|DenseNet-121": float_norms,
    "mobilenet_v3_large|MobileNet-v3-Large": whole_hard_swish,
}
