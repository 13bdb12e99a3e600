"""Constraints: ``latency@cpu-onnxruntime <= 2ms``, ``flops <= 40M``, ``memory <= 320KB``, several at once.

A constraint is text of three parts: a metric (``latency`` and ``energy`` name their device after an
``@``), ``<=`` or ``>=``, and a bound with its unit. `ConstraintSet` prices architectures against
all of them and makes the sampler that draws only what meets every one.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from hwnas.costs import AdditiveCost, Cost, GraphCost, MaxCost, RatioCost
from hwnas.latency_tables.device import plain_key
from hwnas.nearest import Bound
from hwnas.pricing import CostModel
from hwnas.sampler import FeasibleSampler
from hwnas.spaces.errors import ConfigError
from hwnas.spaces.space import SearchSpace

__all__ = ["METRICS", "Constraint", "ConstraintSet", "format_value", "parse_constraint", "parse_constraints"]


@dataclass(frozen=True)
class _Metric:
    """How a metric is written: its units (the first one is what bounds are stored in), and what it needs."""

    summary: str
    units: dict[str, float]
    device: bool = False
    unit_required: bool = True
    any_case: bool = False


_TIME = {"ms": 1.0, "us": 1e-3, "µs": 1e-3, "μs": 1e-3, "s": 1e3}
_ENERGY = {"mJ": 1.0, "uJ": 1e-3, "µJ": 1e-3, "μJ": 1e-3, "J": 1e3}
_COUNT = {"": 1.0, "K": 1e3, "k": 1e3, "M": 1e6, "G": 1e9}
_BYTES = {"B": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 1024.0, "MiB": 1024.0**2, "GiB": 1024.0**3}
_ALIASES = ("k", "µs", "μs", "µJ", "μJ")

#: Every metric: what it is, and its units.
METRICS: dict[str, _Metric] = {
    "latency": _Metric("time of one inference on a device", _TIME, device=True),
    "energy": _Metric("energy of one inference on a device", _ENERGY, device=True),
    "flops": _Metric("multiply-adds, as the NAS papers count FLOPs; the same as macs", _COUNT, unit_required=False),
    "macs": _Metric("multiply-adds", _COUNT, unit_required=False),
    "params": _Metric("trained parameters", _COUNT, unit_required=False),
    "size": _Metric("bytes of the weights, fp32", _BYTES, any_case=True),
    "memory": _Metric("peak bytes of activations alive at once, fp32, batch 1", _BYTES, any_case=True),
    "intensity": _Metric("multiply-adds per byte moved", {"": 1.0}, unit_required=False),
}

_TEXT = re.compile(
    r"^\s*(?P<metric>[A-Za-z_]+)\s*(?:@\s*(?P<device>[^\s<>=≤≥@]*))?\s*"
    r"(?P<relation><=|>=|≤|≥|<|>|==?)\s*(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(?P<unit>[A-Za-zµμ]*)\s*$"
)
_EXAMPLES = "latency@cpu-onnxruntime <= 2ms, flops <= 40M or memory <= 320KB"


@dataclass(frozen=True)
class Constraint:
    """One limit on one metric.

    Attributes
    ----------
    metric
        A key of `METRICS`.
    device
        Key of the device that ``latency`` and ``energy`` refer to, else None.
    relation
        ``"<="`` or ``">="``.
    bound
        In milliseconds, millijoules, plain counts or bytes.
    text
        The constraint as it was written, tidied; `parse_constraint` reads it back.
    """

    metric: str
    device: str | None
    relation: str
    bound: float
    text: str

    @property
    def name(self) -> str:
        """What is limited: ``latency@cpu-onnxruntime``, ``flops``, ..."""
        return f"{self.metric}@{self.device}" if self.device else self.metric

    def met(self, value: float) -> bool:
        """Whether a measured or computed `value` is within the bound; NaN never is."""
        return value <= self.bound if self.relation == "<=" else value >= self.bound

    def show(self, value: float) -> str:
        """Write `value` with its unit."""
        return format_value(self.metric, value)


def format_value(metric: str, value: float) -> str:
    """Write a value of `metric` for people: ``1.23 ms``, ``40.2M``, ``312 KB``."""
    if not math.isfinite(value):
        return "unknown"
    units = METRICS[metric].units
    if metric == "latency":
        # one unit for a metric that is compared across tables
        return f"{value:.4g} ms" if abs(value) < 1e4 else f"{value:.0f} ms"
    steps = sorted((scale, name) for name, scale in units.items() if name not in _ALIASES and "i" not in name)
    scale, name = max([step for step in steps if abs(value) >= step[0]], default=steps[0])
    return f"{value / scale:.4g}{' ' if name and units is not _COUNT else ''}{name}"


def _unit_words(metric: str) -> str:
    names = [name for name in METRICS[metric].units if name and name not in _ALIASES]
    plain = "a plain number" if "" in METRICS[metric].units else ""
    return " or ".join(filter(None, [plain, ", ".join(names)]))


def parse_constraint(
    text: str, *, devices: Collection[str] | None = None, root: str | os.PathLike[str] | None = None
) -> Constraint:
    """Read one constraint.

    Parameters
    ----------
    text
        Such as ``"latency@cpu-onnxruntime <= 2ms"``; ``≤`` and ``≥`` are read as well.
    devices
        Names to accept after the ``@`` besides registered profilers and devices with a table.
    root
        Folder of latency tables, see `hwnas.latency_tables.find_table`.

    Raises
    ------
    ConfigError
        If the text, metric, device, relation, number or unit cannot be used.
    """
    match = _TEXT.match(text)
    if match is None:
        raise ConfigError(_what_is_wrong(text))
    metric = match["metric"].lower()
    if metric not in METRICS:
        raise ConfigError(_unknown_metric(match["metric"], text))
    facts = METRICS[metric]
    if match["relation"] not in ("<=", ">=", "≤", "≥"):
        raise ConfigError(f"the constraint {text!r} has {match['relation']!r}; write <= or >=")
    relation = {"≤": "<=", "≥": ">="}.get(match["relation"], match["relation"])
    device = match["device"] and plain_key(match["device"])
    if facts.device and not device:
        raise ConfigError(f"{metric} in {text!r} needs a device; write it as {metric}@cpu-onnxruntime, say")
    if device is not None and not facts.device:
        raise ConfigError(f"{metric} in {text!r} is the same on every device; write it without @{device}")
    bound = float(match["number"]) * _unit(metric, match["unit"], text)
    if not math.isfinite(bound) or bound < 0 or (bound == 0 and relation == "<="):
        raise ConfigError(f"the bound {match['number']} of {text!r} is not a positive number")
    if device:
        _check_device(device, text, devices or (), root)
    where = f"@{device}" if device else ""
    return Constraint(metric, device, relation, bound, f"{metric}{where} {relation} {match['number']}{match['unit']}")


def parse_constraints(
    texts: str | Iterable[str], *, devices: Collection[str] | None = None, root: str | os.PathLike[str] | None = None
) -> list[Constraint]:
    """Read several constraints: a list of texts, each with one or more, separated by commas, semicolons or "and".

    Raises
    ------
    ConfigError
        If one of them cannot be read.
    """
    found: dict[tuple[str, str, float], Constraint] = {}
    for text in [texts] if isinstance(texts, str) else texts:
        for piece in re.split(r"\s*(?:;|,(?!\d)|&+|\band\b)\s*", text):
            constraint = parse_constraint(piece, devices=devices, root=root)
            found.setdefault((constraint.name, constraint.relation, constraint.bound), constraint)
    return list(found.values())


def _unit(metric: str, unit: str, text: str) -> float:
    """The factor of `unit`, or a ConfigError that names the units."""
    facts = METRICS[metric]
    if not unit and facts.unit_required:
        raise ConfigError(f"the bound of {text!r} has no unit; {metric} takes {_unit_words(metric)}")
    if unit in facts.units:
        return facts.units[unit]
    lowered = {name.lower(): scale for name, scale in facts.units.items()}
    if facts.any_case and unit.lower() in lowered:
        return lowered[unit.lower()]
    raise ConfigError(f"{unit!r} in {text!r} is not a unit of {metric}, which takes {_unit_words(metric)}")


def _unknown_metric(metric: str, text: str) -> str:
    close = difflib.get_close_matches(metric.lower(), METRICS, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"choose one of {', '.join(METRICS)}"
    return f"there is no metric {metric!r} to constrain in {text!r}; {hint}"


def _what_is_wrong(text: str) -> str:
    """The most helpful sentence about a text that is no constraint."""
    if not text.strip():
        return f"a constraint is empty; write one such as {_EXAMPLES}"
    if not re.search(r"[<>=≤≥]", text):
        return f"the constraint {text!r} has no <= or >=; write one such as {_EXAMPLES}"
    if len(re.findall(r"[<>]=?|[≤≥]|=", text)) > 1:
        return f"the constraint {text!r} has several relations; write each constraint on its own, such as {_EXAMPLES}"
    if re.search(r"\d[,_' ]\d", text):
        return f"the number in {text!r} cannot be read; write it without separators, with a point for decimals"
    if not re.search(r"[<>=≤≥]\s*[-+]?\.?\d", text):
        return f"the constraint {text!r} has no number after its relation; write one such as {_EXAMPLES}"
    return f"cannot read the constraint {text!r}; write one such as {_EXAMPLES}"


def _check_device(device: str, text: str, extra: Collection[str], root: str | os.PathLike[str] | None) -> None:
    """Raise a ConfigError unless `device` is registered (with or without qualifiers), has a table, or is in `extra`."""
    from hwnas.profilers import profilers

    if device in extra or device in profilers.names() or device.split(".")[0] in profilers.names():
        return
    from hwnas.latency_tables import list_tables

    known = [*profilers.names(), *(table.key for table in list_tables(root)), *extra]
    if device in known:
        return
    close = difflib.get_close_matches(device, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(dict.fromkeys(known))}"
    raise ConfigError(f"there is no device called {device!r} in {text!r}; {hint}")


Models = Mapping[str, CostModel] | str | os.PathLike[str] | None


class ConstraintSet:
    """Several constraints on one space: what architectures cost, which meet all, and how to draw them.

    Parameters
    ----------
    constraints
        What must hold, as `Constraint` or text; one or many.
    space
        The space.
    models
        Where device costs come from: models by device (or by ``energy@DEVICE``), or a folder of
        latency tables (None: the usual places).

    Raises
    ------
    TableError
        If a device has no table, or its table lacks blocks of the space.
    ConfigError
        If a text cannot be read, or a device cannot price a metric.

    Examples
    --------
    >>> limits = ConstraintSet(["flops <= 40M", "memory <= 320KB"], space)
    >>> limits.sampler().sample(10, np.random.default_rng(0))
    """

    def __init__(
        self, constraints: Iterable[Constraint | str] | Constraint, space: SearchSpace, models: Models = None
    ) -> None:
        self.space = space
        self.models: dict[str, CostModel] = dict(models) if isinstance(models, Mapping) else {}
        self._root = None if isinstance(models, Mapping) else models
        self._lookup_tables = not isinstance(models, Mapping)
        parsed: list[Constraint] = []
        for item in [constraints] if isinstance(constraints, Constraint | str) else constraints:
            known = [name.split("@")[-1] for name in self.models]
            parsed += parse_constraints(item, devices=known, root=self._root) if isinstance(item, str) else [item]
        self.constraints = tuple(parsed)
        self._costs: dict[str, Cost] = {}
        for constraint in self.constraints:
            if constraint.name not in self._costs:
                self._costs[constraint.name] = self._cost(constraint)
        self.bounds = tuple(self._bounds())

    @property
    def names(self) -> list[str]:
        """Name of each constraint in order: the columns of `values`."""
        return [constraint.name for constraint in self.constraints]

    def values(self, architectures: np.ndarray) -> np.ndarray:
        """What each constraint limits: shape ``(n, constraints)``, in ms, mJ, counts or bytes."""
        columns = {name: cost.values(architectures) for name, cost in self._costs.items()}
        count = len(np.atleast_2d(architectures))
        return np.stack([columns[name] for name in self.names], axis=1) if self.names else np.empty((count, 0))

    def costs(self, architectures: np.ndarray) -> list[dict[str, float]]:
        """For every architecture: name of each limited cost to its value."""
        return [dict(zip(self.names, row, strict=True)) for row in self.values(architectures).tolist()]

    def feasible(self, architectures: np.ndarray) -> np.ndarray:
        """Which architectures, shape ``(n, decisions)``, meet every constraint; bool ``(n,)``."""
        inside = np.ones(len(np.atleast_2d(architectures)), dtype=bool)
        for bound in self.bounds:
            inside &= bound.contains(architectures)
        return inside

    def sampler(self) -> FeasibleSampler:
        """A sampler of exactly the feasible architectures.

        Raises
        ------
        InfeasibleError
            If there are none.
        """
        return FeasibleSampler(self.space, self.bounds)

    def _blocks(self, attribute: str) -> np.ndarray:
        return np.array([getattr(block, attribute) for block in self.space.catalog], dtype=np.float64)

    def _cost(self, constraint: Constraint) -> Cost:
        metric = constraint.metric
        if METRICS[metric].device:
            return self._model(constraint).additive
        if metric == "intensity":
            return RatioCost(self._additive("macs"), self._additive("bytes"))
        if metric == "memory":
            if self.space.is_chain:
                return MaxCost.from_space(self.space, self._blocks("peak_memory"))
            return GraphCost(self.space, "peak_memory")
        return self._additive("macs" if metric == "flops" else metric)

    def _additive(self, attribute: str) -> AdditiveCost:
        return AdditiveCost.from_space(self.space, self._blocks(attribute))

    def _model(self, constraint: Constraint) -> CostModel:
        """The model of a device cost: given, or read from the device's table."""
        device = constraint.device
        assert device is not None
        key = device if constraint.metric == "latency" else constraint.name
        if key in self.models:
            return self.models[key]
        if constraint.name in self.models:
            return self.models[constraint.name]
        if not self._lookup_tables:
            raise ConfigError(f"no {constraint.metric} of {device} was given for {constraint.text!r}")
        if constraint.metric != "latency":
            raise ConfigError(f"the table of {device} holds latencies, not what {constraint.text!r} limits")
        from hwnas.latency_tables import find_table
        from hwnas.network_prices import price_model

        self.models[key] = price_model(self.space, find_table(device.removeprefix("recorded."), self._root))
        return self.models[key]

    def _bounds(self) -> Iterable[Bound]:
        """One bound a cost: limits from both sides are joined, and of several from one side the tighter one counts."""
        grouped: dict[str, list[Constraint]] = {}
        for constraint in self.constraints:
            grouped.setdefault(constraint.name, []).append(constraint)
        for name, group in grouped.items():
            uppers = [c.bound for c in group if c.relation == "<="]
            lowers = [c.bound for c in group if c.relation == ">="]
            first = group[0]
            cost, show = self._costs[name], partial(format_value, first.metric)
            if not isinstance(cost, RatioCost):
                limits = [abs(bound) for bound in (*uppers, *lowers) if bound]
                upper, lower = min(uppers, default=math.inf), max(lowers, default=-math.inf)
                text = " and ".join(c.text for c in group)
                yield Bound(text, cost, lower, upper, min(limits, default=1.0), show)
                continue
            # a ratio is no sum, but "at least c" says that the numerator less c times the denominator is at least 0
            typical = float(np.mean(cost.denominator.range()))
            for constraint in group:
                excess = cost.numerator.plus(cost.denominator.scaled(-constraint.bound))
                scale = max(constraint.bound * typical, 1e-9)
                lower, upper = (0.0, math.inf) if constraint.relation == ">=" else (-math.inf, 0.0)
                yield Bound(constraint.text, excess, lower, upper, scale, show, cost)
