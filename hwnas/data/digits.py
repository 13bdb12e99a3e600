"""`digits`: scikit-learn's 1,797 handwritten digits of 8 x 8 pixels; nothing to download."""

from __future__ import annotations

import os

import numpy as np

from hwnas.data.augment import Augmentation
from hwnas.data.base import ArraySplit, Dataset, channel_statistics, hold_out, resize_images

__all__ = ["load"]

VALID, TEST = 360, 360


def load(
    *,
    root: str | os.PathLike[str] | None = None,  # noqa: ARG001 (every data set takes it)
    resolution: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    augmentation: Augmentation | None = None,
) -> Dataset:
    """Read the digits: 1,077 to train on, 360 to choose by, 360 to report on, always the same ones.

    `root` is not used: the images come with scikit-learn. See `hwnas.data.load_data` for the rest.
    """
    from sklearn.datasets import load_digits

    raw = load_digits()
    images = np.rint(raw.images * (255 / 16)).astype(np.uint8)[:, None]
    labels = raw.target.astype(np.int64)
    images = resize_images(images, resolution)
    rest, test = hold_out(labels, TEST, stream=0)
    kept, valid = hold_out(labels[rest], VALID, stream=1)
    train, valid = rest[kept], rest[valid]
    mean, std = channel_statistics([images[train]])
    size = images.shape[2]
    return Dataset(
        name="digits",
        train=ArraySplit(images[train], labels[train]),
        valid=ArraySplit(images[valid], labels[valid]),
        test=ArraySplit(images[test], labels[test]),
        channels=1,
        resolution=size,
        class_names=tuple(str(digit) for digit in range(10)),
        mean=mean,
        std=std,
        augmentation=augmentation or Augmentation(pad=max(1, size // 8)),
    ).limited(limit, seed)
