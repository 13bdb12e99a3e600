"""Real small colour pictures for tests: CIFAR-10 as JPEG, from the published tables."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.paths import shared_data


def cifar_bytes(part: str, count: int) -> tuple[list[bytes], np.ndarray]:
    """The first `count` JPEG files of ``train`` or ``test``, and their labels; skips where they are absent."""
    found = sorted((shared_data() / "cifar10_jpeg").glob(f"cifar10_{part}_*.npz"))
    if not found:
        pytest.skip("no CIFAR-10 JPEGs among the published tables")
    with np.load(found[0]) as archive:
        blob, offsets, labels = archive["blob"].tobytes(), archive["offsets"], archive["labels"]
    # the files are sorted by class: take them from everywhere
    chosen = np.linspace(0, len(labels) - 1, count).astype(int)
    return [blob[offsets[i] : offsets[i + 1]] for i in chosen], labels[chosen].astype(np.int64)


def cifar_jpegs(part: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The same, decoded and shuffled: uint8 ``(N, 3, 32, 32)`` and labels."""
    files, labels = cifar_bytes(part, count)
    images = np.stack([np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files])
    order = np.random.default_rng(0).permutation(count)
    return images.transpose(0, 3, 1, 2)[order].copy(), labels[order]


def cifar_folder(root: Path, count: int, parts: tuple[str, ...] = ("train",)) -> Path:
    """Write `count` JPEG files for each part as ``root/<part>/<class>/<number>.jpg``; part "" is `root` itself."""
    for number, part in enumerate(parts):
        files, labels = cifar_bytes("train" if part == "train" else "test", count + number)
        for index, (content, label) in enumerate(zip(files, labels.tolist(), strict=True)):
            folder = root / part / f"class{label}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{index:05}.jpg").write_bytes(content)
    return root
