"""`cifar10`: 60,000 colour images of 32 x 32 pixels, from the *binary* release (never the pickled one)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from hwnas.data.augment import Augmentation
from hwnas.data.base import ArraySplit, Dataset, channel_statistics, hold_out, resize_images
from hwnas.spaces.errors import DataError

__all__ = ["load", "read_batch"]

VARIABLE = "HWNAS_CIFAR10"
FOLDER = "cifar-10-batches-bin"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
VALID = 5_000
SIDE, CHANNELS = 32, 3
RECORD = 1 + CHANNELS * SIDE * SIDE
#: the release has 10,000 images a file
MOST_IMAGES = 100_000
BINARY = "the binary version (cifar-10-binary.tar.gz, files data_batch_1.bin to test_batch.bin)"


def load(
    *,
    root: str | os.PathLike[str] | None = None,
    resolution: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    augmentation: Augmentation | None = None,
) -> Dataset:
    """Read CIFAR-10: 45,000 to train on, 5,000 of the training files to choose by, 10,000 to report on.

    The files are looked for in `root` (or its subfolder ``cifar-10-batches-bin``), else in the folder
    that the environment variable ``HWNAS_CIFAR10`` names, else in ``./cifar-10-batches-bin``.

    Raises
    ------
    DataError
        If they are not there, damaged, or of the release for Python, which is pickled and never opened.
    """
    folder = _find(root)
    parts = [read_batch(path) for path in sorted(folder.glob("data_batch_*.bin"))]
    images, labels = (np.concatenate([part[side] for part in parts]) for side in (0, 1))
    test_images, test_labels = read_batch(folder / "test_batch.bin")
    images, test_images = resize_images(images, resolution), resize_images(test_images, resolution)
    train, valid = hold_out(labels, VALID if len(labels) > 2 * VALID else len(labels) // 5)
    mean, std = channel_statistics([images[train]])
    size = images.shape[2]
    return Dataset(
        name="cifar10",
        train=ArraySplit(images[train], labels[train]),
        valid=ArraySplit(images[valid], labels[valid]),
        test=ArraySplit(test_images, test_labels),
        channels=CHANNELS,
        resolution=size,
        class_names=CLASSES,
        mean=mean,
        std=std,
        augmentation=augmentation or Augmentation(pad=max(1, size // 8), flip=True),
    ).limited(limit, seed)


def _find(root: str | os.PathLike[str] | None) -> Path:
    base = Path(root if root is not None else os.environ.get(VARIABLE) or FOLDER).expanduser()
    for place in (base, base / FOLDER):
        if (place / "data_batch_1.bin").is_file():
            if not (place / "test_batch.bin").is_file():
                raise DataError(f"there is no test_batch.bin in {place}; unpack {BINARY} again")
            return place
    for place in (base, base / "cifar-10-batches-py"):
        if (place / "data_batch_1").is_file():
            raise DataError(f"{place} holds the pickled release, which hwnas never opens; fetch {BINARY}")
    raise DataError(
        f"CIFAR-10 is not in {base}; unpack {BINARY} there, or name its folder as the data root or in {VARIABLE}"
    )


def read_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read one binary file: images uint8 ``(N, 3, 32, 32)`` and labels int64 ``(N,)``.

    Raises
    ------
    DataError
        If it cannot be read, or its size or a label is wrong.
    """
    try:
        size = path.stat().st_size
        if size == 0 or size % RECORD or size > RECORD * MOST_IMAGES:
            raise DataError(f"{path} has {size} bytes, not a multiple of {RECORD}; fetch {BINARY}")
        records = np.fromfile(path, dtype=np.uint8).reshape(-1, RECORD)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; fetch {BINARY}") from error
    labels = records[:, 0].astype(np.int64)
    if labels.max() >= len(CLASSES):
        raise DataError(f"{path} has the label {labels.max()}, but there are {len(CLASSES)} classes; fetch {BINARY}")
    return records[:, 1:].reshape(-1, CHANNELS, SIDE, SIDE), labels
