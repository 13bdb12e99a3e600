"""Latency from few measurements: of architectures or kernels, on a device that is new, with the help of others.

`LatencyPredictor` is a Gaussian process on groups of features, of which one may be the latency on other devices.
Latency is modelled in milliseconds, because it adds up over a network's parts. How much each group matters, linearly
and smoothly, and whether noise grows with latency, is not known from twenty measurements, so many settings are drawn,
and their predictions averaged by the evidence for them (Bayesian model averaging). Outliers are weighed down, and the
interval is calibrated on leave-one-out residuals (conformal prediction).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hwnas.spaces.errors import ConfigError, TableError
from hwnas.spaces.files import atomic_write

__all__ = ["SOURCES", "LatencyPredictor", "PredictedLatency", "choose_items"]

Features = Mapping[str, np.ndarray]

#: the group of features that holds latencies on other devices: its columns keep their proportions
SOURCES = "sources"
#: settings drawn; how many of them are looked at again once outliers are known; how many are kept for predictions
DRAWS, LIKELY, KEPT = 300, 60, 30
#: fewer where each takes long
KEPT_OF_MANY = 3
#: how often a group takes part linearly, and smoothly (with a Gaussian kernel), in a setting
LINEAR, SMOOTH = 0.65, 0.3
#: powers of ten of a group's weight, and of the noise relative to the signal
WEIGHT, NOISE = (-2.0, 0.3), (-2.7, -0.5)
#: the noise's variance grows with one of these powers of latency
POWERS = (0, 1)
#: of the inverse-gamma prior of the signal's variance, relative to the squared latency
SHAPE, SCALE = 1.0, 0.04
#: residuals beyond so many spreads are weighed down (Huber)
HUBER, ROUNDS = 2.0, 3
#: measurements that settings are compared on, that the best ones are compared on once more, and that are used at most
COMPARED, AGAIN, MOST = 150, 1000, 2000
#: how many settings are compared once more: what is smooth, and how little is noise, only many measurements tell
BEST = 20
#: no prediction is less than this share of the measurements' geometric mean
FLOOR = 0.05
#: prior variances of a group, linear (less for the other devices) and smooth, and noise, when items are chosen
CHOICE_LINEAR, CHOICE_SMOOTH, CHOICE_SOURCES, CHOICE_NOISE = 1.0, 0.1, 0.3, 0.1
FORMAT = "hwnas latency predictor 2"


@dataclass(frozen=True)
class PredictedLatency:
    """Milliseconds, shape ``(n,)``, and the bounds that a measurement lies between with the probability asked for."""

    ms: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True, eq=False)
class _Scaling:
    """How the columns of one group become numbers of unit total variance."""

    name: str
    mean: np.ndarray
    factor: np.ndarray

    @classmethod
    def of(cls, name: str, values: np.ndarray) -> _Scaling:
        if name == SOURCES:
            factor = 1 / values.mean(axis=0)
        else:
            spread = values.std(axis=0)
            constant = spread <= 1e-9 * np.abs(values).max(axis=0)
            factor = np.where(constant, 0.0, 1 / np.where(constant, 1.0, spread))
        scaled = (values - values.mean(axis=0)) * factor
        total = math.sqrt(float((scaled**2).sum(axis=1).mean()))
        return cls(name, values.mean(axis=0), factor / max(total, 1e-12))

    def __call__(self, values: np.ndarray) -> np.ndarray:
        return np.asarray((values - self.mean) * self.factor)


@dataclass(frozen=True, eq=False)
class _Setting:
    """One way of weighing the groups, fitted: ``mean + sum over kernels of weight * kernel(new, measured) @ dual``."""

    weights: np.ndarray
    noise: float
    power: int
    share: float
    mean: float
    dual: np.ndarray
    inverse: np.ndarray
    variance: float


class LatencyPredictor:
    """Latency of items on one device, from the features of items that were measured.

    Made by `fit` or `transfer`, or read by `load`.
    """

    def __init__(
        self,
        scalings: list[_Scaling],
        measured: dict[str, np.ndarray],
        latency_ms: np.ndarray,
        sources: Mapping[str, LatencyPredictor] | None = None,
    ) -> None:
        self._scalings, self._measured, self._sources = scalings, measured, dict(sources or {})
        self.latency_ms = latency_ms
        self._unit = float(np.exp(np.log(latency_ms).mean()))
        self._target = latency_ms / self._unit
        self._points = self._scaled(measured)
        self._settings, self._scores = self._fit()

    # ------------------------------------------------------------------ making

    @classmethod
    def fit(cls, features: Features, latency_ms: np.ndarray, *, reference: Features | None = None) -> LatencyPredictor:
        """Fit on measured items.

        Parameters
        ----------
        features
            Group names to arrays of shape ``(n, columns)``, such as `hwnas.features.architecture_features` gives.
            A group called ``sources`` holds latencies on other devices, one column a device.
        latency_ms
            What was measured, shape ``(n,)``.
        reference
            Features of many items, such as all that may be asked about, to scale by; `features` if not given.

        Raises
        ------
        TableError
            If a latency is not a positive number, there are fewer than 3, or features do not fit together.
        """
        return cls._make(features, latency_ms, reference, {})

    @classmethod
    def transfer(
        cls,
        sources: Mapping[str, LatencyPredictor],
        features: Features,
        latency_ms: np.ndarray,
        *,
        reference: Features | None = None,
    ) -> LatencyPredictor:
        """Fit on a few measured items of a new device, with the predictors of other devices as further features.

        Parameters
        ----------
        sources
            Device names to predictors that take the same groups of features.
        features, latency_ms, reference
            See `fit`.
        """
        if not sources:
            raise ConfigError("a transfer needs the predictor of at least one other device; use fit without them")
        return cls._make(features, latency_ms, reference, sources)

    @classmethod
    def _make(
        cls,
        features: Features,
        latency_ms: np.ndarray,
        reference: Features | None,
        sources: Mapping[str, LatencyPredictor],
    ) -> LatencyPredictor:
        latency = _latencies(latency_ms)
        measured = _with_sources(_arrays(features, len(latency)), sources)
        wide = measured if reference is None else _with_sources(_arrays(reference), sources)
        if list(wide) != list(measured) or any(wide[name].shape[1] != measured[name].shape[1] for name in wide):
            raise TableError("the features to scale by are not of the same groups and columns as those measured")
        return cls([_Scaling.of(name, values) for name, values in wide.items()], measured, latency, sources)

    # ------------------------------------------------------------------ asking

    def predict(self, features: Features, *, interval: float | None = 0.9) -> PredictedLatency:
        """Latency of items, and the interval that a measurement lies in with probability `interval`.

        The interval is infinite where there are too few measurements for that probability, and left out (NaN) for
        None, which is faster.
        """
        if interval is not None and not 0 < interval < 1:
            raise ConfigError(f"the level of an interval is between 0 and 1, such as 0.9, not {interval}")
        given = _with_sources(_arrays(features), self._sources)
        for scaling in self._scalings:
            if scaling.name not in given:
                raise TableError(f"the predictor was fitted on the features {scaling.name!r}, which are missing here")
            columns = given[scaling.name].shape[1]
            if columns != len(scaling.mean):
                raise TableError(
                    f"the features {scaling.name!r} have {columns} columns here and had {len(scaling.mean)} when fitted"
                )
        points = self._scaled(given)
        crosses = _kernels(points, self._points)
        norms = np.stack([(x**2).sum(axis=1) for x in points])
        mean, square = np.zeros(norms.shape[1]), np.zeros(norms.shape[1])
        for setting in self._settings:
            cross = _combine(crosses, setting.weights)
            value = setting.mean + cross @ setting.dual
            mean += setting.share * value
            if interval is not None:
                spread = setting.weights[0::2] @ norms + setting.weights[1::2].sum()
                spread -= ((cross @ setting.inverse) * cross).sum(axis=1)
                noise = setting.noise * np.maximum(value, FLOOR) ** setting.power
                variance = setting.variance * (np.maximum(spread, 0.0) + noise)
                square += setting.share * (variance + value**2)
        width = np.full_like(mean, np.nan)
        if interval is not None:
            rank = math.ceil((len(self._scores) + 1) * interval) - 1
            quantile = np.sort(self._scores)[rank] if rank < len(self._scores) else np.inf
            width = quantile * np.sqrt(np.maximum(square - mean**2, 1e-18))
        mean = np.maximum(mean, FLOOR)
        low, high = np.maximum(mean - width, 0.0), mean + width
        return PredictedLatency(self._unit * mean, self._unit * low, self._unit * high)

    def _scaled(self, features: Features) -> list[np.ndarray]:
        return [scaling(features[scaling.name]) for scaling in self._scalings]

    # ------------------------------------------------------------------ fitting

    def _fit(self) -> tuple[list[_Setting], np.ndarray]:
        """The likeliest settings, and every measurement's leave-one-out residual in standard deviations."""
        count = len(self._target)
        parts = _kernels(self._points, self._points)
        some = np.arange(count)
        if count > COMPARED:  # the settings are compared on some, and the best ones fitted on all
            some = np.random.default_rng(0).permutation(count)[:COMPARED]
        target, compared = self._target[some], [part[np.ix_(some, some)] for part in parts]
        drawn = _draw_settings(len(self._scalings))
        inflation, likely = np.ones(len(some)), list(range(len(drawn)))
        for number in range(ROUNDS):
            solved = {
                i: _solve(_combine(compared, drawn[i].weights), target, drawn[i].variances(target) * inflation)
                for i in likely
            }
            highest = max(found.evidence for found in solved.values())
            share = {i: math.exp(found.evidence - highest) for i, found in solved.items()}
            left_out = sum(share[i] * solved[i].residual for i in likely) / sum(share.values()) / target
            spread = 1.4826 * float(np.median(np.abs(left_out)))
            inflation = np.maximum(1.0, np.abs(left_out) / max(HUBER * spread, 1e-9))
            likely = sorted(share, key=lambda i: -share[i])[: LIKELY if number < ROUNDS - 1 else KEPT]
        if count > COMPARED:
            share, solved = self._fit_again(parts, {i: drawn[i] for i in likely[:BEST]})
            likely = list(solved)
        settings, mean, square = [], np.zeros(count), np.zeros(count)
        for index in likely:
            found, portion = solved[index], share[index] / sum(share[i] for i in likely)
            settings.append(_Setting(*drawn[index], portion, found.mean, found.dual, found.inverse, found.variance))
            value = self._target - found.residual
            mean += portion * value
            square += portion * (found.left_variance + value**2)
        return settings, np.abs(self._target - mean) / np.sqrt(np.maximum(square - mean**2, 1e-18))

    def _fit_again(
        self, parts: list[np.ndarray], drawn: Mapping[int, _Drawn]
    ) -> tuple[dict[int, float], dict[int, _Solved]]:
        """Settings compared on more measurements: the evidence for each, and the best ones fitted on all."""
        some = np.random.default_rng(0).permutation(len(self._target))[:AGAIN]
        fewer = parts if len(some) == len(self._target) else [part[np.ix_(some, some)] for part in parts]
        target = self._target if fewer is parts else self._target[some]
        evidence = {
            i: _solve(_combine(fewer, one.weights), target, one.variances(target)).evidence for i, one in drawn.items()
        }
        best = sorted(evidence, key=lambda i: -evidence[i])[:KEPT_OF_MANY]
        share = {i: math.exp(evidence[i] - evidence[best[0]]) for i in best}
        return share, {
            i: _solve(_combine(parts, drawn[i].weights), self._target, drawn[i].variances(self._target)) for i in best
        }

    # ------------------------------------------------------------------ files

    def save(self, path: str | Path) -> None:
        """Write everything as JSON: what was measured is kept, and fitted again when read."""
        atomic_write(Path(path), json.dumps(self._record()).encode())

    def _record(self) -> dict[str, Any]:
        own = {name: values.tolist() for name, values in self._measured.items() if name != SOURCES or not self._sources}
        scalings = [
            {"name": scaling.name, "mean": scaling.mean.tolist(), "factor": scaling.factor.tolist()}
            for scaling in self._scalings
        ]
        return {
            "format": FORMAT,
            "scalings": scalings,
            "features": own,
            "latency_ms": self.latency_ms.tolist(),
            "sources": {name: source._record() for name, source in self._sources.items()},
        }

    @classmethod
    def load(cls, path: str | Path) -> LatencyPredictor:
        """Read what `save` wrote.

        Raises
        ------
        TableError
            If there is no such file, or it is not a predictor's.
        """
        try:
            record = json.loads(Path(path).read_bytes())
            return cls._read(record)
        except OSError as error:
            raise TableError(f"cannot read {path}: {error.strerror}; check the path") from error
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError) as error:
            raise TableError(
                f"{path} is not a latency predictor that this version of hwnas reads; fit it again"
            ) from error

    @classmethod
    def _read(cls, record: dict[str, Any]) -> LatencyPredictor:
        if record["format"] != FORMAT:
            raise ValueError(record["format"])
        sources = {name: cls._read(source) for name, source in record["sources"].items()}
        latency = _latencies(record["latency_ms"])
        own = _arrays(record["features"], len(latency))
        measured = _with_sources(own, sources)
        scalings = [
            _Scaling(s["name"], np.array(s["mean"], dtype=float), np.array(s["factor"], dtype=float))
            for s in record["scalings"]
        ]
        if [scaling.name for scaling in scalings] != list(measured):
            raise ValueError("its scalings are of other features")
        for scaling in scalings:
            shape = measured[scaling.name].shape[1:]
            if not all(x.shape == shape and np.isfinite(x).all() for x in (scaling.mean, scaling.factor)):
                raise ValueError(f"its scaling of {scaling.name} is damaged")
        return cls(scalings, measured, latency, sources)


def choose_items(features: Features, count: int, *, candidates: int = 500, seed: int = 0) -> np.ndarray:
    """Which items to measure: in turn the one whose measurement tells most about all the others.

    That is the one that lowers the total variance of a Gaussian process on the features most (active learning,
    Cohn 1996); no latency need be known. The first ones chosen are a good choice of fewer.

    Parameters
    ----------
    features
        Of all items, see `LatencyPredictor.fit`; with a group ``sources`` if there are other devices.
    count
        How many to choose.
    candidates
        The choice is made among so many, drawn at random.
    seed
        Of that draw.

    Returns
    -------
    numpy.ndarray
        Indices of items.
    """
    arrays = _arrays(features)
    total = len(next(iter(arrays.values())))
    drawn = np.random.default_rng(seed).permutation(total)[: max(candidates, count)]
    if not 0 < count <= len(drawn):
        raise ConfigError(f"cannot choose {count} of {total} items to measure")
    points = [_Scaling.of(name, values)(values[drawn]) for name, values in arrays.items()]
    linear = [CHOICE_SOURCES if name == SOURCES else CHOICE_LINEAR for name in arrays]
    left = _combine(_kernels(points, points), np.array([[weight, CHOICE_SMOOTH] for weight in linear]).reshape(-1))
    chosen: list[int] = []
    for _ in range(count):
        gain = (left**2).sum(axis=0) / (np.diag(left) + CHOICE_NOISE)
        gain[chosen] = -1.0
        best = int(gain.argmax())
        chosen.append(best)
        left = left - np.outer(left[:, best], left[best]) / (left[best, best] + CHOICE_NOISE)
    return np.asarray(drawn[chosen])


# ---------------------------------------------------------------------- parts


def _latencies(latency_ms: np.ndarray) -> np.ndarray:
    latency = np.asarray(latency_ms, dtype=float)
    if latency.ndim != 1 or len(latency) < 3:
        raise TableError(f"a predictor needs at least 3 measured latencies, not {latency.size}")
    if not (np.isfinite(latency).all() and (latency > 0).all()):
        raise TableError("a latency to fit on is not a positive number of milliseconds; leave that item out")
    if len(latency) > MOST:
        raise TableError(f"a predictor takes up to {MOST:,} measurements, not {len(latency):,}; give a sample of them")
    return latency


def _arrays(features: Features, count: int | None = None) -> dict[str, np.ndarray]:
    arrays = {name: np.asarray(values, dtype=float) for name, values in features.items()}
    if not arrays or any(values.ndim != 2 or not np.isfinite(values).all() for values in arrays.values()):
        raise TableError("features are groups of finite numbers, each of the shape (items, columns)")
    lengths = {len(values) for values in arrays.values()}
    if len(lengths) > 1 or (count is not None and lengths != {count}):
        raise TableError(f"features are of {sorted(lengths)} items, and latencies of {count}; give one row an item")
    return arrays


def _with_sources(features: dict[str, np.ndarray], sources: Mapping[str, LatencyPredictor]) -> dict[str, np.ndarray]:
    if not sources:
        return features
    columns = [source.predict(features, interval=None).ms for source in sources.values()]
    return {**features, SOURCES: np.stack(columns, axis=1)}


class _Drawn(NamedTuple):
    """Weights of every group's linear and smooth kernel, the noise, and the power of latency that it grows with."""

    weights: np.ndarray
    noise: float
    power: int

    def variances(self, target: np.ndarray) -> np.ndarray:
        """Of the noise of each measurement, relative to the signal's."""
        return np.asarray(self.noise * target**self.power)


def _draw_settings(groups: int) -> list[_Drawn]:
    """Settings to be compared; always the same draws."""
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(DRAWS):
        on = rng.random(2 * groups) < np.tile([LINEAR, SMOOTH], groups)
        weights = np.where(on, 10 ** rng.uniform(*WEIGHT, 2 * groups), 0.0)
        if not on.any():
            weights[0::2] = 1.0
        drawn.append(_Drawn(weights, float(10 ** rng.uniform(*NOISE)), int(rng.choice(POWERS))))
    return drawn


def _kernels(first: list[np.ndarray], second: list[np.ndarray]) -> list[np.ndarray]:
    """For every group the linear and the smooth kernel between two sets of items."""
    parts = []
    for x, y in zip(first, second, strict=True):
        product = x @ y.T
        distance = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1)[None] - 2 * product
        parts += [product, np.exp(-np.maximum(distance, 0.0) / 4.0)]
    return parts


def _combine(parts: list[np.ndarray], weights: np.ndarray) -> np.ndarray:
    return np.asarray(sum(weight * part for weight, part in zip(weights.tolist(), parts, strict=True) if weight))


@dataclass(frozen=True, eq=False)
class _Solved:
    evidence: float
    mean: float
    dual: np.ndarray
    inverse: np.ndarray
    variance: float
    residual: np.ndarray
    left_variance: np.ndarray


def _solve(kernel: np.ndarray, target: np.ndarray, noise: np.ndarray) -> _Solved:
    """A Gaussian process with an unknown mean and scale, both integrated out, and noise of these variances.

    With Q the inverse of the covariance, the mean projected out, the leave-one-out residual of measurement i is
    ``(Q y)_i / Q_ii`` and its variance ``1 / Q_ii`` (Dubrule, Mathematical Geology 15(6), 1983).
    """
    from scipy.linalg.lapack import dpotrf, dpotri

    count = len(target)
    factor, _ = dpotrf(kernel + np.diag(noise), lower=1)
    inverse, _ = dpotri(factor, lower=1)
    inverse = np.tril(inverse) + np.tril(inverse, -1).T
    columns = inverse.sum(axis=1)
    total = float(columns.sum())
    projected = inverse - np.outer(columns, columns) / total
    dual = projected @ target
    scale = SCALE + float(target @ dual) / 2
    shape = SHAPE + (count - 1) / 2
    evidence = -float(np.log(np.diag(factor)).sum()) - 0.5 * math.log(total) - shape * math.log(scale)
    diagonal = np.maximum(np.diag(projected), 1e-12)
    variance = scale / shape
    mean = float(columns @ target) / total
    return _Solved(evidence, mean, dual, projected, variance, dual / diagonal, variance / diagonal)
