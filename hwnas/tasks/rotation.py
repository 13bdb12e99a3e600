"""Rotation (Gidaris et al., arXiv 1803.07728): by how many quarter turns was an image turned?"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from hwnas.tasks.base import PretextData, PretextTask

if TYPE_CHECKING:
    from torch import Generator, Tensor

__all__ = ["Rotation"]


class Rotation(PretextTask):
    """Every image in all four orientations, in the same batch."""

    name: ClassVar[str] = "rotation"
    summary: ClassVar[str] = "by how many quarter turns an image was turned, of four"
    multiple: ClassVar[int] = 4

    def answers(self) -> list[str]:
        return [f"{90 * turns} degrees" for turns in range(4)]

    def examples(
        self, images: Tensor, data: PretextData, generator: Generator, training: bool
    ) -> tuple[Tensor, Tensor]:
        import torch

        inputs = data.normalise(images)
        turned = torch.cat([torch.rot90(inputs, turns, (2, 3)) for turns in range(4)])
        answers = torch.arange(4, device=images.device).repeat_interleave(len(images))
        return turned.contiguous(memory_format=torch.channels_last), answers
