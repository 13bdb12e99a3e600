"""Gradient-boosted trees on top of a roofline: the latency of one kind of operator from its size and settings.

A roofline (milliseconds from multiply-accumulates and bytes) gives the scale, so that trees, which cannot extrapolate,
only learn by which factor an operator departs from it. Trees of several seeds are averaged; how far they lie apart says
where to measure next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hwnas.boosted_trees import BoostedTrees

__all__ = ["BOOSTERS", "ENOUGH", "SMALLEST_MS", "BoostedRoofline", "fit_roofline"]

#: trees are grown from this many operators on
ENOUGH = 8
#: milliseconds below which a counter says nothing, and operators count as fused away
SMALLEST_MS = 5e-4
#: depth of the trees from so many operators on
DEPTHS = ((3000, 8), (500, 6), (0, 4))
#: boosters, which differ by their seed, and trees of each
BOOSTERS, TREES = 3, 200
SETTINGS = {
    "learning_rate": 0.1,
    "subsample": 0.8,
    "colsample_bytree": 0.8,
    "min_child_weight": 0.0,
    "reg_lambda": 1.0,
    "nthread": 1,
}


class BoostedRoofline:
    """Milliseconds of operators of one kind; make one with `fit`.

    Attributes
    ----------
    line
        Milliseconds an operator, a multiply-accumulate and a byte, or of whatever `fit` got as costs.
    """

    def __init__(self, line: np.ndarray, boosters: Sequence[BoostedTrees]) -> None:
        self.line = line
        self._boosters = tuple(boosters)

    @classmethod
    def fit(
        cls,
        costs: np.ndarray,
        rows: np.ndarray,
        ms: np.ndarray,
        *,
        line: np.ndarray | None = None,
        depth: int | None = None,
        boosters: int = BOOSTERS,
        seed: int = 0,
    ) -> BoostedRoofline:
        """Learn from measured operators.

        Parameters
        ----------
        costs
            One, multiply-accumulates and bytes of each, shape ``(operators, 3)``; further columns if there are others
            that latency grows with.
        rows
            Features of each, shape ``(operators, columns)``.
        ms
            Milliseconds of each; values up to `SMALLEST_MS` stand for "nothing".
        line
            The roofline where fewer than `ENOUGH` operators take time; fitted in any case unless given.
        depth
            Of the trees; deeper where there are more operators unless given.
        boosters
            How many, which differ by their seed.
        seed
            Of the trees.
        """
        run = ms > SMALLEST_MS
        if line is None or run.sum() >= ENOUGH:
            line = fit_roofline(costs[run], ms[run])
        if len(ms) < ENOUGH:
            return cls(line, ())
        import xgboost

        target = np.log(np.maximum(ms, SMALLEST_MS) / np.maximum(costs @ line, SMALLEST_MS))
        data = xgboost.DMatrix(rows, target, nthread=1)
        depth = depth or next(value for least, value in DEPTHS if len(ms) >= least)
        settings = {**SETTINGS, "max_depth": depth}
        seeds = range(BOOSTERS * seed, BOOSTERS * seed + boosters)
        grown = (xgboost.train({**settings, "seed": one}, data, num_boost_round=TREES) for one in seeds)
        return cls(line, list(map(BoostedTrees.from_booster, grown)))

    def log_ms(self, costs: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Logarithms of milliseconds by each booster, shape ``(boosters, operators)``."""
        base = np.log(np.maximum(costs @ self.line, SMALLEST_MS))
        if not self._boosters:
            return np.broadcast_to(base, (BOOSTERS, len(base)))
        return np.stack([base + booster.predict(rows) for booster in self._boosters])

    def predict(self, costs: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Milliseconds of operators, see `fit`."""
        return np.asarray(np.exp(self.log_ms(costs, rows).mean(axis=0)))

    def to_json(self) -> dict[str, Any]:
        """Plain values that `from_json` reads back."""
        return {"line": self.line.tolist(), "boosters": [booster.to_json() for booster in self._boosters]}

    @classmethod
    def from_json(cls, content: dict[str, Any], columns: int = 3) -> BoostedRoofline:
        """Read what `to_json` wrote, a roofline of so many columns.

        Raises
        ------
        ValueError, KeyError, TypeError
            If it is damaged.
        """
        line = np.array(content["line"], dtype=np.float64)
        if line.shape != (columns,) or not np.isfinite(line).all():
            raise ValueError("its roofline is damaged")
        boosters = list(map(BoostedTrees.from_json, content["boosters"]))
        if boosters and len(boosters) != BOOSTERS:
            raise ValueError(f"it has {len(boosters)} boosters, not {BOOSTERS}")
        return cls(line, boosters)


def fit_roofline(costs: np.ndarray, ms: np.ndarray) -> np.ndarray:
    """Non-negative least squares on relative errors: milliseconds an operator, a multiply-accumulate and a byte."""
    from scipy.optimize import nnls

    rows = costs / ms[:, None]
    scale = np.maximum(rows.max(axis=0), 1e-30)
    return np.asarray(nnls(rows / scale, np.ones(len(rows)))[0] / scale)
