"""Weights and architecture trained through a mixture of all operations: DARTS (arXiv 1806.09055), first order."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional as F

from hwnas import ranks
from hwnas.data.base import Dataset
from hwnas.training.config import TrainConfig
from hwnas.training.loop import Loop, Progress
from hwnas.training.shared import judging_batches
from hwnas.training.supernet import SupernetResult

if TYPE_CHECKING:
    from hwnas.spaces.supernet import Supernet
    from hwnas.strategies.darts import Darts

__all__ = ["train_mixture"]


def train_mixture(
    supernet: Supernet,
    strategy: Darts,
    data: Dataset,
    config: TrainConfig | None = None,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    stage: str = "supernet",
    save_seconds: float = 5.0,
) -> SupernetResult:
    """Train the weights of all operations and the parameters that weigh them, in place.

    With several ranks (`hwnas.ranks`), each calls this with the same arguments and a strategy of its own.

    A step moves the parameters on validation images, then the weights on training images; gradients of the weights
    are clipped at `TrainConfig.clip` (5, as published).

    Parameters
    ----------
    supernet
        Weights of the space `darts`.
    strategy
        Holds the parameters; its state is part of the checkpoint.
    data
        Training images move the weights, validation images the parameters.
    config
        Settings; `TrainConfig.supernet` if not given.
    checkpoint, progress, stage, save_seconds
        As of `hwnas.training.trainer.train`.

    Raises
    ------
    ConfigError
        If the supernet is of another space.
    ModelError
        If the checkpoint cannot be used, or training diverges.
    """
    from hwnas.spaces.mixture import Mixture

    config = config or TrainConfig.supernet()
    mixture = Mixture(supernet)
    loop = Loop(
        supernet,
        data,
        config,
        checkpoint=checkpoint,
        kind="mixture",
        progress=progress,
        stage=stage,
        save_seconds=save_seconds,
        companion=strategy,
    )

    def loss_of(images: Tensor, labels: Tensor, shares: Tensor, smoothing: float) -> Tensor:
        return F.cross_entropy(mixture(images, shares).float(), labels, label_smoothing=smoothing)

    loop.settle_precision(
        lambda images, labels: loss_of(images, labels, strategy.shares().detach().to(loop.device), 0.0)
    )
    for epoch in loop:
        judges = judging_batches(data, config.batch_size, loop.rng(epoch, 2), loop.device, loop.share)
        for number, (images, labels) in enumerate(loop.batches()):
            strategy.advance((epoch * loop.steps + number) / (config.epochs * loop.steps))
            judged, wanted, weight = next(judges)
            shares = strategy.shares()
            # each rank's strategy moves along the gradient of the whole batch
            shares.register_hook(lambda gradient: ranks.total(gradient.clone()))  # type: ignore[no-untyped-call]
            with loop.forward():
                loss = loop.joint(loss_of(judged, wanted, shares.to(loop.device), 0.0), weight)
            strategy.descend(loss)
            shares = strategy.shares().detach().to(loop.device)
            with loop.forward():
                loss = loop.joint(loss_of(images, labels, shares, config.label_smoothing))
            loop.step(loss)
        loop.end_epoch()
    supernet.eval()
    return SupernetResult(tuple(loop.history), loop.seconds, loop.precision or "float32", str(loop.device))
