"""REINFORCE (Williams, Machine Learning 8, 1992) with one categorical distribution a decision.

Settings are those of the NATS-Bench scripts (arXiv 2009.00437): logits start at 1e-3 times a
standard normal, Adam with learning rate 0.01, an exponential moving average of the rewards with
momentum 0.9 (bias-corrected) as the baseline, no entropy term, one step an evaluation. The best
architecture seen is the result, not the policy's mode.

The policy is the product of the categoricals **conditioned on feasibility**: with logits l and the
feasible set F, ``p(a) = exp(sum_i l[i, a_i]) / sum_{b in F} exp(sum_i l[i, b_i])``. So no
evaluation is spent on infeasible architectures, and the exact score function is

    d log p(a) / d l[i, c] = [a_i = c] - P(decision i takes c | feasible)

whose second term, the marginals, comes from the same dynamic programme that draws.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from hwnas.evaluators.base import Evaluation
from hwnas.sampler import FeasibleSampler
from hwnas.spaces.errors import ConfigError
from hwnas.spaces.space import Architecture, SearchSpace
from hwnas.strategies.base import Strategy

__all__ = ["Reinforce"]


class Reinforce(Strategy):
    """Policy gradient over independent categoricals, conditioned on feasibility.

    Evaluations that come late count with the score function of the policy that asked for them.
    Those that were never asked for move `best`, not the policy. The advantage is taken against the
    baseline *before* the reward joins it; the published scripts do it after, which only scales it.

    Parameters
    ----------
    space, sampler, seed
        See `Strategy`.
    learning_rate
        Of Adam (decay rates 0.9 and 0.999).
    momentum
        Of the baseline.
    scale
        Standard deviation of the initial logits.
    """

    name: ClassVar[str] = "reinforce"
    summary: ClassVar[str] = "policy gradient over independent categoricals, conditioned on feasibility"
    paper: ClassVar[str] = "REINFORCE as in NATS-Bench, arXiv 2009.00437"
    repeats: ClassVar[bool] = True

    def __init__(
        self,
        space: SearchSpace,
        sampler: FeasibleSampler | None = None,
        *,
        seed: int = 0,
        learning_rate: float = 0.01,
        momentum: float = 0.9,
        scale: float = 1e-3,
    ) -> None:
        super().__init__(space, sampler, seed=seed)
        if learning_rate <= 0 or not 0 <= momentum < 1 or scale < 0:
            raise ConfigError("reinforce needs a positive learning rate, a momentum below 1 and a scale of at least 0")
        self.learning_rate, self.momentum, self.scale = learning_rate, momentum, scale
        self._ends = np.cumsum(space.radices)[:-1]  # where one decision's logits end in the flat vector
        self._logits = scale * self.rng.standard_normal(int(space.radices.sum()))
        self._moments = np.zeros((2, len(self._logits)))
        self._steps = 0
        self._baseline = [0.0, 0.0]  # weighted sum of rewards, sum of weights
        self._asked: list[tuple[Architecture, int]] = []
        self._marginals: dict[int, np.ndarray] = {}  # of the policies with outstanding asks, by their step

    @property
    def planned(self) -> int:
        """200 evaluations, as the cycles of regularized evolution."""
        return 200

    @property
    def policy(self) -> list[np.ndarray]:
        """Per decision, the probability of each choice before conditioning on feasibility."""
        logits = np.split(self._logits, self._ends)
        exponentials = [np.exp(part - part.max()) for part in logits]
        return [part / part.sum() for part in exponentials]

    def _propose(self, count: int) -> list[Architecture]:
        policy = self.policy
        rows = self.sampler.sample(count, self.rng, weights=policy)
        found: list[Architecture] = [tuple(row) for row in rows.tolist()]
        if self._steps not in self._marginals:
            self._marginals[self._steps] = np.concatenate(self.sampler.marginals(policy, self.rng))
        self._asked += [(architecture, self._steps) for architecture in found]
        return found

    def _observe(self, evaluation: Evaluation, asked: bool, usable: bool) -> None:
        if not asked:
            return
        index = next(i for i, (a, _) in enumerate(self._asked) if a == evaluation.architecture)
        architecture, step = self._asked.pop(index)
        if usable:
            score = -self._marginals[step]
            score[np.concatenate([[0], self._ends]) + np.array(architecture)] += 1.0
            total, weight = self._baseline
            advantage = evaluation.score - total / weight if weight else 0.0
            self._ascend(advantage * score)
            m = self.momentum
            self._baseline = [m * total + (1 - m) * evaluation.score, m * weight + 1 - m]
        waiting = {step for _, step in self._asked}
        self._marginals = {step: value for step, value in self._marginals.items() if step in waiting | {self._steps}}

    def _ascend(self, gradient: np.ndarray) -> None:
        """One step of Adam (Kingma and Ba, arXiv 1412.6980, algorithm 1), uphill."""
        self._steps += 1
        rates = np.array([0.9, 0.999])
        self._moments = rates[:, None] * self._moments + (1 - rates)[:, None] * np.stack([gradient, gradient**2])
        mean, square = self._moments / (1 - rates**self._steps)[:, None]
        self._logits = self._logits + self.learning_rate * mean / (np.sqrt(square) + 1e-8)

    def _state(self) -> dict[str, Any]:
        return {
            "logits": self._logits.tolist(),
            "moments": self._moments.tolist(),
            "steps": self._steps,
            "baseline": self._baseline,
            "asked": [[list(architecture), step] for architecture, step in self._asked],
            "marginals": {str(step): value.tolist() for step, value in self._marginals.items()},
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self._logits = np.array(state["logits"], dtype=np.float64)
        self._moments = np.array(state["moments"], dtype=np.float64)
        self._steps = int(state["steps"])
        self._baseline = [float(value) for value in state["baseline"]]
        self._asked = [(self.space.validate(a), int(step)) for a, step in state["asked"]]
        self._marginals = {int(step): np.array(value) for step, value in state["marginals"].items()}
        if self._logits.shape != (int(self.space.radices.sum()),) or self._moments.shape != (2, len(self._logits)):
            raise ValueError("the policy does not fit the space")
