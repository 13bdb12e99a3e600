"""Accuracy and loss of a network on a split."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hwnas import ranks
from hwnas.data.base import Dataset, Split
from hwnas.ranks import WHOLE, Share

__all__ = ["EVAL_BATCH", "Score", "evaluate", "score_batches"]

EVAL_BATCH = 250


@dataclass(frozen=True)
class Score:
    """Result of an evaluation.

    Attributes
    ----------
    accuracy
        Share of the images whose most likely class is right, 0–1.
    loss
        Mean cross-entropy in nats.
    images
        Number of images.
    """

    accuracy: float
    loss: float
    images: int

    def better_than(self, other: Score | None) -> bool:
        """Higher accuracy; on a tie, lower loss."""
        return other is None or (self.accuracy, -self.loss) > (other.accuracy, -other.loss)


def score_batches(
    forward: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]], share: Share = WHOLE
) -> Score:
    """Run `forward` over normalised batches and compare its logits with the labels.

    Where `batches` are a share, every rank must call this with its own, and gets the score of all.
    """
    hits, losses, images = [], [], 0
    with torch.inference_mode():
        for inputs, labels in batches:
            logits = forward(inputs).float()
            hits.append((logits.argmax(1) == labels).sum())
            losses.append(F.cross_entropy(logits, labels, reduction="sum"))
            images += len(labels)
        right = float(torch.stack(hits).sum()) if hits else 0.0
        loss = float(torch.stack(losses).sum()) if hits else 0.0
        if share.ranks > 1:
            right, loss, images = ranks.total(torch.tensor([right, loss, images], dtype=torch.float64)).tolist()
        if not images:
            return Score(0.0, float("inf"), 0)
        return Score(right / images, loss / images, int(images))


def evaluate(
    module: nn.Module, data: Dataset, split: Split, batch_size: int = EVAL_BATCH, share: Share = WHOLE
) -> Score:
    """Score a network in float32 on a split of `data`, on the device that holds it, in evaluation mode.

    With a `share`, every rank must call this and scores its part of the images; each gets the score of all.
    """
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    training = module.training
    module.eval()
    try:
        return score_batches(module, data.batches(split, batch_size, device, share), share)
    finally:
        module.train(training)
