"""The reader of cost networks: what it reads, and that nothing in a file can break it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hwnas.profilers.vpunn import read_network
from hwnas.spaces import ModelError
from tests.profilers.vpunn.models import Layer, random_layers, write_network


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_network(tmp_path / "small.vpunn", random_layers(93, 16, 8, 1))


def test_it_computes_what_the_layers_say(file: Path) -> None:
    network = read_network(file)
    assert (network.name, network.descriptor, network.inputs) == ("VPUNN-11-02", 11, 93)
    assert len(network.digest) == 64
    given = np.random.default_rng(1).normal(size=(50, 93))
    values = given
    for weights, bias, relu in random_layers(93, 16, 8, 1):
        assert bias is not None
        values = values @ weights.astype(float).T + bias
        values = np.maximum(values, 0) if relu else values
    np.testing.assert_allclose(network.predict(given.astype(np.float32)), values[:, 0], rtol=1e-5)
    assert network.predict(np.zeros((0, 93), np.float32)).shape == (0,)


def test_a_layer_may_lack_its_bias(tmp_path: Path) -> None:
    weights = np.arange(6, dtype=np.float32).reshape(2, 3)
    layers: list[Layer] = [(weights, None, False), (np.ones((1, 2), np.float32), None, False)]
    network = read_network(write_network(tmp_path / "x.vpunn", layers))
    assert network.predict(np.array([[1, 10, 100]], np.float32)) == weights.sum(axis=0) @ [1, 10, 100]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no VPUN at byte 4"),
        (b"\0\0\0\0TFL3" + bytes(100), "is no .vpunn file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
        (b"\xff\xff\xff\x7fVPUN" + bytes(100), "is damaged"),
        (b"\x08\0\0\0VPUN" + bytes(100), "is damaged"),
    ],
)
def test_what_is_no_cost_network_is_refused_in_one_sentence(tmp_path: Path, data: bytes, words: str) -> None:
    file = tmp_path / "x.vpunn"
    file.write_bytes(data)
    with pytest.raises(ModelError, match=words) as caught:
        read_network(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_one_too_large_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="No such file"):
        read_network(tmp_path / "x.vpunn")
    with open(tmp_path / "large.vpunn", "wb") as stream:
        stream.truncate(65 * 2**20)
    with pytest.raises(ModelError, match="more than 64 MiB"):
        read_network(tmp_path / "large.vpunn")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Mobile-11-02", "not VPUNN-<descriptor>-<output>"),
        ("VPUNN-11", "not VPUNN-<descriptor>-<output>"),
        ("VPUNN-11-01", "output version 1, not 2 or 5"),
    ],
)
def test_the_name_says_what_comes_out(tmp_path: Path, name: str, words: str) -> None:
    file = write_network(tmp_path / "x.vpunn", random_layers(4, 1), name)
    with pytest.raises(ModelError, match=words):
        read_network(file)


def test_layers_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.vpunn"
    first, second = random_layers(4, 3, 1)
    wrong: list[tuple[list[Layer], str]] = [
        ([], "0 layers"),
        ([first], "does not give its one output"),
        ([first, (second[0][:, :2], second[1], False)], "a layer of 3 outputs before one of 2 inputs"),
        ([first, (second[0], np.zeros(2, np.float32), False)], "2 biases for 1 outputs"),
        ([first, (second[0] * np.inf, second[1], False)], "not finite"),
        ([first, *[second] * 65], "66 layers"),
    ]
    for layers, words in wrong:
        empty = not layers
        write_network(file, layers or [first, second])
        if empty:  # a file whose list of layers says that it has none
            data = bytearray(file.read_bytes())
            place = _layers_of(data)
            data[place : place + 4] = bytes(4)
            file.write_bytes(data)
        with pytest.raises(ModelError, match=words):
            read_network(file)


def _layers_of(data: bytearray) -> int:
    """Where the number of layers stands."""

    def at(place: int, size: int = 4) -> int:
        return int.from_bytes(data[place : place + size], "little", signed=size == 4)

    root = at(0)
    field = root + at(root - at(root) + 4 + 2 * 4, 2)
    return field + at(field)


def test_no_change_of_a_byte_and_no_cut_breaks_the_reader(file: Path) -> None:
    good = file.read_bytes()
    random = np.random.default_rng(0)
    refused = 0
    # the first and the last kilobyte hold the tables, what is between mostly weights
    places = [*range(min(512, len(good))), *range(max(0, len(good) - 1024), len(good))]
    for place in random.choice(places, 300):
        data = bytearray(good)
        data[place] ^= int(random.integers(1, 256))
        file.write_bytes(data)
        refused += _refused(file)
    for length in random.integers(0, len(good), 50):
        file.write_bytes(good[:length])
        refused += _refused(file)
    assert refused > 100


def _refused(file: Path) -> bool:
    try:
        network = read_network(file)
    except ModelError:
        return True
    with np.errstate(all="ignore"):  # weights may have become huge
        assert network.predict(np.zeros((1, network.inputs), np.float32)).shape == (1,)
    return False
