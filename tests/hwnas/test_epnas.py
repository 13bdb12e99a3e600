"""EPNAS: its reward, its edits, several networks at a time, and the evaluations that it spares."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hwnas.costs import AdditiveCost, Part
from hwnas.evaluators import Evaluation
from hwnas.nearest import Bound
from hwnas.sampler import FeasibleSampler
from hwnas.spaces import ConfigError, get_space
from hwnas.strategies.epnas import Epnas, penalised
from tests.hwnas.toy import ToySpace, at_most, random_cost

SPACE = ToySpace([4] * 8)


def sampler() -> FeasibleSampler:
    return FeasibleSampler(SPACE, [at_most(SPACE, random_cost(SPACE, 2), 0.3)])


def run(strategy: Any, evaluations: int, at_once: int = 8) -> list[tuple[int, ...]]:
    quality = random_cost(SPACE, 1)
    asked: list[tuple[int, ...]] = []
    while len(asked) < evaluations:
        found = strategy.ask(at_once)
        asked += found
        strategy.tell([Evaluation(a, float(v)) for a, v in zip(found, quality.values(np.array(found)), strict=True)])
    return asked


def test_the_reward_is_less_by_a_factor_for_each_miss() -> None:
    cost = AdditiveCost(np.array([4]), [Part((0,), np.array([1.0, 2.0, 3.0, 4.0]))])
    upper, lower = Bound("cost <= 2", cost, upper=2.0, scale=2.0), Bound("cost >= 3", cost, lower=3.0, scale=3.0)
    assert penalised(0.8, (upper,), (1,), 0.5) == 0.8
    assert penalised(0.8, (upper,), (3,), 0.5) == pytest.approx(0.8 * 0.5)  # twice the bound
    assert penalised(0.8, (upper,), (2,), 0.5) == pytest.approx(0.8 * 0.5**0.5)
    assert penalised(0.8, (lower,), (1,), 0.5) == pytest.approx(0.8 * 0.5 ** (1 / 3))
    assert penalised(0.8, (upper, lower), (3,), 0.25) == pytest.approx(0.8 * 0.25)
    assert penalised(0.8, (upper,), (2,), 0.0) == 0
    assert penalised(-1.0, (upper,), (3,), 0.5) == pytest.approx(-1.5)


def test_networks_are_edited_one_decision_at_a_time() -> None:
    strategy = Epnas(SPACE, seed=0, networks=3, predictor=False)
    assert len(strategy.ask(8)) == 3  # the others wait for these
    asked = strategy.pending
    assert all(sum(choice != 0 for choice in architecture) == 1 for architecture in asked)  # from the smallest
    strategy.tell([Evaluation(a, 1.0) for a in asked])
    for after in strategy.ask(8):
        assert min(sum(a != b for a, b in zip(after, before, strict=True)) for before in asked) <= 1


def test_soft_penalties_look_beyond_the_budget_and_hard_ones_do_not() -> None:
    soft = run(Epnas(SPACE, sampler(), seed=0), 150)
    inside = sampler().contains(soft)
    assert not inside.all()
    assert inside[75:].mean() > inside[:75].mean()  # it learns where the budget is
    hard = run(Epnas(SPACE, sampler(), seed=0, penalty="hard"), 150)
    assert sampler().contains(hard).all()


def test_the_predictor_spares_evaluations() -> None:
    with_it, without = Epnas(SPACE, sampler(), seed=0), Epnas(SPACE, sampler(), seed=0, predictor=False)
    asked, others = run(with_it, 150), run(without, 150)
    assert with_it.spared > 3
    assert without.spared == 0
    assert asked[:25] == others[:25]  # nothing is spared before there are scores to predict from
    assert asked != others


def test_it_grows_networks_in_its_own_space() -> None:
    space = get_space("epnas(depth=0.5)", resolution=32, classes=10, width=0.25)
    cost = AdditiveCost(space.radices, [Part((d,), np.arange(r, dtype=float)) for d, r in enumerate(space.radices)])
    strategy = Epnas(space, seed=0)
    layers: list[int] = []
    for _ in range(30):
        found = strategy.ask(8)
        layers += [len(space.lower(architecture).nodes) for architecture in found]
        strategy.tell([Evaluation(a, float(v)) for a, v in zip(found, cost.values(np.array(found)), strict=True)])
    assert np.mean(layers[-40:]) > np.mean(layers[:40])


def test_what_cannot_be() -> None:
    for settings in ({"networks": 0}, {"base": 1.0}, {"penalty": "none"}, {"start": "largest"}, {"learning_rate": 0}):
        with pytest.raises(ConfigError):
            Epnas(SPACE, **settings)  # type: ignore[arg-type]
