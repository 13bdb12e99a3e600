"""What strategies that keep a distribution over architectures deliver: the most probable feasible ones."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from hwnas.sampler import FeasibleSampler
from hwnas.spaces.errors import InfeasibleError
from hwnas.spaces.space import Architecture, SearchSpace
from hwnas.strategies.base import Strategy
from hwnas.strategies.distribution import ArchitectureDistribution

__all__ = ["Probabilistic"]

#: Draws among which the most probable feasible architecture is looked for where the space is too large to list.
DRAWS = 4096


class Probabilistic(Strategy):
    """A strategy whose knowledge is a distribution, which it moves step by step.

    `best` is the best feasible evaluation; what the search delivers first is `recommendation`, the most probable
    feasible architecture.
    """

    repeats: ClassVar[bool] = True
    thorough: ClassVar[bool] = False
    shares_weights: ClassVar[bool] = True

    #: Where it is now.
    distribution: ArchitectureDistribution

    def __init__(self, space: SearchSpace, sampler: FeasibleSampler | None = None, *, seed: int = 0) -> None:
        super().__init__(space, sampler, seed=seed)
        #: One record a finished step: draws, entropy, effective sample size, share within the budget, mean score.
        self.trace: list[dict[str, float]] = []

    @property
    def planned(self) -> int:
        """32 likely architectures, once the weights are trained by the draws."""
        return 32

    @property
    def recommendation(self) -> Architecture | None:
        """The most probable feasible architecture.

        In a space that is too large to list: of the mode and 4,096 feasible draws that follow the marginals.
        """
        mode = self.distribution.mode()
        if self.sampler.contains([mode])[0]:
            return mode
        found = self._likely(1)
        if found:
            return found[0]
        return None if self.best is None else self.best.architecture

    def candidates(self, count: int) -> list[Architecture]:
        """The `recommendation`, then other feasible ones, the most probable of 4,096 draws first."""
        first = self.recommendation
        found = [] if first is None else [first]
        return [*found, *(a for a in self._likely(count) if a != first)][:count]

    def _likely(self, count: int) -> list[Architecture]:
        """The most probable ones of feasible draws that follow the marginals."""
        rng = np.random.default_rng([self.seed, len(self.trace)])
        floor = [np.maximum(p, 1e-12) for p in self.distribution.marginals()]
        try:
            rows = np.unique(self.sampler.sample(DRAWS, rng, weights=floor), axis=0)
        except InfeasibleError:
            return []
        order = np.argsort(-self.distribution.log_prob(rows), kind="stable")[:count]
        return [tuple(row) for row in rows[order].tolist()]
