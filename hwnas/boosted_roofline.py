"""Gradient-boosted trees on top of a roofline: the latency of one kind of operator from its size and settings.

A roofline (milliseconds from multiply-accumulates and bytes) gives the scale, so that trees, which cannot extrapolate,
only learn by which factor an operator departs from it. Trees of several seeds are averaged; how far they lie apart says
where to measure next.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from xgboost import Booster

__all__ = ["BOOSTERS", "ENOUGH", "SMALLEST_MS", "BoostedRoofline", "fit_roofline"]

#: trees are grown from this many operators on
ENOUGH = 8
#: milliseconds below which a counter says nothing, and operators count as fused away
SMALLEST_MS = 5e-4
#: depth of the trees from so many operators on
DEPTHS = ((3000, 8), (500, 6), (0, 4))
#: boosters, which differ by their seed, and trees of each
BOOSTERS, TREES = 3, 200
#: of each tree in XGBoost's JSON: what there is one of a node, and what our trees do not have
_NODES = (
    "left_children", "right_children", "parents", "split_indices", "split_conditions", "split_type", "default_left",
    "base_weights", "loss_changes", "sum_hessian",
)  # fmt: skip
_CATEGORIES = ("categories", "categories_nodes", "categories_segments", "categories_sizes")
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

    def __init__(self, line: np.ndarray, boosters: Sequence[Booster]) -> None:
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
        return cls(line, [xgboost.train({**settings, "seed": one}, data, num_boost_round=TREES) for one in seeds])

    def log_ms(self, costs: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Logarithms of milliseconds by each booster, shape ``(boosters, operators)``."""
        base = np.log(np.maximum(costs @ self.line, SMALLEST_MS))
        if not self._boosters:
            return np.broadcast_to(base, (BOOSTERS, len(base)))
        return np.stack([base + booster.inplace_predict(rows) for booster in self._boosters])

    def predict(self, costs: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Milliseconds of operators, see `fit`."""
        return np.asarray(np.exp(self.log_ms(costs, rows).mean(axis=0)))

    def to_json(self) -> dict[str, Any]:
        """Plain values that `from_json` reads back; the trees are XGBoost's own JSON, as text."""
        return {"line": self.line.tolist(), "boosters": [b.save_raw("json").decode() for b in self._boosters]}

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
        if not content["boosters"]:
            return cls(line, ())
        from xgboost import Booster
        from xgboost.core import XGBoostError

        for text in content["boosters"]:
            _check_trees(text)
        try:
            boosters = [Booster({"nthread": 1}, model_file=bytearray(text.encode())) for text in content["boosters"]]
        except XGBoostError as error:
            raise ValueError(f"its trees are damaged: {str(error).splitlines()[0]}") from error
        if len(boosters) != BOOSTERS:
            raise ValueError(f"it has {len(boosters)} boosters, not {BOOSTERS}")
        return cls(line, boosters)


def _check_trees(text: str) -> None:
    """Raise a `ValueError` unless what XGBoost wrote describes trees: it follows their indices without a look."""
    learner = json.loads(text)["learner"]
    columns = int(learner["learner_model_param"]["num_feature"])
    model = learner["gradient_booster"]["model"]
    trees = model["trees"]
    if learner["gradient_booster"]["name"] != "gbtree" or len(trees) != int(model["gbtree_model_param"]["num_trees"]):
        raise ValueError("its trees are of another kind or number")
    if model["tree_info"] != [0] * len(trees) or model["iteration_indptr"] != list(range(len(trees) + 1)):
        raise ValueError("its trees are in another order")
    for tree in trees:
        count = int(tree["tree_param"]["num_nodes"])
        lists = [tree[name] for name in _NODES]
        if count < 1 or any(len(values) != count for values in lists) or any(tree[name] for name in _CATEGORIES):
            raise ValueError("a tree is damaged")
        left, right, split = (np.array(tree[name]) for name in ("left_children", "right_children", "split_indices"))
        numbers = np.array([tree["split_conditions"], tree["base_weights"]], dtype=np.float64)
        if any(values.dtype.kind != "i" for values in (left, right, split)) or not np.isfinite(numbers).all():
            raise ValueError("a tree holds what is no number")
        leaf, own = left == -1, np.arange(count)
        # children come after their node, so that no way through a tree is endless
        inside = (left > own) & (left < count) & (right > own) & (right < count) & (split >= 0) & (split < columns)
        if not np.where(leaf, right == -1, inside).all():
            raise ValueError("a tree leads out of itself")


def fit_roofline(costs: np.ndarray, ms: np.ndarray) -> np.ndarray:
    """Non-negative least squares on relative errors: milliseconds an operator, a multiply-accumulate and a byte."""
    from scipy.optimize import nnls

    rows = costs / ms[:, None]
    scale = np.maximum(rows.max(axis=0), 1e-30)
    return np.asarray(nnls(rows / scale, np.ones(len(rows)))[0] / scale)
