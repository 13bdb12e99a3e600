"""Prices of all architectures of a small space, learned from whole networks that were measured on a device.

A table may hold nothing but whole networks: somebody else measured them, or the device is gone. A space that is small
enough is priced from these alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hwnas.evaluators.tabular import TabularLatency
from hwnas.features import SMALL, choice_features
from hwnas.kernel_profiling import load_predictor
from hwnas.latency_predictor import LatencyPredictor
from hwnas.latency_tables import LatencyTable, NetworkRow
from hwnas.pricing import CostModel, LatencyModel
from hwnas.spaces.errors import TableError
from hwnas.spaces.space import SearchSpace

__all__ = ["FEWEST", "MOST", "NetworkPrices", "enough_networks", "price_model"]

#: networks that prices are learned from: fewer give no 90 % interval, and more take long for little
FEWEST, MOST = 10, 1000
_CHUNK = 1000


def price_model(space: SearchSpace, table: LatencyTable) -> CostModel:
    """Prices of `space` from the blocks of a table, or from its whole networks if it has nothing else.

    Raises
    ------
    TableError
        If it has neither; the message says how to measure.
    """
    if networks := enough_networks(space, table):
        return NetworkPrices.learn(space, table, networks)
    return LatencyModel.from_table(space, table)


def enough_networks(space: SearchSpace, table: LatencyTable) -> list[NetworkRow]:
    """The networks that prices of `space` are learned from: none where they are too few, or there is something better.

    That is rows of blocks, or a predictor of kernels.
    """
    if table.rows or space.size > SMALL or load_predictor(table) is not None:
        return []
    networks = [row for row in table.networks if row.space == space.spec]
    return networks if len(networks) >= FEWEST else []


@dataclass(frozen=True, eq=False)
class NetworkPrices(TabularLatency):
    """A latency of every architecture of a small space: predicted, by a model of networks that were measured.

    Make one with `learn`.

    Attributes
    ----------
    predictor
        The model; see `TabularLatency` for the other attributes.
    """

    predictor: LatencyPredictor | None = None

    @classmethod
    def learn(cls, space: SearchSpace, table: LatencyTable, networks: list[NetworkRow]) -> NetworkPrices:
        """Fit on networks of the space in the table, on `MOST` drawn ones if there are more.

        Of networks that only differ in choices without effect, the median is taken.

        Raises
        ------
        TableError
            If there are too few, or they and the table were obtained by different methods.
        """
        methods = {row.method for row in networks} | {table.device.method}
        if len(methods) > 1:
            raise TableError(f"the table of {table.device.key} mixes the methods {', '.join(sorted(methods))}")
        rows, index = _distinct(space, np.array([space.validate(row.architecture) for row in networks]))
        latency = np.array([row.median_ms for row in networks])
        medians = np.array([np.median(latency[index == number]) for number in range(len(rows))])
        drawn = np.random.default_rng(0).permutation(len(rows))[:MOST]
        predictor = LatencyPredictor.fit(choice_features(space, rows[drawn]), medians[drawn])
        different, which = _distinct(space, space.all())
        values = _predicted(space, predictor, different)[which]
        return cls(space, table.device.key, values, table.device.method, predictor)

    def interval(self, architectures: np.ndarray, level: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        """Milliseconds that a measurement of each architecture lies between with probability `level`; ``(n,)`` each."""
        assert self.predictor is not None
        found = self.predictor.predict(choice_features(self.space, np.atleast_2d(architectures)), interval=level)
        return found.low, found.high


def _distinct(space: SearchSpace, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose choices with an effect differ, and the number of its row among them for each given one."""
    effective = np.where(space.live(rows), rows, -1)
    _, first, index = np.unique(effective, axis=0, return_index=True, return_inverse=True)
    return rows[first], index.reshape(-1)


def _predicted(space: SearchSpace, predictor: LatencyPredictor, rows: np.ndarray) -> np.ndarray:
    parts = (choice_features(space, rows[start : start + _CHUNK]) for start in range(0, len(rows), _CHUNK))
    return np.concatenate([predictor.predict(part, interval=None).ms for part in parts])
