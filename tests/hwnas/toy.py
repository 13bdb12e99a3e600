"""A small search space whose costs are numbers alone, and the brute force that checks what is clever elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from hwnas.costs import AdditiveCost, Part
from hwnas.nearest import Bound
from hwnas.spaces import Decision, SearchSpace, Term


@dataclass(frozen=True)
class FakeBlock:
    signature: str
    macs: int
    params: int
    bytes: int
    size: int
    peak_memory: int


class ToySpace(SearchSpace):
    """Random look-ups over the decision groups of `scopes`, with one block per joint choice."""

    name: ClassVar[str] = "toy"
    summary: ClassVar[str] = "numbers only"
    parameters: ClassVar[dict[str, Any]] = {}

    def __init__(
        self, radices: Sequence[int] = (3, 4, 2, 3, 3), scopes: Sequence[tuple[int, ...]] | None = None
    ) -> None:
        self.decisions = tuple(Decision(f"d{i}", tuple(map(str, range(r)))) for i, r in enumerate(radices))
        self.scopes = tuple((d,) for d in range(len(radices))) if scopes is None else tuple(scopes)

    def build(self, architecture: Any) -> Any:
        raise AssertionError("a toy space has no networks")

    @cached_property
    def _costs(self) -> Any:
        rng = np.random.default_rng(7)
        sizes = [1, *(int(np.prod(self.radices[list(scope)])) for scope in self.scopes)]
        blocks = [FakeBlock(f"b{i}", *rng.integers(1, 1000, size=5).tolist()) for i in range(sum(sizes))]
        terms, start = [], 0
        for scope, size in zip([(), *self.scopes], sizes, strict=True):
            counts = np.zeros((size, len(blocks)), dtype=np.int64)
            counts[np.arange(size), start + np.arange(size)] = 1
            terms.append(Term(scope, counts))
            start += size
        return tuple(blocks), tuple(terms)


def random_cost(space: SearchSpace, seed: int, scopes: Sequence[tuple[int, ...]] | None = None) -> AdditiveCost:
    """A sum of uniform random look-ups over `scopes`, one decision each by default."""
    rng = np.random.default_rng(seed)
    wanted = [(d,) for d in range(len(space.radices))] if scopes is None else scopes
    parts = [Part(scope, rng.random(int(np.prod(space.radices[list(scope)])))) for scope in wanted]
    return AdditiveCost(space.radices, parts, float(rng.random()))


def at_most(space: SearchSpace, cost: AdditiveCost, share: float, name: str = "cost") -> Bound:
    """An upper bound that about `share` of a small space meets."""
    upper = float(np.quantile(cost.values(space.all()), share))
    return Bound(f"{name} <= {upper:.4g}", cost, upper=upper, scale=abs(upper))


def at_least(space: SearchSpace, cost: AdditiveCost, share: float, name: str = "cost") -> Bound:
    """A lower bound that about `share` of a small space meets."""
    lower = float(np.quantile(cost.values(space.all()), 1 - share))
    return Bound(f"{name} >= {lower:.4g}", cost, lower=lower, scale=abs(lower))


def surprise(drawn: np.ndarray, rows: np.ndarray, radices: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Chi-square of the counts of `drawn` against `weights` over `rows`, in standard deviations from its mean."""
    shape = tuple(radices.tolist())
    expected = np.ones(len(rows)) if weights is None else weights
    expected = expected / expected.sum() * len(drawn)
    place = np.full(int(np.prod(radices)), -1)
    place[np.ravel_multi_index(tuple(rows.T), shape)] = np.arange(len(rows))
    index = place[np.ravel_multi_index(tuple(drawn.T), shape)]
    assert index.min() >= 0, "an infeasible architecture was drawn"
    counts = np.bincount(index, minlength=len(rows))
    freedom = len(rows) - 1
    return float((((counts - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * max(freedom, 1)))
