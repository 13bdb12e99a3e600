"""`fashion-mnist`: 70,000 articles of clothing, 28 x 28 grey (arXiv 1708.07747), from its IDX files."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from hwnas.data.augment import Augmentation
from hwnas.data.base import ArraySplit, Dataset, channel_statistics, hold_out, resize_images
from hwnas.spaces.errors import DataError

__all__ = ["load", "read_idx"]

VARIABLE = "HWNAS_FASHION_MNIST"
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
VALID = 5_000
SIDE = 28
#: no IDX file of this family is larger; a header that says more is damaged
MOST_IMAGES = 1_000_000
#: bytes that an archive may unpack to
MOST_BYTES = 1_000_000_000


def load(
    *,
    root: str | os.PathLike[str] | None = None,
    resolution: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    augmentation: Augmentation | None = None,
) -> Dataset:
    """Read Fashion-MNIST: 55,000 to train on, 5,000 of the training file to choose by, 10,000 to report on.

    The four IDX files, plain or gzipped, are looked for in `root`, in the folder that the environment
    variable ``HWNAS_FASHION_MNIST`` names, and where Debian's package dataset-fashion-mnist puts them.

    Raises
    ------
    DataError
        If they are not there, or damaged.
    """
    folder = _find(root)
    images, labels = _pair(folder, "train")
    test_images, test_labels = _pair(folder, "t10k")
    images, test_images = resize_images(images, resolution), resize_images(test_images, resolution)
    train, valid = hold_out(labels, VALID if len(labels) > 2 * VALID else len(labels) // 5)
    mean, std = channel_statistics([images[train]])
    size = images.shape[2]
    return Dataset(
        name="fashion-mnist",
        train=ArraySplit(images[train], labels[train]),
        valid=ArraySplit(images[valid], labels[valid]),
        test=ArraySplit(test_images, test_labels),
        channels=1,
        resolution=size,
        class_names=CLASSES,
        mean=mean,
        std=std,
        augmentation=augmentation or Augmentation(pad=max(1, size // 14), flip=True),
    ).limited(limit, seed)


def _find(root: str | os.PathLike[str] | None) -> Path:
    if root is not None:
        places = [Path(root).expanduser()]
    else:
        named = os.environ.get(VARIABLE)
        places = [Path(named).expanduser()] if named else [DEBIAN]
    for place in places:
        if any((place / f"train-images-idx3-ubyte{suffix}").is_file() for suffix in ("", ".gz")):
            return place
    looked = ", ".join(str(place) for place in places)
    raise DataError(
        f"Fashion-MNIST is not in {looked}; install Debian's package dataset-fashion-mnist, or name the folder that "
        f"holds train-images-idx3-ubyte.gz as the data root or in {VARIABLE}"
    )


def _pair(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    images = read_idx(_either(folder / f"{part}-images-idx3-ubyte"), axes=3)
    source = _either(folder / f"{part}-labels-idx1-ubyte")
    labels = read_idx(source, axes=1)
    if images.shape[1:] != (SIDE, SIDE):
        raise DataError(f"the images of {folder} are {images.shape[1]}x{images.shape[2]}, not {SIDE}x{SIDE}")
    if len(images) != len(labels):
        raise DataError(f"{source} has {len(labels)} labels for {len(images)} images; fetch the files again")
    if labels.max(initial=0) >= len(CLASSES):
        raise DataError(f"{source} has the label {labels.max()}, but there are {len(CLASSES)} classes")
    return images[:, None], labels.astype(np.int64)


def _either(plain: Path) -> Path:
    packed = plain.with_name(plain.name + ".gz")
    if not plain.is_file() and not packed.is_file():
        raise DataError(f"there is no {plain.name} or {packed.name} in {plain.parent}; fetch the data set again")
    return plain if plain.is_file() else packed


def read_idx(path: Path, axes: int) -> np.ndarray:
    """Read an IDX file of unsigned bytes, plain or gzipped.

    Parameters
    ----------
    path
        The file; gzipped if its name ends in ``.gz``.
    axes
        Number of axes that the file must have: 3 for images, 1 for labels.

    Returns
    -------
    numpy.ndarray
        uint8.

    Raises
    ------
    DataError
        If it cannot be read, is of another kind, or is shorter or longer than its header says.
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as stream:
            return _read_idx(stream, path, axes)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}; fetch the data set again") from error


def _read_idx(stream: BinaryIO | gzip.GzipFile, path: Path, axes: int) -> np.ndarray:
    header = stream.read(4 + 4 * axes)
    if len(header) < 4 + 4 * axes or header[:4] != bytes((0, 0, 8, axes)):
        raise DataError(f"{path} is not an IDX file of bytes with {axes} axes; fetch the data set again")
    shape = tuple(np.frombuffer(header, dtype=">u4", offset=4).tolist())
    if not 1 <= shape[0] <= MOST_IMAGES or any(not 1 <= side <= 4096 for side in shape[1:]):
        raise DataError(f"{path} says that it holds an array of shape {shape}; fetch the data set again")
    size = math.prod(shape)
    if size > MOST_BYTES:
        raise DataError(f"{path} says that it holds {size} bytes, more than hwnas reads; fetch the data set again")
    payload = stream.read(size + 1)  # never more, whatever a crafted archive unpacks to
    if len(payload) != size:
        kind = "shorter" if len(payload) < size else "longer"
        raise DataError(f"{path} is {kind} than the {size} bytes its header promises; fetch the data set again")
    return np.frombuffer(payload, dtype=np.uint8).reshape(shape).copy()  # writable, as torch wants it
