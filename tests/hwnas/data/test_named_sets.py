"""The data sets with names: real files where they are here, the release's format where they are not."""

from __future__ import annotations

import gzip
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from hwnas.data import list_data, load_data
from hwnas.data.fashion_mnist import DEBIAN, read_idx
from hwnas.spaces.errors import ConfigError, DataError
from tests.cifar import cifar_jpegs

needs_fashion = pytest.mark.skipif(not DEBIAN.is_dir(), reason="install Debian's package dataset-fashion-mnist")


def test_the_digits_are_split_once_and_for_all() -> None:
    from sklearn.datasets import load_digits

    data, again = load_data("digits", seed=0), load_data("digits", seed=9)
    assert (len(data.train), len(data.valid), len(data.test)) == (1077, 360, 360)
    assert data.classes == 10
    assert (data.channels, data.resolution) == (1, 8)
    for split, other in ((data.train, again.train), (data.valid, again.valid), (data.test, again.test)):
        assert np.array_equal(split.images, other.images)
        counts = np.bincount(split.labels, minlength=10) / len(split)
        assert np.allclose(counts, 0.1, atol=0.01)  # in proportion
    # the three splits are all of scikit-learn's images, each once
    mine = sorted(image.tobytes() for s in (data.train, data.valid, data.test) for image in s.images)
    theirs = np.rint(load_digits().images * (255 / 16)).astype(np.uint8)
    assert mine == sorted(image.tobytes() for image in theirs)


def test_statistics_are_those_of_the_training_images() -> None:
    data = load_data("digits")
    pixels = data.train.images / 255.0
    assert data.mean[0] == pytest.approx(pixels.mean())
    assert data.std[0] == pytest.approx(pixels.std())
    batches = [images for images, _ in data.batches(data.train, 100)]
    values = np.concatenate([batch.numpy() for batch in batches])
    assert values.mean() == pytest.approx(0, abs=1e-4)
    assert values.std() == pytest.approx(1, abs=1e-4)


def test_a_limit_takes_training_images_alone_and_in_proportion() -> None:
    whole, part, other = load_data("digits"), load_data("digits", limit=105), load_data("digits", limit=105, seed=1)
    assert len(part.train) == 105
    assert set(np.bincount(part.train.labels)) <= {10, 11}
    assert np.array_equal(part.train.images, load_data("digits", limit=105).train.images)
    assert not np.array_equal(part.train.images, other.train.images)
    assert np.array_equal(part.test.images, whole.test.images)
    assert part.mean == whole.mean
    assert len(load_data("digits", limit=10**6).train) == len(whole.train)


def test_resizing_keeps_the_picture() -> None:
    small, large = load_data("digits"), load_data("digits", resolution=24)
    assert large.test.images.shape == (360, 1, 24, 24)
    shrunk = large.test.images.reshape(360, 1, 8, 3, 8, 3).mean((3, 5))
    assert np.corrcoef(shrunk.ravel(), small.test.images.ravel())[0, 1] > 0.95


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("digit", {}, "'digits'"),
        ("./no/such/folder", {}, "there is no folder"),
        ("digits", {"resolution": 2}, "resolution=2"),
        ("digits", {"limit": 0}, "limit=0"),
        ("digits", {"limit": 9}, "at least 10"),
        ("digits", {"workers": 2}, "no option workers"),
    ],
)
def test_mistakes_are_named(name: str, options: dict[str, int], words: str) -> None:
    with pytest.raises((ConfigError, DataError), match=words):
        load_data(name, **options)


def test_names_are_listed() -> None:
    assert list_data()[:3] == ["digits", "fashion-mnist", "cifar10"]


# ---------------------------------------------------------------------- Fashion-MNIST


@needs_fashion
def test_fashion_mnist_is_read_whole() -> None:
    data = load_data("fashion-mnist", limit=2000)
    assert (len(data.train), len(data.valid), len(data.test)) == (2000, 5000, 10_000)
    assert data.mean[0] == pytest.approx(0.286, abs=0.001)  # the published statistics of the training file
    assert data.std[0] == pytest.approx(0.353, abs=0.001)
    assert np.bincount(data.valid.labels).tolist() == [500] * 10
    assert np.bincount(data.test.labels).tolist() == [1000] * 10
    assert data.class_names[9] == "Ankle boot"


def write_idx(path: Path, array: np.ndarray, *, header: bytes | None = None) -> None:
    head = header or bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    raw = head + array.tobytes()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)


def small_fashion(folder: Path, suffix: str = "") -> None:
    rng = np.random.default_rng(0)
    for part, count in (("train", 100), ("t10k", 20)):
        write_idx(folder / f"{part}-images-idx3-ubyte{suffix}", rng.integers(0, 256, (count, 28, 28), dtype=np.uint8))
        write_idx(folder / f"{part}-labels-idx1-ubyte{suffix}", np.arange(count, dtype=np.uint8) % 10)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files_are_found_by_root_and_by_variable(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_fashion(tmp_path, suffix)
    by_root = load_data("fashion-mnist", root=tmp_path)
    monkeypatch.setenv("HWNAS_FASHION_MNIST", str(tmp_path))
    by_variable = load_data("fashion-mnist")
    assert len(by_root.train) == 80
    assert np.array_equal(by_root.train.images, by_variable.train.images)


def test_damaged_idx_files_are_refused(tmp_path: Path) -> None:
    images = np.zeros((4, 28, 28), dtype=np.uint8)
    path = tmp_path / "images"

    def refused(words: str, file: Path = path) -> None:
        with pytest.raises(DataError, match=words):
            read_idx(file, axes=3)

    refused("cannot read")
    path.write_bytes(pickle.dumps([1, 2, 3]))
    refused("not an IDX file")
    write_idx(path, images)
    path.write_bytes(path.read_bytes()[:-1])
    refused("shorter")
    path.write_bytes(path.read_bytes() + b"ab")
    refused("longer")
    write_idx(path, images, header=bytes((0, 0, 8, 3)) + struct.pack(">3I", 2**31, 28, 28))
    refused("says that it holds")
    packed = tmp_path / "images.gz"
    write_idx(packed, images)
    packed.write_bytes(packed.read_bytes()[:-9])
    refused("cannot read", packed)
    packed.write_bytes(b"no archive")
    refused("cannot read", packed)

    with pytest.raises(DataError, match="dataset-fashion-mnist"):
        load_data("fashion-mnist", root=tmp_path)
    small_fashion(tmp_path)
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.zeros(99, dtype=np.uint8))
    with pytest.raises(DataError, match="99 labels for 100 images"):
        load_data("fashion-mnist", root=tmp_path)
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.full(100, 10, dtype=np.uint8))
    with pytest.raises(DataError, match="label 10"):
        load_data("fashion-mnist", root=tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="train-labels"):
        load_data("fashion-mnist", root=tmp_path)


# ---------------------------------------------------------------------- CIFAR-10


def test_cifar_binaries_are_read(tmp_path: Path) -> None:
    images, labels = cifar_jpegs("test", 300)  # real pictures, written in the release's format
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    records = np.concatenate([labels.astype(np.uint8)[:, None], images.reshape(300, -1)], axis=1)
    for number in range(1, 6):
        records[(number - 1) * 50 : number * 50].tofile(folder / f"data_batch_{number}.bin")
    records[250:].tofile(folder / "test_batch.bin")
    data = load_data("cifar10", root=tmp_path)
    assert (len(data.train), len(data.valid), len(data.test)) == (200, 50, 50)
    assert np.array_equal(data.test.images, images[250:])
    assert np.array_equal(data.test.labels, labels[250:])
    assert data.channels == 3
    assert len(data.mean) == 3

    (folder / "data_batch_3.bin").write_bytes(records.tobytes()[:-1])
    with pytest.raises(DataError, match="not a multiple of 3073"):
        load_data("cifar10", root=tmp_path)
    records[0, 0] = 10
    records.tofile(folder / "data_batch_3.bin")
    with pytest.raises(DataError, match="label 10"):
        load_data("cifar10", root=tmp_path)


def test_the_pickled_release_is_never_opened(tmp_path: Path) -> None:
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps({b"data": 1}))
    with pytest.raises(DataError, match=r"pickled.*cifar-10-binary\.tar\.gz"):
        load_data("cifar10", root=tmp_path)
    (tmp_path / "data_batch_1").unlink()
    with pytest.raises(DataError, match="cifar-10-binary"):
        load_data("cifar10", root=tmp_path)
