"""Latency of whole matrices of architectures: a table's rows summed, corrected on whole networks.

The sum of a network's block rows is off by what happens between blocks (caches, layout changes,
the runtime's own work). `LatencyModel` corrects it on networks that were measured end to end, by a
line and, if asked, by shrunken adjustments of the rows themselves. All of that is additive over
blocks, so the corrected model is still one table look-up per decision: it prices millions of
architectures a second, and architectures under its budgets are drawn exactly (`hwnas.sampler`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from hwnas.costs import CHUNK, AdditiveCost
from hwnas.latency_tables import LatencyTable, NetworkRow
from hwnas.spaces.errors import TableError
from hwnas.spaces.space import SearchSpace

__all__ = ["DEFAULT_CONTEXT", "DEFAULT_REFINE", "CostModel", "LatencyModel"]

#: Which rows to use where a table has both and too few networks to tell which of them predict better. Corrected on
#: networks both predict alike on onnxruntime, and those from inside networks better on OpenVINO; uncorrected, their
#: sums are off by 2 to 5 %, and those of isolated blocks by up to 43 % (docs/benchmarks.md).
DEFAULT_CONTEXT = "network"
#: The context of rows that were not measured, but priced by the table's predictor of kernels.
LEARNED = "learned"
#: Whether the rows themselves are adjusted on the networks, by default.
DEFAULT_REFINE = True

#: Strengths of the adjustment to choose from: variance of a row's relative error over that of a network.
STRENGTHS = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
#: Folds of the cross-validation that the interval rests on; as many as there are networks if fewer.
FOLDS = 20


class CostModel(Protocol):
    """Anything that prices architectures on one device and is additive over joint groups of decisions."""

    @property
    def device(self) -> str:
        """Key of the device."""
        ...

    @property
    def method(self) -> str:
        """How the numbers came to be: ``measured``, ``modelled``, ..."""
        ...

    @property
    def additive(self) -> AdditiveCost:
        """The whole model as table look-ups."""
        ...

    def predict(self, architectures: np.ndarray) -> np.ndarray:
        """Price `architectures`, shape ``(n, decisions)``; returns ``(n,)``."""
        ...

    def interval(self, architectures: np.ndarray, level: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        """Bounds that a new measurement lies between with probability `level`; NaN where nothing is known."""
        ...


@dataclass(frozen=True, eq=False)
class _Fit:
    """Milliseconds = intercept + counts @ (row * (slope + change))."""

    intercept: float
    slope: float
    change: np.ndarray
    strength: float

    def block_ms(self, rows: np.ndarray) -> np.ndarray:
        return rows * (self.slope + self.change)

    def predict(self, counts: np.ndarray, rows: np.ndarray) -> np.ndarray:
        return np.asarray(self.intercept + counts @ self.block_ms(rows))


def _residuals(kernel: np.ndarray, basis: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Leave-one-out residuals, line and dual weights of ridge regression beside an unpenalised line.

    All in relative units, so the target is 1 for every network. With ``S = kernel + diag(noise)``
    and ``Q`` the inverse of S with the basis projected out, the residual of network i in a fit
    without it is ``(Q 1)_i / Q_ii`` (Dubrule, Mathematical Geology 15(6), 1983).
    """
    inverse = np.linalg.inv(kernel + np.diag(noise))
    projected = inverse @ basis
    line, *_ = np.linalg.lstsq(basis.T @ projected, projected.sum(axis=0), rcond=None)
    q = inverse - projected @ np.linalg.pinv(basis.T @ projected) @ projected.T
    dual = inverse @ (1.0 - basis @ line)
    return q.sum(axis=1) / np.maximum(np.diag(q), 1e-12), line, dual


def _fit(counts: np.ndarray, rows: np.ndarray, measured: np.ndarray, refine: bool) -> _Fit:
    """Fit the correction on networks: the model with the least leave-one-out error, outliers weighed down.

    Parameters
    ----------
    counts
        Blocks of each network, shape ``(networks, catalog)``.
    rows, measured
        Milliseconds of the blocks and of the networks.
    refine
        Whether to adjust the rows.
    """
    unchanged = np.zeros(len(rows))
    if not len(measured):
        return _Fit(0.0, 1.0, unchanged, 0.0)
    parts = counts * rows / measured[:, None]
    total = parts.sum(axis=1)
    bases = [total[:, None]]
    if len(measured) >= 5:
        bases.append(np.stack([1.0 / measured, total], axis=1))
    gram = parts @ parts.T
    noise = np.ones(len(measured))
    enough = len(measured) >= 8
    candidates = [(basis, strength) for basis in bases for strength in (STRENGTHS if refine and enough else (0.0,))]
    best: _Fit | None = None
    for _ in range(3 if enough else 1):
        least, kept, left_out = math.inf, None, noise
        for basis, strength in candidates:
            residuals, line, dual = _residuals(strength * gram, basis, noise)
            error = float(np.mean(residuals**2 / noise))
            change, slope = strength * (parts.T @ dual), float(line[-1])
            if error < least and slope > 0 and (slope + change[counts.any(axis=0)] > 0).all():
                intercept = float(line[0]) if len(line) == 2 else 0.0
                least, kept, left_out = error, (basis, strength), residuals
                best = _Fit(intercept, slope, change, strength)
        if kept is None:
            break
        # Huber's weights: a network that was disturbed while it was measured pulls no harder than 2.5 spreads
        candidates = [kept]
        spread = 1.4826 * float(np.median(np.abs(left_out)))
        noise = np.maximum(1.0, np.abs(left_out) / max(2.5 * spread, 1e-9))
    return best or _Fit(0.0, float(np.median(1.0 / total)), unchanged, 0.0)


def _cross_validate(
    counts: np.ndarray, rows: np.ndarray, measured: np.ndarray, refine: bool, fitted: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[_Fit]]:
    """Refit without each fold in turn, on those networks that are `fitted` (a bool mask); all get a residual.

    Returns
    -------
    tuple
        Each network's measured over predicted latency less 1, predicted by the fit that never saw
        it; the index of that fit; and the fits.
    """
    residuals, owner = np.zeros(len(measured)), np.zeros(len(measured), dtype=np.intp)
    fits: list[_Fit] = []
    order = np.random.default_rng(0).permutation(len(measured))
    for fold in np.array_split(order, min(FOLDS, len(measured))) if len(measured) > 1 else ():
        rest = np.setdiff1d(order[fitted[order]], fold)
        fits.append(_fit(counts[rest], rows, measured[rest], refine))
        owner[fold] = len(fits) - 1
        residuals[fold] = measured[fold] / fits[-1].predict(counts[fold], rows) - 1.0
    return residuals, owner, fits


@dataclass(frozen=True, eq=False)
class LatencyModel:
    """Prices every architecture of a space on one device.

    Make one with `from_table`.

    Attributes
    ----------
    space
        The space whose architectures it prices.
    device, method
        Key of the device, and how its numbers came to be (``measured``, ...).
    context
        Which of the table's rows were used; ``learned`` if they are its predictor's.
    additive
        Milliseconds as table look-ups, correction included.
    block_ms
        Milliseconds of each block of ``space.catalog``, correction included, without the intercept.
    intercept_ms
        Milliseconds that belong to no block.
    slope
        What the rows are multiplied by.
    strength
        How far rows were adjusted one by one: 0 for not at all, see `STRENGTHS`.
    networks
        How many whole networks the correction was fitted on.
    residuals
        Relative residuals of all networks, unstable ones too, each under a fit that never saw it; ``(n,)``.
    folds, fold_of
        These fits as look-ups, and which of them each residual belongs to.
    """

    space: SearchSpace
    device: str
    method: str
    context: str
    additive: AdditiveCost
    block_ms: np.ndarray
    intercept_ms: float
    slope: float
    strength: float
    networks: int
    residuals: np.ndarray
    folds: tuple[AdditiveCost, ...]
    fold_of: np.ndarray

    @classmethod
    def from_table(
        cls,
        space: SearchSpace,
        table: LatencyTable,
        context: str | None = None,
        *,
        refine: bool = DEFAULT_REFINE,
        networks: Sequence[NetworkRow] | None = None,
    ) -> LatencyModel:
        """Read the rows of `space` from `table`, and fit the correction on its whole networks.

        The correction minimises relative errors: a slope, or a slope and an intercept, and with
        `refine` a ridge-regularised change of every row (shrunk to the rows; how strongly is chosen,
        like the rest, by leave-one-out error). Without networks the rows are summed as they are,
        and the interval is unknown. Networks marked unstable are not fitted on when at least half are
        stable; they do count for the interval.

        Parameters
        ----------
        space, table
            What to price, and the measurements.
        context
            ``"network"`` or ``"isolated"`` rows, or ``"learned"`` ones of the table's predictor of kernels. By default
            those that cover every block of the space; of two that do, those with the smaller cross-validated error on
            the networks, and without enough networks for that, `DEFAULT_CONTEXT`; learned ones if none do.
        refine
            Whether to adjust single rows.
        networks
            Fit on these instead of on all networks of this very space in the table.

        Raises
        ------
        TableError
            If blocks have no row, or rows and networks were obtained by different methods.
        """
        key = table.device.key
        signatures = [block.signature for block in space.catalog]
        contexts = [context] if context else [DEFAULT_CONTEXT, *({"network", "isolated"} - {DEFAULT_CONTEXT})]
        vectors = {name: table.vector(signatures, name) for name in contexts}
        missing = {name: int(np.isnan(vector).sum()) for name, vector in vectors.items()}
        complete = [name for name in contexts if not missing[name]]
        if len(complete) > 1:
            models = [cls.from_table(space, table, name, refine=refine, networks=networks) for name in complete]
            enough = models[0].networks >= FOLDS
            return min(models, key=lambda model: float(np.mean(model.residuals**2))) if enough else models[0]
        chosen = min(contexts, key=lambda name: missing[name])
        spare: Sequence[float] = ()
        if missing[chosen] and context in (None, LEARNED):
            from hwnas.learned_rows import learn_rows

            if (learned := learn_rows(space, table)) is not None:
                chosen, missing[LEARNED] = LEARNED, 0
                vectors[LEARNED], spare = learned
        if missing[chosen]:
            raise TableError(
                f"{missing[chosen]} of the {len(signatures)} blocks of {space.spec} have no latency for {key}; "
                f"measure them with: hwnas profile --device {key} --space '{space.spec}'"
            )
        rows = vectors[chosen]
        pool = [row for row in (table.networks if networks is None else networks) if row.space == space.spec]
        used = [table.rows[signature, chosen] for signature in signatures if (signature, chosen) in table.rows]
        methods = {row.method for row in (*used, *pool)} | {table.device.method}
        if len(methods) > 1:
            raise TableError(f"the table of {table.device.key} mixes the methods {', '.join(sorted(methods))}")
        # an unstable network pulls no fit, but the interval must know that such networks are met
        fitted = np.array([row.stable for row in pool], dtype=bool)
        if 2 * fitted.sum() < len(pool):
            fitted[:] = True
        counts = space.counts(np.array([space.validate(row.architecture) for row in pool])) if pool else None
        if counts is None:
            counts = np.zeros((0, len(rows)), dtype=np.int64)
        measured = np.array([row.median_ms for row in pool])
        fit = _fit(counts[fitted], rows, measured[fitted], refine)
        residuals, owner, fits = _cross_validate(counts, rows, measured, refine, fitted)
        if not fits and len(spare):  # no network of this space was measured: those of the predictor stand in
            residuals, owner, fits = np.array(spare), np.zeros(len(spare), dtype=np.intp), [fit]

        def look_ups(one: _Fit) -> AdditiveCost:
            return AdditiveCost.from_space(space, one.block_ms(rows)).scaled(1.0, one.intercept)

        return cls(
            space=space,
            device=table.device.key,
            method=table.device.method,
            context=chosen,
            additive=look_ups(fit),
            block_ms=fit.block_ms(rows),
            intercept_ms=fit.intercept,
            slope=fit.slope,
            strength=fit.strength,
            networks=int(fitted.sum()),
            residuals=residuals if fits else np.zeros(0),
            folds=tuple(look_ups(one) for one in fits),
            fold_of=owner,
        )

    def predict(self, architectures: np.ndarray) -> np.ndarray:
        """Milliseconds of `architectures`, shape ``(n, decisions)``; returns ``(n,)``."""
        return self.additive.values(architectures)

    def _rank(self, level: float) -> int:
        """Which of the sorted residuals bounds a new one with probability `level`; 0 if there are too few."""
        if not 0 < level < 1:
            raise ValueError(f"a level is between 0 and 1, not {level}")
        rank = math.ceil((len(self.residuals) + 1) * level - 1e-9)
        return rank if rank <= len(self.residuals) else 0

    def relative_error(self, level: float = 0.9) -> float:
        """The conformal quantile of the relative error: one number for the whole space; NaN if unknown.

        The ``ceil((n + 1) * level)``-th smallest of n cross-validated absolute residuals.
        """
        rank = self._rank(level)
        return float(np.sort(np.abs(self.residuals))[rank - 1]) if rank else math.nan

    def interval(self, architectures: np.ndarray, level: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        """Milliseconds that a measurement of each architecture lies between with probability `level`.

        The CV+ interval (the jackknife+ for up to 20 networks; Barber, Candès, Ramdas, Tibshirani,
        Annals of Statistics 49(1), 2021) on relative residuals: every network is predicted by a fit
        that never saw it, the whole fit repeated, and the interval joins these fits' predictions of
        the new architecture with their residuals. So no network is spent on calibration alone.
        Coverage is `level` in practice; what is proven without assumptions is ``2 * level - 1``,
        less a term that vanishes with many networks. Needs ``level / (1 - level)`` networks: 9 for 0.9.

        Returns
        -------
        tuple of numpy.ndarray
            Lower and upper ends, each ``(n,)``; NaN where the table has too few networks.
        """
        rank = self._rank(level)
        count = len(np.atleast_2d(architectures))
        if not rank:
            return np.full(count, np.nan), np.full(count, np.nan)
        low, high = np.empty(count), np.empty(count)
        width = np.abs(self.residuals)
        for start in range(0, count, CHUNK):
            chunk = np.atleast_2d(architectures)[start : start + CHUNK]
            predicted = np.stack([fold.values(chunk) for fold in self.folds])[self.fold_of]
            ends = np.sort(predicted * (1.0 + width[:, None]), axis=0)
            low[start : start + CHUNK] = np.sort(predicted * (1.0 - width[:, None]), axis=0)[-rank]
            high[start : start + CHUNK] = ends[rank - 1]
        predicted = self.predict(np.atleast_2d(architectures))  # may lie outside where networks are few
        return np.clip(low, 0.0, predicted), np.maximum(high, predicted)
