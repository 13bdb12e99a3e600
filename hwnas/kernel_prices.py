"""What single kernels cost on a device: the table's rows, and regressions on them for what was never measured."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hwnas.kernel_profiling import load_predictor
from hwnas.latency_tables import LatencyTable
from hwnas.profilers.base import FLOOR_MS
from hwnas.spaces.errors import ModelError, TableError
from hwnas.spaces.graph import Graph
from hwnas.spaces.placement import place_kernels
from hwnas.spaces.signature import kernel_graph, kernel_op

__all__ = ["KernelPrice", "KernelPrices"]

#: a family of kernels gets a regression of its own from this many measured rows on
ENOUGH = 8
#: differences below this many milliseconds are noise of a runtime's counters, and no errors of a fit
SMALLEST_MS = 1e-3
#: a kernel of an unknown family is bounded by this factor around its roofline estimate
ROOFLINE_FACTOR = 3.0


@dataclass(frozen=True)
class KernelPrice:
    """Milliseconds of one kernel, where the number comes from, and its relative error (one standard deviation).

    The error is NaN where only that of whole networks is known, see `KernelPrices.learned_interval`.
    """

    ms: float
    source: str
    error: float


@dataclass(frozen=True)
class _Line:
    """``intercept + per_mac * MACs + per_byte * bytes``, all non-negative, and its relative error."""

    intercept: float
    per_mac: float
    per_byte: float
    error: float

    def __call__(self, kernel: Graph) -> float:
        return self.intercept + self.per_mac * kernel.macs + self.per_byte * kernel.bytes


class KernelPrices:
    """An ordered chain of sources for the price of a kernel: table, then learned, then roofline.

    ``table``
        The kernel was measured: its median inside whole networks.
    ``learned``
        Its family was: the table's `KernelPredictor`, if the device was profiled for any network
        (`hwnas profile` without a space). Otherwise a non-negative regression on multiply-accumulates
        and bytes, fitted on relative errors, whose own leave-one-out error is its uncertainty.
    ``roofline``
        Nothing like it was: that regression over all kernels, within a factor of 3.

    Parameters
    ----------
    table
        Any latency table; its kernel rows (context ``network``) and its predictor are used.

    Raises
    ------
    TableError
        If the table has neither.
    """

    def __init__(self, table: LatencyTable) -> None:
        self.predictor = load_predictor(table)
        self.rows: dict[str, float] = {}
        self.spread: dict[str, float] = {}
        families: dict[str, list[tuple[Graph, float]]] = {}
        for (signature, context), row in table.rows.items():
            if context != "network":
                continue
            try:
                kernel = kernel_graph(signature)
            except ModelError:
                continue  # a row of a block, which other readers of the table use
            self.rows[signature] = row.median_ms
            self.spread[signature] = (row.high_ms - row.low_ms) / (2 * row.median_ms)
            families.setdefault(kernel_op(signature), []).append((kernel, row.median_ms))
        if not self.rows and self.predictor is None:
            raise TableError(
                f"the table of {table.device.key} knows no kernels; "
                f"measure some with: hwnas profile --device {table.device.key} --budget 20m"
            )
        self.lines = {op: _fit(rows) for op, rows in families.items() if len(rows) >= ENOUGH}
        if self.predictor is None:
            # what a runtime has fused away (an addition inside a convolution) says nothing about kernels that do run
            run = [row for rows in families.values() for row in rows if row[1] > FLOOR_MS]
            self.roofline = _fit(run or [row for rows in families.values() for row in rows])

    def price(self, network: Graph) -> list[KernelPrice]:
        """Price every kernel of a network, in order."""
        kernels = network.kernels
        learned = np.full(len(kernels), np.nan)
        if self.predictor is not None:
            learned = self.predictor.kernel_ms(place_kernels(network))
        return [self._price(kernel, ms) for kernel, ms in zip(kernels, learned.tolist(), strict=True)]

    def learned_interval(self, level: float) -> tuple[float, float] | None:
        """Factors on learned prices, summed over a network, that a measurement lies between; None if not known."""
        return None if self.predictor is None else self.predictor.interval(level)

    def _price(self, kernel: Graph, learned: float) -> KernelPrice:
        signature = kernel.signature
        if signature in self.rows:
            return KernelPrice(self.rows[signature], "table", self.spread[signature])
        if not math.isnan(learned):
            return KernelPrice(learned, "learned", math.nan)
        line = self.lines.get(kernel_op(signature))
        if line is not None:
            return KernelPrice(line(kernel), "learned", line.error)
        bound = self.roofline(kernel) if self.predictor is None else self.predictor.bound_ms(kernel.macs, kernel.bytes)
        return KernelPrice(max(bound, FLOOR_MS), "roofline", ROOFLINE_FACTOR - 1)


def _fit(rows: list[tuple[Graph, float]]) -> _Line:
    """Least squares on relative errors with non-negative coefficients; the error is by five-fold cross-validation."""
    measured = np.array([ms for _, ms in rows])
    weight = 1 / np.maximum(measured, SMALLEST_MS)
    features = np.array([[1.0, kernel.macs, kernel.bytes] for kernel, _ in rows])
    scale = np.maximum(features.max(axis=0), 1.0)
    scaled, target = features / scale * weight[:, None], measured * weight
    fold = np.arange(len(rows)) % min(5, len(rows))
    residuals = np.zeros(len(rows))
    for number in range(fold.max() + 1):
        held = fold == number
        if held.all():
            break
        residuals[held] = scaled[held] @ _non_negative(scaled[~held], target[~held]) - target[held]
    intercept, per_mac, per_byte = _non_negative(scaled, target) / scale
    return _Line(float(intercept), float(per_mac), float(per_byte), float(np.sqrt(np.mean(residuals**2))))


def _non_negative(scaled: np.ndarray, target: np.ndarray) -> np.ndarray:
    from sklearn.linear_model import LinearRegression

    model = LinearRegression(positive=True, fit_intercept=False).fit(scaled, target)
    return np.asarray(model.coef_, dtype=float)
