"""The evaluated architectures of a run as arrays: what fits, the Pareto front, the best, and a bounded choice to show.

A run may hold 100,000 of them. They are read one at a time and kept as numbers, so that memory stays small.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from hwnas.constraints import Constraint
from hwnas.evaluators import Evaluation
from hwnas.run import Run
from hwnas.spaces.errors import ConfigError

__all__ = ["Trials", "choice_shares", "expected_best", "pareto_front"]

#: Costs that are kept of a trial: more than any run has constraints.
_MOST_COSTS = 16
_MOST_DECISIONS, _MOST_CHOICE = 4096, 2**31 - 1


@dataclass(frozen=True, eq=False)
class Trials:
    """The trials of a run, in the order of their evaluation.

    Attributes
    ----------
    architectures
        Choice indices, shape ``(n, decisions)``, int32.
    scores
        NaN where an evaluation failed, shape ``(n,)``.
    costs
        Name of each cost to its values, shape ``(n,)``; NaN where a trial has none.
    fits
        Whether a trial has a score and meets every constraint as predicted, shape ``(n,)``.
    stage
        Which supernet scored it: scores of different ones do not compare, shape ``(n,)``.
    """

    architectures: np.ndarray
    scores: np.ndarray
    costs: dict[str, np.ndarray]
    fits: np.ndarray
    stage: np.ndarray

    @classmethod
    def read(cls, run: Run, constraints: Iterable[Constraint]) -> Trials:
        """Read ``trials.jsonl``.

        Raises
        ------
        ConfigError
            If a line is damaged, or its architecture has another number of decisions than those before.
        """
        choices, scores, stages = array("i"), array("d"), array("i")
        allowed = bytearray()
        costs: dict[str, array[float]] = {}
        decisions: int | None = None
        for number, trial in enumerate(run.iter_trials(), start=1):
            decisions = _checked_length(run, number, trial, decisions)
            choices.extend(trial.architecture)
            scores.append(trial.score if math.isfinite(trial.score) else math.nan)
            stage = trial.info.get("stage", 0)
            stages.append(stage if isinstance(stage, int) and 0 <= stage <= 1000 else 0)
            allowed.append(trial.info.get("feasible", True) is not False)
            for name in trial.costs:
                if name not in costs and len(costs) < _MOST_COSTS:
                    costs[name] = array("d", [math.nan]) * (number - 1)
            for name, values in costs.items():
                value = trial.costs.get(name, math.nan)
                values.append(value if math.isfinite(value) else math.nan)
        columns = {name: np.array(values) for name, values in costs.items()}
        found = np.array(scores)
        fits = np.isfinite(found) & np.array(allowed, dtype=bool)
        for constraint in constraints:
            if constraint.name in columns:
                column = columns[constraint.name]
                with np.errstate(invalid="ignore"):
                    met = column <= constraint.bound if constraint.relation == "<=" else column >= constraint.bound
                fits &= met
        matrix = np.array(choices, dtype=np.int32).reshape(len(found), decisions or 0)
        return cls(matrix, found, columns, fits, np.array(stages, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def comparable(self) -> np.ndarray:
        """Indices of the trials with a score of the last stage."""
        scored = np.isfinite(self.scores)
        last = self.stage[scored].max(initial=0)
        return np.flatnonzero(scored & (self.stage == last))

    @property
    def best(self) -> int | None:
        """Index of the best trial that fits, the first of equals; of the last stage."""
        fitting = self.comparable[self.fits[self.comparable]]
        return int(fitting[np.argmax(self.scores[fitting])]) if len(fitting) else None

    def progress(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """The best score so far of what fits, a line a stage: evaluations made and score, only where it changes."""
        lines = []
        for stage in np.unique(self.stage[self.fits]):
            at = np.flatnonzero(self.fits & (self.stage == stage))
            best = np.maximum.accumulate(self.scores[at])
            kept = np.flatnonzero(np.concatenate([[True], best[1:] > best[:-1]]))
            last = (
                len(self) if stage == self.stage[self.fits].max() else int(np.flatnonzero(self.stage == stage)[-1]) + 1
            )
            lines.append((np.append(at[kept] + 1, last), np.append(best[kept], best[-1])))
        return lines

    def sample(self, must: Iterable[int], most: int) -> np.ndarray:
        """At most `most` trials to show, in order: those in `must`, the best, and every so many of the rest."""
        if len(self) <= most:
            return np.arange(len(self))
        kept = np.zeros(len(self), dtype=bool)
        kept[list(must)[:most]] = True
        order = np.argsort(np.where(np.isfinite(self.scores), -self.scores, np.inf), kind="stable")
        kept[order[: most // 10]] = True
        rest = np.flatnonzero(~kept)
        room = max(0, most - int(kept.sum()))
        kept[rest[np.linspace(0, len(rest) - 1, num=min(room, len(rest)), dtype=np.int64)]] = True
        return np.flatnonzero(kept)


def _checked_length(run: Run, number: int, trial: Evaluation, decisions: int | None) -> int:
    length = len(trial.architecture)
    fits = 0 < length <= _MOST_DECISIONS and decisions in (None, length)
    if not fits or min(trial.architecture) < 0 or max(trial.architecture) > _MOST_CHOICE:
        raise ConfigError(
            f"line {number} of {run.path / 'trials.jsonl'} is damaged: its architecture is not of the run's space; "
            "delete it to go on without it"
        )
    return length


def pareto_front(cost: np.ndarray, score: np.ndarray, *, lower: bool = True) -> np.ndarray:
    """Indices of what nothing beats in both cost and score, by cost; without NaN.

    Parameters
    ----------
    cost, score
        Shape ``(n,)``; a higher score is better.
    lower
        Whether a lower cost is better.
    """
    known = np.flatnonzero(np.isfinite(cost) & np.isfinite(score))
    signed = cost[known] if lower else -cost[known]
    order = known[np.lexsort((-score[known], signed))]
    best = np.maximum.accumulate(score[order]) if len(order) else score[:0]
    front = order[np.concatenate([[True], score[order][1:] > best[:-1]])] if len(order) else order
    return front if lower else front[::-1]


def expected_best(scores: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What random search has found after so many evaluations, from a sample of it.

    Of n scores, k drawn without replacement have the i-th smallest as their largest with probability
    ``C(i - 1, k - 1) / C(n, k)``.

    Parameters
    ----------
    scores
        Of uniform draws, shape ``(n,)``.
    counts
        How many are drawn, each from 1 to n, shape ``(m,)``.

    Returns
    -------
    tuple of numpy.ndarray
        Mean, 10 % and 90 % quantile of the largest score, each ``(m,)``.
    """
    from scipy.special import gammaln

    ordered = np.sort(scores)
    n = len(ordered)
    rank = np.arange(1, n + 1)
    log_factorial = gammaln(np.arange(n + 1) + 1.0)
    mean, low, high = (np.empty(len(counts)) for _ in range(3))
    for place, k in enumerate(counts.tolist()):
        # log C(i, k) - log C(n, k): the logarithm of the probability that all k are among the i smallest
        below = log_factorial[rank] - log_factorial[np.maximum(rank - k, 0)] - log_factorial[n] + log_factorial[n - k]
        chance = np.where(rank >= k, np.exp(np.minimum(below, 0.0)), 0.0)
        chance[-1] = 1.0
        mean[place] = float(np.diff(chance, prepend=0.0) @ ordered)
        low[place], high[place] = ordered[np.searchsorted(chance, [0.1, 0.9])]
    return mean, low, high


def choice_shares(architectures: np.ndarray, radices: np.ndarray, live: np.ndarray) -> list[np.ndarray]:
    """How often each choice was taken, as a share of the architectures in which the decision has an effect.

    Parameters
    ----------
    architectures
        Shape ``(n, decisions)``.
    radices
        Number of choices of each decision.
    live
        Whether a decision has an effect, shape ``(n, decisions)``.

    Returns
    -------
    list of numpy.ndarray
        A vector a decision; NaN where no architecture has an effect of it.
    """
    shares = []
    for decision, radix in enumerate(radices.tolist()):
        taken = np.bincount(architectures[live[:, decision], decision], minlength=radix)[:radix]
        total = taken.sum()
        shares.append(taken / total if total else np.full(radix, np.nan))
    return shares
