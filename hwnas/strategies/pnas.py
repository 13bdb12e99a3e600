"""Progressive neural architecture search (Liu et al., ECCV 2018, arXiv 1712.00559): a beam of growing cells.

All architectures of one part are evaluated. Then, part by part: the evaluated ones are expanded, a surrogate trained on
all scores so far predicts the larger ones, and the best K of them are evaluated.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any, ClassVar, cast

import numpy as np

from hwnas.evaluators.base import Evaluation
from hwnas.sampler import FeasibleSampler
from hwnas.spaces.errors import ConfigError
from hwnas.spaces.growing import Growing
from hwnas.spaces.space import Architecture, SearchSpace
from hwnas.strategies.base import Strategy
from hwnas.strategies.surrogate import Surrogate

__all__ = ["Pnas"]

#: Architectures of each size that are evaluated at least, if the evaluations suffice, where no beam is given.
LEAST = 8
#: Beyond the beam of the largest size the surrogate is fitted again after so many scores.
REFIT = 20
#: Ranked architectures of a size that are kept, to be expanded or, of the last size, evaluated later.
KEPT = 4096
#: Runners-up are expanded too until there are so many candidates; a beam of the paper's width makes more by itself.
CANDIDATES = 1 << 14


class Pnas(Strategy):
    """Beam search over architectures of growing complexity, guided by a surrogate.

    What breaks the budget is left out before anything is evaluated. Where no architecture of a size fits (under a lower
    bound, say), `beam` random ones of that size are expanded without being evaluated. Once the largest size is done,
    further evaluations go to the best predicted ones that are left, by a surrogate that goes on learning, then to
    random ones.

    Parameters
    ----------
    space, sampler, seed
        See `Strategy`; the space must be one that grows (`Growing`).
    beam
        Architectures evaluated of each size but the first (K), 256 in the paper; 0 for a fiftieth of the evaluations of
        the search, so that most are left for the largest size.
    surrogate
        ``mlp``, ``rnn``, or ``random``, which ranks by chance: the control of an honest comparison.
    members
        Of the surrogate's ensemble.
    explore
        Share of the beam that is drawn from all candidates (after POPNAS), where a greedy beam never goes back to.

    Raises
    ------
    ConfigError
        If the space does not grow, or a setting is out of range.
    """

    name: ClassVar[str] = "pnas"
    summary: ClassVar[str] = "a beam of cells that grow part by part, ranked by a surrogate"
    paper: ClassVar[str] = "PNAS, arXiv 1712.00559"

    def __init__(
        self,
        space: SearchSpace,
        sampler: FeasibleSampler | None = None,
        *,
        seed: int = 0,
        beam: int = 0,
        surrogate: str = "mlp",
        members: int = 5,
        explore: float = 0.0,
    ) -> None:
        super().__init__(space, sampler, seed=seed)
        if not isinstance(space, Growing):
            raise ConfigError(f"pnas grows architectures part by part, which {space.name} cannot; use the space pnas")
        if beam < 0 or not 0 <= explore <= 1:
            raise ConfigError("pnas needs a beam of at least 0, and a share between 0 and 1 to explore")
        self.beam, self.surrogate, self.members, self.explore = beam, surrogate, members, explore
        self._growing: Growing = space
        self._model = self._new_model()
        self._scores: list[tuple[Architecture, float]] = []  # in the order of telling
        self._fitted: list[int] = []  # how many of them each fit has seen
        self._size = 0  # complexity that is evaluated now
        self._queue: list[Architecture] = []
        self._spare: list[Architecture] = []  # ranked, of the present size, beyond the beam
        self._parents: list[Architecture] = []  # of the present size, expanded without being evaluated
        self._sizes = 0  # sizes begun

    @property
    def planned(self) -> int:
        """All architectures of the first size, and 256 of each further one; 1,160 in the paper's space."""
        return self._smallest + (self.beam or 256) * (self._largest - self._first)

    @cached_property
    def _seeds(self) -> np.ndarray:
        return self._growing.seeds()

    @cached_property
    def _first(self) -> int:
        """The least complexity."""
        return int(self._growing.complexity(self._seeds).min())

    @cached_property
    def _smallest(self) -> int:
        """How many architectures have it."""
        return int((self._growing.complexity(self._seeds) == self._first).sum())

    @cached_property
    def _largest(self) -> int:
        """The most parts an architecture can have."""
        return int(self._growing.parts(self._seeds[:1]).shape[1])

    def _new_model(self) -> Surrogate | None:
        if self.surrogate == "random":
            return None
        growing = self._growing
        return Surrogate(
            self.surrogate, growing.vocabularies, growing.token_kinds, seed=self.seed, members=self.members
        )

    @property
    def _width(self) -> int:
        """How many architectures of the present size are evaluated."""
        total, later = self._total or self.planned, self._largest - self._first
        first = min(self._smallest, max(math.ceil(total / (later + 1)), total - self.beam * later if self.beam else 0))
        if self._sizes == 1:
            return first
        return self.beam or max(1, min(max(LEAST, total // 50), (total - first) // max(1, later)))

    # ------------------------------------------------------------------ stages

    def _propose(self, count: int) -> list[Architecture]:
        if not self._queue and not self._pending and self._size < self._largest:
            self._grow()
        if not self._queue and self._spare and (self._pending or self._size >= self._largest):
            # others are still being evaluated, or the search goes on after the last size
            if not self._pending and len(self._scores) - (self._fitted or [0])[-1] >= REFIT:
                ranking = np.argsort(-self._predict(np.array(self._spare)), kind="stable")
                self._spare = [self._spare[index] for index in ranking.tolist()]
            self._queue, self._spare = self._spare[:count], self._spare[count:]
        found, self._queue = self._queue[:count], self._queue[count:]
        found = [architecture for architecture in found if architecture not in self._visited]
        self._visited.update(dict.fromkeys(found))
        return found or self._fresh(count)

    def _grow(self) -> None:
        """Choose the architectures of the next size."""
        while not self._queue and self._size < self._largest:
            parents = np.array([*dict.fromkeys([*(a for a, _ in self._scores), *self._parents])], dtype=np.int64)
            candidates = self._seeds
            if len(parents):
                # those of the present size, and smaller ones for what takes two steps
                parents = parents[self._growing.complexity(parents) >= self._size - 1]
                expanded = self._growing.expansions(parents)
                each = max(1, len(expanded) // len(parents))
                if others := self._spare[: max(0, CANDIDATES - len(expanded)) // each]:
                    expanded = np.concatenate([expanded, self._growing.expansions(np.array(others, dtype=np.int64))])
                candidates = np.unique(np.concatenate([candidates, expanded]), axis=0)
            sizes = self._growing.complexity(candidates)
            if not (sizes > self._size).any():
                self._size = self._largest
                return
            self._sizes += 1
            self._size = int(sizes[sizes > self._size].min())
            self._choose(candidates[sizes == self._size])

    def _choose(self, candidates: np.ndarray) -> None:
        """Put the beam of a size into the queue."""
        fits = candidates[self.sampler.contains(candidates)]
        fits = np.array([row for row in fits.tolist() if tuple(row) not in self._visited], dtype=np.int64)
        if not len(fits):
            chosen = self.rng.permutation(len(candidates))[: self.beam or 256]
            self._parents = [tuple(row) for row in candidates[chosen].tolist()]
            return
        self._parents = []
        width = self._width
        if self._sizes == 1 and len(fits) <= width:
            ranked = fits
        else:
            ranked = fits[np.argsort(-self._predict(fits), kind="stable")]
            explored = min(len(ranked) - 1, round(self.explore * width))
            if explored and len(ranked) > width:
                others = width - explored + self.rng.choice(len(ranked) - width + explored, explored, replace=False)
                order = [*range(width - explored), *others.tolist()]
                order += sorted(set(range(len(ranked))) - set(order))
                ranked = ranked[order]
        rows = [tuple(row) for row in ranked.tolist()]
        self._queue, self._spare = rows[:width], rows[width : width + KEPT]

    def _predict(self, candidates: np.ndarray) -> np.ndarray:
        """A score for each candidate: the surrogate's, after it has seen all data; by chance without data."""
        if self._model is None or len(self._scores) < 2:
            return self.rng.random(len(candidates))
        self._fitted.append(len(self._scores))
        self._fit(len(self._scores))
        return self._model.predict(self._growing.parts(candidates))

    def _fit(self, count: int) -> None:
        model = cast(Surrogate, self._model)
        rows = np.array([architecture for architecture, _ in self._scores[:count]])
        model.fit(self._growing.parts(rows), np.array([score for _, score in self._scores[:count]]))

    def _observe(self, evaluation: Evaluation, asked: bool, usable: bool) -> None:
        if not evaluation.failed:
            self._scores.append((self.space.validate(evaluation.architecture), float(evaluation.score)))

    # ------------------------------------------------------------------ state

    def _state(self) -> dict[str, Any]:
        return {
            "scores": [[list(architecture), score] for architecture, score in self._scores],
            "fitted": self._fitted,
            "size": self._size,
            "sizes": self._sizes,
            "queue": [list(a) for a in self._queue],
            "spare": [list(a) for a in self._spare],
            "parents": [list(a) for a in self._parents],
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self._scores = [(self.space.validate(a), float(score)) for a, score in state["scores"]]
        self._size, self._sizes = int(state["size"]), int(state["sizes"])
        for name in ("queue", "spare", "parents"):
            setattr(self, f"_{name}", [self.space.validate(a) for a in state[name]])
        self._fitted = [int(count) for count in state["fitted"]]
        self._model = self._new_model()
        for count in self._fitted:  # the same data in the same order make the same surrogate
            if not 2 <= count <= len(self._scores):
                raise ValueError(f"a surrogate was fitted on {count} of {len(self._scores)} scores")
            self._fit(count)
