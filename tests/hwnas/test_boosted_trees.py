"""Trees as arrays say what XGBoost says, and files that are no trees are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xgboost
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.boosted_trees import BoostedTrees


def grown(seed: int, depth: int, trees: int, *, columns: int = 5, rows: int = 200) -> tuple[Any, np.ndarray]:
    """A model of XGBoost on numbers of which many are equal, and the rows that it learned from."""
    rng = np.random.default_rng(seed)
    seen = rng.integers(0, 6, (rows, columns)) * rng.choice([1e-3, 1.0, 1e9], columns)
    target = 3 + np.log1p(seen[:, 0]) - seen[:, 1] / (1 + seen[:, 1]) + rng.normal(0, 0.1, rows)
    data = xgboost.DMatrix(seen, target, nthread=1)
    return xgboost.train({"max_depth": depth, "nthread": 1, "seed": seed}, data, num_boost_round=trees), seen


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 99), depth=st.integers(1, 9), trees=st.integers(1, 12))
def test_they_say_what_xgboost_says(seed: int, depth: int, trees: int) -> None:
    booster, seen = grown(seed, depth, trees)
    others = np.random.default_rng(seed).normal(0, 1e3, (100, seen.shape[1]))
    made = BoostedTrees.from_booster(booster)
    for rows in (seen, others):
        np.testing.assert_allclose(made.predict(rows), booster.inplace_predict(rows), rtol=1e-5, atol=1e-6)
    again = BoostedTrees.from_json(made.to_json())
    np.testing.assert_array_equal(again.predict(others), made.predict(others))


def test_many_rows_and_none() -> None:
    booster, seen = grown(0, 4, 20)
    made = BoostedTrees.from_booster(booster)
    many = np.tile(seen, (50, 1))
    np.testing.assert_array_equal(made.predict(many), np.tile(made.predict(seen), 50))
    assert made.predict(seen[:0]).shape == (0,)
    with pytest.raises(ValueError, match="columns, but there are 1"):
        made.predict(seen[:, :1])


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"left": [1, 0, 1]}, "leads out"),  # back to where it came from
        ({"left": [2, 0, 0]}, "leads out"),  # its right child would be the next tree's
        ({"left": [1, 0]}, "do not add up"),
        ({"sizes": [0, 3]}, "do not add up"),
        ({"feature": [-1, 0, 0]}, "leads out"),
        ({"value": [np.nan, 0, 0]}, "no number"),
        ({"base": np.inf}, "no number"),
    ],
)
def test_what_is_no_tree(change: dict[str, Any], what: str) -> None:
    whole = {"base": 0.5, "sizes": [3], "left": [1, 0, 0], "feature": [2, 0, 0], "value": [1.5, -1.0, 1.0]}
    base, *arrays = whole.values()
    assert BoostedTrees(base, *map(np.array, arrays)).predict(np.array([[0, 0, 1.0], [0, 0, 1.5]])).tolist() == [
        -0.5,
        1.5,
    ]
    base, *arrays = {**whole, **change}.values()
    with pytest.raises(ValueError, match=what):
        BoostedTrees(base, *map(np.array, arrays))


def test_damaged_text() -> None:
    content = BoostedTrees.from_booster(grown(0, 3, 2)[0]).to_json()
    for name, value in (("left", "?"), ("value", "AAA="), ("sizes", 3), ("base", "much")):
        with pytest.raises((ValueError, TypeError)):
            BoostedTrees.from_json({**content, name: value})
