"""A probability distribution over architectures: a product of categoricals, each over the joint choices of a group.

With one decision a group it is fully factorised; with one layer's decisions a group it is joint within layers, which
can say that two choices only go together. Both are what FP-NAS (arXiv 2011.10949) searches with, in this order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from hwnas.costs import AdditiveCost, architecture_matrix

__all__ = ["ArchitectureDistribution", "Groups"]

#: Decisions that are drawn together, each decision in one group.
Groups = tuple[tuple[int, ...], ...]


class ArchitectureDistribution:
    """``P(A) = product over groups g of softmax(logits[g])[choices of A in g]``.

    Parameters
    ----------
    radices
        Choices of each decision, shape ``(decisions,)``.
    groups
        Which decisions are drawn together; by default each on its own.
    logits
        One array a group, a value for every joint choice in C order; zeros (uniform) if None.
    """

    def __init__(
        self, radices: np.ndarray, groups: Groups | None = None, logits: Sequence[np.ndarray] | None = None
    ) -> None:
        self.radices = np.asarray(radices, dtype=np.int64)
        self.groups: Groups = tuple((d,) for d in range(len(self.radices))) if groups is None else groups
        if sorted(d for group in self.groups for d in group) != list(range(len(self.radices))):
            raise ValueError(f"the groups {self.groups} do not hold each of {len(self.radices)} decisions once")
        self._shapes = [tuple(int(self.radices[d]) for d in group) for group in self.groups]
        sizes = [math.prod(shape) for shape in self._shapes]
        self.logits = [np.zeros(size) for size in sizes] if logits is None else [np.array(x, float) for x in logits]
        if [array.shape for array in self.logits] != [(size,) for size in sizes]:
            raise ValueError("the logits do not fit the groups")

    # ------------------------------------------------------------------ probabilities

    @property
    def size(self) -> int:
        """How many logits there are."""
        return sum(len(array) for array in self.logits)

    @property
    def probabilities(self) -> list[np.ndarray]:
        """Per group, the probability of each joint choice."""
        found = []
        for array in self.logits:
            exponentials = np.exp(array - array.max())
            found.append(exponentials / exponentials.sum())
        return found

    @property
    def entropy(self) -> float:
        """Entropy in nats: exact, the sum over the groups."""
        return float(-sum((p * np.log(np.maximum(p, 1e-300))).sum() for p in self.probabilities))

    def marginals(self) -> list[np.ndarray]:
        """Per decision, the probability of each choice."""
        found: list[np.ndarray] = [np.empty(0)] * len(self.radices)
        for group, shape, p in zip(self.groups, self._shapes, self.probabilities, strict=True):
            cube = p.reshape(shape)
            for axis, decision in enumerate(group):
                found[decision] = cube.sum(axis=tuple(a for a in range(len(shape)) if a != axis))
        return found

    def _joint(self, rows: np.ndarray) -> np.ndarray:
        """Index of each architecture's joint choice in each group, ``(n, groups)``."""
        columns = [
            np.ravel_multi_index(tuple(rows[:, list(group)].T), shape)
            for group, shape in zip(self.groups, self._shapes, strict=True)
        ]
        return np.stack(columns, axis=1)

    def log_prob(self, architectures: np.ndarray | Sequence[Sequence[int]]) -> np.ndarray:
        """Natural logarithm of the probability of each architecture, ``(n,)``."""
        joint = self._joint(architecture_matrix(self.radices, architectures))
        logs = [np.log(np.maximum(p, 1e-300)) for p in self.probabilities]
        return np.asarray(sum(log[joint[:, g]] for g, log in enumerate(logs)))

    def mode(self) -> tuple[int, ...]:
        """The most probable architecture."""
        best = np.empty(len(self.radices), dtype=int)
        for group, shape, array in zip(self.groups, self._shapes, self.logits, strict=True):
            best[list(group)] = np.unravel_index(int(array.argmax()), shape)
        return tuple(best.tolist())

    def sample(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Draw architectures, ``(count, decisions)``."""
        rows = np.empty((count, len(self.radices)), dtype=np.intp)
        for group, shape, p in zip(self.groups, self._shapes, self.probabilities, strict=True):
            running = np.cumsum(p)
            index = np.searchsorted(running, rng.random(count) * running[-1], side="right")
            rows[:, list(group)] = np.stack(np.unravel_index(np.minimum(index, len(p) - 1), shape), axis=1)
        return rows

    # ------------------------------------------------------------------ gradients

    def score(self, architectures: np.ndarray | Sequence[Sequence[int]], weights: np.ndarray) -> list[np.ndarray]:
        """``sum_k weights[k] * d log P(A_k) / d logits``, one array a group."""
        joint = self._joint(architecture_matrix(self.radices, architectures))
        weights = np.asarray(weights, dtype=float)
        return [
            np.bincount(joint[:, g], weights=weights, minlength=len(p)) - weights.sum() * p
            for g, p in enumerate(self.probabilities)
        ]

    def expectation(self, cost: AdditiveCost) -> tuple[float, list[np.ndarray]]:
        """Expected value of a cost that is a sum of look-ups, exact, and its gradient for the logits.

        A look-up with a NaN (a choice without a price) counts as 0 there.
        """
        probabilities = self.probabilities
        slopes = [np.zeros_like(p) for p in probabilities]
        where = {d: (g, axis) for g, group in enumerate(self.groups) for axis, d in enumerate(group)}
        total = cost.constant
        for part in cost.parts:
            table = np.nan_to_num(part.table.reshape([int(self.radices[d]) for d in part.decisions]))
            involved = list(dict.fromkeys(where[d][0] for d in part.decisions))
            # one letter a decision; each group's marginal over the part's decisions, in the group's order
            inside = {g: [d for d in self.groups[g] if d in part.decisions] for g in involved}
            operands: list[Any] = []
            for g in involved:
                cube = probabilities[g].reshape(self._shapes[g])
                drop = tuple(axis for axis, d in enumerate(self.groups[g]) if d not in part.decisions)
                operands += [cube.sum(axis=drop), inside[g]]
            for number, g in enumerate(involved):
                others = operands[: 2 * number] + operands[2 * number + 2 :]
                slope = np.einsum(table, list(part.decisions), *others, inside[g])
                if number == 0:
                    total += float((slope * operands[0]).sum())
                shape = [int(self.radices[d]) if d in part.decisions else 1 for d in self.groups[g]]
                slopes[g] += np.broadcast_to(slope.reshape(shape), self._shapes[g]).ravel()
        return total, [p * (h - p @ h) for p, h in zip(probabilities, slopes, strict=True)]

    # ------------------------------------------------------------------ changing it

    def joined(self, groups: Groups) -> ArchitectureDistribution:
        """The same distribution over larger groups: log-probabilities are added up, exactly.

        Parameters
        ----------
        groups
            Unions of the present groups.
        """
        logs = [np.log(np.maximum(p, 1e-300)) for p in self.probabilities]
        made = []
        for group in groups:
            shape = [int(self.radices[d]) for d in group]
            total = np.zeros(shape)
            for part, part_shape, log in zip(self.groups, self._shapes, logs, strict=True):
                if not set(part) & set(group):
                    continue
                if not set(part) <= set(group):
                    raise ValueError(f"the group {part} is not inside one of {groups}")
                order = np.argsort([group.index(d) for d in part])
                spread = [int(self.radices[d]) if d in part else 1 for d in group]
                total = total + np.transpose(log.reshape(part_shape), order).reshape(spread)
            made.append(total.ravel())
        return ArchitectureDistribution(self.radices, groups, made)

    def moved(self, changes: Iterable[np.ndarray]) -> ArchitectureDistribution:
        """The distribution with `changes` added to its logits."""
        logits = [array + change for array, change in zip(self.logits, changes, strict=True)]
        return ArchitectureDistribution(self.radices, self.groups, logits)

    def to_json(self) -> dict[str, Any]:
        """Groups and logits, JSON-able."""
        return {"groups": [list(group) for group in self.groups], "logits": [array.tolist() for array in self.logits]}

    @classmethod
    def from_json(cls, radices: np.ndarray, data: dict[str, Any]) -> ArchitectureDistribution:
        """Read back what `to_json` wrote; raises ValueError, KeyError or TypeError if it does not fit."""
        groups = tuple(tuple(int(d) for d in group) for group in data["groups"])
        return cls(radices, groups, [np.array(values, dtype=float) for values in data["logits"]])
