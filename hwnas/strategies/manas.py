"""MANAS (arXiv 1909.01051): an agent for each decision, which plays its choices like the arms of a bandit.

A step draws one choice for each agent, evaluates the architecture, and every agent learns from the same loss ``L``:

- `manas` adds ``L / P(choice)`` to the choice's credit and plays ``softmax(-eta * credits)``, mixed with a uniform
  share (EXP3; section 3.4 of the paper). The paper prints ``+eta``, which with losses settles on the worst choice.
- `manas-ls` solves ``argmin_b sum_s (L_s - b . Z_s)^2`` for the credits, Z being the one-hot architectures (section
  3.3), and plays its choices by rank: ``P(k) = 1 / (rank_k * (1 + 1/2 + ... + 1/K))``, Zipf's law. Since every agent
  plays exactly one choice, the system has no unique solution; a ridge takes the smallest.

Losses are centred by a moving mean, since the weights they are measured with change, and divided by a moving spread;
that leaves the differences between choices as they are, and takes most of the noise out of the credits.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np

from hwnas.evaluators.base import Evaluation
from hwnas.sampler import FeasibleSampler
from hwnas.spaces.errors import ConfigError
from hwnas.spaces.space import Architecture, SearchSpace
from hwnas.strategies.distribution import ArchitectureDistribution
from hwnas.strategies.probabilistic import Probabilistic

__all__ = ["Manas", "ManasLS"]

#: A loss counts as this many spreads from the mean at most.
FARTHEST = 3.0
#: Steps that a search is taken to have where nothing tells how many.
STEPS = 1000


class _Agents(Probabilistic):
    """What the two have in common: draws, and losses brought to one scale."""

    def __init__(
        self, space: SearchSpace, sampler: FeasibleSampler | None = None, *, seed: int = 0, momentum: float = 0.99
    ) -> None:
        super().__init__(space, sampler, seed=seed)
        if not 0 <= momentum < 1:
            raise ConfigError(f"{self.name} needs a momentum of at least 0 and below 1, not {momentum}")
        self.momentum = momentum
        self.distribution = ArchitectureDistribution(space.radices)
        self._ends = np.cumsum(space.radices)[:-1]  # where one agent's credits end in the flat vector
        self._first = np.concatenate([[0], self._ends])
        self._mean = [0.0, 0.0]  # moving sum of losses, and of weights
        self._square = [0.0, 0.0]  # the same of squared deviations
        self._asked: list[tuple[Architecture, list[float]]] = []  # with the probability of each agent's choice
        self._steps = 0

    @property
    def policy(self) -> list[np.ndarray]:
        """Of each agent, the probabilities of its choices, before architectures beyond the budget are left out."""
        return self.distribution.probabilities

    @property
    def _horizon(self) -> float:
        """Steps that the search will have, as far as is known."""
        if self._elapsed:
            return self._steps / self._elapsed
        return float(self._total or STEPS)

    def _propose(self, count: int) -> list[Architecture]:
        policy = self.policy
        if self.sampler.bounds:
            row = self.sampler.sample(1, self.rng, weights=policy)[0]
            policy = self.sampler.marginals(policy, self.rng)
        else:
            row = self.distribution.sample(1, self.rng)[0]
        chances = [float(shares[choice]) for shares, choice in zip(policy, row.tolist(), strict=True)]
        architecture = tuple(row.tolist())
        self._asked.append((architecture, chances))
        return [architecture]

    def _observe(self, evaluation: Evaluation, asked: bool, usable: bool) -> None:
        if not asked:
            return
        index = next(i for i, (a, _) in enumerate(self._asked) if a == evaluation.architecture)
        architecture, chances = self._asked.pop(index)
        if evaluation.failed:
            return
        self._steps += 1
        loss = self._centred(-evaluation.score)
        self._learn(np.array(architecture) + self._first, np.array(chances), loss)
        self.trace.append(
            {
                "samples": 1,
                "entropy": self.distribution.entropy,
                "effective_samples": 1.0,
                "within_budget": float(usable),
                "score": evaluation.score,
                "logits": self.distribution.size,
            }
        )

    def _centred(self, loss: float) -> float:
        """The loss less its moving mean, in moving spreads, -3 to 3; both are updated."""
        m, (total, weight) = self.momentum, self._mean
        away = loss - total / weight if weight else 0.0
        squared, count = self._square
        if weight:
            squared, count = m * squared + (1 - m) * away**2, m * count + 1 - m
        self._mean, self._square = [m * total + (1 - m) * loss, m * weight + 1 - m], [squared, count]
        spread = math.sqrt(squared / count) if count else 0.0
        return float(np.clip(away / spread, -FARTHEST, FARTHEST)) if spread else 0.0

    @abstractmethod
    def _learn(self, played: np.ndarray, chances: np.ndarray, loss: float) -> None:
        """Move `distribution` by one loss; `played` are the places of the choices in the flat vector of all."""

    def _set(self, probabilities: list[np.ndarray]) -> None:
        logits = [np.log(np.maximum(shares, 1e-300)) for shares in probabilities]
        self.distribution = ArchitectureDistribution(self.space.radices, None, logits)

    def _state(self) -> dict[str, Any]:
        return {
            "distribution": self.distribution.to_json(),
            "mean": self._mean,
            "square": self._square,
            "asked": [[list(architecture), chances] for architecture, chances in self._asked],
            "steps": self._steps,
            "elapsed": self._elapsed,
            "trace": self.trace,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.distribution = ArchitectureDistribution.from_json(self.space.radices, state["distribution"])
        self._mean, self._square = ([float(value) for value in state[key]] for key in ("mean", "square"))
        self._asked = [(self.space.validate(a), [float(chance) for chance in chances]) for a, chances in state["asked"]]
        self._steps = int(state["steps"])
        self._elapsed = None if state["elapsed"] is None else float(state["elapsed"])
        self.trace = [dict(record) for record in state["trace"]]


class Manas(_Agents):
    """EXP3 for every decision, which keeps the loss low while it searches.

    Parameters
    ----------
    space, sampler, seed
        See `Strategy`.
    rate
        Factor of the theory's learning rate ``sqrt(2 ln K / (T K))``, for K choices and T steps.
    explore
        Factor of the uniform share ``sqrt(K ln K / T)`` that is mixed into the policy.
    momentum
        Of the moving mean and spread of losses.

    Raises
    ------
    ConfigError
        If a setting is out of range.
    """

    name: ClassVar[str] = "manas"
    summary: ClassVar[str] = "an agent for each decision, by EXP3: low loss while it searches"
    paper: ClassVar[str] = "MANAS, arXiv 1909.01051"

    def __init__(
        self,
        space: SearchSpace,
        sampler: FeasibleSampler | None = None,
        *,
        seed: int = 0,
        rate: float = 1.0,
        explore: float = 0.1,
        momentum: float = 0.99,
    ) -> None:
        super().__init__(space, sampler, seed=seed, momentum=momentum)
        if not rate > 0 or not explore >= 0:
            raise ConfigError("manas needs a positive rate, and a share to explore of at least 0")
        self.rate, self.explore = rate, explore
        self._credits = np.zeros(int(space.radices.sum()))

    def _learn(self, played: np.ndarray, chances: np.ndarray, loss: float) -> None:
        self._credits[played] += loss / np.maximum(chances, 1e-12)
        found = []
        for part in np.split(self._credits, self._ends):
            count = len(part)
            eta = self.rate * math.sqrt(2 * math.log(max(2, count)) / (self._horizon * count))
            shares = np.exp(-eta * (part - part.min()))
            uniform = min(1.0, self.explore * math.sqrt(count * math.log(max(2, count)) / self._horizon))
            found.append((1 - uniform) * shares / shares.sum() + uniform / count)
        self._set(found)

    def _state(self) -> dict[str, Any]:
        return {**super()._state(), "credits": self._credits.tolist()}

    def _restore(self, state: dict[str, Any]) -> None:
        super()._restore(state)
        self._credits = np.array(state["credits"], dtype=np.float64)
        if self._credits.shape != (int(self.space.radices.sum()),):
            raise ValueError("the credits do not fit the space")


class ManasLS(_Agents):
    """Least-squares credits for every decision, and play by rank: a good architecture in the end.

    Parameters
    ----------
    space, sampler, seed
        See `Strategy`.
    ridge
        Weight of the squared credits against the squared errors.
    warmup
        Steps of uniform play; 0 for as many as the credits have degrees of freedom, at most a quarter of the search.
    every
        Credits are solved for after so many steps each.
    momentum
        Of the moving mean and spread of losses.

    Raises
    ------
    ConfigError
        If a setting is out of range.
    """

    name: ClassVar[str] = "manas-ls"
    summary: ClassVar[str] = "an agent for each decision, by least squares: a good architecture in the end"
    paper: ClassVar[str] = "MANAS, arXiv 1909.01051"

    def __init__(
        self,
        space: SearchSpace,
        sampler: FeasibleSampler | None = None,
        *,
        seed: int = 0,
        ridge: float = 1.0,
        warmup: int = 0,
        every: int = 10,
        momentum: float = 0.99,
    ) -> None:
        super().__init__(space, sampler, seed=seed, momentum=momentum)
        if not ridge > 0 or warmup < 0 or every < 1:
            raise ConfigError("manas-ls needs a positive ridge, a warmup of at least 0, and every of at least 1")
        self.ridge, self.warmup, self.every = ridge, warmup, every
        self._history: list[tuple[list[int], float]] = []  # places played, and the centred loss
        self._fit()

    @property
    def _uniform_steps(self) -> float:
        free = int(self.space.radices.sum()) - len(self.space.radices) + 1
        return self.warmup or min(free, self._horizon / 4)

    def _learn(self, played: np.ndarray, chances: np.ndarray, loss: float) -> None:
        self._history.append((played.tolist(), loss))
        self._gram[np.ix_(played, played)] += 1
        self._moments[played] += loss
        if self._steps < self._uniform_steps or self._steps % self.every:
            return
        size = len(self._moments)
        solved = np.linalg.solve(self._gram + self.ridge * np.eye(size), self._moments)
        found = []
        for part in np.split(solved, self._ends):
            ranks = np.empty(len(part))
            # choices of equal credit, such as those never played, in random order
            ranks[np.lexsort((self.rng.random(len(part)), part))] = np.arange(1, len(part) + 1)
            found.append(1 / ranks / (1 / ranks).sum())
        self._set(found)

    def _fit(self) -> None:
        """The sums of least squares, from the history."""
        size = int(self.space.radices.sum())
        self._gram, self._moments = np.zeros((size, size)), np.zeros(size)
        for played, loss in self._history:
            self._gram[np.ix_(played, played)] += 1
            self._moments[played] += loss

    def _state(self) -> dict[str, Any]:
        return {**super()._state(), "history": [[played, loss] for played, loss in self._history]}

    def _restore(self, state: dict[str, Any]) -> None:
        super()._restore(state)
        self._history = [([int(place) for place in played], float(loss)) for played, loss in state["history"]]
        self._fit()
