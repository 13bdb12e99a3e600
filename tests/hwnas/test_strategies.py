"""Strategies: the conformance suite over every registered one, and what each paper prescribes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from hwnas.costs import AdditiveCost
from hwnas.evaluators import Evaluation
from hwnas.nearest import Bound
from hwnas.sampler import FeasibleSampler
from hwnas.spaces import Architecture, ConfigError, get_space
from hwnas.strategies import get_strategy, list_strategies, make_strategy
from hwnas.strategies.base import Strategy
from hwnas.strategies.evolution import Evolution
from hwnas.strategies.hurricane import Hurricane
from hwnas.strategies.random import RandomSearch
from hwnas.strategies.regularized_evolution import RegularizedEvolution
from hwnas.strategies.reinforce import Reinforce
from hwnas.strategies.testing import check_strategy
from tests.hwnas.toy import ToySpace, at_most, random_cost, surprise

Score = Callable[[list[Architecture]], list[Evaluation]]


#: All but those that only move by gradients.
ASKED = [name for name in list_strategies() if not get_strategy(name).mixes]


def scorer(cost: AdditiveCost) -> Score:
    def score(architectures: list[Architecture]) -> list[Evaluation]:
        return [
            Evaluation(a, float(v)) for a, v in zip(architectures, cost.values(np.array(architectures)), strict=True)
        ]

    return score


@pytest.mark.parametrize("name", ASKED)
def test_conformance(name: str) -> None:
    check_strategy(get_strategy(name))


@pytest.mark.parametrize("name", ASKED)
def test_conformance_in_a_large_space(name: str) -> None:
    space = "pnas(blocks=2)" if name == "pnas" else "mobilenet(resolution=32)"
    check_strategy(get_strategy(name), get_space(space))


@pytest.mark.parametrize(
    ("cls", "hyper"),
    [
        (Evolution, {"population": 7, "parents": 2, "mutants": 3, "crossovers": 3}),
        (Evolution, {"population": 20, "mutants": 0, "crossovers": 20, "tries": 1}),
        (RegularizedEvolution, {"population": 100, "sample": 25}),
        (Reinforce, {"learning_rate": 0.5, "momentum": 0.0}),
    ],
)
def test_conformance_with_other_settings(cls: type[Strategy], hyper: dict[str, Any]) -> None:
    check_strategy(cls, **hyper)


def test_the_suite_catches_a_strategy_that_breaks_its_promises() -> None:
    class Repeating(RandomSearch):
        def _propose(self, count: int) -> list[Architecture]:
            return [self._draw() for _ in range(count)]

    class Careless(RandomSearch):
        def _propose(self, count: int) -> list[Architecture]:
            return [tuple(row) for row in self.space.sample(count, self.rng).tolist()]

    class Forgetful(Evolution):
        def _state(self) -> dict[str, Any]:
            return {**super()._state(), "pool": []}

    for cls, text in ((Repeating, "twice"), (Careless, "only feasible"), (Forgetful, "asks for something else")):
        with pytest.raises(AssertionError, match=text):
            check_strategy(cls)


@pytest.mark.parametrize("name", [n for n in ASKED if n not in ("random", "pnas")])
def test_learning_beats_chance(name: str) -> None:
    """On an easy additive problem under a budget, a strategy ends above random search at equal evaluations.

    Not `pnas`, which needs a space that grows: see test_pnas.
    """
    space = ToySpace([4] * 8)
    sampler, score = FeasibleSampler(space, [at_most(space, random_cost(space, 2), 0.3)]), scorer(random_cost(space, 1))
    final: dict[str, list[float]] = {name: [], "random": []}
    for which, best in final.items():
        for seed in range(4):
            hyper = {"learning_rate": 0.1} if which == "reinforce" else {}
            strategy = make_strategy(which, space, sampler, seed=seed, **hyper)
            for _ in range(300):
                strategy.tell(score(strategy.ask()))
            assert strategy.best is not None
            best.append(strategy.best.score)
    assert np.mean(final[name]) > np.mean(final["random"]) + 0.1


class TestEvolution:
    def test_defaults_are_those_of_the_released_code(self) -> None:
        strategy = Evolution(ToySpace())
        assert strategy.hyper == {
            "population": 50, "parents": 10, "mutants": 25, "crossovers": 25, "probability": 0.1, "tries": 10,
            "generations": 20,
        }  # fmt: skip
        assert strategy.planned == 1000

    def test_generations_and_elitist_parents(self) -> None:
        space = ToySpace([6] * 10)
        score = scorer(random_cost(space, 1))
        strategy = Evolution(space, seed=1)
        everything: list[Evaluation] = []
        for generation in range(4):
            found = strategy.ask(1000)
            assert len(found) == 50, "ask hands out one generation"
            if generation:
                parents = sorted(everything, key=lambda e: -e.score)[:10]
                boxes = [set(zip(range(10), p.architecture, strict=True)) for p in parents]
                near = [max(len(box & set(zip(range(10), a, strict=True))) for box in boxes) for a in found]
                spanned = [all(any(a[d] == p.architecture[d] for p in parents) for d in range(10)) for a in found]
                assert sum(n >= 6 for n in near[:25]) >= 23, "the first 25 are mutants of the best 10 of all so far"
                assert all(spanned[25:]), "the others are crossovers of them"
            evaluations = score(found)
            everything += evaluations
            strategy.tell(evaluations)
        assert len({e.architecture for e in everything}) == 200, "visited candidates never re-enter"

    def test_batches_that_do_not_divide_the_population_change_nothing(self) -> None:
        space = ToySpace([6] * 10)
        score = scorer(random_cost(space, 1))
        asked: list[list[Architecture]] = []
        for batch in (50, 8, 1):
            strategy = Evolution(space, seed=2)
            asked.append([])
            while len(asked[-1]) < 150:
                found = strategy.ask(batch)
                asked[-1] += found
                strategy.tell(score(found))
        assert asked[0] == asked[1] == asked[2]

    def test_mutants_free_a_tenth_of_the_decisions(self) -> None:
        strategy = Evolution(ToySpace([5] * 20))
        strategy.tell([Evaluation((0,) * 20, 1.0)])
        free = np.array([[mask.sum() == 5 for mask in strategy._mutant()] for _ in range(500)])
        assert abs(free.mean() - 0.1) < 0.01

    def test_crossover_is_uniform_over_the_feasible_part_of_what_the_parents_span(self) -> None:
        space = ToySpace([3] * 6)
        bound = at_most(space, random_cost(space, 3), 0.5)
        sampler = FeasibleSampler(space, [bound])
        rng = np.random.default_rng(0)
        left, right = sampler.sample(2, rng)
        box = [(np.arange(3) == a) | (np.arange(3) == b) for a, b in zip(left, right, strict=True)]
        # the released code: take every decision from either parent, throw the child away if it misses the budget
        coin = rng.random((40_000, 6)) < 0.5
        thrown = np.where(coin, left, right)
        thrown = thrown[sampler.contains(thrown)]
        rows = np.unique(thrown, axis=0)
        assert abs(surprise(thrown, rows, space.radices)) < 4
        assert abs(surprise(sampler.sample(20_000, rng, allowed=box), rows, space.radices)) < 4

    def test_failed_generations_are_replaced_by_random_ones(self) -> None:
        strategy = Evolution(ToySpace([6] * 10))
        for _ in range(3):
            found = strategy.ask(50)
            assert len(found) == 50
            strategy.tell([Evaluation(a, float("nan")) for a in found])
        assert strategy.best is None


class TestRegularizedEvolution:
    def test_children_differ_in_one_decision_and_the_oldest_dies(self) -> None:
        space = ToySpace([4] * 8)
        sampler = FeasibleSampler(space, [at_most(space, random_cost(space, 2), 0.5)])
        score = scorer(random_cost(space, 1))
        strategy = RegularizedEvolution(space, sampler, seed=1)
        assert (strategy.population, strategy.sample, strategy.planned) == (10, 3, 200)
        alive: list[Architecture] = []
        for step in range(120):
            (child,) = strategy.ask()
            if step >= 10:
                assert 1 in {sum(a != b for a, b in zip(child, parent, strict=True)) for parent in alive}
            strategy.tell(score([child]))
            alive = [*alive, child][-10:]
            assert [a for _, a in strategy._alive] == alive, "the population is the last ten, good or bad"

    def test_the_winner_of_the_sample_breeds(self) -> None:
        space = ToySpace([4] * 8)
        strategy = RegularizedEvolution(space, sample=100, population=5)
        strategy.ask(5)
        members = [(0,) * 8, (1,) * 8, (2,) * 8, (3,) * 8, (0, 1) * 4]
        strategy.tell([Evaluation(a, float(i)) for i, a in enumerate(members)])
        assert all(sum(x != y for x, y in zip(child, members[-1], strict=True)) == 1 for child in strategy.ask(20))

    def test_mutation_is_uniform_over_decisions_then_choices(self) -> None:
        space = ToySpace([2, 5])
        strategy = RegularizedEvolution(space, population=1)
        strategy.ask(1)
        strategy.tell([Evaluation((0, 0), 1.0)])
        counts = Counter(strategy.ask(8000))
        assert set(counts) == {(1, 0), (0, 1), (0, 2), (0, 3), (0, 4)}
        assert abs(counts[1, 0] / 8000 - 0.5) < 0.03
        assert all(abs(counts[0, c] / 8000 - 0.125) < 0.02 for c in range(1, 5))


class TestReinforce:
    def test_the_score_function_is_exact(self) -> None:
        """The step's gradient equals the numerical derivative of the log-probability under the budget."""
        space = ToySpace((3, 2, 4))
        sampler = FeasibleSampler(space, [at_most(space, random_cost(space, 2), 0.5)])
        rows = space.all()[sampler.contains(space.all())]
        strategy = Reinforce(space, sampler, scale=0.7, seed=3)
        (child,) = strategy.ask()
        seen: list[np.ndarray] = []
        strategy._baseline = [0.0, 1.0]
        strategy._ascend = seen.append  # type: ignore[assignment, method-assign]
        strategy.tell([Evaluation(child, 1.0)])

        def log_probability(logits: np.ndarray) -> float:
            parts = np.split(logits, strategy._ends)
            energy = np.sum([part[rows[:, d]] for d, part in enumerate(parts)], axis=0)
            own = sum(part[child[d]] for d, part in enumerate(parts))
            return float(own - np.log(np.exp(energy).sum()))

        base, step = strategy._logits, 1e-6
        numeric = [
            (log_probability(base + step * unit) - log_probability(base - step * unit)) / (2 * step)
            for unit in np.eye(len(base))
        ]
        assert seen[0] == pytest.approx(numeric, abs=1e-7)

    def test_settings_and_first_step(self) -> None:
        space = ToySpace([4] * 8)
        strategy = Reinforce(space, seed=1)
        assert (strategy.learning_rate, strategy.momentum, strategy.scale) == (0.01, 0.9, 1e-3)
        assert 5e-4 < np.std(strategy._logits) < 2e-3
        start = strategy._logits
        (first,) = strategy.ask()
        strategy.tell([Evaluation(first, 5.0)])
        assert (strategy._logits == start).all(), "without a baseline there is no advantage yet"
        (second,) = strategy.ask()
        strategy.tell([Evaluation(second, 6.0)])
        moved = strategy._logits - start
        index = np.concatenate([[0], strategy._ends]) + np.array(second)
        assert (moved[index] > 0).all(), "a reward above the baseline makes its choices likelier"
        total, weight = strategy._baseline
        assert total / weight == pytest.approx((0.9 * 0.1 * 5 + 0.1 * 6) / (0.9 * 0.1 + 0.1))

    def test_late_results_count_with_the_policy_that_asked(self) -> None:
        space = ToySpace([4] * 8)
        strategy = Reinforce(space, seed=1, learning_rate=0.3)
        early = strategy.ask(3)
        assert len(strategy._marginals) == 1
        before = strategy._marginals[0].copy()
        for _ in range(5):
            strategy.tell([Evaluation(a, float(sum(a))) for a in strategy.ask(2)])
        assert (strategy._marginals[0] == before).all()
        strategy.tell([Evaluation(a, float(sum(a))) for a in early[::-1]])
        assert set(strategy._marginals) <= {strategy._steps}


def test_names_and_settings() -> None:
    assert list_strategies()[:4] == ["random", "evolution", "regularized-evolution", "reinforce"]
    space = ToySpace()
    strategy = make_strategy("evolution", space, seed=3, population="60", probability="0.2")
    assert strategy.hyper["population"] == 60
    assert strategy.hyper["probability"] == 0.2
    for name, hyper, text in (
        ("evolutoin", {}, "did you mean 'evolution'"),
        ("random", {"population": 3}, "has no setting 'population'; it has none"),
        ("evolution", {"poulation": 3}, "it has population, parents"),
        ("evolution", {"population": "many"}, "population=many is no int"),
        ("evolution", {"population": 10}, "do not fit a population of 10"),
        ("evolution", {"probability": 0}, "mutation probability"),
        ("regularized-evolution", {"sample": 0}, "at least 1"),
        ("reinforce", {"learning_rate": -1}, "positive learning rate"),
    ):
        with pytest.raises(ConfigError, match=text):
            make_strategy(name, space, **hyper)
    with pytest.raises(ConfigError, match="at least one"):
        strategy.ask(0)


def test_a_state_of_another_search_is_refused() -> None:
    state = json.loads(json.dumps(Evolution(ToySpace()).state_dict()))
    with pytest.raises(ConfigError, match="strategy evolution"):
        RandomSearch(ToySpace()).load_state_dict(state)
    with pytest.raises(ConfigError, match="decisions"):
        Evolution(ToySpace((2, 2))).load_state_dict(state)
    with pytest.raises(ConfigError, match="hyper"):
        Evolution(ToySpace(), tries=3).load_state_dict(state)
    with pytest.raises(ConfigError, match="damaged"):
        Evolution(ToySpace()).load_state_dict({**state, "own": {"pool": 3}})


def test_an_evaluation_survives_json() -> None:
    one = Evaluation((1, 2), float("nan"), {"latency@x": 2.0, "memory": float("inf")}, {"note": "failed"})
    text = json.dumps(one.to_json(), allow_nan=False)
    back = Evaluation.from_json(json.loads(text))
    assert back.failed
    assert (back.architecture, back.costs["latency@x"], back.info) == ((1, 2), 2.0, {"note": "failed"})
    assert Evaluation.from_json(json.loads(json.dumps(Evaluation((1,), 0.1).to_json()))) == Evaluation((1,), 0.1)


class TestHurricane:
    def make(self, share: float = 0.3, **hyper: Any) -> Hurricane:
        space = get_space("mobilenet(resolution=32,width=0.25)")
        cost = random_cost(space, 3)
        low, high = cost.range()
        sampler = FeasibleSampler(space, [Bound("cost <= some", cost, upper=low + share * (high - low))])
        return Hurricane(space, sampler, population=10, **hyper)

    def play(self, strategy: Hurricane, evaluations: int) -> list[tuple[int, Architecture]]:
        """(stage, architecture) of everything asked for; quality is a made-up sum."""
        quality = random_cost(strategy.space, 4)
        strategy.expect(evaluations)
        asked: list[tuple[int, Architecture]] = []
        while len(asked) < evaluations:
            found = strategy.ask(min(7, evaluations - len(asked)))
            if not found:
                break
            asked += [(strategy.stage.number, architecture) for architecture in found]
            strategy.tell([Evaluation(a, float(quality.values(np.array([a]))[0])) for a in found])
        return asked

    @pytest.mark.parametrize("order", ["later-first", "earlier-first"])
    def test_one_half_of_the_layers_moves_at_a_time(self, order: str) -> None:
        strategy = self.make(order=order)
        asked = self.play(strategy, 200)
        early = np.arange(len(strategy.space.decisions)) < round(0.4 * len(strategy.space.decisions))
        first, second = (np.array([a for number, a in asked if number == stage]) for stage in (0, 1))
        moving = ~early if order == "later-first" else early
        assert (np.ptp(first[:, ~moving], axis=0) == 0).all()
        assert np.ptp(first[:, moving], axis=0).any()
        assert (np.ptp(second[:, moving], axis=0) == 0).all()
        quality = random_cost(strategy.space, 4)
        assert (second[0, moving] == first[quality.values(first).argmax(), moving]).all()
        assert abs(len(first) - 200 * moving.mean()) <= 1

    def test_stage_2_never_starves(self) -> None:
        """Down to a budget that hardly anything meets, both stages find networks within it."""
        for share in (0.002, 0.02, 0.2, 0.9):
            strategy = self.make(share)
            asked = self.play(strategy, 60)
            assert {number for number, _ in asked} >= {0}
            assert strategy.stage.number == 1
            assert strategy.sampler.contains([a for _, a in asked]).all()

    def test_the_fixed_layers_spend_no_more_than_their_share(self) -> None:
        strategy = self.make(0.5)
        cost = strategy.sampler.bounds[0].cost
        assert isinstance(cost, AdditiveCost)
        fixed = [not mask.all() for mask in strategy.stage.allowed or ()]
        (architecture,) = strategy.ask(1)
        above = [part.table[architecture[part.decisions[0]]] - part.table.min() for part in cost.parts]
        spread = [float(np.ptp(part.table)) for part in cost.parts]
        spent, could = (sum(v for v, f in zip(values, fixed, strict=True) if f) for values in (above, spread))
        assert 0.4 * could < spent <= 0.5 * could + 1e-9

    def test_stages_tell_what_a_supernet_trains(self) -> None:
        strategy = self.make(first=0.7, reuse=False)
        before = strategy.stage
        assert (before.number, before.share, before.reuse) == (0, 0.7, False)
        self.play(strategy, 60)
        after = strategy.stage
        assert (after.number, round(after.share, 9)) == (1, 0.3)
        assert before.allowed is not None
        assert after.allowed is not None
        assert all(one.all() != other.all() for one, other in zip(before.allowed, after.allowed, strict=True))

    def test_settings_are_checked(self) -> None:
        for hyper in ({"order": "sideways"}, {"split": 99}, {"first": 1.5}):
            with pytest.raises(ConfigError):
                self.make(**hyper)
        space = get_space("mobilenet(resolution=32,width=0.25)")
        for text, meant in (("yes", True), ("no", False), ("True", True), ("false", False)):
            assert make_strategy("hurricane", space, reuse=text).stage.reuse is meant
        with pytest.raises(ConfigError, match="reuse=maybe"):
            make_strategy("hurricane", space, reuse="maybe")

    def test_an_evaluation_of_stage_2_ends_stage_1(self) -> None:
        """As after a kill between the first evaluation of stage 2 and the state that would have told of it."""
        strategy, twin = self.make(), self.make()
        for one in (strategy, twin):
            one.expect(20)
        while strategy.stage.number == 0:
            state = strategy.state_dict()
            found = strategy.ask(4)
            told = [Evaluation(a, float(sum(a)), info={"stage": strategy.stage.number}) for a in found]
            strategy.tell(told)
        twin.load_state_dict(state)
        assert twin.stage.number == 0
        twin.tell(told)
        assert twin.stage.number == 1
        asked = [a for _ in range(3) for a in twin.ask(2)]
        assert not set(asked) & set(found)
