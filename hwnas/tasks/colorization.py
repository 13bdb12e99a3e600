"""Colorization (Zhang et al., arXiv 1603.08511): which colour has each pixel of a grey image?"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from hwnas.data.base import Dataset
from hwnas.spaces.errors import ConfigError, ModelError
from hwnas.spaces.graph import Graph, Node
from hwnas.spaces.kernel import Kernel, Shape, Weights, function_module
from hwnas.spaces.kernels import Conv, GlobalPool
from hwnas.spaces.layout_kernels import Resize
from hwnas.tasks.base import PretextData, PretextTask

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from hwnas.spaces.onnx_writer import OnnxWriter

__all__ = ["BINS", "Colorization", "Pixels", "colour_bins", "to_lab"]

#: Colours that are told apart: points of a grid of spacing 10 in the plane of a and b.
BINS, SPACING = 313, 10
#: sRGB (linear) to XYZ, and the white point D65 (IEC 61966-2-1).
TO_XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
WHITE = (0.95047, 1.0, 1.08883)
#: Training images that the mean and spread of the lightness are taken of.
SEEN = 2000


def to_lab(images: Tensor) -> Tensor:
    """uint8 sRGB images ``(B, 3, H, W)`` in CIE L*a*b*, float32: L from 0 to 100."""
    import torch

    levels = torch.arange(256, device=images.device) / 255
    linear = torch.where(levels > 0.04045, ((levels + 0.055) / 1.055) ** 2.4, levels / 12.92)[images.long()]
    matrix = (torch.tensor(TO_XYZ) / torch.tensor(WHITE)[:, None]).to(images.device)
    xyz = torch.einsum("ij,bjhw->bihw", matrix, linear)
    f = torch.where(xyz > (6 / 29) ** 3, xyz.clamp_min(1e-12) ** (1 / 3), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = f.unbind(dim=1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


@lru_cache(maxsize=1)
def colour_bins() -> np.ndarray:
    """The 313 points of the grid that are nearest to the colours of sRGB, ``(313, 2)``: a and b.

    The published list of 313 points could not be had; every colour's nearest point of the grid is in both.
    """
    import torch

    levels = torch.linspace(0, 255, 33).round().to(torch.uint8)
    colours = torch.cartesian_prod(levels, levels, levels).T.reshape(1, 3, -1, 1)
    ab = to_lab(colours)[0, 1:, :, 0].T
    side = torch.arange(-120, 121, SPACING, dtype=torch.float32)
    grid = torch.cartesian_prod(side, side)
    distance = torch.cdist(grid, ab).min(dim=1).values
    nearest = distance.argsort(stable=True)[:BINS]
    return np.asarray(grid[nearest.sort().values].numpy().astype(int))


@dataclass(frozen=True)
class Pixels(Kernel):
    """Maps ``(B, C, H, W)`` as rows ``(B * H * W, C)``: one output for each pixel."""

    op: ClassVar[str] = "pixels"

    def output_shape(self, *inputs: Shape) -> Shape:
        _, channels, height, width = inputs[0]
        return (height * width, channels)

    def module(self, *inputs: Shape) -> nn.Module:
        def rows(x: Any) -> Any:
            return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])

        return function_module(rows)

    def emit(self, writer: OnnxWriter, name: str, inputs: list[str], shapes: list[Shape], weights: Weights) -> str:
        raise ModelError("the end of a colorization network is for training only; export the named space's")


class Colorization(PretextTask):
    """The nearest of 313 colours for each pixel, from the lightness alone."""

    name: ClassVar[str] = "colorization"
    summary: ClassVar[str] = "which of 313 colours each pixel of a grey image has"
    inputs: ClassVar[str] = "lightness L* / 100, normalised"

    def answers(self) -> list[str]:
        return [f"a={a} b={b}" for a, b in colour_bins().tolist()]

    def shape(self, data: Dataset) -> tuple[int, int, int]:
        if data.channels != 3:
            raise ConfigError(
                f"colorization needs images of three channels, and {data.name} has {data.channels}; "
                "take rotation or jigsaw, or a data set of colours"
            )
        return 1, data.resolution, BINS

    def statistics(self, data: Dataset) -> tuple[tuple[float, ...], tuple[float, ...]]:
        import torch

        order = np.random.default_rng(0).permutation(len(data.train))[:SEEN]
        lightness = [to_lab(images)[:, 0] / 100 for images in data.train.image_batches(250, order=np.sort(order))]
        values = torch.cat([part.flatten() for part in lightness])
        return (float(values.mean()),), (max(float(values.std()), 1 / 255),)

    def adapt(self, graph: Graph) -> Graph:
        """A convolution of 1x1 in place of the pooling and what follows it, resized to the image."""
        pool = next(node for node in reversed(graph.nodes) if isinstance(node.kernel, GlobalPool))
        kept = graph.nodes[: graph.nodes.index(pool)]
        (shape,) = graph.inputs.values()
        block, source = pool.block, pool.inputs[0]
        end = [
            Node("task/conv", Conv(o=BINS, k=1, bn=False), (source,), block),
            Node("task/resize", Resize((shape[2], shape[3]), "linear"), ("task/conv",), block),
            Node("task/pixels", Pixels(), ("task/resize",), block),
        ]
        return Graph([*kept, *end], graph.inputs, ["task/pixels"], graph.label).pruned()

    def examples(
        self, images: Tensor, data: PretextData, generator: Generator, training: bool
    ) -> tuple[Tensor, Tensor]:
        import torch

        lab = to_lab(images)
        inputs = (lab[:, :1] / 100 - data.mean[0]) / data.std[0]
        place = (lab[:, 1:] / SPACING).round().long() + 12
        answers = _bin_numbers().to(images.device)[place[:, 0], place[:, 1]]
        return inputs.contiguous(memory_format=torch.channels_last), answers.flatten()


@lru_cache(maxsize=1)
def _bin_numbers() -> Tensor:
    """The number of each point of the grid, ``(25, 25)``."""
    import torch

    numbers = torch.full((25, 25), -1)
    places = torch.from_numpy(colour_bins() // SPACING + 12)
    numbers[places[:, 0], places[:, 1]] = torch.arange(BINS)
    return numbers
