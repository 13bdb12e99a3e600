"""EPNAS (arXiv 1907.04648), after RENA (arXiv 1806.07912): networks that a policy edits step by step, several at once.

The paper's internals could not be confirmed; this is built after their description. A policy reads a network, decision
by decision, with an LSTM and picks one edit of it: any decision to any other choice, so in a space of layers an
insertion, a removal, or a scaling. Networks are edited side by side, each from what its last edit made of it. The
reward is after RENA's,

    R = P * prod_j p ** V_j,     V_j = max(0, U_j / C_j - 1)  or, for lower bounds,  max(0, 1 - U_j / C_j),

with the score P, and trains the policy by REINFORCE. A predictor of the score spares networks that look hopeless: their
predicted reward teaches the policy, and another edit is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from hwnas.evaluators.base import Evaluation
from hwnas.nearest import Bound
from hwnas.sampler import FeasibleSampler
from hwnas.spaces.errors import ConfigError
from hwnas.spaces.space import Architecture, SearchSpace
from hwnas.strategies.base import Strategy
from hwnas.strategies.surrogate import Surrogate
from hwnas.strategies.weights import Weights, uniform

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Epnas", "penalised"]

PENALTIES, STARTS = ("soft", "hard"), ("smallest", "random")
#: Edits that may be spared or known already before a network is evaluated whatever is predicted.
TRIES = 16
#: The predictor is fitted after so many scores each, and used after the first time.
FIT_EVERY = 25
#: A network is hopeless if its predicted reward is below this quantile of the rewards so far.
HOPELESS = 0.25


def penalised(score: float, bounds: Sequence[Bound], architecture: Architecture, base: float) -> float:
    """The reward of a score: less by a factor `base` for each time that a bound is missed by its own size.

    A `base` of 0 gives 0 wherever a bound is missed, and so does an architecture that has no value for a bound. Of a
    negative score, the penalty is taken off.
    """
    row, share = np.array([architecture]), 1.0
    for bound in bounds:
        missed = max(0.0, float(bound.excess(row)[0]))
        share *= base**missed if missed else 1.0
    return score - abs(score) * (1 - share)


@dataclass
class _Network:
    """One of the networks that are edited: what it is, how often it was, and what is being evaluated."""

    architecture: Architecture
    edits: int = 0
    edited: Architecture | None = None


class Epnas(Strategy):
    """Several networks, edited side by side by one policy.

    Parameters
    ----------
    space, sampler, seed
        See `Strategy`.
    networks
        How many are edited at a time; so many evaluations can run in parallel.
    horizon
        Edits after which a network is replaced by the best that fits so far, or the best reward if none does.
    penalty
        ``soft``: networks beyond the budget are evaluated, and their reward is less; ``hard``: they are not evaluated,
        and teach a reward of 0.
    base
        The factor p of the soft penalty.
    predictor
        Whether predicted rewards spare evaluations.
    start
        Networks begin as the ``smallest`` (the first choice of every decision) or at ``random``.
    learning_rate, entropy, units
        Of the policy: Adam's rate, the weight of its entropy, the units of its LSTM.
    momentum
        Of the baseline, a moving average of rewards.

    Raises
    ------
    ConfigError
        If a setting is out of range.
    """

    name: ClassVar[str] = "epnas"
    summary: ClassVar[str] = "a policy that edits several networks side by side, under soft or hard constraints"
    paper: ClassVar[str] = "EPNAS, arXiv 1907.04648"
    bounded: ClassVar[bool] = False
    inherits: ClassVar[bool] = True
    thorough: ClassVar[bool] = False

    def __init__(
        self,
        space: SearchSpace,
        sampler: FeasibleSampler | None = None,
        *,
        seed: int = 0,
        networks: int = 8,
        horizon: int = 10,
        penalty: str = "soft",
        base: float = 0.5,
        predictor: bool = True,
        start: str = "smallest",
        learning_rate: float = 0.005,
        entropy: float = 0.01,
        units: int = 64,
        momentum: float = 0.9,
    ) -> None:
        super().__init__(space, sampler, seed=seed)
        if penalty not in PENALTIES or start not in STARTS:
            raise ConfigError(f"epnas has the penalties {', '.join(PENALTIES)} and the starts {', '.join(STARTS)}")
        if min(networks, horizon, units) < 1 or not 0 < base < 1 or not 0 <= momentum < 1:
            raise ConfigError(
                "epnas needs at least one network, edit and unit, a base between 0 and 1, and a momentum below 1"
            )
        if not learning_rate > 0 or not entropy >= 0:
            raise ConfigError("epnas needs a positive learning rate, and an entropy weight of at least 0")
        self.networks, self.horizon, self.penalty, self.base = networks, horizon, penalty, base
        self.predictor, self.start = predictor, start
        self.learning_rate, self.entropy, self.units, self.momentum = learning_rate, entropy, units, momentum
        choices = int(space.radices.sum())
        self._offsets = np.concatenate([[0], np.cumsum(space.radices)[:-1]])
        # embedding of each choice, LSTM and its bias, a layer over a decision and the whole, output of each choice
        shapes = [(choices, units), (2 * units, 4 * units), (4 * units,), (2 * units, units), (choices, units)]
        self._weights = Weights(uniform(shapes, seed), learning_rate)
        self._model = self._new_model()
        self._scores: list[tuple[Architecture, float]] = []
        self._known: dict[Architecture, float] = {}  # rewards
        self._baseline, self._spread = [0.0, 0.0], [0.0, 0.0]  # weighted sums, sums of weights
        self._evolving = [_Network(self._first()) for _ in range(networks)]
        #: How many networks were spared an evaluation.
        self.spared = 0

    @property
    def planned(self) -> int:
        """500 evaluations."""
        return 500

    def _new_model(self) -> Surrogate:
        return Surrogate("mlp", (int(self.space.radices.sum()),), (0,), seed=self.seed, members=2, width=32)

    def _first(self) -> Architecture:
        return self._draw() if self.start == "random" else (0,) * len(self.space.decisions)

    # ------------------------------------------------------------------ the policy

    def _edits(self, architecture: Architecture) -> Tensor:
        """Log-probabilities of every edit, ``(all choices,)``; minus infinity for what is chosen already."""
        import torch

        embeddings, kernel, bias, mix, out = self._weights.tensors
        tokens = torch.from_numpy(self._offsets + np.array(architecture))
        x = embeddings[tokens]
        hidden = cell = torch.zeros(self.units)
        states = []
        for step in x:
            into, forget, shown, new = (torch.cat([step, hidden]) @ kernel + bias).chunk(4)
            cell = torch.sigmoid(forget) * cell + torch.sigmoid(into) * torch.tanh(new)
            hidden = torch.sigmoid(shown) * torch.tanh(cell)
            states.append(hidden)
        context = torch.stack([torch.cat([state, hidden]) for state in states])
        features = torch.tanh(context @ mix)
        decision = torch.repeat_interleave(torch.from_numpy(self.space.radices))
        logits = (features[decision] * out).sum(dim=1)
        taken = torch.zeros(len(logits), dtype=torch.bool)
        taken[tokens] = True
        return torch.log_softmax(logits.masked_fill(taken, -math.inf), dim=0)

    def _edit(self, architecture: Architecture) -> Architecture:
        """Draw one edit and apply it."""
        import torch

        with torch.no_grad():
            running = np.cumsum(self._edits(architecture).exp().numpy().astype(float))
        choice = int(np.searchsorted(running, self.rng.random() * running[-1], side="right"))
        choice = min(choice, len(running) - 1)
        decision = int(np.searchsorted(self._offsets, choice, side="right")) - 1
        return (*architecture[:decision], choice - int(self._offsets[decision]), *architecture[decision + 1 :])

    def _teach(self, before: Architecture, after: Architecture, reward: float) -> None:
        """One step of REINFORCE on the edit that led from one network to another."""
        total, weight = self._baseline
        m = self.momentum
        if weight:
            advantage = reward - total / weight
            self._spread = [m * self._spread[0] + (1 - m) * advantage**2, m * self._spread[1] + 1 - m]
            spread = math.sqrt(self._spread[0] / self._spread[1])
            logs = self._edits(before)
            (decision,) = np.flatnonzero(np.array(before) != np.array(after))
            chosen = logs[int(self._offsets[decision]) + after[int(decision)]]
            possible = logs[logs > -math.inf]
            entropy = -(possible.exp() * possible).sum()
            self._weights.descend(-(advantage / max(spread, 1e-12) * chosen + self.entropy * entropy))
        self._baseline = [m * total + (1 - m) * reward, m * weight + 1 - m]

    # ------------------------------------------------------------------ asking and telling

    def _propose(self, count: int) -> list[Architecture]:
        found: list[Architecture] = []
        for network in self._evolving:
            if len(found) < count and network.edited is None:
                edited = self._next(network)
                if edited is not None:
                    network.edited = edited
                    self._visited[edited] = None
                    found.append(edited)
        return found or self._fresh(count)

    def _next(self, network: _Network) -> Architecture | None:
        """The next edit of a network that is worth an evaluation; known and hopeless ones teach on the way."""
        if network.edits >= self.horizon and self._known:
            best = self.best.architecture if self.best else max(self._known, key=lambda a: self._known[a])
            network.architecture, network.edits = best, 0
        for _ in range(TRIES):
            before = network.architecture
            after = self._edit(before)
            if after in self._known:
                self._teach(before, after, self._known[after])
                network.architecture = after
                continue
            if after in self._visited:  # another network is being evaluated as this one
                continue
            if self.penalty == "hard" and not self.sampler.contains([after])[0]:
                self._teach(before, after, 0.0)
                continue
            predicted = self._predicted(after)
            if predicted is not None and predicted < np.quantile(list(self._known.values()), HOPELESS):
                self.spared += 1
                self._teach(before, after, predicted)
                continue
            return after
        fresh = self._fresh(1)
        return fresh[0] if fresh else None

    def _reward(self, architecture: Architecture, score: float) -> float:
        base = self.base if self.penalty == "soft" else 0.0
        return penalised(score, self.sampler.bounds, architecture, base)

    def _predicted(self, architecture: Architecture) -> float | None:
        """Predicted reward; None while there is no predictor."""
        if not self.predictor or len(self._scores) < FIT_EVERY:
            return None
        return self._reward(architecture, float(self._model.predict(self._parts([architecture]))[0]))

    def _parts(self, architectures: list[Architecture]) -> np.ndarray:
        return np.expand_dims(np.array(architectures) + self._offsets, 2)

    def _fit(self, count: int) -> None:
        shown = self._scores[:count]
        self._model.fit(self._parts([a for a, _ in shown]), np.array([score for _, score in shown]))

    def _observe(self, evaluation: Evaluation, asked: bool, usable: bool) -> None:
        architecture = self.space.validate(evaluation.architecture)
        if not evaluation.failed and architecture not in self._known:
            self._known[architecture] = self._reward(architecture, evaluation.score)
            self._scores.append((architecture, evaluation.score))
            if self.predictor and len(self._scores) % FIT_EVERY == 0:
                self._fit(len(self._scores))
        network = next((n for n in self._evolving if n.edited == architecture), None)
        if network is None:
            return
        before, network.edited = network.architecture, None
        network.edits += 1
        if evaluation.failed:
            return
        if sum(a != b for a, b in zip(before, architecture, strict=True)) == 1:
            self._teach(before, architecture, self._known[architecture])
        network.architecture = architecture

    # ------------------------------------------------------------------ state

    def _state(self) -> dict[str, Any]:
        return {
            "weights": self._weights.to_json(),
            "scores": [[list(architecture), score] for architecture, score in self._scores],
            "baseline": self._baseline,
            "spread": self._spread,
            "spared": self.spared,
            "networks": [
                [list(n.architecture), n.edits, None if n.edited is None else list(n.edited)] for n in self._evolving
            ],
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self._weights.load(state["weights"])
        self._scores = [(self.space.validate(a), float(score)) for a, score in state["scores"]]
        self._known = {a: self._reward(a, score) for a, score in self._scores}
        self._baseline, self._spread = ([float(value) for value in state[key]] for key in ("baseline", "spread"))
        self.spared = int(state["spared"])
        self._evolving = [
            _Network(
                self.space.validate(architecture),
                int(edits),
                None if edited is None else self.space.validate(edited),
            )
            for architecture, edits, edited in state["networks"]
        ]
        self._model = self._new_model()
        if self.predictor:
            for count in range(FIT_EVERY, len(self._scores) + 1, FIT_EVERY):  # the same data make the same predictor
                self._fit(count)
