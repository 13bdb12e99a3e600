"""Drawing architectures that meet every constraint, exactly uniformly, without starving at tight budgets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np

from hwnas.costs import AdditiveCost, MaxCost, architecture_matrix
from hwnas.grid import Grid, Interval
from hwnas.nearest import Bound, explain, nearest
from hwnas.spaces.errors import ConfigError, InfeasibleError
from hwnas.spaces.space import Architecture, SearchSpace

__all__ = ["FeasibleSampler"]

#: Grid cells to start with, by the number of dimensions; and how many to go to when too many draws are rejected.
CELLS = {0: 1, 1: 4096, 2: 1 << 16, 3: 1 << 17}
#: The same for a box, from which usually one architecture is drawn: building the grid is what takes time.
BOX_CELLS = {0: 1, 1: 2048, 2: 1 << 13, 3: 1 << 14}
MAX_CELLS = 1 << 18
#: Feasible sets up to this size are listed, which makes counting and drawing exact and cheap.
LIST_UP_TO = 1 << 16
#: Draws without one success after which a set of architectures counts as too rare to draw from.
GIVE_UP = 1 << 20
#: Graphs lowered without one success after which a bound that needs the graph counts as not met.
GIVE_UP_GRAPHS = 2_000

Masks = Sequence[np.ndarray]
Weights = Sequence[np.ndarray]


class _Pool(Protocol):
    """Something that draws architectures; `sure` if all of them meet the bounds that need no graph."""

    sure: bool

    def draw(self, count: int, rng: np.random.Generator) -> np.ndarray: ...


@dataclass(eq=False)
class _Listed:
    """Architectures one by one, shape ``(n, decisions)``, with their probabilities (uniform if None)."""

    rows: np.ndarray
    probabilities: np.ndarray | None = None
    sure: bool = True

    def draw(self, count: int, rng: np.random.Generator) -> np.ndarray:
        if self.probabilities is None:
            return np.asarray(self.rows[rng.integers(0, len(self.rows), size=count)])
        running = np.cumsum(self.probabilities)
        index = np.searchsorted(running, rng.random(count) * running[-1], side="right")
        return np.asarray(self.rows[np.minimum(index, len(self.rows) - 1)])


@dataclass(eq=False)
class _Gridded:
    """A grid over a sub-space, with the choices that its indices stand for."""

    grid: Grid
    choices: list[np.ndarray]
    cells: int
    sure: bool = False

    def expand(self, rows: np.ndarray) -> np.ndarray:
        """Choices of the whole space from indices into the sub-space."""
        return np.stack([choice[rows[:, d]] for d, choice in enumerate(self.choices)], axis=1)

    def draw(self, count: int, rng: np.random.Generator) -> np.ndarray:
        return self.expand(self.grid.draw(count, rng))


class FeasibleSampler:
    """The feasible architectures of a space: draw, count, test.

    Every draw is exactly uniform over the feasible architectures of the space (or of a box in it),
    or exactly proportional to a product of weights. Small sets are listed. Large ones are drawn by
    dynamic programming over a grid of remaining budget (`hwnas.grid`), and the few draws that
    exceed a bound by less than the rounding are rejected. Bounds that are not sums of look-ups
    (peak memory of a space that is not a chain) are met by rejection: each new architecture is
    lowered once, and 2,000 in a row without success end with an `InfeasibleError`.

    Parameters
    ----------
    space
        The search space.
    bounds
        What a feasible architecture meets; none at all makes the whole space feasible.
    list_up_to
        Sets of at most this many architectures are listed.

    Raises
    ------
    InfeasibleError
        If no architecture meets the bounds; the text names what each bound alone can reach, and the
        nearest architecture.
    """

    def __init__(self, space: SearchSpace, bounds: Sequence[Bound] = (), *, list_up_to: int = LIST_UP_TO) -> None:
        self.space = space
        self.bounds = tuple(bounds)
        self._list_up_to = list_up_to
        self._quick = [bound for bound in self.bounds if bound.quick]
        self._slow = [bound for bound in self.bounds if not bound.quick]
        self._intervals: list[Interval] = []
        self._mask: AdditiveCost | None = None
        for bound in self._quick:
            if isinstance(bound.cost, AdditiveCost):
                self._intervals.append(Interval(bound.cost, bound.lower, bound.upper))
            elif isinstance(bound.cost, MaxCost) and math.isfinite(bound.upper):
                mask = bound.cost.within(bound.upper)
                self._mask = mask if self._mask is None else self._mask.plus(mask)
        self._everything = [np.arange(radix, dtype=np.intp) for radix in space.radices.tolist()]
        self._weighted: tuple[bytes, _Pool] | None = None
        self._range: tuple[int, int] | None = None
        self._full = self._whole()
        if self._slow:
            self.sample(1, np.random.default_rng(0))

    # ------------------------------------------------------------------ asking

    def contains(self, architectures: np.ndarray | Sequence[Architecture]) -> np.ndarray:
        """Which of `architectures`, shape ``(n, decisions)``, meet every bound; bool ``(n,)``."""
        rows = architecture_matrix(self.space.radices, architectures)
        inside = self._contains_quick(rows)
        for bound in self._slow:
            index = np.flatnonzero(inside)
            inside[index] = bound.contains(rows[index])
        return inside

    @property
    def exact_count(self) -> int | None:
        """The number of feasible architectures where it is small enough to be known exactly, else None."""
        return len(self._full.rows) if isinstance(self._full, _Listed) and not self._slow else None

    def count(self) -> tuple[int, int]:
        """Bounds on the number of feasible architectures: equal where it is known exactly.

        For large spaces the upper bound counts what the grid holds when costs are rounded down, the
        lower one what it holds when they are rounded up. A bound that needs the graph makes the
        lower one 0, unless the set is small enough to lower it all.
        """
        if self._range is None:
            self._range = self._count()
        return self._range

    def share(self) -> float:
        """The share of the space that is feasible: exact where the feasible set is listed, else an estimate."""
        full = self._full
        rows = full.rows if isinstance(full, _Listed) else full.draw(4096, np.random.default_rng(0))
        if isinstance(full, _Listed):
            return float(Fraction(len(rows), self.space.size))
        assert isinstance(full, _Gridded)
        return full.grid.total * float(self._contains_quick(rows).mean())

    def nearest(self) -> Architecture:
        """The architecture deepest inside the bounds, relative to each: the cheapest one for a single upper bound."""
        return nearest(self.space, self.bounds)

    # ------------------------------------------------------------------ drawing

    def sample(
        self, count: int, rng: np.random.Generator, allowed: Masks | None = None, weights: Weights | None = None
    ) -> np.ndarray:
        """Draw feasible architectures, independently of each other.

        Parameters
        ----------
        count
            How many.
        rng
            Where randomness comes from; equal states give equal draws.
        allowed
            Per decision a bool mask over its choices: draw from this box of the space only.
        weights
            Per decision the weight of each choice: an architecture is drawn with a probability
            proportional to the product of its choices' weights. Uniform if None.

        Returns
        -------
        numpy.ndarray
            Shape ``(count, decisions)``, int.

        Raises
        ------
        InfeasibleError
            If the box holds no feasible architecture of positive weight.
        """
        pool = self._pool(allowed, weights)
        found: list[np.ndarray] = []
        missing, since, graphs, batch = count, 0, 0, 0
        while missing > 0:
            # the sizes depend on this call alone, so that a restored generator repeats the same draws
            batch = min(1 << 16, max(2 * batch, missing if pool.sure else missing + missing // 4 + 16))
            rows = pool.draw(batch, rng)
            rows = rows if pool.sure else rows[self._contains_quick(rows)]
            rows, lowered = self._admit(rows, missing, GIVE_UP_GRAPHS - graphs)
            found.append(rows)
            missing -= len(rows)
            since = 0 if len(rows) else since + batch
            graphs = 0 if len(rows) else graphs + lowered
            if missing and (since >= GIVE_UP or graphs >= GIVE_UP_GRAPHS):
                raise self._too_rare(graphs or since)
            if missing and since >= 1 << 14 and isinstance(pool, _Gridded) and pool.cells < MAX_CELLS:
                pool = self._refined(pool, weights)
        return np.concatenate(found) if found else np.empty((0, len(self.space.radices)), dtype=np.intp)

    def marginals(
        self, weights: Weights, rng: np.random.Generator | None = None, allowed: Masks | None = None
    ) -> list[np.ndarray]:
        """Per decision, the probability of each choice among architectures drawn with `weights`.

        Exact where the feasible set is listed. Otherwise those of the grid, which holds slightly
        more than the feasible set; with `rng`, the share of the rejected ones is taken out by 2,048
        draws.
        """
        pool = self._pool(allowed, weights)
        if isinstance(pool, _Listed):
            rows = pool.rows
            mass = np.full(len(rows), 1.0) if pool.probabilities is None else pool.probabilities
            mass = mass * self.contains(rows) if self._slow else mass
            return [
                np.bincount(rows[:, d], weights=mass, minlength=radix) / mass.sum()
                for d, radix in enumerate(self.space.radices.tolist())
            ]
        assert isinstance(pool, _Gridded)
        found = []
        inside = pool.grid.marginals()
        for d, radix in enumerate(self.space.radices.tolist()):
            full = np.zeros(radix)
            full[pool.choices[d]] = inside[d]
            found.append(full)
        if rng is None:
            return found
        rows = pool.draw(2048, rng)
        rejected = rows[~self.contains(rows)]
        if len(rejected) == len(rows):
            return found
        share = len(rejected) / len(rows)
        for d, full in enumerate(found):
            wrong = np.bincount(rejected[:, d], minlength=len(full)) / len(rows)
            corrected = np.clip((full - wrong) / (1 - share), 0.0, None)
            found[d] = corrected / corrected.sum()
        return found

    # ------------------------------------------------------------------ pools

    def _contains_quick(self, rows: np.ndarray) -> np.ndarray:
        inside = np.ones(len(rows), dtype=bool)
        for bound in self._quick:
            inside &= bound.contains(rows)
        return inside

    def _admit(self, rows: np.ndarray, wanted: int, patience: int) -> tuple[np.ndarray, int]:
        """The first `wanted` rows that meet the bounds that need the graph, and how many rows were looked at.

        Without a success, `patience` rows are looked at.
        """
        if not self._slow:
            return rows[:wanted], 0
        kept: list[np.ndarray] = []
        looked = 0
        while len(kept) < wanted and looked < len(rows) and (kept or looked < patience):
            row = rows[looked : looked + 1]
            looked += 1
            if all(bool(bound.contains(row)[0]) for bound in self._slow):
                kept.append(row)
        return (np.concatenate(kept) if kept else rows[:0]), looked

    def _intervals_in(self, choices: list[np.ndarray]) -> list[Interval]:
        """The bounds that can be missed inside a box, over the box; masks ride on the first of them."""
        found = []
        for interval in self._intervals:
            cost = interval.cost.restricted(choices)
            low, high = cost.range()
            partial = any(np.isnan(part.table).any() for part in cost.parts)
            if partial or not (low >= interval.lower and high <= interval.upper):
                found.append(Interval(cost, interval.lower, interval.upper))
        if len(found) > 3:  # the grid holds the three tightest; the rest is met by rejection
            found = sorted(found, key=_tightness)[:3]
        if self._mask is not None:
            mask = self._mask.restricted(choices)
            first = Interval(mask, upper=0.0) if not found else found[0]
            cost = mask if not found else first.cost.plus(mask)
            found = [Interval(cost, first.lower, first.upper), *found[1:]]
        return found

    def _grid(
        self, choices: list[np.ndarray], weights: Weights | None, cells: int | None = None, box: bool = False
    ) -> _Gridded:
        intervals = self._intervals_in(choices)
        cells = cells or (BOX_CELLS if box else CELLS)[len(intervals)]
        inside = None if weights is None else [weights[d][choice] for d, choice in enumerate(choices)]
        grid = Grid(np.array([len(choice) for choice in choices]), intervals, inside, cells)
        return _Gridded(grid, choices, cells)

    def _refined(self, pool: _Gridded, weights: Weights | None) -> _Gridded:
        return self._grid(pool.choices, weights, min(MAX_CELLS, pool.cells * 4))

    def _listing(self, choices: list[np.ndarray]) -> np.ndarray:
        """Every architecture of a small box that meets the bounds that need no graph."""
        index = np.indices([len(choice) for choice in choices]).reshape(len(choices), -1)
        rows = np.stack([choice[i] for choice, i in zip(choices, index, strict=True)], axis=1)
        return np.asarray(rows[self._contains_quick(rows)])

    def _whole(self) -> _Pool:
        """The pool of the whole space, uniform."""
        if self.space.size <= self._list_up_to:
            rows = self._listing(self._everything)
            if not len(rows):
                raise explain(self.space, self.bounds)
            return _Listed(rows)
        pool = self._grid(self._everything, None)
        if pool.grid.total <= 0:
            raise explain(self.space, self.bounds)
        rng = np.random.default_rng(0)
        while True:
            if Fraction(pool.grid.total) * self.space.size <= self._list_up_to:
                rows = pool.expand(pool.grid.members())
                rows = rows[self._contains_quick(rows)]
                if not len(rows):
                    raise explain(self.space, self.bounds)
                return _Listed(rows)
            accepted = self._contains_quick(pool.draw(512, rng)).mean()
            if accepted > 0.2 or pool.cells >= MAX_CELLS:
                break
            pool = self._refined(pool, None)
        if accepted == 0 and not any(self._contains_quick(pool.draw(1 << 14, rng)).any() for _ in range(16)):
            best = np.array([nearest(self.space, self.bounds)])
            raise self._too_rare(1 << 18) if self._contains_quick(best)[0] else explain(self.space, self.bounds)
        return pool

    def _pool(self, allowed: Masks | None, weights: Weights | None) -> _Pool:
        if weights is not None:
            weights = self._checked(weights, "weights")
        if allowed is None:
            return self._full if weights is None else self._reweighted(weights)
        masks = self._checked(allowed, "allowed choices")
        choices = [np.flatnonzero(mask) for mask in masks]
        if not all(len(choice) for choice in choices):
            raise InfeasibleError("a decision has no allowed choice in this part of the space")
        pool: _Pool
        if math.prod(len(choice) for choice in choices) <= min(4096, self._list_up_to):
            rows = self._listing(choices)
        elif isinstance(self._full, _Listed):
            index = np.ones(len(self._full.rows), dtype=bool)
            for d, mask in enumerate(masks):
                index &= mask.astype(bool)[self._full.rows[:, d]]
            rows = self._full.rows[index]
        else:
            gridded = self._grid(choices, weights, box=True)
            if gridded.grid.total <= 0:
                raise InfeasibleError(f"no feasible architecture of {self.space.name} lies in this part of the space")
            return gridded
        if not len(rows):
            raise InfeasibleError(f"no feasible architecture of {self.space.name} lies in this part of the space")
        pool = _Listed(rows, None if weights is None else self._probabilities(rows, weights))
        return pool

    def _reweighted(self, weights: Weights) -> _Pool:
        """The pool of the whole space with weights; the last one is kept, for drawing and marginals need the same."""
        key = b"".join(np.ascontiguousarray(w).tobytes() for w in weights)
        if self._weighted is None or self._weighted[0] != key:
            pool: _Pool
            if isinstance(self._full, _Listed):
                pool = _Listed(self._full.rows, self._probabilities(self._full.rows, weights))
            else:
                assert isinstance(self._full, _Gridded)
                pool = _Gridded(self._full.grid.reweighted(weights), self._everything, self._full.cells)
                if pool.grid.total <= 0:
                    raise InfeasibleError(f"no feasible architecture of {self.space.name} has a positive weight")
            self._weighted = (key, pool)
        return self._weighted[1]

    def _probabilities(self, rows: np.ndarray, weights: Weights) -> np.ndarray:
        product = np.ones(len(rows))
        for d, weight in enumerate(weights):
            product *= weight[rows[:, d]]
        if not product.sum() > 0:
            raise InfeasibleError(f"no feasible architecture of {self.space.name} has a positive weight")
        return product

    def _checked(self, arrays: Sequence[np.ndarray], what: str) -> list[np.ndarray]:
        radices = self.space.radices.tolist()
        checked = [np.asarray(a) for a in arrays]
        if [a.shape for a in checked] != [(radix,) for radix in radices]:
            raise ConfigError(f"the {what} need one value per choice of each of the {len(radices)} decisions")
        return checked

    def _count(self) -> tuple[int, int]:
        size = self.space.size
        if isinstance(self._full, _Listed):
            rows = self._full.rows
            if not self._slow:
                return len(rows), len(rows)
            if len(rows) <= GIVE_UP_GRAPHS:
                exact = int(self.contains(rows).sum())
                return exact, exact
            return 0, len(rows)
        assert isinstance(self._full, _Gridded)
        intervals = self._intervals_in(self._everything)
        high = math.ceil(Fraction(self._full.grid.total * (1 + 1e-12)) * size)
        rest = any(isinstance(b.cost, MaxCost) and math.isfinite(b.lower) for b in self._quick)
        if self._slow or rest or len(self._intervals) > 3:
            low = 0  # bounds that the grid does not hold may leave nothing
        elif not intervals:
            low = high = size
        else:
            inner = Grid(self.space.radices, intervals, cells=self._full.cells, inner=True)
            low = math.floor(Fraction(inner.total * (1 - 1e-12)) * size)
        return min(low, size), min(high, size)

    def _too_rare(self, tries: int) -> InfeasibleError:
        return explain(self.space, self.bounds, f"none of {tries:,} drawn architectures")


def _tightness(interval: Interval) -> float:
    """The share of its cost's range that an interval leaves open."""
    low, high = interval.cost.range()
    return (min(high, interval.upper) - max(low, interval.lower)) / max(high - low, 1e-300)
