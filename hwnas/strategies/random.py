"""Random search: the baseline that every other strategy must beat."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from hwnas.evaluators.base import Evaluation
from hwnas.spaces.space import Architecture
from hwnas.strategies.base import Strategy

__all__ = ["RandomSearch"]


class RandomSearch(Strategy):
    """Uniform feasible architectures, each at most once."""

    name: ClassVar[str] = "random"
    summary: ClassVar[str] = "uniform feasible architectures, no repeats"

    @classmethod
    def uniform_start(cls, hyper: Mapping[str, Any]) -> float:
        """All of them."""
        return math.inf

    def _propose(self, count: int) -> list[Architecture]:
        return self._fresh(count)

    def _observe(self, evaluation: Evaluation, asked: bool, usable: bool) -> None:
        """Nothing to learn."""

    def _state(self) -> dict[str, Any]:
        return {}

    def _restore(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""
