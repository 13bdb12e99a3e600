"""Probabilistic search: PARSEC (arXiv 1902.05116) and FP-NAS (Yan et al., CVPR 2021, arXiv 2011.10949).

A step draws K architectures from a distribution P(A | alpha), and moves alpha towards those that did well and met the
budget. With the likelihoods of the K draws, and their excess over the budget C, the loss
``-log P(y | X, alpha) + beta log C(alpha)`` has the gradient (FP-NAS, section 3.2)

    sum_k (-w_k + beta c_k) d log P(A_k | alpha),   w = softmax(log-likelihoods),   c_k = C(A_k) / sum_j C(A_j).

PARSEC draws a fixed number from a distribution that is joint within each layer. FP-NAS draws ``K = rate * entropy``,
so ever fewer, and begins with a fully factorised distribution, which it multiplies out into the joint one later.

Ours, where the papers' formulas would not work as they stand: log-likelihoods are divided by the spread of scores
within steps and a temperature (a softmax over sums of hundreds of images is one-hot); 1/K is subtracted from both
weights, which leaves the expectation and takes out most of the noise; K stays above 1, where the update would carry no
signal; log C has a small constant added, since without it the last draw beyond the budget pushes as hard as many do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from hwnas.costs import AdditiveCost
from hwnas.evaluators.base import Evaluation
from hwnas.nearest import Bound
from hwnas.sampler import FeasibleSampler
from hwnas.spaces.errors import ConfigError
from hwnas.spaces.space import Architecture, SearchSpace
from hwnas.strategies.distribution import ArchitectureDistribution
from hwnas.strategies.probabilistic import Probabilistic

__all__ = ["FpNas", "Parsec", "excess", "importance", "pull"]

#: Added to the excess over the budget before its logarithm is taken, which has no gradient at 0.
SOFTEN = 0.02


def excess(bounds: Sequence[Bound], architectures: np.ndarray) -> np.ndarray:
    """By what share each architecture misses its bounds, summed over them, ``(n,)``; 0 for feasible ones.

    For an upper bound that is the hinge ``max(0, value / target - 1)`` of FP-NAS, for a lower one
    ``max(0, 1 - value / target)``; what has no value misses its bound by 1.
    """
    missed = [np.maximum(0.0, bound.excess(architectures)) for bound in bounds]
    return np.nan_to_num(np.sum(missed, axis=0), posinf=1.0) if missed else np.zeros(len(architectures))


def importance(log_likelihoods: np.ndarray) -> np.ndarray:
    """Weights of the draws: ``w_k = P(y | A_k) / sum_j P(y | A_j)``; 0 for a draw without a likelihood (NaN)."""
    known = np.isfinite(log_likelihoods)
    weights = np.zeros(len(log_likelihoods))
    if known.any():
        weights[known] = np.exp(log_likelihoods[known] - log_likelihoods[known].max())
        weights /= weights.sum()
    return weights


def pull(log_likelihoods: np.ndarray, misses: np.ndarray, beta: float) -> np.ndarray:
    """How strongly the distribution is drawn to each architecture: ``w_k - beta c_k``, each less its mean.

    Parameters
    ----------
    log_likelihoods
        Of the draws, ``(K,)``.
    misses
        Their excess over the budget, ``(K,)``: ``c_k`` is its share of their sum and `SOFTEN` a draw. Where no draw has
        any, the budget does not pull.
    beta
        Weight of the budget.
    """
    weights = importance(log_likelihoods)
    found = weights - weights.mean()
    found = found - beta * (misses - misses.mean()) / (misses.sum() + SOFTEN * len(misses))
    return np.asarray(found)


class Parsec(Probabilistic):
    """A fixed number of draws a step, from a distribution that is joint within each layer.

    Architectures beyond the budget are drawn too: they teach the distribution where the budget ends. `best` is the
    best feasible one; what the search delivers first is `recommendation`, the most probable feasible one.

    Parameters
    ----------
    space, sampler, seed
        See `Strategy`; ``space.layers`` says which decisions are joint.
    samples
        Draws a step; 16 in the paper's DARTS space.
    learning_rate
        Of Adam (decay rates 0.9 and 0.999) on the logits.
    temperature
        By how many spreads of the scores within a step two draws differ when their weights differ by a factor e.
    beta
        Weight of the budget against the score.
    expected
        Take the budget's gradient from the expected cost, exact for costs that are sums of look-ups, instead of from
        the draws: nothing once the expectation fits, which still leaves draws on both sides of the budget.
    """

    name: ClassVar[str] = "parsec"
    summary: ClassVar[str] = "a distribution over architectures, moved towards the better of a fixed number of draws"
    paper: ClassVar[str] = "PARSEC, arXiv 1902.05116"
    bounded: ClassVar[bool] = False

    def __init__(
        self,
        space: SearchSpace,
        sampler: FeasibleSampler | None = None,
        *,
        seed: int = 0,
        samples: int = 16,
        learning_rate: float = 0.1,
        temperature: float = 0.5,
        beta: float = 1.0,
        expected: bool = False,
    ) -> None:
        super().__init__(space, sampler, seed=seed)
        if samples < 2:
            raise ConfigError(f"{self.name} needs at least 2 samples a step, not {samples}")
        if not learning_rate > 0 or not temperature > 0 or not beta >= 0:
            raise ConfigError(f"{self.name} needs a positive learning rate and temperature, and a beta of at least 0")
        self.samples, self.learning_rate, self.temperature = samples, learning_rate, temperature
        self.beta, self.expected = beta, expected
        self.distribution = self._first_distribution()
        self._moments = np.zeros((2, self.distribution.size))
        self._updates = 0  # since the moments began
        self._spread = [0.0, 0.0]  # squared deviations of scores from the mean of their step, and degrees of freedom
        self._steps: list[_Step] = []

    def _first_distribution(self) -> ArchitectureDistribution:
        return ArchitectureDistribution(self.space.radices, self.space.layers)

    def _draws(self) -> int:
        """How many architectures the next step draws."""
        return self.samples

    def _before_step(self) -> None:
        """Called before a step is drawn."""

    # ------------------------------------------------------------------ steps

    def _propose(self, count: int) -> list[Architecture]:
        step = next((step for step in self._steps if step.queue), None)
        if step is None:
            self._before_step()
            drawn = [tuple(row) for row in self.distribution.sample(self._draws(), self.rng).tolist()]
            step = _Step(list(drawn), list(drawn), [])
            self._steps.append(step)
        found, step.queue = step.queue[:count], step.queue[count:]
        return found

    def _observe(self, evaluation: Evaluation, asked: bool, usable: bool) -> None:
        if not asked:
            return
        for step in self._steps:
            if evaluation.architecture in step.missing and step.asked(evaluation.architecture):
                step.missing.remove(evaluation.architecture)
                step.told.append((evaluation.architecture, evaluation.score))
                if not step.missing:
                    self._steps.remove(step)
                    self._learn(step.told)
                return

    def _learn(self, told: list[tuple[Architecture, float]]) -> None:
        rows = np.array([architecture for architecture, _ in told])
        scores = np.array([score for _, score in told])
        known = np.isfinite(scores)
        if known.sum() > 1:
            self._spread[0] += float(((scores[known] - scores[known].mean()) ** 2).sum())
            self._spread[1] += int(known.sum()) - 1
        spread = math.sqrt(self._spread[0] / self._spread[1]) if self._spread[1] else 0.0
        likelihoods = scores / max(self.temperature * spread, 1e-12)
        weights = importance(likelihoods)
        misses = excess(self.sampler.bounds, rows)
        self.trace.append(
            {
                "samples": len(rows),
                "entropy": self.distribution.entropy,
                "effective_samples": float(1 / (weights**2).sum()) if known.any() else 0.0,
                "within_budget": float((misses <= 0).mean()),
                "score": float(scores[known].mean()) if known.any() else 0.0,
                "logits": self.distribution.size,
            }
        )
        sampled = 0.0 if self.expected else self.beta
        gradient = self.distribution.score(rows, pull(likelihoods, misses, sampled))
        if self.beta and self.expected:
            gradient = [one - self.beta * other for one, other in zip(gradient, self._expected_slope(), strict=True)]
        self._ascend(gradient)

    def _expected_slope(self) -> list[np.ndarray]:
        """Gradient of ``log(C + SOFTEN)``, C the hinge on the expected cost, summed over the bounds."""
        total = [np.zeros_like(array) for array in self.distribution.logits]
        for bound in self.sampler.bounds:
            if not isinstance(bound.cost, AdditiveCost):
                raise ConfigError(f"{bound.text!r} has no exact expectation; leave the option expected out")
            value, slope = self.distribution.expectation(bound.cost)
            over = 0.0
            if value > bound.upper:
                over = 1 / (value - (1 - SOFTEN) * bound.upper)
            elif value < bound.lower:
                over = -1 / ((1 + SOFTEN) * bound.lower - value)
            total = [one + over * other for one, other in zip(total, slope, strict=True)]
        return total

    def _ascend(self, gradient: Sequence[np.ndarray]) -> None:
        """One step of Adam (Kingma and Ba, arXiv 1412.6980, algorithm 1), uphill."""
        flat = np.concatenate(gradient)
        self._updates += 1
        rates = np.array([0.9, 0.999])
        self._moments = rates[:, None] * self._moments + (1 - rates)[:, None] * np.stack([flat, flat**2])
        mean, square = self._moments / (1 - rates**self._updates)[:, None]
        change = self.learning_rate * mean / (np.sqrt(square) + 1e-8)
        ends = np.cumsum([len(array) for array in gradient])[:-1]
        self.distribution = self.distribution.moved(np.split(change, ends))

    # ------------------------------------------------------------------ state

    def _state(self) -> dict[str, Any]:
        return {
            "distribution": self.distribution.to_json(),
            "moments": self._moments.tolist(),
            "updates": self._updates,
            "spread": self._spread,
            "steps": [step.to_json() for step in self._steps],
            "trace": self.trace,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.distribution = ArchitectureDistribution.from_json(self.space.radices, state["distribution"])
        self._moments = np.array(state["moments"], dtype=np.float64)
        self._updates = int(state["updates"])
        self._spread = [float(value) for value in state["spread"]]
        self._steps = [_Step.from_json(self.space, step) for step in state["steps"]]
        self.trace = [dict(record) for record in state["trace"]]
        if self._moments.shape != (2, self.distribution.size):
            raise ValueError("the moments do not fit the distribution")


class _Step:
    """Draws of one step: those that nobody was given yet, those that are not told yet, and what was told."""

    def __init__(
        self, queue: list[Architecture], missing: list[Architecture], told: list[tuple[Architecture, float]]
    ) -> None:
        self.queue, self.missing, self.told = queue, missing, told

    def asked(self, architecture: Architecture) -> bool:
        """Whether one more of `architecture` is out than was told."""
        return self.missing.count(architecture) > self.queue.count(architecture)

    def to_json(self) -> dict[str, Any]:
        told = [[list(a), score if math.isfinite(score) else None] for a, score in self.told]
        return {"queue": [list(a) for a in self.queue], "missing": [list(a) for a in self.missing], "told": told}

    @classmethod
    def from_json(cls, space: SearchSpace, data: dict[str, Any]) -> _Step:
        queue, missing = ([space.validate(a) for a in data[key]] for key in ("queue", "missing"))
        told = [(space.validate(a), math.nan if score is None else float(score)) for a, score in data["told"]]
        return cls(queue, missing, told)


class FpNas(Parsec):
    """Ever fewer draws, and a factorised distribution first.

    Parameters
    ----------
    space, sampler, seed, learning_rate, temperature, beta, expected
        See `Parsec`.
    rate
        Draws a step over the distribution's entropy in nats; 1/4 in the paper.
    least
        Draws a step at least.
    coarse
        Share of the evaluations that the distribution stays factorised for; 1 never makes it joint, 0 begins so.
    """

    name: ClassVar[str] = "fpnas"
    summary: ClassVar[str] = "as parsec, with draws in proportion to what is undecided, factorised first"
    paper: ClassVar[str] = "FP-NAS, arXiv 2011.10949"

    def __init__(
        self,
        space: SearchSpace,
        sampler: FeasibleSampler | None = None,
        *,
        seed: int = 0,
        rate: float = 0.25,
        least: int = 2,
        coarse: float = 0.5,
        learning_rate: float = 0.1,
        temperature: float = 0.5,
        beta: float = 1.0,
        expected: bool = False,
    ) -> None:
        if not rate > 0 or not 0 <= coarse <= 1:
            raise ConfigError("fpnas needs a positive rate, and a share between 0 and 1 as coarse")
        self.rate, self.least, self.coarse = rate, least, coarse
        self._drawn = 0
        super().__init__(
            space,
            sampler,
            seed=seed,
            samples=least,
            learning_rate=learning_rate,
            temperature=temperature,
            beta=beta,
            expected=expected,
        )

    def _first_distribution(self) -> ArchitectureDistribution:
        return ArchitectureDistribution(self.space.radices, None if self.coarse else self.space.layers)

    def _draws(self) -> int:
        count = max(self.least, round(self.rate * self.distribution.entropy))
        self._drawn += count
        return count

    def _before_step(self) -> None:
        share = self._drawn / (self._total or self.planned) if self._elapsed is None else self._elapsed
        if self.coarse < 1 and share >= self.coarse and self.distribution.groups != self.space.layers:
            self.distribution = self.distribution.joined(self.space.layers)
            self._moments, self._updates = np.zeros((2, self.distribution.size)), 0

    def _state(self) -> dict[str, Any]:
        return {**super()._state(), "drawn": self._drawn}

    def _restore(self, state: dict[str, Any]) -> None:
        super()._restore(state)
        self._drawn = int(state["drawn"])
