"""Augmentation of whole batches at once, as tensor operations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwnas.spaces.errors import ConfigError

if TYPE_CHECKING:
    from torch import Generator, Tensor

__all__ = ["Augmentation"]


@dataclass(frozen=True)
class Augmentation:
    """What is done to a training batch; every image draws its own crop, flip and hole.

    Attributes
    ----------
    pad
        Pad by so many pixels (black) on every side, then crop back to the size at a random place.
    flip
        Mirror left and right with chance one half. Not for digits.
    erasing
        Chance of a square hole (Cutout, arXiv 1708.04552), filled with the mean colour.
    hole
        Side of the hole as a share of the image's side.
    """

    pad: int = 0
    flip: bool = False
    erasing: float = 0.0
    hole: float = 0.5

    def __post_init__(self) -> None:
        if self.pad < 0 or not 0 <= self.erasing <= 1 or not 0 < self.hole <= 1:
            raise ConfigError(
                f"augmentation needs pad >= 0, erasing between 0 and 1 and hole above 0, not {self.pad}, "
                f"{self.erasing} and {self.hole}"
            )

    def geometric(
        self, images: Tensor, generator: Generator, count: int | None = None, part: slice = slice(None)
    ) -> Tensor:
        """Crop and flip uint8 images ``(B, C, H, W)``: one gather for the whole batch.

        Where `images` are a part of a batch of `count`, each is changed as it would be in the whole batch.
        """
        import torch
        from torch.nn import functional as F

        if not self.pad and not self.flip:
            return images
        batch, channels, height, width = images.shape
        whole = batch if count is None else count
        # drawn on the CPU, so that the same seed crops alike on every device
        top, left = torch.randint(0, 2 * self.pad + 1, (2, whole, 1), generator=generator)[:, part]
        columns = torch.arange(width)
        if self.flip:
            mirrored = torch.rand(whole, 1, generator=generator)[part] < 0.5
            columns = torch.where(mirrored, width - 1 - columns, columns)
        rows, columns = torch.arange(height) + top, columns + left
        stride = width + 2 * self.pad
        index = (rows[:, :, None] * stride + columns[:, None, :]).view(batch, 1, height * width).to(images.device)
        flat = F.pad(images, (self.pad,) * 4).flatten(2)
        return flat.gather(2, index.expand(-1, channels, -1)).view(images.shape)

    def erase(
        self, images: Tensor, generator: Generator, count: int | None = None, part: slice = slice(None)
    ) -> Tensor:
        """Cut holes into normalised images ``(B, C, H, W)``, in place; `count` and `part` as of `geometric`."""
        import torch

        if not self.erasing:
            return images
        batch, _, height, width = images.shape
        whole = batch if count is None else count
        place = torch.rand(2, whole, 1, generator=generator)[:, part]
        hit = torch.rand(whole, 1, generator=generator)[part] < self.erasing

        def inside(size: int, centre: Tensor) -> Tensor:
            return (torch.arange(size) + 0.5 - centre * size).abs() <= self.hole * size / 2

        mask = inside(height, place[0])[:, :, None] & inside(width, place[1])[:, None, :] & hit[:, :, None]
        return images.masked_fill_(mask[:, None].to(images.device), 0.0)
