"""A new strategy is one class: what it proposes, what it learns, and its state as plain data."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from hwnas.evaluators import Evaluation
from hwnas.sampler import FeasibleSampler
from hwnas.spaces import Architecture, SearchSpace
from hwnas.strategies.base import Strategy

__all__ = ["HillClimbing"]


class HillClimbing(Strategy):
    """Steps to feasible neighbours of the best architecture; starts afresh when all of them were seen.

    Parameters
    ----------
    space, sampler, seed
        See `Strategy`.
    start
        Random architectures before the first step.
    """

    name: ClassVar[str] = "hill-climbing"
    summary: ClassVar[str] = "neighbours of the best so far, random restarts"

    def __init__(
        self, space: SearchSpace, sampler: FeasibleSampler | None = None, *, seed: int = 0, start: int = 10
    ) -> None:
        super().__init__(space, sampler, seed=seed)
        self.start = start
        self._top: tuple[float, Architecture] | None = None
        self._told = 0

    def _propose(self, count: int) -> list[Architecture]:
        if self._top is None or self._told < self.start:
            return self._fresh(count)
        radices = self.space.radices.tolist()
        changes = [(d, c) for d, radix in enumerate(radices) for c in range(radix) if c != self._top[1][d]]
        rows = np.tile(self._top[1], (len(changes), 1))
        rows[np.arange(len(changes)), [d for d, _ in changes]] = [c for _, c in changes]
        rows = self.rng.permutation(rows[self.sampler.contains(rows)])
        found = [row for row in map(tuple, rows.tolist()) if row not in self._visited][:count]
        self._visited.update(dict.fromkeys(found))
        if not found:  # a local optimum
            self._top = None
        return found or self._fresh(count)

    def _observe(self, evaluation: Evaluation, asked: bool, usable: bool) -> None:
        self._told += 1
        if usable and (self._top is None or evaluation.score > self._top[0]):
            self._top = (evaluation.score, evaluation.architecture)

    def _state(self) -> dict[str, Any]:
        return {"top": None if self._top is None else [self._top[0], list(self._top[1])], "told": self._told}

    def _restore(self, state: dict[str, Any]) -> None:
        top = state["top"]
        self._top = None if top is None else (float(top[0]), self.space.validate(top[1]))
        self._told = int(state["told"])
