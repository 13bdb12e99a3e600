"""Regularized evolution (AmoebaNet; Real et al., AAAI 2019, arXiv 1802.01548).

Tournament selection with aging: the parent is the best of a random sample of the population, the
child differs from it in exactly one decision, and the *oldest* member dies, however good it is.
Defaults are those of the NATS-Bench scripts (arXiv 2009.00437): population 10, sample 3, 200
cycles. AmoebaNet itself used 100 and 25.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from hwnas.evaluators.base import Evaluation
from hwnas.sampler import FeasibleSampler
from hwnas.spaces.errors import ConfigError
from hwnas.spaces.space import Architecture, SearchSpace
from hwnas.strategies.base import Strategy

__all__ = ["RegularizedEvolution"]


class RegularizedEvolution(Strategy):
    """Aging evolution: best of a sample breeds, the oldest dies.

    The mutated decision is drawn uniformly and so is its new choice, among the changes that keep
    the child feasible; a parent with no feasible neighbour is replaced by a random feasible
    architecture. Like the original, it may ask for an architecture twice.

    Parameters
    ----------
    space, sampler, seed
        See `Strategy`.
    population
        Members alive.
    sample
        Members in a tournament, drawn with replacement.
    cycles
        How many evaluations the NATS-Bench scripts run; only sets `planned`.
    """

    name: ClassVar[str] = "regularized-evolution"
    summary: ClassVar[str] = "AmoebaNet: best of a sample mutates, the oldest dies"
    paper: ClassVar[str] = "Regularized evolution, arXiv 1802.01548"
    repeats: ClassVar[bool] = True

    def __init__(
        self,
        space: SearchSpace,
        sampler: FeasibleSampler | None = None,
        *,
        seed: int = 0,
        population: int = 10,
        sample: int = 3,
        cycles: int = 200,
    ) -> None:
        super().__init__(space, sampler, seed=seed)
        if min(population, sample, cycles) < 1:
            raise ConfigError("regularized-evolution needs a population, sample and cycles of at least 1")
        self.population, self.sample, self.cycles = population, sample, cycles
        self._alive: deque[tuple[float, Architecture]] = deque()
        self._started = 0

    @property
    def planned(self) -> int:
        """The number of cycles: 200 by default."""
        return self.cycles

    @classmethod
    def uniform_start(cls, hyper: Mapping[str, Any]) -> float:
        """The first population."""
        size = hyper.get("population")
        return float(size) if isinstance(size, int) else 0.0

    def _propose(self, count: int) -> list[Architecture]:
        found = []
        for _ in range(count):
            if self._started < self.population or not self._alive:
                # a feasible set smaller than the population is filled up with repeats
                child = next(iter(self._fresh(1)), None) or self._draw()
                self._started += 1
            else:
                child = self._child()
            found.append(child)
        return found

    def _child(self) -> Architecture:
        """A feasible neighbour of the tournament's winner."""
        entrants = [self._alive[i] for i in self.rng.integers(len(self._alive), size=self.sample)]
        parent = np.array(max(entrants, key=lambda entry: entry[0])[1])
        radices = self.space.radices.tolist()
        changes = [(d, c) for d, radix in enumerate(radices) for c in range(radix) if c != parent[d]]
        neighbours = np.tile(parent, (len(changes), 1))
        neighbours[np.arange(len(changes)), [d for d, _ in changes]] = [c for _, c in changes]
        # a uniform decision and then a uniform new choice: choices of small decisions weigh more
        weights = np.array([1.0 / (radices[d] - 1) for d, _ in changes]) * self.sampler.contains(neighbours)
        if not weights.any():
            return self._draw()
        return tuple(neighbours[self.rng.choice(len(changes), p=weights / weights.sum())].tolist())

    def _observe(self, evaluation: Evaluation, asked: bool, usable: bool) -> None:
        if usable:
            self._alive.append((evaluation.score, evaluation.architecture))
            if len(self._alive) > self.population:
                self._alive.popleft()

    def _state(self) -> dict[str, Any]:
        return {"alive": [[score, list(a)] for score, a in self._alive], "started": self._started}

    def _restore(self, state: dict[str, Any]) -> None:
        self._alive = deque((float(score), self.space.validate(a)) for score, a in state["alive"])
        self._started = int(state["started"])
