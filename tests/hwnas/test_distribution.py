"""Distributions over architectures, against enumeration of every architecture."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.costs import AdditiveCost, Part
from hwnas.strategies.distribution import ArchitectureDistribution, Groups

RADICES = np.array([2, 3, 2, 4])
GROUPINGS: tuple[Groups, ...] = (((0,), (1,), (2,), (3,)), ((0, 1), (2,), (3,)), ((2, 0), (3, 1)), ((1, 0, 3, 2),))


def everything() -> np.ndarray:
    return np.array(list(itertools.product(*(range(r) for r in RADICES))))


def drawn(groups: Groups, seed: int) -> ArchitectureDistribution:
    rng = np.random.default_rng(seed)
    empty = ArchitectureDistribution(RADICES, groups)
    return empty.moved([rng.normal(size=len(array)) for array in empty.logits])


def slope(function: object, distribution: ArchitectureDistribution) -> list[np.ndarray]:
    """The gradient of a function of a distribution by central differences."""
    found = []
    for g, array in enumerate(distribution.logits):
        column = np.zeros_like(array)
        for index in range(len(array)):
            step = [np.zeros_like(a) for a in distribution.logits]
            step[g][index] = 1e-5
            up, down = distribution.moved(step), distribution.moved([-s for s in step])
            column[index] = (function(up) - function(down)) / 2e-5  # type: ignore[operator]
        found.append(column)
    return found


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(GROUPINGS), st.integers(0, 1000))
def test_probabilities_entropy_marginals_and_mode(groups: Groups, seed: int) -> None:
    distribution, rows = drawn(groups, seed), everything()
    p = np.exp(distribution.log_prob(rows))
    assert p.sum() == pytest.approx(1)
    assert distribution.entropy == pytest.approx(float(-(p * np.log(p)).sum()))
    for decision, marginal in enumerate(distribution.marginals()):
        assert marginal == pytest.approx(np.bincount(rows[:, decision], weights=p))
    assert distribution.mode() == tuple(rows[p.argmax()])
    copy = ArchitectureDistribution.from_json(RADICES, json.loads(json.dumps(distribution.to_json())))
    assert np.array_equal(copy.log_prob(rows), distribution.log_prob(rows))


@settings(max_examples=10, deadline=None)
@given(st.sampled_from(GROUPINGS), st.integers(0, 1000))
def test_gradients(groups: Groups, seed: int) -> None:
    distribution = drawn(groups, seed)
    rng = np.random.default_rng(seed)
    rows, weights = everything()[rng.integers(0, 48, 5)], rng.normal(size=5)
    numeric = slope(lambda d: float(weights @ d.log_prob(rows)), distribution)
    assert np.concatenate(distribution.score(rows, weights)) == pytest.approx(np.concatenate(numeric), abs=1e-7)
    parts = [Part((0,), rng.random(2)), Part((1, 3), rng.random(12)), Part((0, 2, 3), rng.random(16))]
    cost = AdditiveCost(RADICES, parts, 0.7)
    value, gradient = distribution.expectation(cost)
    assert value == pytest.approx(float(np.exp(distribution.log_prob(everything())) @ cost.values(everything())))
    numeric = slope(lambda d: d.expectation(cost)[0], distribution)
    assert np.concatenate(gradient) == pytest.approx(np.concatenate(numeric), abs=1e-7)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000))
def test_joining_groups_changes_no_probability(seed: int) -> None:
    factorised, rows = drawn(GROUPINGS[0], seed), everything()
    for groups in GROUPINGS:
        joint = factorised.joined(groups)
        assert joint.groups == groups
        assert joint.log_prob(rows) == pytest.approx(factorised.log_prob(rows))
        assert joint.entropy == pytest.approx(factorised.entropy)
    assert factorised.joined(GROUPINGS[3]).size == 48
    with pytest.raises(ValueError, match="not inside"):
        drawn(GROUPINGS[2], seed).joined(GROUPINGS[1])


def test_draws_follow_the_probabilities() -> None:
    distribution, rows = drawn(GROUPINGS[2], 3), everything()
    sample = distribution.sample(40_000, np.random.default_rng(0))
    counts = np.zeros(len(rows))
    place = {tuple(row): index for index, row in enumerate(rows.tolist())}
    for row in sample.tolist():
        counts[place[tuple(row)]] += 1
    assert counts / len(sample) == pytest.approx(np.exp(distribution.log_prob(rows)), abs=0.01)
    with pytest.raises(ValueError, match="do not hold each"):
        ArchitectureDistribution(RADICES, ((0, 1), (1, 2, 3)))
