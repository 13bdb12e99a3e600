"""Jigsaw puzzles (Noroozi and Favaro, arXiv 1603.09246): in which order were the tiles of an image shuffled?

Tiles go through the network one by one, and a linear layer sees the features of all. Such a layer is a sum over tiles
of one matrix each, so the network's own classifier is made wide enough for the matrices of all places, each tile's
outputs for its place are taken, and these are added up.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from hwnas.data.base import Dataset
from hwnas.spaces.errors import ConfigError, ModelError
from hwnas.spaces.graph import Graph, Node
from hwnas.spaces.kernel import Kernel, Shape, Weights, function_module
from hwnas.tasks.base import PretextData, PretextTask

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from hwnas.spaces.onnx_writer import OnnxWriter

__all__ = ["Jigsaw", "Jigsaw9", "TileSum"]

#: A tile is this share of its patch, at a random place in it.
TILE = 0.76
#: Chance that a training image of colours is made grey: colours must not say what belongs together.
GREY = 0.3
#: Side of a tile is a multiple of this, as every space takes it.
MULTIPLE = 4


@dataclass(frozen=True)
class TileSum(Kernel):
    """Of `tiles` rows, the outputs that the first gives for the first place, the second for the second..., added up."""

    tiles: int = 4

    op: ClassVar[str] = "tilesum"

    def output_shape(self, *inputs: Shape) -> Shape:
        return (1, inputs[0][1] // self.tiles)

    def module(self, *inputs: Shape) -> nn.Module:
        def add(x: Any) -> Any:
            places = x.view(-1, self.tiles, self.tiles, x.shape[1] // self.tiles)
            return places.diagonal(dim1=1, dim2=2).sum(dim=2)

        return function_module(add)

    def emit(self, writer: OnnxWriter, name: str, inputs: list[str], shapes: list[Shape], weights: Weights) -> str:
        raise ModelError("the end of a jigsaw network is for training only; export the named space's")


class Jigsaw(PretextTask):
    """2x2 tiles and all 24 orders of them."""

    name: ClassVar[str] = "jigsaw"
    summary: ClassVar[str] = "in which of 24 orders 2x2 tiles were shuffled"
    inputs: ClassVar[str] = "pixels 0-1, each image less its own mean, over its own standard deviation"
    multiple: ClassVar[int] = 4
    grid: ClassVar[int] = 2

    @cached_property
    def permutations(self) -> np.ndarray:
        """The orders, ``(answers, tiles)``."""
        return np.array(list(itertools.permutations(range(self.grid**2))))

    def answers(self) -> list[str]:
        return ["".join(map(str, order)) for order in self.permutations.tolist()]

    def shape(self, data: Dataset) -> tuple[int, int, int]:
        return data.channels, self._tile(data.resolution), len(self.permutations) * self.grid**2

    def _tile(self, resolution: int) -> int:
        patch = resolution // self.grid
        tile = MULTIPLE * max(1, round(TILE * patch / MULTIPLE))
        if tile > patch:
            raise ConfigError(f"{self.name} needs images of at least {MULTIPLE * self.grid} pixels, not {resolution}")
        return tile

    def adapt(self, graph: Graph) -> Graph:
        (output,) = graph.outputs
        end = Node(f"{output}/tiles", TileSum(self.grid**2), (output,), graph.nodes[-1].block)
        return Graph([*graph.nodes, end], graph.inputs, [end.name], graph.label)

    def examples(
        self, images: Tensor, data: PretextData, generator: Generator, training: bool
    ) -> tuple[Tensor, Tensor]:
        import torch

        batch, channels, height, _ = images.shape
        patch, tile, count = height // self.grid, data.resolution, self.grid**2
        pixels = images.float() / 255
        if training and channels == 3:
            grey = torch.rand(batch, generator=generator).to(images.device) < GREY
            luma = pixels.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
            pixels = torch.where(grey.view(-1, 1, 1, 1), (pixels * luma).sum(dim=1, keepdim=True), pixels)
        answers = torch.randint(len(self.permutations), (batch,), generator=generator)
        order = torch.from_numpy(self.permutations)[answers]  # which patch lies at each place
        corner = torch.randint(patch - tile + 1, (2, batch, count), generator=generator)
        top, left = order // self.grid * patch + corner[0], order % self.grid * patch + corner[1]
        steps = torch.arange(tile)
        rows, columns = top[:, :, None] + steps, left[:, :, None] + steps  # (batch, tiles, tile)
        index = (rows[:, :, :, None] * images.shape[3] + columns[:, :, None, :]).view(batch, 1, -1).to(images.device)
        taken = pixels.flatten(2).gather(2, index.expand(-1, channels, -1))
        tiles = taken.view(batch, channels, count, tile, tile).transpose(1, 2).reshape(-1, channels, tile, tile)
        mean = tiles.mean(dim=(2, 3), keepdim=True)
        spread = tiles.std(dim=(2, 3), keepdim=True).clamp_min(1 / 255)
        inputs = ((tiles - mean) / spread).contiguous(memory_format=torch.channels_last)
        return inputs, answers.to(images.device)


class Jigsaw9(Jigsaw):
    """3x3 tiles and 64 orders of them that differ in many places."""

    name: ClassVar[str] = "jigsaw9"
    summary: ClassVar[str] = "in which of 64 orders 3x3 tiles were shuffled"
    multiple: ClassVar[int] = 9
    grid: ClassVar[int] = 3

    @cached_property
    def permutations(self) -> np.ndarray:
        """64 orders, chosen one by one as far from those before as a random thousand allows (Hamming distance)."""
        rng = np.random.default_rng(0)
        chosen = [np.arange(9)]
        while len(chosen) < 64:
            drawn = rng.permuted(np.tile(np.arange(9), (1000, 1)), axis=1)
            nearest = (drawn[:, None, :] != np.array(chosen)[None]).sum(axis=2).min(axis=1)
            chosen.append(drawn[int(nearest.argmax())])
        return np.array(chosen)
