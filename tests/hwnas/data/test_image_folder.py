"""Folders of real JPEG files: layouts, streaming, damage."""

from __future__ import annotations

import io
import itertools
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hwnas.data import load_data
from hwnas.data.image_folder import Decoder
from hwnas.spaces.errors import ConfigError, DataError
from tests.cifar import cifar_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cifar_folder(tmp_path_factory.mktemp("images"), 200, ("train", "val", "test"))


def test_train_val_test_are_taken_as_they_are(folder: Path) -> None:
    data = load_data(str(folder), resolution=32, workers=0)
    assert (len(data.train), len(data.valid), len(data.test)) == (200, 201, 202)
    assert data.classes == 10
    assert data.channels == 3
    assert data.class_names[3] == "class3"
    images, labels = next(iter(data.batches(data.valid, 50)))
    assert images.shape == (50, 3, 32, 32)
    assert np.array_equal(labels.numpy(), data.valid.labels[:50])


def test_what_is_missing_is_held_out_of_train(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "train", tmp_path / "train")
    shutil.copytree(folder / "val", tmp_path / "val")
    imagenet = load_data(tmp_path, resolution=32, workers=0)
    assert (len(imagenet.train), len(imagenet.valid), len(imagenet.test)) == (180, 20, 201)
    flat = load_data(tmp_path / "train", resolution=32, workers=0)
    assert (len(flat.train), len(flat.valid), len(flat.test)) == (160, 20, 20)
    everything = [set(split.files) for split in (flat.train, flat.valid, flat.test)]
    assert len(set.union(*everything)) == 200
    assert np.bincount(flat.test.labels).tolist() == [2] * 10
    assert load_data(tmp_path / "train", resolution=32, workers=0, seed=5).test.files == flat.test.files


def test_workers_stream_what_this_process_reads(folder: Path) -> None:
    here, streamed = (load_data(folder, resolution=24, workers=workers) for workers in (0, 2))
    assert here.mean == streamed.mean
    for epoch in (0, 1):
        ours = list(here.training_batches(64, seed=3, epoch=epoch))
        theirs = list(streamed.training_batches(64, seed=3, epoch=epoch))
        for (x, y), (u, v) in zip(ours, theirs, strict=True):
            assert np.array_equal(x.numpy(), u.numpy())
            assert np.array_equal(y.numpy(), v.numpy())
    # a reader that stops early leaves no process behind
    assert len(list(itertools.islice(streamed.train.batches(16), 2))) == 2


def test_images_come_without_their_labels(folder: Path) -> None:
    split = load_data(folder, resolution=16, workers=0).valid
    plain = [images for images, _ in split.batches(50, order=np.arange(120), crop_seed=3)]
    split.labels = None  # type: ignore[assignment]
    alone = list(split.image_batches(50, order=np.arange(120), crop_seed=3))
    assert [len(images) for images in alone] == [50, 50, 20]
    assert all(np.array_equal(x.numpy(), y.numpy()) for x, y in zip(plain, alone, strict=True))


def test_memory_holds_a_few_batches_only(folder: Path) -> None:
    batches = load_data(folder, resolution=64, workers=0).train.batches(10)
    images, _ = next(batches)
    assert images.shape == (10, 3, 64, 64)
    split = load_data(folder, resolution=16, workers=0).valid.in_memory()
    assert split.images.shape == (201, 3, 16, 16)


def test_random_crops_belong_to_seed_and_image(folder: Path) -> None:
    data = load_data(folder, resolution=32, workers=0)
    order = np.arange(30)
    (first, _), (again, _), (other, _), (plain, _) = (
        next(iter(data.train.batches(30, order=order, crop_seed=seed))) for seed in (1, 1, 2, None)
    )
    (shuffled, _) = next(iter(data.train.batches(30, order=order[::-1], crop_seed=1)))
    assert np.array_equal(first, again)
    assert np.array_equal(first, shuffled.flip(0))
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, plain)


def test_the_centre_is_what_a_full_decode_shows(tmp_path: Path) -> None:
    y, x = np.mgrid[0:400, 0:600]
    pixels = np.stack([x * 255 / 600, y * 255 / 400, np.full_like(x, 99.0)], axis=2).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=95)
    out = Decoder(50)(str(tmp_path / "a.jpg"))  # draft mode decodes this at a fraction of its size
    grid = (np.arange(50) + 0.5) * 350 / 50
    assert np.abs(out[0] - (grid[None, :] + 125) * 255 / 600).max() < 4
    assert np.abs(out[1] - (grid[:, None] + 25) * 255 / 400).max() < 4
    assert Decoder(50, channels=1)(str(tmp_path / "a.jpg")).shape == (1, 50, 50)


def png_of(width: int, height: int) -> bytes:
    """A PNG header that promises `width` x `height`, with next to no data."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("cut.jpg", "half", "cannot decode .*cut.jpg"),
        ("text.jpg", b"this is no picture", "cannot decode .*text.jpg"),
        ("bomb.png", png_of(60_000, 60_000), "bomb.png"),
        ("large.png", png_of(9_000, 9_000), "large.png has 9000x9000 pixels"),
        ("script.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "cannot decode .*script.png"),
    ],
)
def test_a_bad_file_is_named(
    folder: Path, tmp_path: Path, workers: int, name: str, content: object, words: str
) -> None:
    shutil.copytree(folder / "val", tmp_path / "flat")
    victim = next((tmp_path / "flat" / "class5").iterdir())
    raw = victim.read_bytes()[: victim.stat().st_size // 2] if content == "half" else content
    (victim.parent / name).write_bytes(raw)

    def read_everything() -> None:
        data = load_data(tmp_path / "flat", resolution=32, workers=workers)
        for split in (data.train, data.valid, data.test):
            list(split.batches(20))

    with pytest.raises(DataError, match=words) as caught:
        read_everything()
    assert "\n" not in str(caught.value)


def test_folders_without_classes_are_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(DataError, match="0 class folders"):
        load_data(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        load_data(tmp_path)
    shutil.copytree(folder / "train", tmp_path / "c" / "train")
    shutil.copytree(folder / "val" / "class1", tmp_path / "c" / "val" / "stranger")
    shutil.copytree(folder / "val" / "class1", tmp_path / "c" / "val" / "class1")
    with pytest.raises(DataError, match="'stranger'"):
        load_data(tmp_path / "c", workers=0)
    with pytest.raises(ConfigError, match="channels=2"):
        load_data(folder, channels=2)
    with pytest.raises(ConfigError, match="workers=-1"):
        load_data(folder, workers=-1)


def test_grey_images_in_other_formats_are_read(tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for index in range(20):
            image = Image.new("P" if index % 2 else "L", (20 + index, 30), color=index * 9)
            buffer = io.BytesIO()
            image.save(buffer, format="PNG")
            (tmp_path / label / f"{index}.PNG").write_bytes(buffer.getvalue())
    data = load_data(tmp_path, resolution=16, channels=1, workers=0)
    assert len(data.train) == 32
    assert next(data.train.batches(4))[0].shape == (4, 1, 16, 16)
