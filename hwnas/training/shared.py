"""Weights and distribution trained by the same draws, as PARSEC and FP-NAS do (arXiv 1902.05116, 2011.10949).

A step draws architectures, moves the shared weights along ``sum_k w_k d log P(y | A_k)`` on a training batch, w being
the draws' shares of the likelihood, and tells the strategy each draw's loss on a validation batch. One architecture is
in memory at a time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hwnas import ranks
from hwnas.data.base import Dataset
from hwnas.evaluators.base import Evaluation
from hwnas.ranks import Share
from hwnas.training.config import TrainConfig
from hwnas.training.loop import Loop, Progress
from hwnas.training.supernet import SupernetResult

if TYPE_CHECKING:
    from hwnas.spaces.supernet import Supernet
    from hwnas.strategies.base import Strategy

__all__ = ["judging_batches", "train_shared"]

#: More than any step draws.
ALL = 1 << 20


def train_shared(
    supernet: Supernet,
    strategy: Strategy,
    data: Dataset,
    config: TrainConfig | None = None,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    stage: str = "supernet",
    save_seconds: float = 5.0,
) -> SupernetResult:
    """Train the shared weights and the strategy together, in place.

    With several ranks (`hwnas.ranks`), each calls this with the same arguments and a strategy of its own. All are told
    the same losses, and so draw the same.

    Parameters
    ----------
    supernet
        The weights of all architectures.
    strategy
        Asked for the draws of each step, and told minus their losses on validation images, in nats.
    data
        Training images move the weights, validation images the strategy.
    config
        Settings; `TrainConfig.supernet` if not given.
    checkpoint, progress, stage, save_seconds
        As of `hwnas.training.trainer.train`; the strategy's state is part of the checkpoint.

    Raises
    ------
    ModelError
        If the checkpoint cannot be used, or training diverges.
    """
    config = config or TrainConfig.supernet()
    loop = Loop(
        supernet,
        data,
        config,
        checkpoint=checkpoint,
        kind=f"supernet by {strategy.name}",
        progress=progress,
        stage=stage,
        save_seconds=save_seconds,
        companion=strategy,
    )

    def loss_of(images: Tensor, labels: Tensor, path: tuple[int, ...], smoothing: float) -> Tensor:
        return F.cross_entropy(supernet(images, path).float(), labels, label_smoothing=smoothing)

    first = tuple(strategy.space.sample(1, loop.rng(0, 0))[0].tolist())
    loop.settle_precision(lambda images, labels: loss_of(images, labels, first, config.label_smoothing))
    for epoch in loop:
        judges = judging_batches(data, config.batch_size, loop.rng(epoch, 2), loop.device, loop.share)
        for number, (images, labels) in enumerate(loop.batches()):
            strategy.advance((epoch * loop.steps + number) / (config.epochs * loop.steps))
            paths = strategy.ask(ALL)
            ranks.check_same(paths, "the architectures that the strategy drew")
            total, mean, reference = 0.0, torch.zeros((), device=loop.device), 0.0
            for index, path in enumerate(paths):
                with loop.forward():
                    loss = loop.joint(loss_of(images, labels, path, config.label_smoothing))
                reference = reference if index else float(loss.detach())
                # shares of the likelihood, up to a factor that the sum below takes out
                share = float(np.exp(np.clip(reference - float(loss.detach()), -20, 20)))
                loop.backward(share * loss)
                total, mean = total + share, mean + loss.detach() / len(paths)
            for parameter in loop.parameters.values():
                if parameter.grad is not None:
                    parameter.grad.div_(total)
            loop.update(mean)
            judged, wanted, weight = next(judges)
            with torch.no_grad(), loop.forward():
                scores = [-float(loop.joint(loss_of(judged, wanted, path, 0.0), weight)) for path in paths]
            strategy.tell(Evaluation(path, score) for path, score in zip(paths, scores, strict=True))
        loop.end_epoch()
    supernet.eval()
    return SupernetResult(tuple(loop.history), loop.seconds, loop.precision or "float32", str(loop.device))


def judging_batches(
    data: Dataset, batch_size: int, rng: np.random.Generator, device: torch.device, share: Share
) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Validation batches in random order, again and again; incomplete ones are left out unless there is no other.

    Of each the `share`, and what its mean counts in that of the batch.
    """
    size = min(batch_size, len(data.valid))
    part, weight = share.part(size), share.weight(size)
    while True:
        order = rng.permutation(len(data.valid))
        for start in range(0, len(order) - size + 1, size):
            chosen = data.valid.take(order[start : start + size][part])
            for images, labels in data.batches(chosen, size, device):
                yield images, labels, weight
