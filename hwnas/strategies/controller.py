"""An LSTM that writes architectures choice by choice, trained by REINFORCE (Zoph and Le, arXiv 1611.01578).

It is what PNAS (arXiv 1712.00559) compares with. Each decision's choice is embedded and read by the LSTM, whose state
gives the probabilities of the next decision, so the distribution is over whole architectures, unlike that of
`reinforce`. Settings are those of NASNet's controller (arXiv 1707.07012): 100 units, a baseline with momentum 0.95, a
small entropy bonus; the learning rate is higher, since a search here makes hundreds of steps, not tens of thousands,
and the update is plain REINFORCE where NASNet clips it (PPO).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from hwnas.evaluators.base import Evaluation
from hwnas.sampler import FeasibleSampler
from hwnas.spaces.errors import ConfigError
from hwnas.spaces.space import Architecture, SearchSpace
from hwnas.strategies.base import Strategy
from hwnas.strategies.weights import Weights, uniform

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Controller"]

#: Draws among which feasible ones are looked for, before any is drawn uniformly.
DRAWS = 64


class Controller(Strategy):
    """REINFORCE over the sequence of decisions.

    Draws that break the budget are thrown away before anything is evaluated, and replaced by what fits of 64 further
    draws, then by uniform feasible ones; these teach too.

    Parameters
    ----------
    space, sampler, seed
        See `Strategy`.
    learning_rate
        Of Adam (decay rates 0.9 and 0.999).
    momentum
        Of the baseline, a moving average of the scores.
    entropy
        Weight of the policy's entropy beside the score in spreads.
    units
        Of the LSTM, and of the embeddings.
    """

    name: ClassVar[str] = "controller"
    summary: ClassVar[str] = "an LSTM that writes the choices one by one, trained by policy gradient"
    paper: ClassVar[str] = "Zoph and Le, arXiv 1611.01578"
    repeats: ClassVar[bool] = True

    def __init__(
        self,
        space: SearchSpace,
        sampler: FeasibleSampler | None = None,
        *,
        seed: int = 0,
        learning_rate: float = 0.005,
        momentum: float = 0.95,
        entropy: float = 0.01,
        units: int = 100,
    ) -> None:
        super().__init__(space, sampler, seed=seed)
        if not learning_rate > 0 or not 0 <= momentum < 1 or not entropy >= 0 or units < 1:
            raise ConfigError(
                "controller needs a positive learning rate and number of units, a momentum below 1, "
                "and an entropy weight of at least 0"
            )
        self.learning_rate, self.momentum, self.entropy, self.units = learning_rate, momentum, entropy, units
        radices = space.radices.tolist()
        shapes = [(2 * units, 4 * units), (4 * units,), (1, units)]  # LSTM, its bias, what it reads first
        shapes += [(radix, units) for radix in radices[:-1]]  # an embedding of each decision's choice
        shapes += [(units, radix) for radix in radices]
        self._weights = Weights(uniform(shapes, seed), learning_rate)
        self._baseline = [0.0, 0.0]  # weighted sum of scores, sum of weights
        self._spread = [0.0, 0.0]  # the same of squared advantages

    @property
    def planned(self) -> int:
        """500 evaluations, one step each."""
        return 500

    # ------------------------------------------------------------------ the policy

    def _walk(self, count: int, rows: np.ndarray | None = None) -> tuple[np.ndarray, Tensor, Tensor]:
        """Draw `count` architectures, or follow given ones: choices, log-probabilities and entropies, ``(count,)``."""
        import torch

        radices = self.space.radices.tolist()
        kernel, bias, start = self._weights.tensors[:3]
        embeddings, heads = self._weights.tensors[3 : 2 + len(radices)], self._weights.tensors[2 + len(radices) :]
        x, cell = start.expand(count, -1), torch.zeros(count, self.units)
        hidden = torch.zeros(count, self.units)
        chosen = np.empty((count, len(radices)), dtype=np.int64) if rows is None else rows
        total, entropy = torch.zeros(count), torch.zeros(count)
        for decision in range(len(radices)):
            into, forget, out, new = (torch.cat([x, hidden], dim=1) @ kernel + bias).chunk(4, dim=1)
            cell = torch.sigmoid(forget) * cell + torch.sigmoid(into) * torch.tanh(new)
            hidden = torch.sigmoid(out) * torch.tanh(cell)
            logs = torch.log_softmax(hidden @ heads[decision], dim=1)
            if rows is None:
                running = np.cumsum(logs.exp().detach().numpy().astype(float), axis=1)
                thrown = self.rng.random((count, 1)) * running[:, -1:]
                chosen[:, decision] = np.minimum((running <= thrown).sum(axis=1), radices[decision] - 1)
            index = torch.from_numpy(chosen[:, decision])
            total = total + logs.gather(1, index[:, None])[:, 0]
            entropy = entropy - (logs.exp() * logs).sum(dim=1)
            if decision + 1 < len(radices):
                x = embeddings[decision][index]
        return chosen, total, entropy

    def _propose(self, count: int) -> list[Architecture]:
        import torch

        with torch.no_grad():
            rows, _, _ = self._walk(count)
            inside = self.sampler.contains(rows)
            spare = np.zeros((0, rows.shape[1]), dtype=np.int64)
            if not inside.all():
                spare, _, _ = self._walk(DRAWS)
                spare = spare[self.sampler.contains(spare)]
        found = [tuple(row) for row in rows[inside].tolist()]
        found += [tuple(row) for row in spare[: count - len(found)].tolist()]
        return [*found, *(self._draw() for _ in range(count - len(found)))]

    def _observe(self, evaluation: Evaluation, asked: bool, usable: bool) -> None:
        if not asked or not usable:
            return
        total, weight = self._baseline
        if weight:
            advantage = evaluation.score - total / weight
            m = self.momentum
            self._spread = [m * self._spread[0] + (1 - m) * advantage**2, m * self._spread[1] + 1 - m]
            spread = (self._spread[0] / self._spread[1]) ** 0.5
            _, log_probability, entropy = self._walk(1, np.array([evaluation.architecture]))
            self._weights.descend(-(advantage / max(spread, 1e-12) * log_probability + self.entropy * entropy).sum())
        m = self.momentum
        self._baseline = [m * total + (1 - m) * evaluation.score, m * weight + 1 - m]

    # ------------------------------------------------------------------ state

    def _state(self) -> dict[str, Any]:
        return {"weights": self._weights.to_json(), "baseline": self._baseline, "spread": self._spread}

    def _restore(self, state: dict[str, Any]) -> None:
        self._weights.load(state["weights"])
        self._baseline = [float(value) for value in state["baseline"]]
        self._spread = [float(value) for value in state["spread"]]
