"""HURRICANE's two-stage search (Zhang et al., arXiv 1910.11609, CVPR Workshops 2020).

The later layers are searched first with the earlier ones fixed, then the earlier ones with the later ones fixed to
what was found. Each stage is a supernet's training over what it leaves free (`Hurricane.stage` tells the search so),
and SPOS's evolution within. The two stages and their order are confirmed by the authors' diagram. Ours, because the
text could not be read: where the layers are divided, what the earlier ones are fixed to, and how a budget is shared.

The budget is shared explicitly: what the bound leaves above the cheapest network is divided between the two groups of
layers in proportion to what each could spend at most. The layers that stage 1 fixes take the dearest operators that
their share allows, so whatever stage 1 finds is a network within the budget, and stage 2 may spend all that it left.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from hwnas.costs import AdditiveCost, MaxCost, Part
from hwnas.evaluators.base import Evaluation
from hwnas.nearest import Bound
from hwnas.sampler import FeasibleSampler
from hwnas.spaces.errors import ConfigError, InfeasibleError
from hwnas.spaces.space import Architecture, SearchSpace
from hwnas.strategies.base import Stage, Strategy
from hwnas.strategies.evolution import Evolution

__all__ = ["Hurricane"]

ORDERS = ("later-first", "earlier-first")
#: By how much the fixed layers' share is scaled down, step by step, where no network completes them.
STEPS = (1.0, 0.75, 0.5, 0.25, 0.0)


class Hurricane(Strategy):
    """Two stages of evolution: the later layers, then the earlier ones.

    Parameters
    ----------
    space, sampler, seed
        See `Strategy`. The order of the space's decisions is the order of its layers.
    population, generations
        Of the evolution in each stage, see `Evolution`; half of a population are mutants, half crossovers.
    split
        How many decisions are earlier layers; 0 takes two fifths of them (8 of 20).
    order
        ``later-first`` as in the paper, or ``earlier-first``.
    reuse
        Whether stage 2's supernet begins with stage 1's weights.
    first
        Share of the evaluations, and of the supernet's epochs, that stage 1 gets; 0 takes its share of the decisions.
    """

    name: ClassVar[str] = "hurricane"
    summary: ClassVar[str] = "two stages: later layers first, then the earlier ones, each with its own supernet"
    paper: ClassVar[str] = "HURRICANE, arXiv 1910.11609"
    thorough: ClassVar[bool] = False

    def __init__(
        self,
        space: SearchSpace,
        sampler: FeasibleSampler | None = None,
        *,
        seed: int = 0,
        population: int = 50,
        generations: int = 20,
        split: int = 0,
        order: str = "later-first",
        reuse: bool = True,
        first: float = 0.0,
    ) -> None:
        super().__init__(space, sampler, seed=seed)
        decisions = len(space.decisions)
        if decisions < 2:
            raise ConfigError(f"hurricane searches layers in two stages, but {space.spec} has one decision")
        if not 0 <= split < decisions:
            raise ConfigError(f"hurricane's split is 1 to {decisions - 1} decisions, or 0 for two fifths, not {split}")
        if order not in ORDERS:
            raise ConfigError(f"hurricane's order is {' or '.join(ORDERS)}, not {order!r}")
        if not 0 <= first < 1:
            raise ConfigError(f"hurricane's first is a share between 0 and 1, not {first}")
        self.population, self.generations = population, generations
        self.split, self.order, self.reuse, self.first = split, order, reuse, first
        early = np.arange(decisions) < (split or max(1, round(0.4 * decisions)))
        self._first_free = ~early if order == "later-first" else early
        self._number, self._told = 0, 0
        self._fixed = self._default()
        self._inner = self._evolution()

    @property
    def planned(self) -> int:
        """Population times generations in each of two stages: 2,000 by default."""
        return 2 * self.population * self.generations

    @property
    def stage(self) -> Stage:
        """What is free now; the rest is fixed."""
        free = self._free
        layers = "later" if free[-1] else "earlier"
        share = self._share if self._number == 0 else 1 - self._share
        name = f"stage {self._number + 1} ({layers} layers)"
        return Stage(self._number, name, tuple(self._masks()), share, self.reuse)

    # ------------------------------------------------------------------ stages

    @property
    def _free(self) -> np.ndarray:
        return self._first_free if self._number == 0 else ~self._first_free

    @property
    def _share(self) -> float:
        return self.first or float(self._first_free.mean())

    def _masks(self) -> list[np.ndarray]:
        """Per decision which choices the stage allows."""
        radices = self.space.radices.tolist()
        chosen = zip(radices, self._fixed, self._free.tolist(), strict=True)
        return [np.ones(radix, bool) if free else np.arange(radix) == choice for radix, choice, free in chosen]

    def _evolution(self) -> Evolution:
        """Evolution inside the stage: the fixed decisions are one more bound, which costs nothing to meet."""
        outside = [Part((d,), (~mask).astype(np.float64)) for d, mask in enumerate(self._masks())]
        fixed = Bound("the layers that are fixed", MaxCost(self.space.radices, outside, 0.0), upper=0.5)
        inside = FeasibleSampler(self.space, [*self.sampler.bounds, fixed])
        return Evolution(
            self.space,
            inside,
            seed=self.seed + self._number,
            population=self.population,
            mutants=self.population // 2,
            crossovers=self.population // 2,
            generations=self.generations,
        )

    def _advance(self) -> None:
        """Fix what stage 1 found, and free what it had fixed."""
        best = self._inner.best
        if best is not None:
            self._fixed = best.architecture
        self._number += 1
        self._inner = self._evolution()
        if best is not None:  # known already, and a parent worth having
            self._inner.tell([best])

    def _default(self) -> Architecture:
        """A feasible network whose fixed layers spend the share of the budget that is theirs."""
        limits = ((b.cost, b.upper) for b in self.sampler.bounds if isinstance(b.cost, AdditiveCost))
        cost, limit = next(((cost, upper) for cost, upper in limits if math.isfinite(upper)), (None, math.inf))
        costs = None if cost is None else _per_decision(cost)
        if cost is None or costs is None:
            return self.sampler.nearest() if self.sampler.bounds else self._draw()
        cheapest = np.array([table.min() for table in costs])
        spread = np.array([table.max() for table in costs]) - cheapest
        fixed = ~self._first_free
        room = limit - cost.constant - cheapest.sum()
        share = room * spread[fixed].sum() / max(spread.sum(), 1e-30)
        for step in STEPS:
            choices = _spend(costs, np.flatnonzero(fixed), share * step)
            box = [np.ones(len(table), bool) for table in costs]
            for decision, choice in choices.items():
                box[decision] = np.arange(len(costs[decision])) == choice
            try:
                return self._draw(box)
            except InfeasibleError:
                continue
        return self.sampler.nearest()

    # ------------------------------------------------------------------ the strategy

    def _propose(self, count: int) -> list[Architecture]:
        if self._number == 0:
            left = round(self._share * (self._total or self.planned)) - self._told
            if left <= 0:
                self._advance()
            elif left > len(self._pending):  # else results are outstanding, and this is work for idle hands
                count = min(count, left - len(self._pending))
        found = self._inner.ask(count)
        if not found and self._number == 0:
            self._advance()
            found = self._inner.ask(count)
        return found

    def _observe(self, evaluation: Evaluation, asked: bool, usable: bool) -> None:
        if evaluation.info.get("stage", 0) > self._number:  # a search that was killed just after stage 1 had ended
            self._advance()
        self._told += self._number == 0
        if self._inner.sampler.contains([evaluation.architecture])[0]:
            self._inner.tell([evaluation])

    def _state(self) -> dict[str, Any]:
        return {
            "stage": self._number,
            "told": self._told,
            "fixed": list(self._fixed),
            "evolution": self._inner.state_dict(),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self._number, self._told = int(state["stage"]), int(state["told"])
        self._fixed = self.space.validate(state["fixed"])
        self._inner = self._evolution()
        self._inner.load_state_dict(state["evolution"])


def _per_decision(cost: AdditiveCost) -> list[np.ndarray] | None:
    """What each choice of each decision adds; None where decisions share a look-up or a choice has no value."""
    tables: list[np.ndarray | None] = [None] * len(cost.radices)
    for part in cost.parts:
        if len(part.decisions) != 1 or np.isnan(part.table).any():
            return None
        tables[part.decisions[0]] = part.table
    return [np.zeros(int(radix)) if table is None else table for table, radix in zip(tables, cost.radices, strict=True)]


def _spend(costs: list[np.ndarray], decisions: np.ndarray, share: float) -> dict[int, int]:
    """The dearest choice of each of `decisions` below one level of its own range, as high as `share` allows."""
    chosen: dict[int, int] = {}
    for level in np.linspace(0.0, 1.0, 101):
        tried, spent = {}, 0.0
        for decision in decisions.tolist():
            above = costs[decision] - costs[decision].min()
            affordable = np.where(above <= level * above.max() + 1e-12, above, -1.0)
            tried[decision] = int(affordable.argmax())
            spent += float(affordable.max())
        if spent > share + 1e-12:
            break
        chosen = tried
    return chosen
