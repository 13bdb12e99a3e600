"""Folders of images, one subfolder a class: decoded by worker processes and streamed, never held whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwnas.data.augment import Augmentation
from hwnas.data.base import Dataset, Split, channel_statistics, hold_out, subset_indices
from hwnas.ranks import local_size
from hwnas.spaces.errors import ConfigError, DataError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Decoder", "FolderSplit", "load"]

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".webp"})
FORMATS = ("BMP", "JPEG", "PNG", "PPM", "WEBP")
RESOLUTION = 224
#: an image of more pixels is refused before it is decoded (a 50-kilobyte file can unpack to gigabytes)
MOST_PIXELS = 64_000_000
#: images that the mean and standard deviation are computed from
SAMPLE = 2_048
#: share of an image's shorter side that evaluation looks at (ImageNet's 224 of 256)
CENTRE = 0.875
#: a random crop covers this share of the area, and has this aspect ratio (arXiv 1409.4842, milder area)
AREA, ASPECT = (0.25, 1.0), (3 / 4, 4 / 3)


def load(
    folder: str | os.PathLike[str],
    *,
    resolution: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    channels: int = 3,
    workers: int | None = None,
    augmentation: Augmentation | None = None,
) -> Dataset:
    """Read a folder of images.

    With ``train/<class>/`` and ``test/<class>/``, these are the training and the test images, and
    ``val/<class>/`` (or ``valid``) the validation images. With ``train`` and ``val`` alone, as ImageNet
    comes, ``val`` is what is reported on, and a tenth of ``train`` is held out to choose by. A folder of
    class folders alone is split 80 : 10 : 10. What is split here is always split the same way.

    Parameters
    ----------
    folder
        The folder.
    resolution
        Height and width of the images that come out, 224 if not given.
    limit, seed
        See `hwnas.data.load_data`.
    channels
        3 for colour, 1 for grey.
    workers
        Processes that decode; 0 decodes in this one. One a core by default (shared with the other ranks of this
        machine), at most 8.
    augmentation
        What is done to training batches after the random crop that decoding makes; mirroring by default.

    Raises
    ------
    DataError
        If the folder does not hold images in class folders, or one that is looked at cannot be decoded.
    """
    root = Path(folder).expanduser()
    if channels not in (1, 3):
        raise ConfigError(f"channels={channels}; images are read with 1 (grey) or 3 (colour)")
    if workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = min(max(1, cores // local_size()), 8)  # other ranks of this machine decode as well
    if workers < 0:
        raise ConfigError(f"workers={workers} is not a number of processes")
    decoder = Decoder(resolution or RESOLUTION, channels)
    parts = {part: root / part for part in ("train", "val", "valid", "test") if (root / part).is_dir()}
    names = _classes(parts.get("train", root))

    def read(part: Path) -> FolderSplit:
        files, labels = _files(part, names)
        return FolderSplit(files, labels, decoder, workers)

    everything = read(parts.get("train", root))
    held = parts.get("val", parts.get("valid"))
    if "train" not in parts:
        train, valid, test = _split(everything, 2)
    elif "test" in parts:
        test = read(parts["test"])
        train, valid = (everything, read(held)) if held else _split(everything, 1)
    elif held:
        test = read(held)
        train, valid = _split(everything, 1)
    else:
        train, valid, test = _split(everything, 2)
    sample = subset_indices(train.labels, min(SAMPLE, len(train)), np.random.default_rng(len(train)))
    mean, std = channel_statistics(images.numpy() for images, _ in train.take(sample).batches(64))
    return Dataset(
        name=str(root),
        train=train,
        valid=valid,
        test=test,
        channels=channels,
        resolution=decoder.resolution,
        class_names=names,
        mean=mean,
        std=std,
        augmentation=augmentation or Augmentation(flip=True),
    ).limited(limit, seed)


def _classes(folder: Path) -> tuple[str, ...]:
    try:
        names = tuple(sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != "."))
    except OSError as error:
        raise DataError(f"cannot read the folder {folder}: {error.strerror}") from error
    if len(names) < 2:
        raise DataError(f"{folder} holds {len(names)} class folders; put the images of each class into a folder of it")
    return names


def _files(folder: Path, classes: tuple[str, ...]) -> tuple[list[str], np.ndarray]:
    strangers = sorted(set(_classes(folder)) - set(classes))
    if strangers:
        raise DataError(f"{folder} has the class {strangers[0]!r}, which the training images do not have")
    files: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        if not (folder / name).is_dir():
            continue
        found = [e.path for e in os.scandir(folder / name) if Path(e.name).suffix.lower() in SUFFIXES]
        if not found:
            raise DataError(f"{folder / name} holds no images ({', '.join(sorted(SUFFIXES))})")
        files += sorted(found)
        labels += [label] * len(found)
    return files, np.array(labels, dtype=np.int64)


def _split(split: FolderSplit, parts: int) -> tuple[FolderSplit, ...]:
    """Hold out a tenth of the images for each of `parts`; return the rest first."""
    rest, held = split, []
    tenth = max(1, len(split) // 10)
    for stream in range(parts):
        kept, out = hold_out(rest.labels, tenth, stream=stream)
        held.append(rest.take(out))
        rest = rest.take(kept)
    return (rest, *held)


@dataclass(frozen=True)
class Decoder:
    """Turns one image file into uint8 pixels ``(channels, resolution, resolution)``."""

    resolution: int
    channels: int = 3

    def __call__(self, path: str, rng: np.random.Generator | None = None) -> np.ndarray:
        """Decode, crop (at random with `rng`, else the centre) and resize.

        Raises
        ------
        DataError
            If the file is not an image, is damaged, or has more than 64 million pixels.
        """
        from PIL import Image

        side = self.resolution
        try:
            with Image.open(path, formats=FORMATS) as image:
                width, height = image.size
                if width * height > MOST_PIXELS:
                    raise DataError(f"{path} has {width}x{height} pixels, more than hwnas decodes; scale it down")
                box = _centre(width, height) if rng is None else _random_crop(width, height, rng)
                # a JPEG decoder can leave out what the resize would throw away
                share = side / min(box[2] - box[0], box[3] - box[1])
                mode = "RGB" if self.channels == 3 else "L"
                image.draft(mode, (max(1, int(width * share)), max(1, int(height * share))))
                across, down = image.size[0] / width, image.size[1] / height
                box = (box[0] * across, box[1] * down, box[2] * across, box[3] * down)
                pixels = image.convert(mode).resize((side, side), Image.Resampling.BILINEAR, box=box, reducing_gap=2.0)
        except DataError:
            raise
        except Exception as error:  # decoders raise nearly anything on damaged bytes
            raise DataError(f"cannot decode {path}: {error}; mend or remove it") from error
        array = np.asarray(pixels, dtype=np.uint8)
        return np.ascontiguousarray(array.reshape(side, side, self.channels).transpose(2, 0, 1))


def _centre(width: int, height: int) -> tuple[float, float, float, float]:
    side = min(width, height) * CENTRE
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def _random_crop(width: int, height: int, rng: np.random.Generator) -> tuple[float, float, float, float]:
    for _ in range(10):
        area = width * height * rng.uniform(*AREA)
        aspect = np.exp(rng.uniform(*np.log(ASPECT)))
        w, h = float(np.sqrt(area * aspect)), float(np.sqrt(area / aspect))
        if w <= width and h <= height:
            left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
            return left, top, left + w, top + h
    return _centre(width, height)


class _Reader:
    """What a worker process holds: decodes one batch; an error comes back as a value, to be raised whole."""

    def __init__(self, files: list[str], labels: np.ndarray, decoder: Decoder, crop_seed: int | None) -> None:
        self.files, self.labels, self.decoder, self.crop_seed = np.array(files), labels, decoder, crop_seed

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, indices: np.ndarray) -> tuple[Tensor, Tensor] | DataError:
        import torch

        side, channels = self.decoder.resolution, self.decoder.channels
        images = np.empty((len(indices), channels, side, side), dtype=np.uint8)
        try:
            for slot, index in enumerate(indices.tolist()):
                rng = None if self.crop_seed is None else np.random.default_rng([self.crop_seed, index])
                images[slot] = self.decoder(str(self.files[index]), rng)
        except DataError as error:
            return error
        return torch.from_numpy(images), torch.from_numpy(self.labels[indices])


class FolderSplit(Split):
    """Image files, decoded when they are asked for.

    Parameters
    ----------
    files, labels
        Paths, and their class indices.
    decoder
        How one becomes pixels.
    workers
        Processes that decode, two batches ahead each; 0 decodes in this process.
    """

    def __init__(self, files: list[str], labels: np.ndarray, decoder: Decoder, workers: int = 0) -> None:
        self.files, self.labels, self.decoder, self.workers = files, labels, decoder, workers

    def batches(
        self, size: int, *, order: np.ndarray | None = None, crop_seed: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        reader: Any = _Reader(self.files, self.labels, self.decoder, crop_seed)
        order = np.arange(len(self)) if order is None else np.asarray(order, dtype=np.int64)
        chunks = [order[start : start + size] for start in range(0, len(order), size)]
        for batch in map(reader.__getitem__, chunks) if self.workers == 0 else self._stream(reader, chunks):
            if isinstance(batch, DataError):
                raise batch
            yield batch

    def _stream(self, reader: Any, chunks: list[np.ndarray]) -> Iterator[Any]:
        from torch.utils.data import DataLoader

        workers = min(self.workers, len(chunks))
        loader: Any = DataLoader(reader, batch_size=None, sampler=chunks, num_workers=workers, prefetch_factor=2)
        try:
            yield from loader
        except RuntimeError as error:
            if "worker" not in str(error):
                raise
            raise DataError(
                f"a process that decodes images ended unexpectedly ({str(error).splitlines()[0]}); "
                "check the free memory, or decode with workers=0"
            ) from error

    def image_batches(
        self, size: int, *, order: np.ndarray | None = None, crop_seed: int | None = None
    ) -> Iterator[Tensor]:
        blind = FolderSplit(self.files, np.zeros(len(self.files), dtype=np.int64), self.decoder, self.workers)
        for images, _ in blind.batches(size, order=order, crop_seed=crop_seed):
            yield images

    def take(self, indices: np.ndarray) -> FolderSplit:
        files = [self.files[index] for index in np.asarray(indices).tolist()]
        return FolderSplit(files, self.labels[indices], self.decoder, self.workers)
