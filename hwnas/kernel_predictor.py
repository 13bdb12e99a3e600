"""Learned latency of single kernels, and of whole networks as their sum.

Each family of kernels has boosted trees on a roofline (`hwnas.boosted_roofline`), fitted on networks that were divided
among their kernels. The interval of a whole network is calibrated on networks that had no part in fitting
(split conformal prediction, cross-validated).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hwnas.boosted_roofline import BOOSTERS, SMALLEST_MS, BoostedRoofline, fit_roofline
from hwnas.kernel_division import divide_by_model
from hwnas.kernel_features import Vocabulary, kernel_facts
from hwnas.profilers.division import DividedNetwork
from hwnas.spaces.errors import ModelError, TableError
from hwnas.spaces.files import atomic_write
from hwnas.spaces.placement import PlacedKernel, Placement

__all__ = ["KernelPredictor"]

#: of the trees: flat, because kernels of one network are off together and tell less than as many apart
DEPTH = 4
#: parts of the cross-validation that intervals rest on
FOLDS = 5
FORMAT = "hwnas kernel predictor 2"


class _Item(NamedTuple):
    """A kernel in its network, and its milliseconds on another device if that helps."""

    kernel: PlacedKernel
    network: Placement
    elsewhere: float | None


@dataclass(frozen=True)
class _Family:
    """What is learned of one family."""

    vocabulary: Vocabulary
    model: BoostedRoofline

    def log_ms(self, items: Sequence[_Item]) -> np.ndarray:
        """Logarithms of milliseconds by each booster, shape ``(BOOSTERS, items)``."""
        try:
            return self.model.log_ms(_costs(items), _rows(self.vocabulary, items))
        except ValueError as error:  # a file whose trees and flags do not belong together
            raise TableError(f"the predictor's file is damaged: {error}; fit it anew") from error


class KernelPredictor:
    """Milliseconds of every kernel of a network on one device; make one with `fit` or `load`."""

    def __init__(
        self,
        families: dict[str, _Family],
        line: np.ndarray,
        ratios: Sequence[float],
        source: KernelPredictor | None = None,
    ) -> None:
        self._families = families
        self._source = source
        #: milliseconds a kernel, a multiply-accumulate and a byte, over all families; with a source, a fourth number
        #: for each of its milliseconds
        self.roofline = line
        #: measured over predicted latency of networks that had no part in fitting, sorted
        self.ratios = tuple(sorted(ratios))
        #: their median, which every prediction is corrected by: means of logarithms lie below means
        self.correction = float(np.median(self.ratios)) if self.ratios else 1.0

    @classmethod
    def fit(
        cls,
        networks: Sequence[DividedNetwork],
        *,
        source: KernelPredictor | None = None,
        seed: int = 0,
        calibrate: bool = True,
    ) -> KernelPredictor:
        """Learn from networks that were measured, and divided by the runtime's counters or by what is learned.

        Parameters
        ----------
        networks
            At least two.
        source
            The predictor of another device, whose prices then belong to the roofline: with it a new device needs
            fewer networks (few-shot transfer).
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
        networks = divide_by_model(
            networks,
            lambda network: _costs(_items(network, source)),
            lambda part: cls(*_fit(part, source, seed, boosters=1), (), source),
            seed=seed,
        )
        families, line = _fit(networks, source, seed)
        ratios: list[float] = []
        folds = min(FOLDS, len(networks)) if calibrate else 0
        order = np.random.default_rng(seed).permutation(len(networks))
        for fold in range(folds):
            held = set(order[fold::folds].tolist())
            rest = [network for index, network in enumerate(networks) if index not in held]
            part = cls(*_fit(rest, source, seed), (), source)
            ratios += [networks[index].latency_ms / part.latency(networks[index].placement) for index in held]
        return cls(families, line, ratios, source)

    # ------------------------------------------------------------------ prediction

    def kernel_ms(self, network: Placement) -> np.ndarray:
        """Milliseconds of each kernel of a network; NaN for families that were never measured."""
        return np.asarray(np.exp(self._log_ms(network).mean(axis=0)) * self.correction)

    def latency(self, network: Placement) -> float:
        """Milliseconds of a whole network; kernels of unknown families by the roofline of all."""
        return float(self.known_ms(network).sum())

    def known_ms(self, network: Placement) -> np.ndarray:
        """Milliseconds of each kernel, of unknown families by the roofline of all."""
        ms = self.kernel_ms(network)
        return np.where(np.isnan(ms), self.roofline_ms(network), ms)

    def roofline_ms(self, network: Placement) -> np.ndarray:
        """Milliseconds of each kernel by the roofline of all families, SMALLEST_MS for what hwnas has no kernel for."""
        return np.asarray(np.maximum(_costs(_items(network, self._source)) @ self.roofline, SMALLEST_MS))

    def bound_ms(self, macs: float, moved: float) -> float:
        """Milliseconds by the roofline of all families, of any operator with so many multiply-accumulates and bytes."""
        ms = float(self.roofline[:3] @ (1.0, macs, moved))
        if self._source is not None:
            ms += float(self.roofline[3]) * self._source.bound_ms(macs, moved)
        return max(ms, SMALLEST_MS)

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
        items = _items(network, self._source)
        for name, members in _by_family(items).items():
            family = self._families.get(name)
            if family is not None:
                found[:, members] = family.log_ms([items[index] for index in members])
        return found

    # ------------------------------------------------------------------ files

    def save(self, file: str | Path, **notes: Any) -> None:
        """Write the predictor as JSON, with `notes` of the caller."""
        content = {"format": FORMAT, "notes": notes, **self._to_json()}
        atomic_write(Path(file), json.dumps(content, allow_nan=False).encode())

    def _to_json(self) -> dict[str, Any]:
        families = {
            name: {"flags": list(family.vocabulary.names), **family.model.to_json()}
            for name, family in self._families.items()
        }
        source = None if self._source is None else self._source._to_json()
        return {"line": self.roofline.tolist(), "ratios": list(self.ratios), "families": families, "source": source}

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
                raise TableError(f"{file} is {content['format']!r:.80}, not {FORMAT!r}; delete it and profile again")
            return cls._from_json(content), dict(content["notes"])
        except OSError as error:
            raise TableError(f"cannot read {file}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError) as error:
            raise TableError(
                f"{file} is no kernel predictor of hwnas ({error!s:.200}); delete it and profile again"
            ) from error

    @classmethod
    def _from_json(cls, content: dict[str, Any]) -> KernelPredictor:
        source = None if content["source"] is None else cls._from_json(content["source"])
        count = 3 if source is None else 4
        families = {
            str(name): _Family(Vocabulary(list(map(str, saved["flags"]))), BoostedRoofline.from_json(saved, count))
            for name, saved in content["families"].items()
        }
        ratios = _numbers(content["ratios"], len(content["ratios"]))
        return cls(families, _numbers(content["line"], count), ratios.tolist(), source)


def _numbers(values: Any, count: int) -> np.ndarray:
    found = np.array(values, dtype=np.float64)
    if found.shape != (count,) or not np.isfinite(found).all():
        raise ValueError("its numbers are damaged")
    return found


# ---------------------------------------------------------------------- fitting


def _cost(signature: str) -> tuple[float, float, float]:
    """What rooflines are linear in: one, multiply-accumulates, bytes."""
    try:
        facts = kernel_facts(signature)
    except ModelError:
        return 0.0, 0.0, 0.0  # an operator that hwnas has no kernel for
    return 1.0, float(facts.macs), float(facts.bytes)


def _items(network: Placement, source: KernelPredictor | None) -> list[_Item]:
    """The kernels of a network, with their milliseconds on the source if there is one."""
    if source is None:
        return [_Item(kernel, network, None) for kernel in network.kernels]
    elsewhere = source.known_ms(network).tolist()
    return [_Item(kernel, network, ms) for kernel, ms in zip(network.kernels, elsewhere, strict=True)]


def _costs(items: Sequence[_Item]) -> np.ndarray:
    """What rooflines are linear in, shape ``(items, 3)``, or 4 with a source."""
    return np.array([(*_cost(item.kernel.signature), *(() if item[2] is None else item[2:])) for item in items])


def _rows(vocabulary: Vocabulary, items: Sequence[_Item]) -> np.ndarray:
    return vocabulary.rows([(item.kernel, item.network) for item in items])


def _by_family(items: Sequence[_Item]) -> dict[str, list[int]]:
    """Indices of kernels by family; those that hwnas has no kernel for are left out."""
    found: dict[str, list[int]] = {}
    for index, item in enumerate(items):
        try:
            found.setdefault(kernel_facts(item.kernel.signature).family, []).append(index)
        except ModelError:
            continue
    return found


def _fit(
    networks: Sequence[DividedNetwork], source: KernelPredictor | None, seed: int, boosters: int = BOOSTERS
) -> tuple[dict[str, _Family], np.ndarray]:
    items = [item for network in networks for item in _items(network.placement, source)]
    measured = np.array([ms for network in networks for ms in network.kernel_ms])
    members = _by_family(items)
    known = np.concatenate([np.array(rows) for rows in members.values()])
    run = known[measured[known] > SMALLEST_MS]
    line = fit_roofline(_costs([items[index] for index in run]), measured[run])
    families = {
        name: _fit_family([items[index] for index in rows], measured[rows], line, seed, boosters)
        for name, rows in members.items()
    }
    return families, line


def _fit_family(items: Sequence[_Item], measured: np.ndarray, line: np.ndarray, seed: int, boosters: int) -> _Family:
    vocabulary = Vocabulary.of(item.kernel for item in items)
    rows, costs = _rows(vocabulary, items), _costs(items)
    model = BoostedRoofline.fit(costs, rows, measured, line=line, depth=DEPTH, boosters=boosters, seed=seed)
    return _Family(vocabulary, model)
