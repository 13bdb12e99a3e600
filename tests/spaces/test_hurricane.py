"""The space `hurricane`: its 32 operators, its pools, and that SPOS's space is one of them."""

from __future__ import annotations

import numpy as np
import pytest

from hwnas.spaces import ConfigError, get_space
from hwnas.spaces.hurricane import OPERATORS, parse_pool, pool_text

SMALL = {"resolution": 16, "channels": 3, "classes": 5, "width": 0.25, "depth": 0.25}


def test_32_operators_in_20_layers() -> None:
    space = get_space("hurricane")
    assert len(OPERATORS) == len(set(OPERATORS)) == 32
    assert space.size == 32**20


def test_operators_of_a_layer_are_32_different_blocks() -> None:
    space = get_space("hurricane", **SMALL)
    first = {graph.label for graph in space.catalog if graph.block.name.startswith("stage1/0")}
    assert len(first) == 32


def test_spos_is_a_pool() -> None:
    ours = get_space("hurricane(pool=shuffle3+shuffle5+shuffle7+xception)", **SMALL)
    theirs = get_space("shufflenet", **SMALL)
    assert [block.signature for block in ours.catalog] == [block.signature for block in theirs.catalog]
    for row in theirs.sample(5, np.random.default_rng(0)):
        assert ours.lower(row).macs == theirs.lower(row).macs


def test_squeeze_excite_adds_its_own_parameters_only() -> None:
    for code in OPERATORS[:16]:
        plain, excited = (get_space(f"hurricane(pool={name})", **SMALL) for name in (code, f"{code}se"))
        one, other = (space.lower((0,) * len(space.decisions)) for space in (plain, excited))
        kinds = [[node.kernel.op for node in graph.nodes] for graph in (one, other)]
        assert [op for op in kinds[1] if op != "se"] == kinds[0]
        extra = sum(node.kernel.params(*other.input_shapes(node)) for node in other.nodes if node.kernel.op == "se")
        assert other.params - one.params == extra > 0


def test_pools_differ_by_layer_and_survive_the_spec() -> None:
    layers = len(get_space("hurricane", **SMALL).decisions)
    pool = "/".join(["sep3+mb5e6se", *["xception"] * (layers - 1)])
    space = get_space(f"hurricane(pool={pool})", **SMALL)
    assert space.radices.tolist() == [2, *[1] * (layers - 1)]
    assert get_space(space.spec).spec == space.spec
    assert pool_text(parse_pool("all", 3)) == "all"
    assert pool_text(parse_pool("sep3+sep5", 3)) == "sep3+sep5"


@pytest.mark.parametrize(
    ("pool", "what"),
    [
        ("sep4", "no operator 'sep4'"),
        ("sep3+sep3", "twice"),
        ("sep3/sep5", "operators of 2 layers"),
        ("", "no operator ''"),
    ],
)
def test_a_bad_pool_is_refused(pool: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        get_space(f"hurricane(pool={pool})", **SMALL)


@pytest.mark.parametrize("name", ["shufflenet", "hurricane"])
def test_a_width_at_which_stages_do_not_widen_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="stage2/0 would not widen its 16 channels"):
        get_space(f"{name}(width=0.05)")
