"""Training one network: best-on-validation weights, and their accuracy on test images."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hwnas.data.base import Dataset
from hwnas.training.config import TrainConfig
from hwnas.training.loop import EpochRecord, Loop, Progress, distillation_loss
from hwnas.training.scoring import evaluate

__all__ = ["Teacher", "TrainResult", "train"]

#: A function from normalised images to logits, such as `hwnas.training.supernet.Teacher`.
Teacher = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class TrainResult:
    """What training came to.

    Attributes
    ----------
    valid_accuracy, test_accuracy
        Of the weights that were best on the validation images, 0–1.
    best_epoch
        The epoch of these weights, from 1.
    history
        One record an epoch.
    seconds
        Wall time of the training, over all resumed parts.
    precision, device
        What it was computed with.
    """

    valid_accuracy: float
    test_accuracy: float
    best_epoch: int
    history: tuple[EpochRecord, ...]
    seconds: float
    precision: str
    device: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def train(
    module: nn.Module,
    data: Dataset,
    config: TrainConfig | None = None,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    teacher: Teacher | None = None,
    progress: Progress | None = None,
    stage: str = "training",
    save_seconds: float = 5.0,
) -> TrainResult:
    """Train `module` in place; it ends with the weights that were best on the validation images, in evaluation mode.

    With several ranks (`hwnas.ranks`), each calls this with the same arguments.

    Parameters
    ----------
    module
        Any network from ``(B, channels, resolution, resolution)`` to logits, with the weights to start from.
    data
        Images.
    config
        Settings; the defaults of `TrainConfig` if not given.
    checkpoint
        File (safetensors) to resume from if it exists, and to write while training.
    teacher
        Function from normalised images to logits, which the network also learns to match.
    progress
        Called as ``progress(steps done, steps in all, text)``.
    stage
        What the text says before ``": "``.
    save_seconds
        Do not write the checkpoint more often than this; 0 writes it after every epoch.

    Raises
    ------
    ModelError
        If the checkpoint cannot be used, or training diverges.
    """
    config = config or TrainConfig()
    loop = Loop(module, data, config, checkpoint=checkpoint, progress=progress, stage=stage, save_seconds=save_seconds)

    def loss_of(images: Tensor, labels: Tensor) -> Tensor:
        logits = module(images)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=config.label_smoothing)
        if teacher is not None and config.distillation:
            with torch.no_grad():
                target = teacher(images)
            loss = torch.lerp(loss, distillation_loss(logits, target, config.temperature), config.distillation)
        return loss

    loop.settle_precision(loss_of)
    for _ in loop:
        for images, labels in loop.batches():
            with loop.forward():
                loss = loop.joint(loss_of(images, labels))
            loop.step(loss)
        with loop.averaged():
            score = evaluate(module, data, data.valid, share=loop.share)
        loop.end_epoch(score)
    loop.load_best()
    best = max(loop.history, key=lambda record: (record.accuracy or 0.0, -(record.valid_loss or 0.0)))
    return TrainResult(
        valid_accuracy=best.accuracy or 0.0,
        test_accuracy=evaluate(module, data, data.test, share=loop.share).accuracy,
        best_epoch=best.epoch,
        history=tuple(loop.history),
        seconds=loop.seconds,
        precision=loop.precision or "float32",
        device=str(loop.device),
    )
