"""What to tell a user whose budget cannot be met: the reach of each bound, and the nearest architecture."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hwnas.costs import AdditiveCost, Cost, GraphCost, MaxCost, RatioCost
from hwnas.grid import Grid, Interval, cheapest
from hwnas.spaces.errors import InfeasibleError
from hwnas.spaces.space import Architecture, SearchSpace

__all__ = ["Bound", "explain", "nearest", "violation"]

#: Sub-spaces up to this size are listed rather than searched.
LIST_UP_TO = 1 << 18


@dataclass(frozen=True, eq=False)
class Bound:
    """One or two limits on one cost.

    Attributes
    ----------
    text
        What the user wrote, for messages.
    cost
        What is limited.
    lower, upper
        The limits, infinite where there is none.
    scale
        What a violation is measured against; at least a tiny number.
    show
        Writes a value with its unit.
    shown
        What to show in messages, where that is not `cost` itself.
    """

    text: str
    cost: Cost
    lower: float = -math.inf
    upper: float = math.inf
    scale: float = 1.0
    show: Callable[[float], str] = "{:g}".format
    shown: Cost | None = None

    @property
    def quick(self) -> bool:
        """Whether whole matrices are priced at once, without lowering architectures."""
        return isinstance(self.cost, AdditiveCost | MaxCost)

    def contains(self, architectures: np.ndarray) -> np.ndarray:
        """Which architectures meet the limits, bool ``(n,)``; never one without a value."""
        values = self.cost.values(architectures)
        return np.asarray((values >= self.lower) & (values <= self.upper))

    def excess(self, architectures: np.ndarray) -> np.ndarray:
        """By how much of `scale` the worse limit is missed, ``(n,)``; negative inside, infinite without a value."""
        values = self.cost.values(architectures)
        missed = np.maximum(values - self.upper, self.lower - values) / self.scale
        return np.where(np.isnan(missed), np.inf, missed)


def violation(bounds: Sequence[Bound], architectures: np.ndarray) -> np.ndarray:
    """The worst relative violation of any bound, ``(n,)``; at most 0 for feasible architectures."""
    worst = np.full(len(architectures), -np.inf)
    for bound in bounds:
        np.maximum(worst, bound.excess(architectures), out=worst)
    return worst


def _relaxed(bounds: Sequence[Bound], slack: float) -> list[Interval]:
    """Every bound, moved outwards by `slack` of its scale."""
    intervals = []
    for bound in bounds:
        if isinstance(bound.cost, AdditiveCost):
            room = slack * bound.scale
            intervals.append(Interval(bound.cost, bound.lower - room, bound.upper + room))
    return intervals


def nearest(space: SearchSpace, bounds: Sequence[Bound]) -> Architecture:
    """The architecture whose worst relative violation is smallest.

    Exact for spaces of up to 262,144 architectures and for a single additive bound; otherwise the
    best that bisecting the violation on a grid and changing one decision at a time finds. Bounds
    that need the graph are left out.
    """
    quick = [bound for bound in bounds if bound.quick]
    if space.size <= LIST_UP_TO:
        rows = space.all()
        return _best(quick, rows)[0]
    pool = [np.zeros((1, len(space.radices)), dtype=np.intp)]
    additive = [bound for bound in quick if isinstance(bound.cost, AdditiveCost)]
    for bound in additive:
        assert isinstance(bound.cost, AdditiveCost)
        pool += [cheapest(bound.cost, sign)[1][None] for sign in (1, -1)]
    _, high = _best(quick, np.concatenate(pool))
    low, grid = max((_alone(bound) for bound in additive), default=-math.inf), None
    if math.isfinite(low) and math.isfinite(high):
        for _ in range(14):
            middle = (low + high) / 2
            trial = Grid(space.radices, _relaxed(additive, middle), cells=1 << 14)
            low, high = (low, middle) if trial.total > 0 else (middle, high)
            grid = trial if trial.total > 0 else grid
    if grid is not None:
        pool.append(grid.draw(1024, np.random.default_rng(0)))
    rows = np.concatenate(pool)
    order = np.argsort(violation(quick, rows), kind="stable")[:8]
    return min((_descend(space, quick, rows[index]) for index in order), key=lambda found: found[1])[0]


def _best(bounds: Sequence[Bound], rows: np.ndarray) -> tuple[Architecture, float]:
    worst = violation(bounds, rows)
    index = int(np.argmin(worst))
    return tuple(rows[index].tolist()), float(worst[index])


def _descend(space: SearchSpace, bounds: Sequence[Bound], start: np.ndarray) -> tuple[Architecture, float]:
    """Change one decision at a time as long as the worst violation falls."""
    current, worst = _best(bounds, start[None])
    while True:
        moves = [(d, c) for d, radix in enumerate(space.radices.tolist()) for c in range(radix)]
        rows = np.tile(np.array(current, dtype=np.intp), (len(moves), 1))
        rows[np.arange(len(moves)), [d for d, _ in moves]] = [c for _, c in moves]
        candidate, value = _best(bounds, rows)
        if not value < worst:
            return current, worst
        current, worst = candidate, value


def _alone(bound: Bound) -> float:
    """The least excess that any architecture has on an additive bound, were it the only one."""
    assert isinstance(bound.cost, AdditiveCost)
    above = cheapest(bound.cost)[0] - bound.upper
    below = bound.lower + cheapest(bound.cost, -1)[0]
    return max(above, below) / bound.scale


def _extreme(space: SearchSpace, cost: Cost, sign: int) -> float:
    """The least (`sign` 1) or greatest (`sign` -1) value of a cost over the space; NaN where it has none.

    A ratio is minimised by Dinkelbach's method (Management Science 13(7), 1967): minimise the
    numerator less the ratio times the denominator, take the ratio there, repeat.
    """
    if isinstance(cost, AdditiveCost):
        value = sign * cheapest(cost, sign)[0]
    elif isinstance(cost, RatioCost):
        value = float(cost.values(np.zeros((1, len(space.radices)), dtype=np.intp))[0])
        for _ in range(30):
            best = cheapest(cost.numerator.plus(cost.denominator.scaled(-value)), sign)[1]
            previous, value = value, float(cost.values(best[None])[0])
            if value == previous:
                break
    elif isinstance(cost, MaxCost):
        value = float(cost.values(np.array([_smallest_maximum(space, cost)]))[0]) if sign == 1 else cost.largest()
    else:
        assert isinstance(cost, GraphCost)
        seen = list(cost.known.values())
        value = sign * min((sign * v for v in seen), default=math.nan)
    return value if math.isfinite(value) else math.nan


def _reach(space: SearchSpace, bound: Bound) -> str:
    """The best that any architecture reaches on one bound alone."""
    parts = []
    for sign, limit, word in ((1, bound.upper, "at least"), (-1, bound.lower, "at most")):
        if math.isfinite(limit):
            value = _extreme(space, bound.shown or bound.cost, sign)
            seen = "" if bound.quick else " of those tried"
            parts.append("no architecture has a value" if math.isnan(value) else f"{word} {bound.show(value)}{seen}")
    return " and ".join(parts)


def _smallest_maximum(space: SearchSpace, cost: MaxCost) -> Architecture:
    """The architecture whose largest look-up is smallest."""
    levels = np.unique(np.concatenate([[cost.constant], *(part.table for part in cost.parts)]))
    for level in levels[np.isfinite(levels)]:
        value, row = cheapest(cost.within(float(level)))
        if math.isfinite(value):
            return tuple(row.tolist())
    return tuple([0] * len(space.radices))


def explain(space: SearchSpace, bounds: Sequence[Bound], opening: str = "no architecture") -> InfeasibleError:
    """The error for bounds that no architecture meets, with each bound's reach and the nearest architecture."""
    # where graphs had to be lowered, only those lowered are compared
    known = [row for bound in bounds if isinstance(bound.cost, GraphCost) for row in bound.cost.known]
    best = _best(bounds, np.array(known))[0] if known else nearest(space, bounds)
    row = np.array([best])
    wanted, values = [], []
    for bound in bounds:
        wanted.append(f"{bound.text} (alone: {_reach(space, bound)})")
        values.append(f"{bound.text.split()[0]} = {bound.show(float((bound.shown or bound.cost).values(row)[0]))}")
    return InfeasibleError(
        f"{opening} of {space.name} meets {' and '.join(wanted)}; "
        f"the nearest is {list(best)} with {', '.join(dict.fromkeys(values))}: loosen the bound, or scale the space"
    )
