"""PNAS: stages, surrogates, budgets, and spaces that do not grow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hwnas.constraints import ConstraintSet
from hwnas.evaluators import Evaluation
from hwnas.spaces import ConfigError, get_space
from hwnas.spaces.pnas import PNAS
from hwnas.strategies import make_strategy
from hwnas.strategies.pnas import Pnas
from hwnas.strategies.surrogate import Surrogate

SPACE = PNAS(blocks=3)
#: Made-up worth of each operation.
WORTH = np.array([3.0, 4.0, 2.0, 1.0, 0.0, 0.5, 1.5, 2.5])


def quality(rows: np.ndarray) -> np.ndarray:
    """Mean worth of the operations, more with every block."""
    parts = SPACE.parts(rows)
    there = parts[:, :, :1] >= 0
    worth = np.where(there, WORTH[np.maximum(parts[:, :, 2:], 0)], 0).mean(axis=2).sum(axis=1)
    return np.asarray(worth / there[:, :, 0].sum(axis=1) + 0.3 * there[:, :, 0].sum(axis=1))


def run(strategy: Any, evaluations: int) -> list[tuple[int, ...]]:
    strategy.expect(evaluations)
    asked: list[tuple[int, ...]] = []
    while len(asked) < evaluations:
        found = strategy.ask(min(8, evaluations - len(asked)))
        asked += found
        strategy.tell([Evaluation(a, float(v)) for a, v in zip(found, quality(np.array(found)), strict=True)])
    return asked


def test_stages_grow_and_end_near_the_best() -> None:
    strategy = Pnas(SPACE, seed=0, beam=20)
    asked = run(strategy, 176)
    sizes = SPACE.complexity(np.array(asked)).tolist()
    assert sizes == [1] * 136 + [2] * 20 + [3] * 20
    assert len(set(asked)) == len(asked)
    assert (SPACE.canonical(np.array(asked)) == np.array(asked)).all()
    largest = 4.0 + 0.3 * 3  # sep5 everywhere
    assert strategy.best is not None
    assert strategy.best.score > largest - 0.3
    chance = Pnas(SPACE, seed=0, beam=20, surrogate="random")
    run(chance, 176)
    assert chance.best is not None
    assert chance.best.score < strategy.best.score


def test_evaluations_are_divided_over_the_sizes() -> None:
    assert Pnas(PNAS(), seed=0).planned == 1160  # as in the paper
    sizes = SPACE.complexity(np.array(run(Pnas(SPACE, seed=0), 60)))
    assert np.bincount(sizes).tolist() == [0, 20, 8, 32]  # the largest has what others leave
    sizes = SPACE.complexity(np.array(run(Pnas(SPACE, seed=0), 12)))
    assert np.bincount(sizes).tolist() == [0, 4, 4, 4]


@pytest.mark.parametrize("kind", ["mlp", "rnn"])
def test_surrogates_rank_what_they_were_not_shown(kind: str) -> None:
    rows = SPACE.canonical(SPACE.sample(500, np.random.default_rng(0)))
    scores = quality(rows)
    model = Surrogate(kind, SPACE.vocabularies, SPACE.token_kinds, width=32, members=2)
    model.fit(SPACE.parts(rows[:300]), scores[:300])
    model.fit(SPACE.parts(rows[:300]), scores[:300])
    found = model.predict(SPACE.parts(rows[300:]))
    assert np.corrcoef(found, scores[300:])[0, 1] > 0.8


def test_a_budget_prunes_before_anything_is_evaluated() -> None:
    limits = ConstraintSet(["params <= 150K"], SPACE)
    strategy = make_strategy("pnas", SPACE, limits.sampler(), seed=1, beam="15")
    asked = run(strategy, 60)
    assert limits.feasible(np.array(asked)).all()
    assert SPACE.complexity(np.array(asked)).max() > 1


def test_sizes_that_cannot_fit_are_passed_through() -> None:
    lower = float(ConstraintSet(["params >= 1"], SPACE).bounds[0].cost.values(SPACE.seeds()).max())
    limits = ConstraintSet([f"params >= {lower + 1}"], SPACE)
    asked = run(Pnas(SPACE, limits.sampler(), seed=0, beam=10), 20)
    assert limits.feasible(np.array(asked)).all()
    assert SPACE.complexity(np.array(asked)).min() == 2


def test_exploring_reaches_beyond_the_beam() -> None:
    greedy = run(Pnas(SPACE, seed=0, beam=20), 176)
    exploring = run(Pnas(SPACE, seed=0, beam=20, explore=0.5), 176)
    shared = set(greedy[136:156]) & set(exploring[136:156])
    assert 8 <= len(shared) <= 12
    assert quality(np.array(exploring[136:156])).mean() < quality(np.array(greedy[136:156])).mean()


def test_what_cannot_be() -> None:
    with pytest.raises(ConfigError, match="mobilenet cannot"):
        Pnas(get_space("mobilenet"))
    for settings in ({"beam": -1}, {"explore": 2.0}, {"members": 0}):
        with pytest.raises(ConfigError):
            Pnas(SPACE, **settings)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="mlp, rnn"):
        Pnas(SPACE, surrogate="forest")
