"""The cell space: its counts, its canonical form, and the published network in it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.spaces import ConfigError, get_space
from hwnas.spaces.nasbench201 import NASBench201
from hwnas.spaces.pnas import OPERATIONS, PNAS

#: PNASNet-5's cell, as published with its code: two inputs and two operations a block, 0 the cell before the last.
PNASNET5 = (
    (0, 0, "sep5", "max3"),
    (1, 1, "sep7", "max3"),
    (1, 1, "sep5", "sep3"),
    (4, 1, "sep3", "max3"),
    (0, 1, "sep3", "identity"),
)


def pnas(**parameters: float) -> PNAS:
    space = get_space("pnas", **parameters)
    assert isinstance(space, PNAS)
    return space


def pnasnet5() -> list[int]:
    blocks = ([i, j, OPERATIONS.index(a), OPERATIONS.index(b)] for i, j, a, b in PNASNET5)
    return [4, *itertools.chain.from_iterable(blocks)]


@pytest.mark.parametrize(
    ("parameters", "published"),
    [
        ({"width": 2, "depth": 1.5}, 3.2),  # CIFAR-10, N=3, F=48 (arXiv 1712.00559, table 3)
        ({"width": 9, "depth": 2, "classes": 1000}, 86.1),  # ImageNet, N=4, F=216, without its stem cells
    ],
)
def test_parameters_of_the_published_network(parameters: dict[str, float], published: float) -> None:
    graph = pnas(**parameters).lower(pnasnet5())
    assert graph.params / 1e6 == pytest.approx(published, rel=0.02)


@pytest.mark.parametrize(("block", "source"), [(0, 0), (0, 1), (1, 1), (2, 2), (2, 3), (4, 5)])
@pytest.mark.parametrize("blocks", [1, 5])
def test_a_tensor_added_to_itself_is_read_once(block: int, source: int, blocks: int) -> None:
    space = pnas(width=0.25, resolution=8, blocks=blocks)
    row = np.zeros((1, len(space.decisions)), dtype=np.int64)
    row[0, 0] = blocks - 1
    identity = OPERATIONS.index("identity")
    if block < blocks:
        row[0, 4 * block + 1 : 4 * block + 5] = (source, source, identity, identity)
    graph = space.lower(row[0].tolist())
    signatures = [part.signature for part in space.catalog]
    for part, count in zip(space.catalog, space.counts(row)[0], strict=True):
        assert [found.signature for found in graph.blocks].count(part.signature) == count
    assert {found.signature for found in graph.blocks} <= set(signatures)


def test_counts_of_different_cells() -> None:
    space = pnas(blocks=3)
    one = space.seeds()
    assert len(one) == 136  # 16 * 17 / 2 unordered pairs of an input and an operation
    two = space.expansions(one)
    independent = 136 * 137 // 2  # the second block does not read the first
    assert len(two) == independent + 136 * (300 - 136)
    for count, block in ((136, 0), (300, 1), (528, 2), (820, 3), (1176, 4)):
        pairs = (block + 2) * len(OPERATIONS)
        assert pairs * (pairs + 1) // 2 == count
    assert len(space.expansions(two[:1])) == 528 - _copies(space, two[0])
    assert len(space.expansions(space.expansions(two[:1]))) == 0  # no cell has four blocks here
    assert len(pnas(blocks=2, fewest=2).seeds()) == len(two)


def _copies(space: PNAS, cell: np.ndarray) -> int:
    """By how much the different third blocks of one cell are fewer than all: those that its symmetry maps together."""
    grown = np.repeat(cell[None], 32**2, axis=0)
    grown[:, 0] += 1
    grown[:, 9:13] = [[i, j, a, b] for i, j, a, b in itertools.product(range(4), range(4), range(8), range(8))]
    return 528 - len({tuple(row) for row in space.canonical(grown).tolist()})


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), blocks=st.integers(2, 5))
def test_isomorphic_copies_have_one_spelling(seed: int, blocks: int) -> None:
    space, rng = pnas(blocks=5), np.random.default_rng(seed)
    row = space.sample(1, rng)[0]
    row[0] = blocks - 1
    cell = row[1 : 4 * blocks + 1].reshape(blocks, 4)
    while True:  # an order in which every block still reads only what is before it
        order = rng.permutation(blocks)
        place = np.concatenate([[0, 1], 2 + np.argsort(order)])
        moved = cell[order].copy()
        moved[:, :2] = place[moved[:, :2]]
        if (moved[:, :2] < 2 + np.arange(blocks)[:, None]).all():
            break
    for block in np.flatnonzero(rng.random(blocks) < 0.5):
        moved[block] = moved[block][[1, 0, 3, 2]]
    copy = row.copy()
    copy[1 : 4 * blocks + 1] = moved.ravel()
    one, other = space.canonical(np.stack([row, copy]))
    assert one.tolist() == other.tolist()
    assert space.canonical(one[None]).tolist() == [one.tolist()]
    for metric in ("macs", "params"):
        assert getattr(space.lower(one.tolist()), metric) == getattr(space.lower(row.tolist()), metric)


def test_different_cells_stay_apart() -> None:
    space = pnas(blocks=2)
    shared = [1, 0, 0, 0, 1, 2, 2, 3, 4]  # the second block reads the first twice
    chained = [1, 0, 0, 0, 1, 0, 2, 3, 4]
    assert len(np.unique(space.canonical(np.array([shared, chained])), axis=0)) == 2


def test_parts_are_the_tokens_of_the_blocks_there_are() -> None:
    space = pnas(blocks=3)
    (parts,) = space.parts(np.array([[1, 0, 1, 2, 3, 2, 1, 4, 5, 3, 3, 7, 7]]))
    assert parts.tolist() == [[0, 1, 2, 3], [2, 1, 4, 5], [-1] * 4]
    assert space.vocabularies == (4, 8)


def test_growth_of_nasbench201() -> None:
    space = get_space("nasbench201")
    assert isinstance(space, NASBench201)
    seeds = space.seeds()
    assert len(seeds) == 4 + 4**2 + 4**3  # paths of one, two and three edges
    everything = np.unique(space.canonical(space.all()), axis=0)
    sizes = space.complexity(everything)
    every = {tuple(row) for row in everything[sizes > 0].tolist()}
    reached = {tuple(row) for row in [*seeds.tolist(), *space.expansions(everything[sizes > 0]).tolist()]}
    assert reached == every
    grown = space.expansions(np.array([[0, 0, 0, 3, 0, 0]]))  # a 3x3 convolution from the input to the output
    assert set(space.complexity(grown).tolist()) == {3}  # a second path has two edges
    assert (grown[:, 3] == 3).all()
    assert len(grown) == 16
    assert len(space.canonical(space.all())) == 15625


def test_numbers_of_blocks_that_cannot_be() -> None:
    for text in ("pnas(blocks=6)", "pnas(fewest=0)", "pnas(blocks=2,fewest=3)"):
        with pytest.raises(ConfigError, match="1 <= fewest <= blocks <= 5"):
            get_space(text)
