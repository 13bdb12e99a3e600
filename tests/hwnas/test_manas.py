"""Agents that play against one loss: the sign, regret, least squares and Zipf's law."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hwnas.constraints import ConstraintSet
from hwnas.evaluators import Evaluation
from hwnas.spaces import ConfigError, get_space
from hwnas.strategies import make_strategy
from hwnas.strategies.manas import Manas, ManasLS

SPACE = get_space("nasbench201")
#: An additive score: of each edge, its operators from worst to best, and the edges of unequal weight.
WORTH = np.arange(1, 7)[:, None] * np.array([0.0, 0.3, 0.5, 1.0, 0.8])
BEST = (3,) * 6


def score(architecture: tuple[int, ...]) -> float:
    return float(WORTH[np.arange(6), list(architecture)].sum())


def play(strategy: Manas | ManasLS, steps: int) -> list[float]:
    """Scores of `steps` plays."""
    strategy.expect(steps)
    found = []
    for _ in range(steps):
        (architecture,) = strategy.ask(1)
        found.append(score(architecture))
        strategy.tell([Evaluation(architecture, found[-1])])
    return found


def test_manas_plays_better_and_better() -> None:
    strategy = Manas(SPACE, seed=0)
    scores = play(strategy, 4000)
    uniform, best = WORTH.mean(axis=1).sum(), score(BEST)
    regret = best - np.array(scores)
    assert regret[:50].mean() > 0.5 * (best - uniform)  # it begins with uniform play
    assert regret[-1000:].mean() < 0.1 * (best - uniform)
    assert strategy.recommendation == BEST
    assert all(shares.min() > 0 for shares in strategy.policy)  # no choice is ever given up
    assert strategy.trace[-1]["entropy"] < strategy.trace[0]["entropy"]


def test_regret_grows_more_slowly_than_time() -> None:
    def regret(steps: int) -> float:
        return float(np.mean([np.sum(score(BEST) - np.array(play(Manas(SPACE, seed=s), steps))) for s in range(2)]))

    assert regret(2400) < 4 * regret(300)


def test_a_loss_that_drifts_misleads_nobody() -> None:
    """All losses fall by ten times what the choices are worth, as they do while weights are trained."""
    strategy = Manas(SPACE, seed=1)
    strategy.expect(4000)
    for step in range(4000):
        (architecture,) = strategy.ask(1)
        strategy.tell([Evaluation(architecture, score(architecture) + 100 * (step / 4000))])
    assert strategy.recommendation is not None
    assert score(strategy.recommendation) > 0.9 * score(BEST)


def test_least_squares_need_few_plays_where_scores_add_up() -> None:
    strategy = ManasLS(SPACE, seed=0, warmup=60)
    play(strategy, 100)
    assert strategy.recommendation == BEST


def test_choices_are_played_by_zipf() -> None:
    strategy = ManasLS(SPACE, seed=0)
    assert all(shares == pytest.approx(np.full(5, 0.2)) for shares in strategy.policy)
    play(strategy, 100)
    harmonic = sum(1 / rank for rank in range(1, 6))
    for shares in strategy.policy:
        assert np.sort(shares)[::-1] == pytest.approx([1 / rank / harmonic for rank in range(1, 6)])


@pytest.mark.parametrize("name", ["manas", "manas-ls"])
def test_a_short_search_that_says_how_much_of_it_is_over_learns_as_well(name: str) -> None:
    """As in a supernet's training, which counts no evaluations."""
    space = get_space("darts", resolution=8, channels=1, width=0.25)
    strategy, steps = make_strategy(name, space, seed=0), 100
    for step in range(steps):
        strategy.advance(step / steps)
        (architecture,) = strategy.ask(1)
        strategy.tell([Evaluation(architecture, float(np.mean(np.array(architecture) == 5)))])
    assert strategy.trace[-1]["entropy"] < strategy.trace[0]["entropy"]
    assert strategy.recommendation is not None
    assert strategy.recommendation.count(5) > 28 / 8


@pytest.mark.parametrize("name", ["manas", "manas-ls"])
def test_under_a_budget_only_what_fits_is_played(name: str) -> None:
    limits = ConstraintSet(["flops <= 60M"], SPACE)
    strategy = make_strategy(name, SPACE, limits.sampler(), seed=0)
    strategy.expect(400)
    for _ in range(400):
        found = strategy.ask(8)
        assert limits.feasible(np.array(found)).all()
        strategy.tell([Evaluation(a, score(a)) for a in found])
    assert strategy.recommendation is not None
    assert limits.feasible(np.array([strategy.recommendation])).all()
    assert score(strategy.recommendation) > WORTH.mean(axis=1).sum()


def test_agents_of_cells_that_are_not_shared() -> None:
    space = get_space("darts", resolution=8, channels=1, width=0.25, cells="own")
    strategy = ManasLS(space, seed=0, every=50)
    for step in range(60):
        found = strategy.ask(1)
        strategy.tell([Evaluation(a, float(np.mean(a)) + step) for a in found])
    assert len(strategy.policy) == 14 * 8
    copy = ManasLS(space, seed=5, every=50)
    copy.load_state_dict(json.loads(json.dumps(strategy.state_dict())))
    assert copy.ask(1) == strategy.ask(1)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("manas", {"rate": 0.0}),
        ("manas", {"explore": -1.0}),
        ("manas", {"momentum": 1.0}),
        ("manas-ls", {"ridge": 0.0}),
        ("manas-ls", {"every": 0}),
    ],
)
def test_settings_out_of_range_are_refused(name: str, settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=name):
        make_strategy(name, SPACE, **settings)
