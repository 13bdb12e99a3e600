"""The space of fourteen edges: its published networks, what DARTS keeps of a cell, and cells of their own."""

from __future__ import annotations

import numpy as np
import pytest

from hwnas.constraints import ConstraintSet
from hwnas.spaces import ConfigError, get_space
from hwnas.spaces.darts import DARTS, EDGES, NONE, OPERATIONS

#: The published cells of DARTS' first and second order (arXiv 1806.09055, with its code): operation and input of each
#: node's two edges; the reduction cells are max pooling and skip connections.
FIRST = (
    "sep3 1 sep3 0 skip 0 sep3 1 skip 0 sep3 1 sep3 0 skip 2",
    "max3 0 max3 1 skip 2 max3 0 max3 0 skip 2 skip 2 avg3 0",
)
SECOND = (
    "sep3 0 sep3 1 sep3 0 sep3 1 sep3 1 skip 0 skip 0 dil3 2",
    "max3 0 max3 1 skip 2 max3 1 max3 0 skip 2 skip 2 max3 1",
)


def darts(**parameters: float | str) -> DARTS:
    space = get_space("darts", **parameters)
    assert isinstance(space, DARTS)
    return space


def of_genotype(space: DARTS, *cells: str) -> list[int]:
    names = [decision.name for decision in space.decisions]
    row = [NONE] * len(names)
    for kind, cell in zip(("normal", "reduce"), cells, strict=True):
        words = cell.split()
        for number, (operation, source) in enumerate(zip(words[::2], words[1::2], strict=True)):
            row[names.index(f"{kind}/edge{source}to{2 + number // 2}")] = OPERATIONS.index(operation)
    return row


@pytest.mark.parametrize(("genotype", "published"), [(FIRST, 3.3), (SECOND, 3.3)])
def test_parameters_of_the_published_networks(genotype: tuple[str, str], published: float) -> None:
    space = darts(width=2.25, depth=2.5)
    assert space.lower(of_genotype(space, *genotype)).params / 1e6 == pytest.approx(published, rel=0.06)


def test_its_size_is_that_of_the_paper() -> None:
    assert len(EDGES) == 14
    assert darts().size == 8**28
    own = darts(cells="own", depth=2.5)
    assert own.size == 8 ** (14 * 20)
    assert own.decisions[14].name == "cell1/edge0to2"
    with pytest.raises(ConfigError, match="cells=own"):
        darts(cells="some")


def test_the_two_strongest_edges_of_each_node_are_kept() -> None:
    space, rng = darts(), np.random.default_rng(0)
    weights = rng.random((28, 8))
    weights[:, NONE] = 2.0  # however strong none is
    row = np.array(space.derive(weights))
    for edges in space.layers:
        kept = [edge for edge in edges if row[edge] != NONE]
        assert len(kept) == 2
        others = [weights[edge, 1:].max() for edge in edges if edge not in kept]
        assert all(weights[edge, row[edge]] == weights[edge, 1:].max() for edge in kept)
        assert not others or min(weights[edge, row[edge]] for edge in kept) >= max(others)


def test_random_cells_of_that_kind() -> None:
    space = darts()
    rows = space.sample_derived(2000, np.random.default_rng(0))
    for edges in space.layers:
        assert ((rows[:, list(edges)] != NONE).sum(axis=1) == 2).all()
    last = rows[:, list(space.layers[3])]  # five edges, each of them kept in two of five cells
    assert np.abs((last != NONE).mean(axis=0) - 0.4).max() < 0.05
    shares = np.bincount(last[last != NONE], minlength=8)[1:] / (last != NONE).sum()
    assert np.abs(shares - 1 / 7).max() < 0.03


def test_cells_of_their_own_cost_what_they_say() -> None:
    space = darts(resolution=8, channels=1, width=0.25, depth=0.4, cells="own")
    rows = space.sample(20, np.random.default_rng(0))
    wanted = [space.lower(row.tolist()).params for row in rows]
    limits = ConstraintSet(["params <= 1M"], space)
    assert limits.values(rows)[:, 0].tolist() == wanted


def test_budgets_are_met_exactly() -> None:
    space = darts(resolution=8, channels=1, width=0.25, depth=0.4)
    middle = float(np.median(ConstraintSet(["flops <= 1G"], space).values(space.sample(200, np.random.default_rng(0)))))
    limits = ConstraintSet([f"flops <= {middle}"], space)
    assert limits.feasible(limits.sampler().sample(50, np.random.default_rng(1))).all()


def test_a_cell_without_edges_and_one_that_only_passes_on() -> None:
    space = darts(resolution=8, channels=1, width=0.25, depth=0.4)
    assert space.lower([NONE] * 28).macs > 0  # stem, inputs and head
    row = [NONE] * 28
    row[0] = row[2] = OPERATIONS.index("skip")  # two nodes that are the same tensor
    labels = [block.label for block in space.lower(row).blocks]
    assert labels.count("copy") > 0
    assert labels.count("zero") > 0
