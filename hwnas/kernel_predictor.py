"""Learned latency of single kernels: gradient-boosted trees, one ensemble a family, on top of a roofline.

A roofline (milliseconds from multiply-accumulates and bytes) gives the scale, so that trees, which cannot extrapolate,
only learn by which factor a kernel departs from it. Trees of several seeds are averaged; how far they lie apart says
where to measure next. The interval of a whole network is calibrated on networks that had no part in fitting
(split conformal prediction, cross-validated).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwnas.kernel_features import Vocabulary, kernel_facts
from hwnas.profilers.division import DividedNetwork
from hwnas.spaces.errors import ModelError, TableError
from hwnas.spaces.files import atomic_write
from hwnas.spaces.placement import PlacedKernel, Placement

if TYPE_CHECKING:
    from xgboost import Booster

__all__ = ["KernelPredictor"]

Kernels = Sequence[tuple[PlacedKernel, Placement]]

#: a family has trees of its own from this many kernels on
ENOUGH = 8
#: milliseconds below which a counter says nothing, and kernels count as fused away
SMALLEST_MS = 5e-4
#: trees of one booster, and boosters of one family
TREES, BOOSTERS = 200, 3
SETTINGS = {
    "learning_rate": 0.1,
    "max_depth": 4,
    "subsample": 0.8,
    "colsample_bytree": 0.8,
    "min_child_weight": 0.0,
    "reg_lambda": 1.0,
    "nthread": 1,
}
#: kernels weigh in fitting by this power of their latency: an error of a long one matters more
WEIGHT = 0.0
#: parts of the cross-validation that intervals rest on
FOLDS = 5
FORMAT = "hwnas kernel predictor 1"


@dataclass(frozen=True)
class _Family:
    """Roofline and trees of one family."""

    line: np.ndarray
    vocabulary: Vocabulary
    boosters: tuple[Booster, ...]

    def log_ms(self, kernels: Kernels) -> np.ndarray:
        """Logarithms of milliseconds by each booster, shape ``(boosters, kernels)``."""
        base = np.log(np.maximum(_costs(kernels) @ self.line, SMALLEST_MS))
        if not self.boosters:
            return base[None]
        rows = self.vocabulary.rows(kernels)
        return np.stack([base + booster.inplace_predict(rows) for booster in self.boosters])


class KernelPredictor:
    """Milliseconds of every kernel of a network on one device; make one with `fit` or `load`."""

    def __init__(self, families: dict[str, _Family], line: np.ndarray, ratios: Sequence[float]) -> None:
        self._families = families
        #: milliseconds a kernel, a multiply-accumulate and a byte, over all families
        self.roofline = line
        #: measured over predicted latency of networks that had no part in fitting, sorted
        self.ratios = tuple(sorted(ratios))
        #: their median, which every prediction is corrected by: means of logarithms lie below means
        self.correction = float(np.median(self.ratios)) if self.ratios else 1.0

    @classmethod
    def fit(cls, networks: Sequence[DividedNetwork], *, seed: int = 0, calibrate: bool = True) -> KernelPredictor:
        """Learn from networks that were measured and divided.

        Parameters
        ----------
        networks
            At least two.
        seed
            Of the trees.
        calibrate
            Whether to cross-validate for `interval`, which takes as long as five fits.

        Raises
        ------
        TableError
            If there are fewer than two networks.
        """
        if len(networks) < 2:
            raise TableError(f"predictors of kernels learn from two networks or more, not {len(networks)}")
        families, line = _fit(networks, seed)
        ratios: list[float] = []
        folds = min(FOLDS, len(networks)) if calibrate else 0
        order = np.random.default_rng(seed).permutation(len(networks))
        for fold in range(folds):
            held = set(order[fold::folds].tolist())
            part = cls(*_fit([n for index, n in enumerate(networks) if index not in held], seed), ())
            ratios += [networks[index].latency_ms / part.latency(networks[index].placement) for index in held]
        return cls(families, line, ratios)

    # ------------------------------------------------------------------ prediction

    def kernel_ms(self, network: Placement) -> np.ndarray:
        """Milliseconds of each kernel of a network; NaN for families that were never measured."""
        return np.asarray(np.exp(self._log_ms(network).mean(axis=0)) * self.correction)

    def latency(self, network: Placement) -> float:
        """Milliseconds of a whole network; kernels of unknown families by the roofline of all."""
        return float(np.where(np.isnan(ms := self.kernel_ms(network)), self.roofline_ms(network), ms).sum())

    def roofline_ms(self, network: Placement) -> np.ndarray:
        """Milliseconds of each kernel by the roofline of all families, SMALLEST_MS for what hwnas has no kernel for."""
        costs = [_cost(kernel.signature) for kernel in network.kernels]
        return np.asarray(np.maximum(np.array(costs) @ self.roofline, SMALLEST_MS))

    def doubt(self, network: Placement) -> float:
        """How far the boosters lie apart on a network's latency, as a share of it; 1 for unknown families."""
        log_ms = self._log_ms(network)
        ms, known = np.exp(log_ms.mean(axis=0)), ~np.isnan(log_ms[0])
        spread = np.where(known, log_ms.std(axis=0, ddof=1), 1.0)
        ms = np.where(known, ms, self.roofline_ms(network))
        return float((ms * spread).sum() / ms.sum())

    def interval(self, level: float) -> tuple[float, float]:
        """Factors on a predicted latency that a measurement lies between with probability `level`.

        Raises
        ------
        TableError
            If the predictor was not calibrated.
        """
        if not self.ratios:
            raise TableError("this predictor was fitted without calibration and has no interval; fit it with it")
        count = len(self.ratios)
        rank = math.ceil((count + 1) * (1 - level) / 2) - 1
        # with few networks the interval asked for reaches beyond all residuals: then it is widened in proportion
        low = self.ratios[max(rank, 0)] / self.correction
        high = self.ratios[min(count - 1 - rank, count - 1)] / self.correction
        if (count + 1) * (1 - level) / 2 < 1:
            reach = math.log(2 / (1 - level)) / math.log(count + 1)
            low, high = min(low, 1.0) ** reach, max(high, 1.0) ** reach
        return low, high

    def _log_ms(self, network: Placement) -> np.ndarray:
        """Logarithms of milliseconds, shape ``(BOOSTERS, kernels)``; NaN for unknown families."""
        found = np.full((BOOSTERS, len(network.kernels)), np.nan)
        for name, members in _by_family([(kernel, network) for kernel in network.kernels]).items():
            family = self._families.get(name)
            if family is not None:
                found[:, members] = family.log_ms([(network.kernels[index], network) for index in members])
        return found

    # ------------------------------------------------------------------ files

    def save(self, file: str | Path, **notes: Any) -> None:
        """Write the predictor as JSON, with `notes` of the caller."""
        families = {
            name: {
                "line": family.line.tolist(),
                "flags": list(family.vocabulary.names),
                "boosters": [booster.save_raw("json").decode() for booster in family.boosters],
            }
            for name, family in self._families.items()
        }
        content = {
            "format": FORMAT,
            "notes": notes,
            "line": self.roofline.tolist(),
            "ratios": list(self.ratios),
            "families": families,
        }
        atomic_write(Path(file), json.dumps(content, allow_nan=False).encode())

    @classmethod
    def load(cls, file: str | Path) -> tuple[KernelPredictor, dict[str, Any]]:
        """Read what `save` wrote: the predictor and the notes.

        Raises
        ------
        TableError
            If the file is missing or holds something else.
        """
        try:
            content = json.loads(Path(file).read_bytes())
            if content["format"] != FORMAT:
                raise TableError(f"{file} is {content['format']!r}, not {FORMAT!r}; profile again")
            families = {
                str(name): _Family(
                    _numbers(family["line"], 3),
                    Vocabulary(list(map(str, family["flags"]))),
                    _boosters(family["boosters"]),
                )
                for name, family in content["families"].items()
            }
            ratios = _numbers(content["ratios"], len(content["ratios"]))
            return cls(families, _numbers(content["line"], 3), ratios.tolist()), dict(content["notes"])
        except OSError as error:
            raise TableError(f"cannot read {file}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TableError(
                f"{file} is no kernel predictor of hwnas ({error}); delete it and profile again"
            ) from error


def _numbers(values: Any, count: int) -> np.ndarray:
    found = np.array(values, dtype=np.float64)
    if found.shape != (count,) or not np.isfinite(found).all():
        raise ValueError("its numbers are damaged")
    return found


def _boosters(saved: list[str]) -> tuple[Booster, ...]:
    from xgboost import Booster
    from xgboost.core import XGBoostError

    try:
        return tuple(Booster(model_file=bytearray(text.encode())) for text in saved)
    except XGBoostError as error:
        raise ValueError(f"its trees are damaged: {str(error).splitlines()[0]}") from error


# ---------------------------------------------------------------------- fitting


def _cost(signature: str) -> tuple[float, float, float]:
    """What rooflines are linear in: one, multiply-accumulates, bytes."""
    try:
        facts = kernel_facts(signature)
    except ModelError:
        return 0.0, 0.0, 0.0  # an operator that hwnas has no kernel for
    return 1.0, float(facts.macs), float(facts.bytes)


def _costs(kernels: Kernels) -> np.ndarray:
    return np.array([_cost(kernel.signature) for kernel, _ in kernels])


def _by_family(kernels: Kernels) -> dict[str, list[int]]:
    """Indices of kernels by family; those that hwnas has no kernel for are left out."""
    found: dict[str, list[int]] = {}
    for index, (kernel, _) in enumerate(kernels):
        try:
            found.setdefault(kernel_facts(kernel.signature).family, []).append(index)
        except ModelError:
            continue
    return found


def _fit(networks: Sequence[DividedNetwork], seed: int) -> tuple[dict[str, _Family], np.ndarray]:
    kernels = [(kernel, network.placement) for network in networks for kernel in network.placement.kernels]
    measured = np.array([ms for network in networks for ms in network.kernel_ms])
    members = _by_family(kernels)
    known = np.concatenate([np.array(rows) for rows in members.values()])
    run = known[measured[known] > SMALLEST_MS]
    line = _roofline(_costs([kernels[index] for index in run]), measured[run])
    families = {
        name: _fit_family([kernels[index] for index in rows], measured[rows], line, seed)
        for name, rows in members.items()
    }
    return families, line


def _fit_family(kernels: Kernels, measured: np.ndarray, line: np.ndarray, seed: int) -> _Family:
    import xgboost

    vocabulary, costs = Vocabulary.of(kernel for kernel, _ in kernels), _costs(kernels)
    run = measured > SMALLEST_MS
    if run.sum() >= ENOUGH:
        line = _roofline(costs[run], measured[run])
    if len(measured) < ENOUGH:
        return _Family(line, vocabulary, ())
    ms = np.maximum(measured, SMALLEST_MS)
    target = np.log(ms / np.maximum(costs @ line, SMALLEST_MS))
    data = xgboost.DMatrix(vocabulary.rows(kernels), target, weight=ms**WEIGHT / (ms**WEIGHT).mean(), nthread=1)
    boosters = tuple(
        xgboost.train({**SETTINGS, "seed": BOOSTERS * seed + number}, data, num_boost_round=TREES)
        for number in range(BOOSTERS)
    )
    return _Family(line, vocabulary, boosters)


def _roofline(costs: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Non-negative least squares on relative errors: milliseconds a kernel, a multiply-accumulate and a byte."""
    from scipy.optimize import nnls

    rows = costs / measured[:, None]
    scale = np.maximum(rows.max(axis=0), 1e-30)
    return np.asarray(nnls(rows / scale, np.ones(len(rows)))[0] / scale)
