"""The conformance suite of strategies: authors of plug-ins run the same checks as the built-in ones.

::

    from hwnas.strategies.testing import check_strategy

    def test_mine():
        check_strategy(MyStrategy)
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from hwnas.costs import AdditiveCost, Part
from hwnas.evaluators.base import Evaluation
from hwnas.nearest import Bound
from hwnas.sampler import FeasibleSampler
from hwnas.spaces.errors import ConfigError
from hwnas.spaces.space import Architecture, SearchSpace, get_space
from hwnas.strategies.base import Strategy

__all__ = ["check_strategy"]


def _utility(space: SearchSpace, seed: int) -> AdditiveCost:
    """A made-up additive quantity: enough to search on, and no network has to be built."""
    rng = np.random.default_rng(seed)
    return AdditiveCost(space.radices, [Part((d,), rng.random(r)) for d, r in enumerate(space.radices.tolist())])


def _sampler(space: SearchSpace, cost: AdditiveCost, share: float) -> FeasibleSampler:
    """A bound that about `share` of the space meets."""
    values = cost.values(space.sample(4096, np.random.default_rng(0)))
    return FeasibleSampler(space, [Bound("cost <= quantile", cost, upper=float(np.quantile(values, share)))])


def _tiny(space: SearchSpace, cost: AdditiveCost) -> FeasibleSampler:
    """A bound that fewer than 40 architectures meet."""
    low, high = cost.range()
    room = 0.1 * (high - low)
    while True:
        sampler = FeasibleSampler(space, [Bound("cost <= little", cost, upper=low + room)])
        if sampler.exact_count is not None and sampler.exact_count < 40:
            return sampler
        room *= 0.7


def check_strategy(cls: type[Strategy], space: SearchSpace | None = None, **hyper: Any) -> None:
    """Check that `cls` keeps the promises of `Strategy`.

    Parameters
    ----------
    cls
        The strategy.
    space
        Where to try it; by default `nasbench201`, without building any network.
    hyper
        Settings for `cls`.

    Raises
    ------
    AssertionError
        If a promise is broken; the text says which.
    """
    space = get_space("nasbench201") if space is None else space
    quality, cost = _utility(space, 1), _utility(space, 2)
    sampler = _sampler(space, cost, 0.3)

    def make(seed: int = 0, where: FeasibleSampler = sampler) -> Strategy:
        return cls(space, where, seed=seed, **hyper)

    def score(architectures: Sequence[Architecture]) -> list[Evaluation]:
        values = quality.values(np.array(architectures)).tolist() if architectures else []
        return [Evaluation(a, v) for a, v in zip(architectures, values, strict=True)]

    _check_asks(make(), sampler, score)
    _check_order(make(), score)
    _check_seeds(make, score)
    _check_state(make, score)
    _check_failures(make(), space, sampler, score)
    _check_small(make(where=_tiny(space, cost)), score)


def _best(strategy: Strategy) -> Evaluation | None:
    return strategy.best


def _check_asks(strategy: Strategy, sampler: FeasibleSampler, score: Any) -> None:
    state = str(np.random.get_state())  # noqa: NPY002 - the global generator must stay as it is
    assert _best(strategy) is None, "best is None before anything is told"
    asked: list[Architecture] = []
    best = -math.inf
    for count in (1, 7, 60, 3, 60, 1, 60):
        found = strategy.ask(count)
        assert 1 <= len(found) <= count, f"ask({count}) returned {len(found)} architectures"
        assert all(type(a) is tuple and all(type(c) is int for c in a) for a in found), "tuples of plain ints"
        assert not strategy.bounded or sampler.contains(found).all(), "only feasible architectures"
        asked += found
        assert strategy.pending == found, "pending lists what was asked for and not told"
        evaluations = score(found)
        strategy.tell(evaluations)
        inside = sampler.contains(found).tolist()
        best = max([best, *(e.score for e, fits in zip(evaluations, inside, strict=True) if fits)])
        reported = _best(strategy)
        assert (reported is not None) == math.isfinite(best), "best is known once something feasible was told"
        assert reported is None or reported.score == best, "best is the highest feasible score told"
    assert strategy.pending == [], "nothing is pending once everything was told"
    if not strategy.repeats:
        assert len(set(asked)) == len(asked), "an architecture was asked for twice"
    assert str(np.random.get_state()) == state, "numpy's global generator was used"  # noqa: NPY002


def _check_order(strategy: Strategy, score: Any) -> None:
    outstanding: list[Architecture] = []
    for _ in range(30):
        found = strategy.ask(3)
        assert found, "with evaluations outstanding, ask still finds work"
        outstanding += found
    strategy.tell(score(outstanding[::-1]))
    assert strategy.pending == [], "evaluations may arrive in any order"
    assert strategy.ask(1), "and the search goes on"


def _check_seeds(make: Any, score: Any) -> None:
    def run(seed: int) -> list[Architecture]:
        strategy, asked = make(seed), []
        for _ in range(12):
            found = strategy.ask(5)
            asked += found
            strategy.tell(score(found))
        return asked

    assert run(3) == run(3), "the same seed gives the same asks"
    assert run(3) != run(4), "different seeds give different asks"


def _check_state(make: Any, score: Any) -> None:
    """A copy made from the JSON of the state, at several moments and with asks outstanding, asks for the same."""
    for rounds in (0, 1, 4, 15):
        strategy = make()
        late: list[Architecture] = []
        for _ in range(rounds):
            found = strategy.ask(6)
            strategy.tell(score(late + found[:-1]))
            late = found[-1:]
        text = json.dumps(strategy.state_dict(), allow_nan=False)
        copy = make(seed=99)
        copy.load_state_dict(json.loads(text))
        assert copy.best == strategy.best, "best survives the round trip"
        assert copy.pending == strategy.pending, "pending survives the round trip"
        for twin in (strategy, copy):
            twin.tell(score(late))
        for _ in range(12):
            wanted, found = strategy.ask(6), copy.ask(6)
            assert found == wanted, "a restored strategy asks for something else"
            strategy.tell(score(found))
            copy.tell(score(found))
    for broken in ({}, {**json.loads(text), "strategy": "another"}, {**json.loads(text), "rng": {}}):
        try:
            make().load_state_dict(broken)
        except ConfigError:
            continue
        raise AssertionError("a state of another search is refused with a ConfigError")


def _check_failures(strategy: Strategy, space: SearchSpace, sampler: FeasibleSampler, score: Any) -> None:
    """Failed, infeasible and unasked evaluations are taken, and never become the best."""
    found = strategy.ask(4)
    strategy.tell([Evaluation(a, math.nan) for a in found])
    assert _best(strategy) is None, "a failed evaluation became the best"
    everything = space.sample(256, np.random.default_rng(5))
    outside = [tuple(row) for row in everything[~sampler.contains(everything)].tolist()]
    strategy.tell([Evaluation(a, 1e9) for a in outside[:3]])
    assert _best(strategy) is None, "an infeasible evaluation became the best"
    found = strategy.ask(2)
    strategy.tell([Evaluation(a, 1e9, info={"feasible": False}) for a in found])
    assert _best(strategy) is None, "an evaluation marked infeasible became the best"
    inside = [tuple(row) for row in sampler.sample(3, np.random.default_rng(6)).tolist()]
    strategy.tell(score(inside))
    assert _best(strategy) is not None, "an evaluation that was not asked for counts"
    for _ in range(20):
        found = strategy.ask(5)
        assert not strategy.bounded or sampler.contains(found).all(), "only feasible architectures"
        strategy.tell(score(found))


def _check_small(strategy: Strategy, score: Any) -> None:
    """A feasible set smaller than a population is searched to its end, and then the strategy ends or repeats."""
    feasible = strategy.sampler.exact_count
    assert feasible is not None
    asked: list[Architecture] = []
    for _ in range(200):
        found = strategy.ask(10)
        if not found:
            assert strategy.exhausted, "an empty ask means exhausted"
            break
        asked += found
        strategy.tell(score(found))
    assert not strategy.bounded or strategy.sampler.contains(asked).all(), "only feasible architectures"
    if not strategy.repeats:
        assert strategy.exhausted, "a strategy that never repeats ends when nothing is left"
        assert len(asked) == len(set(asked)), "and has asked for nothing twice"
        assert not strategy.thorough or len(asked) == feasible, "and has asked for everything once"
