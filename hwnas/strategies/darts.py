"""DARTS (Liu et al., ICLR 2019, arXiv 1806.09055), first order: gradients through a mixture of all operations.

Every edge is a mixture, ``sum_o softmax(alpha)_o o(x)``. A step moves alpha along the gradient of a validation batch's
loss (Adam), then the weights along a training batch's. In the end each node keeps its two strongest edges, each with
its strongest operation.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from hwnas.evaluators.base import Evaluation
from hwnas.sampler import FeasibleSampler
from hwnas.spaces.darts import DARTS, NONE, SKIP
from hwnas.spaces.errors import ConfigError
from hwnas.spaces.space import Architecture, SearchSpace
from hwnas.strategies.distribution import ArchitectureDistribution
from hwnas.strategies.probabilistic import Probabilistic
from hwnas.strategies.weights import Weights

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Darts"]

#: Cells derived from perturbed parameters, among which the likely ones that fit are looked for.
DRAWS = 4096


class Darts(Probabilistic):
    """One parameter for each operation on each edge, moved by gradients.

    It is not asked and told: `hwnas.training.train_mixture` drives it.

    Parameters
    ----------
    space, sampler, seed
        See `Strategy`; the space must be `darts`.
    learning_rate, weight_decay
        Of Adam, and of the square of the parameters.
    frozen
        Share of the search before which they stay as they are, while the weights catch up.
    skips
        Most skip connections in a normal cell: what is delivered is the last cell that kept to it (after DARTS+, arXiv
        1909.06035). Mixtures tend to end in skip connections alone.

    Raises
    ------
    ConfigError
        If the space is another, or a setting is out of range.
    """

    name: ClassVar[str] = "darts"
    summary: ClassVar[str] = "gradients through a mixture of all operations, first order"
    paper: ClassVar[str] = "DARTS, arXiv 1806.09055"
    mixes: ClassVar[bool] = True

    def __init__(
        self,
        space: SearchSpace,
        sampler: FeasibleSampler | None = None,
        *,
        seed: int = 0,
        learning_rate: float = 0.003,
        weight_decay: float = 0.001,
        frozen: float = 0.25,
        skips: int = 2,
    ) -> None:
        import torch

        super().__init__(space, sampler, seed=seed)
        if not isinstance(space, DARTS):
            raise ConfigError(f"the strategy darts mixes the operations of the space darts, not of {space.name}")
        if not learning_rate > 0 or not weight_decay >= 0 or not 0 <= frozen < 1 or skips < 0:
            raise ConfigError(
                "darts needs a positive learning rate, a weight decay and skips of at least 0, and frozen below 1"
            )
        self.learning_rate, self.weight_decay, self.frozen, self.skips = learning_rate, weight_decay, frozen, skips
        self._darts = space
        shape = (len(space.decisions), int(space.radices[0]))
        start = 1e-3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
        self._alphas = Weights([start], learning_rate)
        self._kept: Architecture | None = None
        self._refresh()

    @property
    def alphas(self) -> np.ndarray:
        """The parameters, ``(decisions, operations)``."""
        return np.asarray(self._alphas.tensors[0].detach().numpy().copy())

    def shares(self) -> Tensor:
        """Of each operation on each edge, with a gradient to the parameters."""
        import torch

        return torch.softmax(self._alphas.tensors[0], dim=1)

    def descend(self, loss: Tensor) -> None:
        """Move the parameters down the gradient of a validation loss, once they are not frozen any more."""
        if (self._elapsed or 0.0) >= self.frozen:
            square = (self._alphas.tensors[0] ** 2).sum()
            self._alphas.descend(loss + 0.5 * self.weight_decay * square)
            self._refresh()
        self.trace.append(
            {
                "samples": 1,
                "entropy": self.distribution.entropy,
                "effective_samples": 1.0,
                "within_budget": float(self.sampler.contains([self._derived()])[0]),
                "score": -float(loss.detach()),
                "logits": self.distribution.size,
            }
        )

    def _refresh(self) -> None:
        self.distribution = ArchitectureDistribution(self.space.radices, None, list(self.alphas.astype(float)))
        derived = self._derived()
        if self._kept is None or self._plain(derived):
            self._kept = derived

    def _derived(self) -> Architecture:
        return self._darts.derive(self.alphas)

    def _plain(self, architecture: Architecture) -> bool:
        """Whether no normal cell has too many skip connections."""
        row = np.array(architecture).reshape(self._darts.kinds, -1)
        normal = np.array(self._darts.normal, dtype=int)  # a shallow network may have reduction cells alone
        return bool(((row == SKIP).sum(axis=1)[normal] <= self.skips).all())

    # ------------------------------------------------------------------ what it delivers

    @property
    def recommendation(self) -> Architecture | None:
        """The cells that the parameters stand for, if they fit; else the likeliest that do."""
        found = self.candidates(1)
        return found[0] if found else None

    def candidates(self, count: int) -> list[Architecture]:
        """Cells of two edges a node that fit, the likeliest first, from parameters perturbed by Gumbel noise."""
        rng, alphas = np.random.default_rng([self.seed, len(self.trace)]), self.alphas
        drawn = {self._darts.derive(alphas + rng.gumbel(size=alphas.shape)) for _ in range(DRAWS)}
        assert self._kept is not None
        others = sorted(drawn - {self._kept}, key=lambda row: (-self._likelihood(row), row))
        found = [self._kept, *others]
        fits = self.sampler.contains(found)
        return [row for row, inside in zip(found, fits.tolist(), strict=True) if inside and self._plain(row)][:count]

    def _likelihood(self, architecture: Architecture) -> float:
        """Logarithm of the shares of what is kept, among what is not `none`."""
        operations = self.alphas[:, NONE + 1 :]
        logs = operations - np.log(np.exp(operations).sum(axis=1, keepdims=True))
        row = np.array(architecture)
        kept = np.flatnonzero(row != NONE)
        return float(logs[kept, row[kept] - NONE - 1].sum()) if len(kept) else -math.inf

    # ------------------------------------------------------------------ not asked and told

    def _propose(self, count: int) -> list[Architecture]:
        raise ConfigError("darts moves by gradients of a mixture and asks for nothing; use the evaluator one-shot")

    def _observe(self, evaluation: Evaluation, asked: bool, usable: bool) -> None:
        """Evaluations of others are kept as `best`, and teach nothing."""

    def _state(self) -> dict[str, Any]:
        return {
            "alphas": self._alphas.to_json(),
            "distribution": self.distribution.to_json(),
            "kept": None if self._kept is None else list(self._kept),
            "elapsed": self._elapsed,
            "trace": self.trace,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self._alphas.load(state["alphas"])
        self._kept = None if state["kept"] is None else self.space.validate(state["kept"])
        self._elapsed = None if state["elapsed"] is None else float(state["elapsed"])
        self.trace = [dict(record) for record in state["trace"]]
        self.distribution = ArchitectureDistribution(self.space.radices, None, list(self.alphas.astype(float)))
