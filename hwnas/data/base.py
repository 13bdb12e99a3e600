"""What every data set is: three splits of uint8 images, and how they become batches for a network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hwnas.data.augment import Augmentation
from hwnas.ranks import WHOLE, Share
from hwnas.spaces.errors import ConfigError, DataError

if TYPE_CHECKING:
    from torch import Tensor, device

__all__ = ["ArraySplit", "Dataset", "Split", "channel_statistics", "hold_out", "resize_images", "subset_indices"]

NOTHING = Augmentation()
#: seed of the splits that hwnas makes itself: validation and test images are the same in every run
SPLIT_SEED = 20_190_331


class Split(ABC):
    """Images and labels that can be read in any order.

    Attributes
    ----------
    labels
        Class indices, int64, shape ``(N,)``.
    """

    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def batches(
        self, size: int, *, order: np.ndarray | None = None, crop_seed: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images (uint8, ``(B, C, H, W)``) and labels (int64, ``(B,)``).

        Parameters
        ----------
        size
            Images in a batch; the last one may be smaller.
        order
            Indices to read, in this order; all of them in their own order if not given.
        crop_seed
            Read randomly cropped images, where the split crops while it decodes; the crop of an image
            depends on this seed and its index alone.

        Raises
        ------
        DataError
            If an image cannot be decoded.
        """

    def image_batches(
        self, size: int, *, order: np.ndarray | None = None, crop_seed: int | None = None
    ) -> Iterator[Tensor]:
        """The images of `batches` alone; for those who must not see labels."""
        for images, _ in self.batches(size, order=order, crop_seed=crop_seed):
            yield images

    @abstractmethod
    def take(self, indices: np.ndarray) -> Split:
        """The split of the given images."""

    def in_memory(self, size: int = 256) -> ArraySplit:
        """All images decoded, for sets that are read many times."""
        images = [batch.numpy() for batch, _ in self.batches(size)]
        return ArraySplit(np.concatenate(images), self.labels)


class ArraySplit(Split):
    """Images in memory.

    Parameters
    ----------
    images
        uint8, shape ``(N, C, H, W)``.
    labels
        int64, shape ``(N,)``.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        if images.dtype != np.uint8 or images.ndim != 4 or len(images) != len(labels):
            raise ValueError(f"{images.dtype} images of shape {images.shape} do not go with {len(labels)} labels")
        self.images, self.labels = np.ascontiguousarray(images), labels.astype(np.int64)

    def batches(
        self, size: int, *, order: np.ndarray | None = None, crop_seed: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        import torch

        images, labels = torch.from_numpy(self.images), torch.from_numpy(self.labels)
        if order is None:
            for start in range(0, len(self), size):
                yield images[start : start + size], labels[start : start + size]
            return
        chosen = torch.from_numpy(np.asarray(order, dtype=np.int64))
        for start in range(0, len(chosen), size):
            index = chosen[start : start + size]
            yield images[index], labels[index]

    def image_batches(
        self, size: int, *, order: np.ndarray | None = None, crop_seed: int | None = None
    ) -> Iterator[Tensor]:
        import torch

        chosen = np.arange(len(self.images)) if order is None else np.asarray(order, dtype=np.int64)
        for start in range(0, len(chosen), size):
            yield torch.from_numpy(self.images[chosen[start : start + size]])

    def take(self, indices: np.ndarray) -> ArraySplit:
        return ArraySplit(self.images[indices], self.labels[indices])

    def in_memory(self, size: int = 256) -> ArraySplit:
        return self


@dataclass(frozen=True)
class Dataset:
    """A data set for classification.

    Attributes
    ----------
    name
        The name it was loaded by; of a folder, its path.
    train, valid, test
        Disjoint splits: to train on, to choose by, to report on.
    channels, resolution
        Shape of an image, ``(channels, resolution, resolution)``.
    class_names
        One name a class, in the order of the labels.
    mean, std
        Of the training images, per channel, with pixels scaled to 0–1.
    augmentation
        What is done to training batches.
    """

    name: str
    train: Split
    valid: Split
    test: Split
    channels: int
    resolution: int
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation = NOTHING

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint compares: training went on with these data."""
        return {
            "name": self.name,
            "images": [len(self.train), len(self.valid), len(self.test)],
            "shape": [self.channels, self.resolution, self.classes],
            "mean": [round(value, 6) for value in self.mean],
        }

    def limited(self, limit: int | None, seed: int = 0) -> Dataset:
        """The same set with at most `limit` training images, the classes in proportion.

        Raises
        ------
        ConfigError
            If there would be fewer images than classes.
        """
        if limit is None or limit >= len(self.train):
            return self
        if limit < self.classes:
            raise ConfigError(f"limit={limit} leaves classes of {self.name} empty; give at least {self.classes}")
        chosen = subset_indices(self.train.labels, limit, np.random.default_rng([seed, limit]))
        return replace(self, train=self.train.take(chosen))

    def steps(self, batch_size: int) -> int:
        """Batches in an epoch: incomplete ones are left out, unless there is no other."""
        return max(1, len(self.train) // batch_size)

    def step_images(self, batch_size: int) -> int:
        """Images that a batch is made of."""
        return min(batch_size, len(self.train))

    def normalise(self, images: Tensor) -> Tensor:
        """Turn uint8 pixels ``(B, C, H, W)`` into a network's input: float32, mean 0, variance 1, channels last."""
        import torch

        shape = (1, self.channels, 1, 1)
        mean = torch.tensor(self.mean, device=images.device).mul_(255.0).view(shape)
        scale = torch.tensor(self.std, device=images.device).mul_(255.0).reciprocal_().view(shape)
        images = images.to(torch.float32, memory_format=torch.channels_last)
        return images.sub_(mean).mul_(scale)

    def training_batches(
        self,
        batch_size: int,
        *,
        seed: int,
        epoch: int,
        device: device | str = "cpu",
        augment: bool = True,
        share: Share = WHOLE,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Shuffled, augmented, normalised batches of one epoch.

        Everything random follows from `seed` and `epoch`, so that an epoch can be repeated exactly. With a `share`,
        only this part of each batch is read; together the parts of all ranks are the batches of a process on its own.

        Yields
        ------
        tuple
            Images, float32 ``(B, C, H, W)`` in channels-last order, and labels, int64 ``(B,)``.
        """
        import torch

        rng = np.random.default_rng([seed, epoch])
        order = rng.permutation(len(self.train))[: self.steps(batch_size) * batch_size]
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        crop_seed = int(rng.integers(2**62)) if augment else None
        count = self.step_images(batch_size)
        part = share.part(count)
        own = share.of_steps(order, count)
        for images, labels in self.train.batches(part.stop - part.start, order=own, crop_seed=crop_seed):
            images = images.to(device, non_blocking=True)
            if augment:
                images = self.augmentation.geometric(images, generator, count, part)
            images = self.normalise(images)
            if augment:
                images = self.augmentation.erase(images, generator, count, part)
            yield images, labels.to(device, non_blocking=True)

    def batches(
        self, split: Split, batch_size: int, device: device | str = "cpu", share: Share = WHOLE
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised batches of a split, or of a share of it, in its own order."""
        for images, labels in split.batches(batch_size, order=share.of_all(len(split))):
            yield self.normalise(images.to(device, non_blocking=True)), labels.to(device, non_blocking=True)


def subset_indices(labels: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Sorted indices of a random subset in which every class has its share (largest remainders)."""
    classes, sizes = np.unique(labels, return_counts=True)
    shares = sizes * count / len(labels)
    quota = np.floor(shares).astype(np.int64)
    quota[np.argsort(-(shares - quota), kind="stable")[: count - int(quota.sum())]] += 1
    chosen = [
        rng.permutation(np.flatnonzero(labels == label))[:number]
        for label, number in zip(classes, quota.tolist(), strict=True)
    ]
    return np.sort(np.concatenate(chosen))


def hold_out(labels: np.ndarray, count: int, *, stream: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Split indices into those kept and `count` held out, with the classes in proportion, always the same way."""
    held = subset_indices(labels, count, np.random.default_rng([SPLIT_SEED, stream]))
    kept = np.setdiff1d(np.arange(len(labels)), held)
    if not len(kept) or not len(held):
        raise DataError(f"{len(labels)} images are too few to hold out {count}")
    return kept, held


def resize_images(images: np.ndarray, resolution: int | None) -> np.ndarray:
    """Resize uint8 images ``(N, C, H, W)`` to a square, bilinear and antialiased; bounded extra memory."""
    if resolution is None or images.shape[2:] == (resolution, resolution):
        return images
    import torch
    from torch.nn import functional as F

    size = (resolution, resolution)
    resized = np.empty((*images.shape[:2], *size), dtype=np.uint8)
    for start in range(0, len(images), 1024):
        chunk = torch.from_numpy(images[start : start + 1024])
        resized[start : start + 1024] = F.interpolate(chunk, size=size, mode="bilinear", antialias=True).numpy()
    return resized


def channel_statistics(batches: Iterable[np.ndarray]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of uint8 images, pixels scaled to 0–1.

    Parameters
    ----------
    batches
        Arrays of shape ``(N, C, H, W)``, read one after the other; none of them is kept.
    """
    histograms: np.ndarray | None = None
    for batch in batches:
        for start in range(0, len(batch), 64):  # bincount takes eight bytes a pixel
            part = batch[start : start + 64]
            found = np.stack([np.bincount(part[:, c].reshape(-1), minlength=256) for c in range(part.shape[1])])
            histograms = found if histograms is None else histograms + found
    assert histograms is not None
    levels = np.arange(256) / 255.0
    shares = histograms / histograms.sum(axis=1, keepdims=True)
    means = shares @ levels
    stds = np.sqrt((shares * (levels - means[:, None]) ** 2).sum(axis=1))
    return tuple(means.tolist()), tuple(np.maximum(stds, 1 / 255).tolist())  # a constant channel stays finite
