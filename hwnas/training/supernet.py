"""Supernets after SPOS: single paths drawn uniformly, BatchNorm recalibrated before a path is judged.

Single Path One-Shot NAS with Uniform Sampling (Guo et al., arXiv 1904.00420), sections 3.2 and 3.4.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hwnas import ranks
from hwnas.data.base import Dataset, Split, subset_indices
from hwnas.spaces.errors import ConfigError
from hwnas.training.config import TrainConfig
from hwnas.training.loop import EpochRecord, Loop, Progress, distillation_loss

if TYPE_CHECKING:
    from hwnas.spaces.space import Architecture, SearchSpace
    from hwnas.spaces.supernet import Supernet

__all__ = [
    "BoxSampler",
    "Calibration",
    "PathSampler",
    "SupernetResult",
    "Teacher",
    "largest",
    "recalibrated",
    "train_supernet",
]

#: images of the calibration set that are held as normalised floats; above it they stay uint8
MOST_CACHED_BYTES = 512_000_000


class PathSampler(Protocol):
    """Draws the architectures to train, such as a `hwnas.sampler.FeasibleSampler`."""

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """`n` architectures, shape ``(n, decisions)``."""


@dataclass(frozen=True)
class SupernetResult:
    """What training a supernet came to: one record an epoch, wall time, and what it was computed with."""

    history: tuple[EpochRecord, ...]
    seconds: float
    precision: str
    device: str


class _Uniform:
    def __init__(self, space: SearchSpace) -> None:
        self.space = space

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        return self.space.sample(n, rng)


class BoxSampler:
    """Uniform architectures of a box in a space: per decision a bool mask over its choices."""

    def __init__(self, allowed: Sequence[np.ndarray]) -> None:
        self.choices = [np.flatnonzero(mask) for mask in allowed]

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """`n` architectures, shape ``(n, decisions)``."""
        return np.stack([rng.choice(choices, n) for choices in self.choices], axis=1)


def train_supernet(
    supernet: Supernet,
    data: Dataset,
    config: TrainConfig | None = None,
    *,
    sampler: PathSampler | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    distill: bool = False,
    progress: Progress | None = None,
    stage: str = "supernet",
    save_seconds: float = 5.0,
) -> SupernetResult:
    """Train the shared weights in place, one path a step.

    With several ranks (`hwnas.ranks`), each calls this with the same arguments, and all train the same path.

    Parameters
    ----------
    supernet
        The weights of all architectures.
    data
        Images.
    config
        Settings; `TrainConfig.supernet` if not given.
    sampler
        Draws the paths; uniformly from the whole space if not given. SPOS trains, as it searches, inside
        its constraint: give the sampler of the feasible architectures.
    checkpoint, progress, stage, save_seconds
        As of `hwnas.training.trainer.train`.
    distill
        Also train the largest architecture in every step, and let the drawn one learn from its output
        (in-place distillation, arXiv 1903.05134): about twice the time, for a closer ranking.

    Raises
    ------
    ModelError
        If the checkpoint cannot be used, or training diverges.
    """
    config = config or TrainConfig.supernet()
    if config.ema:
        # every step moves another path: an average would mix weights of different ages
        raise ConfigError(f"a supernet is trained without an average of its weights; set ema to 0, not {config.ema:g}")
    sampler = sampler or _Uniform(supernet.space)
    teacher = largest(supernet.space, sampler) if distill else None
    loop = Loop(
        supernet,
        data,
        config,
        checkpoint=checkpoint,
        kind="distilled supernet" if distill else "supernet",
        progress=progress,
        stage=stage,
        save_seconds=save_seconds,
    )

    def loss_of(images: Tensor, labels: Tensor, path: Sequence[int]) -> Tensor:
        if teacher is None:
            return F.cross_entropy(supernet(images, path).float(), labels, label_smoothing=config.label_smoothing)
        target = supernet(images, teacher).float()
        loss = F.cross_entropy(target, labels, label_smoothing=config.label_smoothing)
        return loss + distillation_loss(supernet(images, path), target, config.temperature)

    first = sampler.sample(1, loop.rng(0, 0))[0].tolist()
    loop.settle_precision(lambda images, labels: loss_of(images, labels, first))
    for epoch in loop:
        paths = sampler.sample(loop.steps, loop.rng(epoch, 0)).tolist()
        ranks.check_same(paths, "the paths that were drawn")
        for (images, labels), path in zip(loop.batches(), paths, strict=True):
            with loop.forward():
                loss = loop.joint(loss_of(images, labels, path))
            loop.step(loss)
        loop.end_epoch()
    supernet.eval()
    return SupernetResult(tuple(loop.history), loop.seconds, loop.precision or "float32", str(loop.device))


def largest(space: SearchSpace, sampler: PathSampler | None = None, *, seed: int = 0) -> Architecture:
    """The architecture with the most MACs: of the space, or of a thousand that `sampler` draws.

    In a space the best of a thousand is climbed from, one decision at a time, until no change adds MACs.
    """
    macs = np.array([block.macs for block in space.catalog], dtype=np.float64)
    rng = np.random.default_rng(seed)
    drawn = (sampler or _Uniform(space)).sample(1000, rng)
    best = drawn[int(space.price(drawn, macs).argmax())].copy()
    if sampler is not None and not isinstance(sampler, _Uniform):
        return tuple(best.tolist())
    improved = True
    while improved:
        improved = False
        for decision, radix in enumerate(space.radices.tolist()):
            choices = np.repeat(best[None], radix, axis=0)
            choices[:, decision] = np.arange(radix)
            costs = space.price(choices, macs)
            if costs.max() > costs[best[decision]]:
                best, improved = choices[int(costs.argmax())], True
    return tuple(best.tolist())


# ---------------------------------------------------------------------- recalibration


class Calibration:
    """A fixed set of training images that BatchNorm statistics are recomputed from, prepared once.

    Parameters
    ----------
    data
        Where the images come from: the training split, without augmentation, classes in proportion.
    batches, batch_size
        How many are taken: SPOS takes 200 batches of 128 on ImageNet. Never more than there are.
    seed
        Of the draw.
    device
        Where they are run.
    """

    def __init__(
        self,
        data: Dataset,
        *,
        batches: int = 200,
        batch_size: int = 128,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        if batches < 1 or batch_size < 2:
            raise ConfigError(f"recalibration needs batches of 2 images or more, not {batches} of {batch_size}")
        count = min(batches * batch_size, len(data.train))
        rng = np.random.default_rng([seed, count])
        # read in the order of the files, run in random order: a batch must not hold one class alone
        chosen = subset_indices(data.train.labels, count, rng)
        split = data.train.take(rng.permutation(chosen))
        self._data, self._size, self._device = data, batch_size, torch.device(device)
        fits = count * data.channels * data.resolution**2 * 4 <= MOST_CACHED_BYTES
        self._split: Split = split.in_memory() if fits else split
        self._cache: list[Tensor] | None = None
        if fits:
            self._cache = [images for images, _ in data.batches(self._split, batch_size, self._device)]

    def __iter__(self) -> Iterator[Tensor]:
        if self._cache is not None:
            yield from self._cache
        else:
            for images, _ in self._data.batches(self._split, self._size, self._device):
                yield images


@contextmanager
def recalibrated(supernet: Supernet, architecture: Sequence[int], calibration: Calibration) -> Iterator[nn.Module]:
    """Give the path of `architecture` BatchNorm statistics of its own while the context lasts.

    The shared statistics mix all paths and fit none (SPOS, section 3.4): they are set to zero, averaged over the
    calibration batches, and put back at the end, so that judging a path never changes the supernet.
    """
    norms = [
        part
        for module in supernet.active_modules(architecture)
        for part in module.modules()
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.track_running_stats
    ]
    training = supernet.training
    saved = [{name: buffer.clone() for name, buffer in norm.named_buffers()} for norm in norms]
    momenta = [norm.momentum for norm in norms]
    supernet.eval()
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain average over the batches
            norm.training = True
        with torch.no_grad():
            for images in calibration:
                supernet(images, architecture)
        for norm in norms:
            norm.training = False
        yield supernet
    finally:
        with torch.no_grad():
            for norm, momentum, buffers in zip(norms, momenta, saved, strict=True):
                norm.momentum = momentum
                for name, buffer in norm.named_buffers():
                    buffer.copy_(buffers[name])
        supernet.train(training)


class Teacher:
    """A path of a trained supernet as the teacher of a smaller network: normalised images in, logits out.

    Parameters
    ----------
    supernet
        Trained weights; not copied, and not changed.
    architecture
        The path, such as the `largest`.
    calibration
        Images for its BatchNorm statistics.
    """

    def __init__(self, supernet: Supernet, architecture: Sequence[int], calibration: Calibration) -> None:
        self._module = supernet.graph(architecture).to_module()
        with recalibrated(supernet, architecture, calibration):
            self._module.load_state_dict(supernet.weights_of(tuple(architecture)))
        device = next(supernet.parameters()).device
        self._module.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    def __call__(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = self._module(images)
        return logits
