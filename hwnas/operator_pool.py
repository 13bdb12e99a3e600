"""Which operators each layer keeps for a device: HURRICANE's hardware-aware search space (arXiv 1910.11609).

The authors' diagram says that operators are chosen by weighing how much an operator can represent against how
efficiently the device runs it, and that parameters and FLOPs do not stand for latency. Their formula could not be
recovered; the rules here are ours. A rule is a small class: give `select_pool` another to try it.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, ClassVar

import numpy as np

from hwnas.latency_tables import find_table
from hwnas.spaces.errors import ConfigError, TableError
from hwnas.spaces.registry import Registry
from hwnas.spaces.space import SearchSpace, get_space

__all__ = [
    "Bands",
    "Efficiency",
    "Layer",
    "OperatorPool",
    "PoolRule",
    "pool_rules",
    "rank_agreement",
    "read_layers",
    "select_pool",
]

Progress = Callable[[float, float, str], None]

pool_rules = Registry(
    "pool rule",
    "hwnas.pool_rules",
    {
        "bands": "hwnas.operator_pool:Bands",
        "efficiency": "hwnas.operator_pool:Efficiency",
    },
)


@dataclass(frozen=True, eq=False)
class Layer:
    """The operators of one layer and what each of them costs, arrays of shape ``(operators,)``."""

    name: str
    operators: tuple[str, ...]
    latency_ms: np.ndarray
    macs: np.ndarray
    params: np.ndarray

    def at(self, indices: Sequence[int]) -> Layer:
        """The layer with some of its operators only."""
        costs = (values[indices] for values in (self.latency_ms, self.macs, self.params))
        return Layer(self.name, tuple(self.operators[index] for index in indices), *costs)


class PoolRule(ABC):
    """Scores the operators of a layer, and keeps some."""

    name: ClassVar[str]
    summary: ClassVar[str]

    @abstractmethod
    def score(self, layer: Layer) -> np.ndarray:
        """How good each operator is for the device; higher is better, shape ``(operators,)``."""

    def keep(self, layer: Layer, size: int) -> list[int]:
        """Indices of at most `size` operators: those with the highest scores."""
        return sorted(np.argsort(-self.score(layer), kind="stable")[:size].tolist())


class Efficiency(PoolRule):
    """Capacity for time: ``(MACs + parameters) / latency``, each relative to the layer's largest."""

    name: ClassVar[str] = "efficiency"
    summary: ClassVar[str] = "the highest (MACs + parameters) / latency"

    def score(self, layer: Layer) -> np.ndarray:
        def relative(values: np.ndarray) -> np.ndarray:
            return np.asarray(values / max(float(values.max()), 1e-12))

        capacity = relative(layer.macs) + relative(layer.params)
        return np.asarray(capacity / np.maximum(relative(layer.latency_ms), 1e-12))


class Bands(Efficiency):
    """The most efficient operator in each band of latency, so that cheap networks stay possible.

    The layer's range of latency is cut, on a logarithmic scale, into as many bands as operators are kept; of each
    band the operator with the highest `Efficiency` is kept, and an empty band gives its place to the best of the rest.
    """

    name: ClassVar[str] = "bands"
    summary: ClassVar[str] = "in each of as many bands of latency, the highest (MACs + parameters) / latency"

    def keep(self, layer: Layer, size: int) -> list[int]:
        score = self.score(layer)
        height = np.log(np.maximum(layer.latency_ms, 1e-12))
        spread = max(float(np.ptp(height)), 1e-12)
        band = np.minimum(((height - height.min()) / spread * size).astype(int), size - 1)
        kept = [int(np.flatnonzero(band == b)[score[band == b].argmax()]) for b in range(size) if (band == b).any()]
        rest = [int(index) for index in np.argsort(-score, kind="stable") if index not in kept]
        return sorted(kept + rest[: size - len(kept)])


@dataclass(frozen=True, eq=False)
class OperatorPool:
    """What a device keeps of a space.

    Attributes
    ----------
    device, rule
        Key of the device, and name of the rule.
    source
        The space that was chosen from.
    space
        Spec of the space with these operators only: what `hwnas.search` takes.
    layers
        The operators of each layer with their costs.
    scores
        Of each layer, ``(operators,)``.
    kept
        Indices into each layer's operators.
    constraint
        The latency that the pool was chosen within, as text, or None.
    """

    device: str
    rule: str
    source: str
    space: str
    layers: tuple[Layer, ...]
    scores: tuple[np.ndarray, ...]
    kept: tuple[tuple[int, ...], ...]
    constraint: str | None = None

    def rows(self) -> list[dict[str, Any]]:
        """One row for each operator of each layer, JSON-able."""
        return [
            {
                "device": self.device,
                "layer": layer.name,
                "operator": operator,
                "latency_ms": float(layer.latency_ms[index]),
                "macs": int(layer.macs[index]),
                "params": int(layer.params[index]),
                "score": float(scores[index]),
                "kept": index in kept,
            }
            for layer, scores, kept in zip(self.layers, self.scores, self.kept, strict=True)
            for index, operator in enumerate(layer.operators)
        ]


def read_layers(space: SearchSpace, device: str, tables: str | os.PathLike[str] | None = None) -> tuple[Layer, ...]:
    """The operators of every layer of a chain of layers, with their latency from a device's table.

    Raises
    ------
    TableError
        If blocks of the space have no row.
    ConfigError
        If a decision of the space is not a layer of its own.
    """
    latency = _block_ms(space, device, tables)
    macs = np.array([block.macs for block in space.catalog], dtype=np.float64)
    params = np.array([block.params for block in space.catalog], dtype=np.float64)
    layers = []
    for term in space.terms:
        if len(term.decisions) > 1:
            raise ConfigError(f"the decisions of {space.name} are not layers, so that no operators can be chosen")
        if term.decisions:
            decision = space.decisions[term.decisions[0]]
            costs = (term.counts @ values for values in (latency, macs, params))
            layers.append(Layer(decision.name, decision.choices, *costs))
    return tuple(layers)


def _block_ms(space: SearchSpace, device: str, tables: str | os.PathLike[str] | None) -> np.ndarray:
    """Milliseconds of every block of the space, from the device's table."""
    table = find_table(device, tables)
    signatures = [block.signature for block in space.catalog]
    known = [table.vector(signatures, context) for context in ("isolated", "network")]
    latency = min(known, key=lambda vector: int(np.isnan(vector).sum()))
    if missing := int(np.isnan(latency).sum()):
        raise TableError(
            f"{missing} of the {len(signatures)} blocks of {space.spec} have no latency for {table.device.key}; "
            f"measure them with: hwnas profile --device {table.device.key} --space '{space.spec}' --context isolated"
        )
    return latency


def _fixed_ms(space: SearchSpace, device: str, tables: str | os.PathLike[str] | None) -> float:
    """Milliseconds of what every network of the space has."""
    latency = _block_ms(space, device, tables)
    return sum(float((term.counts @ latency).sum()) for term in space.terms if not term.decisions)


def _keep_within(rule: PoolRule, layers: Sequence[Layer], size: int, budget_ms: float) -> list[list[int]]:
    """What `rule` keeps below the highest ceiling under which the pool's mean network fits.

    The ceiling lies at one share of each layer's own range of latency, on a logarithmic scale. Where even the
    lowest is too high, the cheapest operators are left.
    """
    order = [np.argsort(layer.latency_ms, kind="stable") for layer in layers]
    height = [np.log(np.maximum(layer.latency_ms, 1e-12)) for layer in layers]
    kept: list[list[int]] = []
    for ceiling in np.linspace(1.0, 0.0, 101):
        kept, mean = [], 0.0
        for layer, rising, level in zip(layers, order, height, strict=True):
            below = int((level <= level.min() + ceiling * np.ptp(level) + 1e-9).sum())
            candidates = np.sort(rising[: max(size, below)])
            chosen = candidates[rule.keep(layer.at(candidates.tolist()), size)]
            kept.append(sorted(chosen.tolist()))
            mean += float(layer.latency_ms[chosen].mean())
        if mean <= budget_ms:
            break
    return kept


def _budget_ms(constraint: str, device: str, tables: str | os.PathLike[str] | None) -> float:
    """The milliseconds that a latency constraint on `device` allows."""
    from hwnas.constraints import parse_constraint

    parsed = parse_constraint(constraint, devices=[device], root=tables)
    if parsed.metric != "latency" or parsed.relation != "<=":
        raise ConfigError(f"a pool is chosen within a latency, such as latency@{device} <= 2ms, not {constraint!r}")
    if parsed.device != device:
        raise ConfigError(f"the pool is for {device}, but {constraint!r} limits {parsed.device}; give one for {device}")
    return parsed.bound


def select_pool(
    space: str,
    device: str,
    *,
    size: int = 4,
    rule: str | PoolRule = "bands",
    constraint: str | None = None,
    tables: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> OperatorPool:
    """Choose the operators that each layer keeps for a device; blocks that its table lacks are measured first.

    Parameters
    ----------
    space
        Spec of a space with a parameter ``pool``, such as ``hurricane(width=0.5)``.
    device
        Device key; the device itself is needed only if its table lacks blocks of the space.
    size
        How many operators a layer keeps.
    rule
        Name of a rule, or a rule of your own.
    constraint
        Such as ``latency@cpu-onnxruntime <= 2ms``: dear operators are left out, in all layers alike, until the
        pool's mean network is within it as its rows add up. Without it the pool spans all latencies of the space.
    tables
        Folder of tables.
    progress
        Called as ``progress(done, total, text)`` while blocks are measured.

    Raises
    ------
    ConfigError, DeviceUnavailable, TableError
        If the space has no pool, `size` does not fit, the constraint is no latency of the device or below the
        cheapest network, or the device is neither here nor in a table.
    """
    chosen = get_space(space)
    if "pool" not in chosen.parameters:
        raise ConfigError(f"the space {chosen.name} has no pool of operators to choose; take hurricane")
    fewest = int(chosen.radices.min())
    if not 1 <= size <= fewest:
        raise ConfigError(f"a layer keeps 1 to {fewest} operators of {chosen.name}, not {size}")
    made: PoolRule = pool_rules.get(rule)() if isinstance(rule, str) else rule
    try:
        layers = read_layers(chosen, device, tables)
    except TableError:
        from hwnas.profiling import profile

        root = None if tables is None else os.fspath(tables)
        profile(device, chosen.spec, context="isolated", networks=0, tables=root, progress=progress)
        layers = read_layers(chosen, device, tables)
    if constraint is None:
        found = [made.keep(layer, size) for layer in layers]
    else:
        fixed = _fixed_ms(chosen, device, tables)
        budget = _budget_ms(constraint, device, tables)
        cheapest = fixed + sum(float(layer.latency_ms.min()) for layer in layers)
        if budget < cheapest:
            raise ConfigError(
                f"no network of {chosen.spec} is within {constraint!r}: the cheapest takes {cheapest:.4g} ms, added up"
            )
        found = _keep_within(made, layers, size, budget - fixed)
    kept = tuple(map(tuple, found))
    names = ("+".join(layer.operators[index] for index in row) for layer, row in zip(layers, kept, strict=True))
    restricted = type(chosen)(**{**chosen.parameters, "pool": "/".join(names)})
    scores = tuple(made.score(layer) for layer in layers)
    return OperatorPool(device, made.name, chosen.spec, restricted.spec, layers, scores, kept, constraint)


def rank_agreement(layers: Mapping[str, Sequence[Layer]]) -> dict[tuple[str, str], float]:
    """How alike devices rank the operators by latency: Kendall's tau-b within each layer, averaged over the layers.

    Parameters
    ----------
    layers
        Device to the layers of one space, as `read_layers` returns them.

    Returns
    -------
    dict
        Every pair of devices, in the order given, to a value between -1 and 1.
    """
    from scipy.stats import kendalltau

    return {
        (one, other): float(
            np.mean(
                [
                    kendalltau(a.latency_ms, b.latency_ms).statistic
                    for a, b in zip(layers[one], layers[other], strict=True)
                ]
            )
        )
        for one, other in combinations(layers, 2)
    }
