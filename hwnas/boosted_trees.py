"""Boosted regression trees as arrays: XGBoost grows them, here they are kept and walked.

A tree's node is a number in it; the root is 0. An inner node has the number of its left child, and the right child is
the next one; a leaf has 0. Trees in this form take a tenth of XGBoost's JSON, are read without XGBoost, and are easy to
check, which a file from elsewhere needs: XGBoost follows the indices of a file without a look.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from xgboost import Booster

__all__ = ["BoostedTrees"]

#: rows that are walked at a time, for the memory that all trees take side by side
_AT_A_TIME = 4096


class BoostedTrees:
    """A sum of regression trees; make one with `from_booster` or `from_json`.

    Parameters
    ----------
    base
        What is added to the sum.
    sizes
        Nodes of each tree, shape ``(trees,)``.
    left, feature, value
        Of every node, tree by tree, shape ``(nodes,)``: left child in its tree or 0, column that an inner node looks
        at, and the value below which it goes left, or what a leaf adds.

    Raises
    ------
    ValueError
        If these are no trees.
    """

    def __init__(
        self, base: float, sizes: np.ndarray, left: np.ndarray, feature: np.ndarray, value: np.ndarray
    ) -> None:
        if not (len(left) == len(feature) == len(value) == sizes.sum()) or (sizes < 1).any():
            raise ValueError("its trees are damaged: their sizes do not add up")
        if not (np.isfinite(value).all() and np.isfinite(base)):
            raise ValueError("a tree holds what is no number")
        first = np.repeat(np.cumsum(sizes) - sizes, sizes)
        own = np.arange(len(left)) - first
        # children come after their node, so that no way through a tree is endless
        inside = (left > own) & (left + 1 < np.repeat(sizes, sizes)) & (feature >= 0)
        if not np.where(left == 0, True, inside).all():
            raise ValueError("a tree leads out of itself")
        self.base = base
        self._sizes, self._left = sizes.astype(np.int64), left
        self._roots = np.cumsum(self._sizes) - self._sizes
        # no child is the root of the first tree
        self._child = np.where(left > 0, first + left, 0)
        self._feature = np.where(left > 0, feature, 0).astype(np.int64)
        self._value = value.astype(np.float32)
        #: columns that rows must have
        self.columns = int(self._feature.max(initial=0)) + 1

    @classmethod
    def from_booster(cls, booster: Booster) -> BoostedTrees:
        """The trees of an XGBoost model of one output without missing values and categories."""
        learner = json.loads(booster.save_raw("json"))["learner"]
        base = learner["learner_model_param"]["base_score"].strip("[]")
        sizes, left, feature, value = [], [], [], []
        for tree in learner["gradient_booster"]["model"]["trees"]:
            order = _in_order(tree["left_children"], tree["right_children"])
            place = {node: number for number, node in enumerate(order)}
            sizes.append(len(order))
            for node in order:
                child = tree["left_children"][node]
                left.append(0 if child == -1 else place[child])
                feature.append(tree["split_indices"][node])
                value.append(tree["split_conditions"][node])
        return cls(float(base), np.array(sizes), np.array(left), np.array(feature), np.array(value, np.float32))

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Sums of the trees' leaves, shape ``(rows,)``, for rows of numbers, shape ``(rows, columns)``.

        Raises
        ------
        ValueError
            If the rows have fewer columns than the trees look at.
        """
        if rows.shape[1] < self.columns:
            raise ValueError(f"its trees look at {self.columns} columns, but there are {rows.shape[1]}")
        parts = range(0, len(rows), _AT_A_TIME)
        found = [self._sums(rows[part : part + _AT_A_TIME].astype(np.float32)) for part in parts]
        return self.base + np.concatenate([np.zeros(0), *found])

    def _sums(self, rows: np.ndarray) -> np.ndarray:
        each = np.arange(len(rows))[:, None]
        at = np.broadcast_to(self._roots, (len(rows), len(self._roots)))
        while (inner := (child := self._child[at]) > 0).any():
            at = np.where(inner, child + (rows[each, self._feature[at]] >= self._value[at]), at)
        return np.asarray(self._value[at].sum(axis=1, dtype=np.float64))

    def to_json(self) -> dict[str, Any]:
        """Plain values that `from_json` reads back: arrays as base64 of little-endian numbers."""
        return {
            "base": self.base,
            "sizes": _text(self._sizes, "<u2"),
            "left": _text(self._left, "<u2"),
            "feature": _text(self._feature, "<u2"),
            "value": _text(self._value, "<f4"),
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> BoostedTrees:
        """Read what `to_json` wrote.

        Raises
        ------
        ValueError, KeyError, TypeError
            If it is damaged.
        """
        sizes, left, feature = (
            _numbers(content[name], "<u2").astype(np.int64) for name in ("sizes", "left", "feature")
        )
        return cls(float(content["base"]), sizes, left, feature, _numbers(content["value"], "<f4"))


def _in_order(left: list[int], right: list[int]) -> list[int]:
    """The nodes of a tree level by level, so that children stand side by side after their node."""
    order = [0]
    for node in order:
        if left[node] != -1:
            order += [left[node], right[node]]
    return order


def _text(values: np.ndarray, kind: str) -> str:
    packed = values.astype(kind)
    assert (packed == values).all(), "a tree has more nodes or columns than its file can hold"
    return base64.b64encode(packed.tobytes()).decode()


def _numbers(text: str, kind: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text, validate=True), kind)
