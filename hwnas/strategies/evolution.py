"""The evolutionary search of Single Path One-Shot (SPOS; Guo et al., ECCV 2020, arXiv 1904.00420).

Defaults are those of the authors' released code (megvii-model/SinglePathOneShot): population 50,
20 generations, the best 10 of all generations as parents, 25 mutants and 25 crossovers a
generation, mutation probability 0.1 a decision, 10 tries an operator; visited candidates never
re-enter, and unfilled places get random feasible candidates.

One thing differs, and only in how infeasible children are avoided. The released code draws a child
and throws it away if it misses the budget. Here the decisions that may change are drawn the same
way (for a mutant each with probability 0.1; for a crossover those in which the parents differ), and
the child is then drawn uniformly from the feasible architectures of that box, which holds the
parents, so operators do not starve at a tight budget. For crossover the two are the same
distribution.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from hwnas.evaluators.base import Evaluation
from hwnas.sampler import FeasibleSampler
from hwnas.spaces.errors import ConfigError
from hwnas.spaces.space import Architecture, SearchSpace
from hwnas.strategies.base import Strategy

__all__ = ["Evolution"]


class Evolution(Strategy):
    """SPOS's generations of mutants and crossovers of the best so far.

    `ask` hands out one generation and then waits for its evaluations. If it is asked for more while
    some are outstanding, it breeds extra candidates from the best so far, so that parallel workers
    never idle; a search that tells every batch before it asks again follows the paper exactly.

    Parameters
    ----------
    space, sampler, seed
        See `Strategy`.
    population
        Candidates a generation.
    parents
        How many of the best so far breed.
    mutants, crossovers
        Children of each kind a generation; the rest of the population is random.
    probability
        That a decision may change in a mutant.
    tries
        Draws an operator may use per child wanted.
    generations
        How many the authors run; only sets `planned`.
    """

    name: ClassVar[str] = "evolution"
    summary: ClassVar[str] = "SPOS: mutants and crossovers of the best so far, feasible ones only"
    paper: ClassVar[str] = "Single Path One-Shot, arXiv 1904.00420"

    def __init__(
        self,
        space: SearchSpace,
        sampler: FeasibleSampler | None = None,
        *,
        seed: int = 0,
        population: int = 50,
        parents: int = 10,
        mutants: int = 25,
        crossovers: int = 25,
        probability: float = 0.1,
        tries: int = 10,
        generations: int = 20,
    ) -> None:
        super().__init__(space, sampler, seed=seed)
        if min(population, parents, tries, generations) < 1 or min(mutants, crossovers) < 0:
            raise ConfigError("evolution needs a population, parents, tries and generations of at least 1")
        if mutants + crossovers > population:
            raise ConfigError(f"{mutants} mutants and {crossovers} crossovers do not fit a population of {population}")
        if not 0 < probability <= 1:
            raise ConfigError(f"a mutation probability is above 0 and at most 1, not {probability}")
        self.population, self.parents, self.mutants, self.crossovers = population, parents, mutants, crossovers
        self.probability, self.tries, self.generations = probability, tries, generations
        self._pool: list[tuple[float, Architecture]] = []
        self._queue: list[Architecture] = []

    @property
    def planned(self) -> int:
        """Population times generations: 1,000 by default."""
        return self.population * self.generations

    @classmethod
    def uniform_start(cls, hyper: Mapping[str, Any]) -> float:
        """The first population."""
        size = hyper.get("population")
        return float(size) if isinstance(size, int) else 0.0

    def _propose(self, count: int) -> list[Architecture]:
        if not self._queue:
            # with results outstanding this is not the next generation, only work for idle hands
            self._queue = self._breed(count if self._pending else self.population)
        found, self._queue = self._queue[:count], self._queue[count:]
        return found

    def _breed(self, count: int) -> list[Architecture]:
        """The next `count` candidates: mutants, crossovers and random ones in the proportions of a generation."""
        children: list[Architecture] = []
        if self._pool:
            mutants = round(count * self.mutants / self.population)
            crossovers = round(count * self.crossovers / self.population)
            children += self._children(mutants, self._mutant)
            children += self._children(min(crossovers, count - len(children)), self._crossover)
        return children + self._fresh(count - len(children))

    def _children(self, count: int, breed: Any) -> list[Architecture]:
        children: list[Architecture] = []
        for _ in range(self.tries * count):
            if len(children) == count:
                break
            child = self._draw(breed())
            if child not in self._visited:
                self._visited[child] = None
                children.append(child)
        return children

    def _parent(self) -> np.ndarray:
        return np.array(self._pool[int(self.rng.integers(len(self._pool)))][1])

    def _mutant(self) -> list[np.ndarray]:
        """The box around a parent in which each decision is free with the mutation probability."""
        parent = self._parent()
        free = self.rng.random(len(parent)) < self.probability
        radices = self.space.radices.tolist()
        return [np.arange(r) == p if not f else np.ones(r, bool) for r, p, f in zip(radices, parent, free, strict=True)]

    def _crossover(self) -> list[np.ndarray]:
        """The box that two parents span."""
        left, right = self._parent(), self._parent()
        radices = self.space.radices.tolist()
        return [(np.arange(r) == a) | (np.arange(r) == b) for r, a, b in zip(radices, left, right, strict=True)]

    def _observe(self, evaluation: Evaluation, asked: bool, usable: bool) -> None:
        if usable and evaluation.architecture not in (architecture for _, architecture in self._pool):
            self._pool.append((evaluation.score, evaluation.architecture))
            self._pool.sort(key=lambda entry: -entry[0])  # stable: the first of equals stays ahead
            del self._pool[self.parents :]

    def _state(self) -> dict[str, Any]:
        return {"pool": [[s, list(a)] for s, a in self._pool], "queue": [list(a) for a in self._queue]}

    def _restore(self, state: dict[str, Any]) -> None:
        self._pool = [(float(score), self.space.validate(a)) for score, a in state["pool"]]
        self._queue = [self.space.validate(a) for a in state["queue"]]
