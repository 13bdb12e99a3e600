"""Dynamic programming over a grid of remaining budget: the engine behind exact sampling.

An additive cost is walked decision by decision. The state is how much of the budget is spent, in
whole grid cells, plus the choices that a later look-up still needs (the *frontier*, empty when
every look-up concerns one decision). Costs are reduced by their cheapest completion first, so that
the grid covers only the slack between the cheapest architecture and the bound, and are rounded
**down** to cells: every feasible architecture stays on the grid, together with a few that exceed
the bound by less than the rounding. Whoever draws from the grid rejects those by their true cost,
and what remains is exactly uniform (or exactly proportional to the weights).

Several bounds make a grid of several dimensions; a bound from both sides is one dimension.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hwnas.costs import AdditiveCost

__all__ = ["Grid", "Interval", "cheapest"]

#: Widest step (frontier states times choices) that is walked; look-ups that would need more are relaxed.
MAX_STEP = 20_000


_Index = tuple[int | slice, ...]


@dataclass(frozen=True, eq=False)
class Interval:
    """``lower <= cost <= upper``; either side may be infinite."""

    cost: AdditiveCost
    lower: float = -math.inf
    upper: float = math.inf


@dataclass(frozen=True, eq=False)
class _Step:
    """One decision: which frontier each joint state and choice leads to."""

    decision: int
    frontier: tuple[int, ...]
    following: np.ndarray  # (frontier states, choices), index into the next frontier's states


def _frontiers(scopes: Sequence[tuple[int, ...]], decisions: int) -> list[tuple[int, ...]]:
    """For every decision, the earlier ones that a look-up not yet finished needs."""
    return [
        tuple(sorted({d for scope in scopes if scope[-1] >= i for d in scope if d < i})) for i in range(decisions + 1)
    ]


def _layout(radices: np.ndarray, scopes: set[tuple[int, ...]]) -> tuple[list[_Step], set[tuple[int, ...]]]:
    """The steps over all decisions, and the look-ups that had to be left out to keep every step narrow."""
    kept, dropped = sorted(scopes), set()
    while True:
        frontiers = _frontiers(kept, len(radices))
        widths = [math.prod(int(radices[d]) for d in f) * int(radices[i]) for i, f in enumerate(frontiers[:-1])]
        if not kept or max(widths) <= MAX_STEP:
            break
        worst = max(kept, key=lambda scope: (scope[-1] - scope[0], len(scope)))
        kept.remove(worst)
        dropped.add(worst)
    steps = []
    for i in range(len(radices)):
        scope = (*frontiers[i], i)
        index = np.indices([int(radices[d]) for d in scope]).reshape(len(scope), -1)
        following = np.zeros(index.shape[1], dtype=np.intp)
        for d in frontiers[i + 1]:
            following = following * int(radices[d]) + index[scope.index(d)]
        steps.append(_Step(i, frontiers[i], following.reshape(-1, int(radices[i]))))
    return steps, dropped


class _Walk:
    """One cost laid out along the steps, reduced by its cheapest completion.

    Attributes
    ----------
    base
        The least cost of any architecture; infinite if none has a cost. (Where look-ups were left
        out: a lower bound of it.)
    spread
        How much more than the sum along the steps the look-ups left out can cost.
    reduced
        Per step, shape ``(frontier states, choices)``: the extra cost of a choice over the best
        one, at least 0; infinite where the choice is impossible.
    scale
        A bound on the sizes of the numbers involved, for rounding margins.
    """

    def __init__(self, cost: AdditiveCost, steps: Sequence[_Step], dropped: set[tuple[int, ...]], sign: int) -> None:
        radices = cost.radices
        tables = [np.zeros(step.following.shape) for step in steps]
        constant, self.spread = sign * cost.constant, 0.0
        self.scale = abs(cost.constant)
        for part in cost.parts:
            known = part.table[~np.isnan(part.table)]
            self.scale += float(np.abs(known).max(initial=0.0))
            if part.decisions in dropped:
                signed = sign * known
                constant += float(signed.min(initial=math.inf))
                self.spread += float(np.ptp(signed)) if signed.size else 0.0
                continue
            step = steps[part.decisions[-1]]
            scope = (*step.frontier, step.decision)
            shape = [int(radices[d]) if d in part.decisions else 1 for d in scope]
            full = np.broadcast_to(sign * part.table.reshape(shape), [int(radices[d]) for d in scope])
            tables[step.decision] += full.reshape(step.following.shape)
        rest = np.zeros(1)
        self.reduced: list[np.ndarray] = []
        for step, table in zip(reversed(steps), reversed(tables), strict=True):
            total = np.where(np.isnan(table), np.inf, table) + rest[step.following]
            rest = total.min(axis=1)
            possible = np.isfinite(total)
            self.reduced.append(np.where(possible, total, np.inf) - np.where(np.isfinite(rest), rest, 0.0)[:, None])
        self.reduced.reverse()
        self.base = constant + float(rest[0]) if not math.isnan(constant) else math.inf


def cheapest(cost: AdditiveCost, sign: int = 1) -> tuple[float, np.ndarray]:
    """The least value of ``sign * cost`` over the whole space, and an architecture that has it.

    Exact unless look-ups over very many decisions had to be left out (then the value is a lower bound).
    """
    steps, dropped = _layout(cost.radices, {part.decisions for part in cost.parts})
    walk = _Walk(cost, steps, dropped, sign)
    choices, state = [], 0
    for step, reduced in zip(steps, walk.reduced, strict=True):
        choice = int(np.argmin(reduced[state]))
        choices.append(choice)
        state = int(step.following[state, choice])
    return walk.base, np.array(choices, dtype=np.intp)


class Grid:
    """The feasible architectures of a space on a grid, rounded outwards (or inwards).

    Parameters
    ----------
    radices
        Choices of each decision, shape ``(decisions,)``.
    intervals
        What the costs must lie in.
    weights
        Per decision, the weight of each choice; uniform if None.
    cells
        About how many grid cells to use in all dimensions together.
    inner
        Round inwards instead: then only feasible architectures are on the grid, but not all.

    Attributes
    ----------
    total
        Weight of everything on the grid: for uniform weights, the share of the space.
    """

    def __init__(
        self,
        radices: np.ndarray,
        intervals: Sequence[Interval],
        weights: Sequence[np.ndarray] | None = None,
        cells: int = 4096,
        inner: bool = False,
    ) -> None:
        self.radices = radices
        steps, dropped = _layout(radices, {part.decisions for i in intervals for part in i.cost.parts})
        self._steps = steps
        self._weights = [np.full(r, 1.0 / r) for r in radices.tolist()] if weights is None else list(weights)
        self._moves: list[list[np.ndarray]] = []  # per dimension, per step: (states, choices), cells
        self._sizes: list[int] = []  # cells a dimension, with the last one for "too much"
        ends: list[np.ndarray] = []
        side = max(2, round(cells ** (1 / max(1, len(intervals)))))
        empty = False
        for interval in intervals:
            sign = 1 if math.isfinite(interval.upper) else -1
            upper, lower = (interval.upper, interval.lower) if sign == 1 else (-interval.lower, -math.inf)
            walk = _Walk(interval.cost, steps, dropped, sign)
            base = walk.base + (walk.spread if inner else 0.0)
            margin = 1e-12 * (walk.scale + abs(upper))
            slack = upper - base + (-margin if inner else margin)
            if not slack >= 0:
                empty = True
                slack = 0.0
            cell = max(slack, 4 * margin, 1e-300) / side
            moves, loose = [], 0
            for reduced in walk.reduced:
                exact = reduced / cell
                rounded = np.ceil(exact + 1e-9) if inner else np.floor(exact - 1e-9)
                rounded[reduced == 0] = 0.0
                moves.append(np.clip(rounded, 0, side + 1).astype(np.intp))
                loose += bool((exact[np.isfinite(exact)] > 0).any())
            end = np.ones(side + 2)
            end[-1] = 0.0
            if math.isfinite(lower):
                spent = np.arange(side + 2)
                if inner:
                    end *= walk.base + (spent - loose) * cell - margin >= lower
                else:
                    end *= base + walk.spread + (spent + loose) * cell * (1 + 1e-9) + margin >= lower
            self._moves.append(moves)
            self._sizes.append(side + 2)
            ends.append(end)
        self._strides = [math.prod(self._sizes[axis + 1 :]) for axis in range(len(ends))]
        terminal = np.ones([1, *self._sizes])
        for axis, end in enumerate(ends):
            terminal *= end.reshape([-1 if axis == other else 1 for other in range(-1, len(ends))])
        self._merge()
        self._transitions = [self._possible(step) for step in self._steps]
        self._weigh(terminal * (not empty))

    def reweighted(self, weights: Sequence[np.ndarray]) -> Grid:
        """The same grid with other weights: what takes time to lay out is shared."""
        other = copy.copy(self)
        other._weights = list(weights)
        other._weigh(self._mass[-1])
        return other

    def _merge(self) -> None:
        """Make one state of those that every sequence of choices moves alike, from the last step to the first."""
        classes, steps = np.zeros(1, dtype=np.intp), []
        for step in reversed(self._steps):
            columns = [moves[step.decision] for moves in self._moves]
            too_much = np.zeros(step.following.shape, dtype=bool)
            for column, size in zip(columns, self._sizes, strict=True):
                too_much |= column == size - 1
            following = np.where(too_much, 0, classes[step.following])
            keys = np.concatenate([following, *(np.where(too_much, -1, column) for column in columns)], axis=1)
            _, kept, classes = np.unique(keys, axis=0, return_index=True, return_inverse=True)
            classes = classes.reshape(-1)
            steps.append(_Step(step.decision, step.frontier, following[kept]))
            for moves in self._moves:
                moves[step.decision] = moves[step.decision][kept]
        self._steps = steps[::-1]

    def _weigh(self, terminal: np.ndarray) -> None:
        """The weight of the completions of every state, from the last step to the first."""
        self._mass = [terminal]
        for step, transitions in zip(reversed(self._steps), reversed(self._transitions), strict=True):
            mass, following, weights = np.zeros([len(step.following), *self._sizes]), self._mass[-1], self._weights
            for choice, before, after in transitions:
                mass[before] += weights[step.decision][choice] * following[after]
            self._mass.append(mass)
        self._mass.reverse()
        self.total = float(self._mass[0].flat[0])

    def _possible(self, step: _Step) -> list[tuple[int, _Index, _Index]]:
        """Choice, and the cells before and after, of every possible move."""
        found = []
        columns = [moves[step.decision] for moves in self._moves]
        for state, choice in itertools.product(*map(range, step.following.shape)):
            shifts = [int(column[state, choice]) for column in columns]
            if all(k <= size - 2 for k, size in zip(shifts, self._sizes, strict=True)):
                before: _Index = (state, *(slice(0, size - k) for k, size in zip(shifts, self._sizes, strict=True)))
                after: _Index = (int(step.following[state, choice]), *(slice(k, None) for k in shifts))
                found.append((choice, before, after))
        return found

    def _ahead(self, index: int, state: np.ndarray, spent: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
        """Weight behind each choice of `step` for many partial architectures, and the cells each would spend."""
        step, following = self._steps[index], self._mass[index + 1]
        targets = step.following if len(step.following) == 1 else step.following[state]
        flat = targets * math.prod(self._sizes)
        cells = []
        for moves, size, stride, used in zip(self._moves, self._sizes, self._strides, spent, strict=True):
            move = moves[index] if len(step.following) == 1 else moves[index][state]
            cells.append(np.minimum(used[:, None] + move, size - 1))
            flat = flat + cells[-1] * stride
        return np.broadcast_to(following.ravel()[flat], (len(state), step.following.shape[1])), cells

    def draw(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Draw `count` architectures in proportion to their weight on the grid; shape ``(count, decisions)``.

        Needs ``total > 0``.
        """
        drawn = np.empty((len(self._steps), count), dtype=np.intp)
        state = np.zeros(count, dtype=np.intp)
        spent = [np.zeros(count, dtype=np.intp) for _ in self._sizes]
        rows = np.arange(count)
        for index, step in enumerate(self._steps):
            ahead, cells = self._ahead(index, state, spent)
            running = np.cumsum(ahead * self._weights[index], axis=1)
            level = rng.random(count) * running[:, -1]
            choice = (running <= level[:, None]).sum(axis=1)
            np.minimum(choice, step.following.shape[1] - 1, out=choice)
            drawn[index] = choice
            spent = [cell[rows, choice] for cell in cells]
            if len(step.following) > 1 or step.following.any():
                state = step.following[state, choice]
        return np.ascontiguousarray(drawn.T)

    def members(self) -> np.ndarray:
        """Everything on the grid, shape ``(n, decisions)``; for grids known to hold few architectures."""
        prefixes = np.zeros((1, 0), dtype=np.intp)
        state = np.zeros(1, dtype=np.intp)
        spent = [np.zeros(1, dtype=np.intp) for _ in self._sizes]
        for index, step in enumerate(self._steps):
            ahead, cells = self._ahead(index, state, spent)
            row, choice = np.nonzero(ahead * self._weights[index] > 0)
            prefixes = np.concatenate([prefixes[row], choice[:, None]], axis=1)
            spent = [cell[row, choice] for cell in cells]
            state = step.following[state[row], choice]
        return prefixes

    def marginals(self) -> list[np.ndarray]:
        """Per decision, the probability of each choice when drawing from the grid."""
        reach = np.zeros([1, *self._sizes])
        reach.flat[0] = 1.0
        found = []
        for index, step in enumerate(self._steps):
            following = self._mass[index + 1]
            share = np.zeros(step.following.shape[1])
            arrived = np.zeros_like(following)
            for choice, before, after in self._transitions[index]:
                part = self._weights[step.decision][choice] * reach[before]
                share[choice] += np.sum(part * following[after])
                arrived[after] += part
            found.append(share / share.sum())
            reach = arrived
        return found
