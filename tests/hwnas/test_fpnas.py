"""PARSEC and FP-NAS: their gradients against enumeration, the number of draws, the budget, going on."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from hwnas.constraints import ConstraintSet
from hwnas.costs import AdditiveCost, Part
from hwnas.evaluators import Evaluation
from hwnas.nearest import Bound
from hwnas.sampler import FeasibleSampler
from hwnas.spaces import ConfigError, get_space
from hwnas.strategies import make_strategy
from hwnas.strategies.distribution import ArchitectureDistribution
from hwnas.strategies.fpnas import SOFTEN, FpNas, Parsec, excess, importance, pull
from tests.hwnas.toy import ToySpace, random_cost

SPACE = ToySpace((3, 4, 2, 3, 3))
QUALITY = random_cost(SPACE, 1)


def run(strategy: Any, evaluations: int, quality: AdditiveCost = QUALITY) -> Any:
    strategy.expect(evaluations)
    done = 0
    while done < evaluations:
        found = strategy.ask(8)
        strategy.tell([Evaluation(a, float(v)) for a, v in zip(found, quality.values(np.array(found)), strict=True)])
        done += len(found)
    return strategy


def test_the_pull_is_the_gradient_of_the_loss() -> None:
    """With many draws, against the loss summed over every architecture (FP-NAS, section 3.2)."""
    radices = np.array([2, 3])
    rng = np.random.default_rng(0)
    distribution = ArchitectureDistribution(radices, ((0, 1),), [rng.normal(size=6)])
    everything = np.array(list(itertools.product(range(2), range(3))))
    likelihood, miss, beta = rng.normal(size=6), np.abs(rng.normal(size=6)), 0.7

    def loss(logits: np.ndarray) -> float:
        p = np.exp(ArchitectureDistribution(radices, ((0, 1),), [logits]).log_prob(everything))
        return float(-np.log(p @ np.exp(likelihood)) + beta * np.log(p @ miss + SOFTEN))

    steps = 1e-5 * np.eye(6)
    logits = distribution.logits[0]
    wanted = np.array([(loss(logits + step) - loss(logits - step)) / 2e-5 for step in steps])
    rows = distribution.sample(400_000, rng)
    index = np.ravel_multi_index(tuple(rows.T), (2, 3))
    (found,) = distribution.score(rows, pull(likelihood[index], miss[index], beta))
    assert -found == pytest.approx(wanted, abs=0.01)


def test_weights_of_draws() -> None:
    weights = importance(np.array([-1000.0, -1001.0, np.nan]))
    assert weights == pytest.approx([np.e / (1 + np.e), 1 / (1 + np.e), 0])
    assert importance(np.full(3, np.nan)).tolist() == [0, 0, 0]
    assert pull(np.zeros(4), np.zeros(4), 1.0) == pytest.approx(np.zeros(4))  # a tie moves nothing
    assert pull(np.zeros(2), np.array([0.0, 3.0]), 1.0) == pytest.approx([0.5, -0.5], rel=0.02)
    slight = pull(np.zeros(2), np.array([0.0, 1e-6]), 1.0)
    assert abs(slight).max() < 1e-4  # barely over the budget, barely pushed back


def test_excess_is_a_hinge_at_each_bound() -> None:
    cost = AdditiveCost(np.array([3]), [Part((0,), np.array([1.0, 2.0, 4.0]))])
    upper = Bound("cost <= 2", cost, upper=2.0, scale=2.0)
    lower = Bound("cost >= 2", cost, lower=2.0, scale=2.0)
    rows = np.array([[0], [1], [2]])
    assert excess([upper], rows) == pytest.approx([0, 0, 1])
    assert excess([lower], rows) == pytest.approx([0.5, 0, 0])
    assert excess([upper, lower], rows) == pytest.approx([0.5, 0, 1])
    assert excess([], rows).tolist() == [0, 0, 0]


@pytest.mark.parametrize("text", ["flops <= 40M", "intensity >= 4", "memory <= 200KB"])
def test_whatever_misses_a_constraint_has_an_excess(text: str) -> None:
    space = get_space("nasbench201")
    limits = ConstraintSet([text], space)
    rows = space.sample(300, np.random.default_rng(0))
    inside = limits.feasible(rows)
    assert 0 < inside.mean() < 1
    assert ((excess(limits.bounds, rows) <= 0) == inside).all()


@pytest.mark.parametrize("name", ["parsec", "fpnas"])
def test_it_finds_the_best(name: str) -> None:
    strategy = run(make_strategy(name, SPACE, seed=1), 1500)
    everything = SPACE.all()
    values = QUALITY.values(everything)
    assert QUALITY.values(np.array([strategy.recommendation]))[0] >= np.quantile(values, 0.98)
    assert strategy.trace[-1]["entropy"] < 0.5 * strategy.trace[0]["entropy"]
    assert all(1 <= record["effective_samples"] <= record["samples"] + 1e-9 for record in strategy.trace)


def test_draws_follow_the_entropy() -> None:
    strategy = run(FpNas(SPACE, rate=2.0, least=3), 1200)
    uniform = float(np.log(SPACE.radices).sum())
    assert strategy.trace[0]["samples"] == round(2 * uniform)
    for record in strategy.trace:
        assert record["samples"] == max(3, round(2 * record["entropy"]))
    assert strategy.trace[-1]["samples"] < strategy.trace[0]["samples"]
    assert all(record["samples"] == 16 for record in run(Parsec(SPACE), 300).trace)


def test_the_distribution_becomes_joint() -> None:
    space = get_space("nasbench201")
    quality = AdditiveCost(space.radices, [Part((d,), np.arange(5.0)) for d in range(6)])
    sizes = [record["logits"] for record in run(FpNas(space, coarse=0.5), 200, quality).trace]
    assert (sizes[0], sizes[-1]) == (30, 5 + 25 + 125)
    assert {record["logits"] for record in run(FpNas(space, coarse=1.0), 100, quality).trace} == {30}
    assert {record["logits"] for record in run(FpNas(space, coarse=0.0), 100, quality).trace} == {155}


@pytest.mark.parametrize("expected", [False, True])
def test_the_budget_is_learned(expected: bool) -> None:
    cost = random_cost(SPACE, 2)
    bound = float(np.quantile(cost.values(SPACE.all()), 0.2))
    sampler = FeasibleSampler(SPACE, [Bound("cost", cost, upper=bound)])
    strategy = run(FpNas(SPACE, sampler, expected=expected, beta=2.0, rate=2.0), 2000)
    assert strategy.recommendation is not None
    assert sampler.contains([strategy.recommendation])[0]
    begin, end = (np.mean([r["within_budget"] for r in part]) for part in (strategy.trace[:10], strategy.trace[-10:]))
    assert begin < 0.5 < end
    feasible = SPACE.all()[sampler.contains(SPACE.all())]
    assert QUALITY.values(np.array([strategy.recommendation]))[0] >= np.quantile(QUALITY.values(feasible), 0.9)


def test_mistakes() -> None:
    with pytest.raises(ConfigError, match="at least 2 samples"):
        make_strategy("parsec", SPACE, samples="1")
    with pytest.raises(ConfigError, match="positive rate"):
        make_strategy("fpnas", SPACE, rate="0")
    with pytest.raises(ConfigError, match="positive learning rate"):
        make_strategy("fpnas", SPACE, temperature="0")
