"""The feasible sampler: exactly uniform, exactly counted, never starved, clear when nothing is left."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.costs import AdditiveCost, MaxCost, Part
from hwnas.grid import Grid, Interval, cheapest
from hwnas.nearest import Bound, nearest, violation
from hwnas.sampler import FeasibleSampler
from hwnas.spaces import ConfigError, InfeasibleError, ModelError
from tests.hwnas.toy import ToySpace, at_least, at_most, random_cost, surprise

CHAIN = [(0, 1), (1, 2), (2, 3), (3, 4)]
MIXED = [(0,), (1, 3), (2,), (0, 4), (3, 4)]


def bounds_of(space: ToySpace, kind: str) -> list[Bound]:
    """The situations that the sampler must get right."""
    a, b, c = (random_cost(space, seed) for seed in (1, 2, 3))
    if kind == "one":
        return [at_most(space, a, 0.4)]
    if kind == "two":
        return [at_most(space, a, 0.6, "a"), at_most(space, b, 0.6, "b")]
    if kind == "at least":
        return [at_most(space, a, 0.7, "a"), at_least(space, b, 0.6, "b")]
    if kind == "four":
        return [at_most(space, a, 0.8), at_most(space, b, 0.8), at_least(space, c, 0.8), at_most(space, c, 0.9)]
    if kind == "both sides":
        low, high = np.quantile(a.values(space.all()), [0.3, 0.5])
        return [Bound("a within", a, float(low), float(high))]
    if kind == "pairs":
        return [
            at_most(space, random_cost(space, 4, CHAIN), 0.3, "a"),
            at_most(space, random_cost(space, 5, MIXED), 0.7),
        ]
    if kind == "joint":
        return [at_most(space, random_cost(space, 6, [(0, 1, 2, 3, 4)]), 0.4)]
    if kind == "holes":
        rng = np.random.default_rng(8)
        table = np.where(rng.random(216) < 0.5, np.nan, rng.random(216))
        return [
            at_most(space, a, 0.7),
            Bound("t <= 1", AdditiveCost(space.radices, [Part((0, 1, 2, 3, 4), table)]), upper=0.9),
        ]
    if kind == "mask":
        memory = MaxCost(
            space.radices, [Part((d,), np.arange(r, dtype=float)) for d, r in enumerate(space.radices)], 0.5
        )
        return [at_most(space, a, 0.8), Bound("memory <= 1", memory, upper=1.0)]
    return []


KINDS = ["none", "one", "two", "at least", "four", "both sides", "pairs", "joint", "holes", "mask"]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def feasible_rows(space: ToySpace, bounds: list[Bound]) -> np.ndarray:
    rows = space.all()
    for bound in bounds:
        values = bound.cost.values(rows)
        rows = rows[(values >= bound.lower) & (values <= bound.upper)]
    return rows


@pytest.mark.parametrize("list_up_to", [0, 1 << 16], ids=["grid", "list"])
def test_draws_are_exactly_uniform(kind: str, list_up_to: int) -> None:
    space = ToySpace()
    bounds = bounds_of(space, kind)
    rows = feasible_rows(space, bounds)
    sampler = FeasibleSampler(space, bounds, list_up_to=list_up_to)
    drawn = sampler.sample(200 * len(rows), np.random.default_rng(0))
    assert abs(surprise(drawn, rows, space.radices)) < 4


@pytest.mark.parametrize("list_up_to", [0, 1 << 16], ids=["grid", "list"])
def test_counts_agree_with_brute_force(kind: str, list_up_to: int) -> None:
    space = ToySpace()
    bounds = bounds_of(space, kind)
    rows = feasible_rows(space, bounds)
    sampler = FeasibleSampler(space, bounds, list_up_to=list_up_to)
    low, high = sampler.count()
    assert low <= len(rows) <= high
    if list_up_to:
        assert low == high == sampler.exact_count
    assert sampler.share() == pytest.approx(len(rows) / space.size, rel=0.1)
    assert (sampler.contains(space.all()).sum()) == len(rows)


@pytest.mark.parametrize("list_up_to", [0, 1 << 16], ids=["grid", "list"])
def test_draws_from_a_box_and_with_weights(kind: str, list_up_to: int) -> None:
    space = ToySpace()
    bounds = bounds_of(space, kind)
    rows = feasible_rows(space, bounds)
    sampler = FeasibleSampler(space, bounds, list_up_to=list_up_to)
    rng = np.random.default_rng(1)
    weights = [rng.random(radix) + 0.05 for radix in space.radices]
    product = np.prod([w[rows[:, d]] for d, w in enumerate(weights)], axis=0)
    drawn = sampler.sample(200 * len(rows), rng, weights=weights)
    assert abs(surprise(drawn, rows, space.radices, product)) < 4
    left, right = rows[3], rows[-4]
    allowed = [np.isin(np.arange(r), [a, b, r - 1]) for r, a, b in zip(space.radices, left, right, strict=True)]
    inside = np.all([mask[rows[:, d]] for d, mask in enumerate(allowed)], axis=0)
    drawn = sampler.sample(200 * inside.sum(), rng, allowed=allowed)
    assert abs(surprise(drawn, rows[inside], space.radices)) < 4
    drawn = sampler.sample(200 * inside.sum(), rng, allowed=allowed, weights=weights)
    assert abs(surprise(drawn, rows[inside], space.radices, product[inside])) < 4


@pytest.mark.parametrize("list_up_to", [0, 1 << 16], ids=["grid", "list"])
def test_marginals_agree_with_brute_force(kind: str, list_up_to: int) -> None:
    space = ToySpace()
    bounds = bounds_of(space, kind)
    rows = feasible_rows(space, bounds)
    sampler = FeasibleSampler(space, bounds, list_up_to=list_up_to)
    rng = np.random.default_rng(2)
    weights = [rng.random(radix) + 0.05 for radix in space.radices]
    product = np.prod([w[rows[:, d]] for d, w in enumerate(weights)], axis=0)
    found = sampler.marginals(weights, rng)
    for d, radix in enumerate(space.radices.tolist()):
        exact = np.bincount(rows[:, d], weights=product, minlength=radix) / product.sum()
        assert np.allclose(found[d], exact, atol=1e-12 if list_up_to else 0.02)
    inside = sampler.marginals(weights, rng, allowed=[np.arange(r) < 2 for r in space.radices])
    assert all(share[2:].sum() == 0 and share.sum() == pytest.approx(1) for share in inside)


@settings(max_examples=60, deadline=None)
@given(
    radices=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    seed=st.integers(0, 10_000),
    share=st.floats(0.01, 1.0),
    other=st.floats(0.05, 1.0),
    cells=st.sampled_from([4, 30, 1000]),
    pairs=st.booleans(),
)
def test_no_feasible_architecture_is_ever_off_the_grid(
    radices: list[int], seed: int, share: float, other: float, cells: int, pairs: bool
) -> None:
    space = ToySpace(radices)
    scopes = [(d, d + 1) for d in range(len(radices) - 1)] if pairs and len(radices) > 1 else None
    a, b = random_cost(space, seed, scopes), random_cost(space, seed + 1)
    # the bound is some architecture's cost to the last bit, where rounding would hurt
    bounds = [at_most(space, a, share), at_least(space, b, other)]
    rows = feasible_rows(space, bounds)
    intervals = [Interval(bound.cost, bound.lower, bound.upper) for bound in bounds]  # type: ignore[arg-type]
    outer = Grid(space.radices, intervals, cells=cells)
    inner = Grid(space.radices, intervals, cells=cells, inner=True)
    members = {tuple(row) for row in outer.members().tolist()} if outer.total else set()
    assert {tuple(row) for row in rows.tolist()} <= members
    assert round(outer.total * space.size) == len(members)
    within = inner.members() if inner.total else np.zeros((0, len(radices)), dtype=int)
    assert {tuple(row) for row in within.tolist()} <= {tuple(row) for row in rows.tolist()}


def test_a_bound_equal_to_the_cheapest_architecture_leaves_exactly_that() -> None:
    space = ToySpace([7] * 21)
    cost = random_cost(space, 1)
    _, best = cheapest(cost)
    sampler = FeasibleSampler(space, [Bound("cost <= least", cost, upper=float(cost.values(best[None])[0]))])
    assert sampler.count() == (1, 1)
    assert (sampler.sample(5, np.random.default_rng(0)) == best).all()


@pytest.mark.parametrize("share", [0.5, 1e-3, 1e-6, 1e-9])
def test_large_spaces_are_drawn_at_any_budget(share: float) -> None:
    space = ToySpace([7] * 21)
    rng = np.random.default_rng(3)
    a, b = random_cost(space, 1), random_cost(space, 2)
    low, _ = a.range()
    spread = np.std(a.values(space.sample(4096, rng)))
    middle = float(np.mean(a.values(space.sample(4096, rng))))
    upper = max(low * 1.02, middle - spread * {0.5: 0.0, 1e-3: 3.1, 1e-6: 4.75, 1e-9: 6.0}[share])
    sampler = FeasibleSampler(space, [Bound("a", a, upper=upper), Bound("b", b, lower=middle - 2 * spread)])
    drawn = sampler.sample(500, rng)
    assert drawn.shape == (500, 21)
    assert (a.values(drawn) <= upper).all()
    assert len(np.unique(drawn, axis=0)) > 450
    low_count, high_count = sampler.count()
    assert low_count <= sampler.share() * space.size <= high_count


def test_a_box_around_a_feasible_architecture_never_starves() -> None:
    space = ToySpace([6, 7, 7, 7] * 5)
    cost = random_cost(space, 1)
    low, high = cost.range()
    sampler = FeasibleSampler(space, [Bound("cost", cost, upper=low + 0.05 * (high - low))])
    rng = np.random.default_rng(0)
    parents = sampler.sample(40, rng)
    for parent, other in zip(parents[::2], parents[1::2], strict=True):
        free = rng.random(len(parent)) < 0.1
        mutant = [
            np.ones(r, bool) if f else np.arange(r) == p for r, p, f in zip(space.radices, parent, free, strict=True)
        ]
        span = [(np.arange(r) == p) | (np.arange(r) == o) for r, p, o in zip(space.radices, parent, other, strict=True)]
        for box in (mutant, span):
            child = sampler.sample(1, rng, allowed=box)[0]
            assert sampler.contains(child[None]).all()
            assert all(mask[c] for mask, c in zip(box, child, strict=True))


def test_equal_generators_give_equal_draws_whatever_was_drawn_before() -> None:
    space = ToySpace([7] * 12)
    cost = random_cost(space, 1)
    bounds = [
        Bound("cost", cost, upper=float(np.quantile(cost.values(space.sample(999, np.random.default_rng(0))), 0.01)))
    ]
    used, new = FeasibleSampler(space, bounds), FeasibleSampler(space, bounds)
    weights = [np.linspace(1, 2, 7)] * 12
    used.sample(777, np.random.default_rng(5))
    used.marginals(weights, np.random.default_rng(5))
    for options in ({}, {"weights": weights}, {"allowed": [np.arange(7) < 4] * 12}):
        draws = [sampler.sample(33, np.random.default_rng(9), **options) for sampler in (used, new)]
        assert (draws[0] == draws[1]).all()


def test_look_ups_over_too_many_decisions_are_relaxed_not_wrong() -> None:
    space = ToySpace([4] * 9)
    scopes = [tuple(range(9)), *[(d,) for d in range(9)]]  # one joint table of 262,144 values: too wide for the grid
    cost = random_cost(space, 1, scopes)
    bounds = [at_most(space, cost, 0.1)]
    sampler = FeasibleSampler(space, bounds, list_up_to=0)
    drawn = sampler.sample(2000, np.random.default_rng(0))
    assert sampler.contains(drawn).all()
    rows = feasible_rows(space, bounds)
    for d in range(9):
        exact = np.bincount(rows[:, d], minlength=4) / len(rows)
        assert np.allclose(np.bincount(drawn[:, d], minlength=4) / len(drawn), exact, atol=0.05)


@pytest.mark.parametrize("kind", ["two", "at least", "pairs", "mask"])
def test_nearest_is_the_least_violation_of_the_whole_space(kind: str) -> None:
    space = ToySpace()
    bounds = bounds_of(space, kind)
    worst = violation(bounds, space.all())
    found = nearest(space, bounds)
    assert violation(bounds, np.array([found]))[0] == worst.min()


def test_nearest_in_a_large_space_is_found() -> None:
    small, large = ToySpace([4] * 8), ToySpace([4] * 8 + [1] * 40)
    a, b = random_cost(small, 1), random_cost(small, 2)
    bounds = [Bound("a <= 1", a, upper=1.0), Bound("b <= 1", b, upper=1.0)]
    best = violation(bounds, small.all()).min()

    def widened(cost: AdditiveCost) -> AdditiveCost:
        return AdditiveCost(large.radices, cost.parts, cost.constant)

    # the same problem, but declared too large to list
    wide = [Bound(bound.text, widened(bound.cost), upper=1.0) for bound in bounds]  # type: ignore[arg-type]
    large.size = 4**40
    found = nearest(large, wide)
    assert violation(wide, np.array([found]))[0] <= best + 0.05


def test_an_unreachable_budget_names_every_bound_its_reach_and_the_nearest_point() -> None:
    space = ToySpace()
    a, b = random_cost(space, 1), random_cost(space, 2)
    rows = space.all()
    low = float(a.values(rows).min())
    bounds = [Bound("a <= 0.1 ms", a, upper=0.1, scale=0.1, show="{:.3f} ms".format), at_most(space, b, 0.5, "b")]
    with pytest.raises(InfeasibleError) as caught:
        FeasibleSampler(space, bounds)
    text = str(caught.value)
    point = list(nearest(space, bounds))
    for piece in ("a <= 0.1 ms", f"at least {low:.3f} ms", bounds[1].text, "at least", str(point), "nearest"):
        assert piece in text
    assert f"a = {a.values(np.array([point]))[0]:.3f} ms" in text
    with pytest.raises(InfeasibleError, match="at most"):
        FeasibleSampler(space, [Bound("a >= 99", a, lower=99.0)])


@pytest.mark.parametrize("size", [5, 21])
def test_bounds_that_can_only_be_met_one_at_a_time_are_refused(size: int) -> None:
    space = ToySpace([3] * size)
    parts = [Part((d,), np.array([0.0, 1.0, 2.0])) for d in range(size)]
    cost = AdditiveCost(space.radices, parts, 1.0)
    with pytest.raises(InfeasibleError, match="alone: at least 1"):
        FeasibleSampler(space, [Bound("a <= 2.5", cost, upper=2.5), Bound("a >= 3.5", cost.scaled(1.0), lower=3.5)])


def test_a_box_without_feasible_architectures_is_refused() -> None:
    space = ToySpace()
    cost = random_cost(space, 1)
    dearest = [np.arange(r) == c for r, c in zip(space.radices, cheapest(cost, -1)[1], strict=True)]
    for list_up_to in (0, 1 << 16):
        sampler = FeasibleSampler(space, [at_most(space, cost, 0.3)], list_up_to=list_up_to)
        with pytest.raises(InfeasibleError, match="part of the space"):
            sampler.sample(1, np.random.default_rng(0), allowed=dearest)
        with pytest.raises(InfeasibleError, match="positive weight"):
            sampler.sample(1, np.random.default_rng(0), weights=[m.astype(float) for m in dearest])


def test_wrong_shapes_are_refused() -> None:
    sampler = FeasibleSampler(ToySpace())
    with pytest.raises(ConfigError, match="5 decisions"):
        sampler.sample(1, np.random.default_rng(0), allowed=[np.ones(3, bool)])
    with pytest.raises(ModelError, match="decisions"):
        sampler.contains([(0, 0)])
    with pytest.raises(ModelError, match="outside"):
        sampler.contains([(0, 0, 0, 0, 3)])
    with pytest.raises(ModelError, match="integers"):
        sampler.contains([(0.5, 0, 0, 0, 0)])  # type: ignore[list-item]
    assert sampler.sample(0, np.random.default_rng(0)).shape == (0, 5)
