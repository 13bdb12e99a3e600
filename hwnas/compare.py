"""Devices compared on the same random architectures of a space: do they rank alike, and where not?

Latencies are the prices of each device's table, so every device has the method of its table, and nothing is measured
here. What an operator costs is relative to a network's mean latency on the same device: a device that is slower in
everything disagrees with no one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.costs import AdditiveCost
from hwnas.latency_tables import LatencyTable, find_table
from hwnas.network_prices import price_model
from hwnas.pricing import LatencyModel
from hwnas.report.page import Page, html_table, plot, section
from hwnas.spaces.errors import ConfigError
from hwnas.spaces.files import atomic_write
from hwnas.spaces.space import SearchSpace, get_space

__all__ = [
    "MACS",
    "ComparedDevice",
    "Comparison",
    "OperatorEffect",
    "compare_devices",
    "distinct_architectures",
    "kendall_matrix",
]

#: What the last row of a matrix is called: no device, but what many take for one.
MACS = "multiply-adds"


@dataclass(frozen=True)
class ComparedDevice:
    """One device of a comparison.

    Attributes
    ----------
    key, hardware, runtime, method
        From the device's table.
    median_ms, low_ms, high_ms
        Latency of the compared architectures: median, 10 % and 90 % quantile.
    speed
        How many times faster than the first device, the median of the architectures.
    error
        What 90 % of measured networks are within of their price, as a share; NaN where the table cannot tell.
    """

    key: str
    hardware: str
    runtime: str
    method: str
    median_ms: float
    low_ms: float
    high_ms: float
    speed: float
    error: float


@dataclass(frozen=True)
class OperatorEffect:
    """How much a choice adds to a network, compared with the mean choice in its place.

    Attributes
    ----------
    choice
        Its label.
    layers
        In how many decisions it can be chosen; the effect is their mean.
    percent
        For each device: percent of the mean latency of the space on that device.
    """

    choice: str
    layers: int
    percent: tuple[float, ...]

    @property
    def disagreement(self) -> float:
        """Percentage points between the device on which it costs most and that on which it costs least."""
        return max(self.percent) - min(self.percent)


@dataclass(frozen=True, eq=False)
class Comparison:
    """What `compare_devices` found.

    Attributes
    ----------
    space
        Canonical text of the space.
    architectures
        The architectures, shape ``(n, decisions)``.
    devices
        In the order in which they were given.
    latency_ms
        Shape ``(n, devices)``.
    tau
        Kendall's tau-b between every two devices, and multiply-adds last; shape ``(devices + 1, devices + 1)``.
    operators
        What each choice costs, those on which the devices disagree most first.
    """

    space: str
    architectures: np.ndarray
    devices: tuple[ComparedDevice, ...]
    latency_ms: np.ndarray
    tau: np.ndarray
    operators: tuple[OperatorEffect, ...]

    @property
    def names(self) -> list[str]:
        """Rows of `tau`."""
        return [*(device.key for device in self.devices), MACS]

    def text(self, most: int = 10) -> str:
        """The comparison for a terminal, with the `most` choices on which the devices disagree most."""
        return _text(self, most)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "space": self.space,
            "architectures": len(self.architectures),
            "devices": [vars(device) for device in self.devices],
            "kendall_tau": {
                name: dict(zip(self.names, row, strict=True))
                for name, row in zip(self.names, self.tau.tolist(), strict=True)
            },
            "operators": [
                {
                    "choice": each.choice,
                    "layers": each.layers,
                    "percent": dict(zip(self.names, each.percent, strict=False)),
                    "disagreement": each.disagreement,
                }
                for each in self.operators
            ],
        }

    def write_html(self, file: str | os.PathLike[str]) -> Path:
        """Write the comparison as one self-contained page; returns its path.

        Raises
        ------
        ConfigError
            If the file cannot be written.
        """
        path = Path(file)
        atomic_write(path, _page(self).html())
        return path


def compare_devices(
    devices: Sequence[str],
    space: str | None = None,
    *,
    architectures: int = 200,
    seed: int = 0,
    tables: str | os.PathLike[str] | None = None,
) -> Comparison:
    """Price the same random architectures on several devices.

    Parameters
    ----------
    devices
        Keys of devices with a table, two or more.
    space
        Space spec; by default the first one of which all the tables have whole networks.
    architectures
        How many are drawn, at least 2; of those that compute the same, one counts.
    seed
        Of the drawing.
    tables
        Folder of latency tables, see `hwnas.latency_tables.find_table`.

    Raises
    ------
    ConfigError
        If there are fewer than two devices, or they have no space in common.
    TableError
        If a device has no table, or its table does not price the space.
    """
    keys = list(dict.fromkeys(devices))
    if len(keys) < 2:
        raise ConfigError(f"a comparison needs two devices, not {', '.join(keys) or 'none'}; see hwnas tables")
    if architectures < 2:
        raise ConfigError(f"a comparison needs at least 2 architectures, not {architectures}")
    found = [find_table(key, tables) for key in keys]
    made = get_space(space) if space is not None else get_space(_common_space(found))
    models = [price_model(made, table) for table in found]
    rows = distinct_architectures(made, seed, 4 * architectures)[:architectures]
    latency = np.stack([model.predict(rows) for model in models], axis=1)
    compared = tuple(
        _device(table, model, latency[:, column], latency[:, 0])
        for column, (table, model) in enumerate(zip(found, models, strict=True))
    )
    macs = AdditiveCost.from_space(made, np.array([block.macs for block in made.catalog], dtype=np.float64))
    tau = kendall_matrix(np.column_stack([latency, macs.values(rows)]))
    effects = _effects(made, [model.additive for model in models])
    return Comparison(made.spec, rows, compared, latency, tau, effects)


def _common_space(tables: Sequence[LatencyTable]) -> str:
    owned = [dict.fromkeys(row.space for row in table.networks) for table in tables]
    shared = [spec for spec in owned[0] if all(spec in other for other in owned)]
    if not shared:
        said = "; ".join(
            f"{table.device.key}: {', '.join(own) or 'none'}" for table, own in zip(tables, owned, strict=True)
        )
        raise ConfigError(f"the tables have whole networks of no space in common ({said}); name one with --space")
    return shared[0]


def _device(table: LatencyTable, model: Any, ms: np.ndarray, first: np.ndarray) -> ComparedDevice:
    low, median, high = np.quantile(ms, [0.1, 0.5, 0.9]).tolist()
    error = model.relative_error() if isinstance(model, LatencyModel) else float("nan")
    record = table.device
    runtime = f"{record.runtime} {record.runtime_version}"
    return ComparedDevice(
        record.key, record.name, runtime, model.method, median, low, high, float(np.median(first / ms)), error
    )


def distinct_architectures(space: SearchSpace, seed: int, draws: int) -> np.ndarray:
    """Random architectures, each computation once and those that compute nothing not at all; in order of drawing.

    Parameters
    ----------
    space, seed
        What to draw from, and how.
    draws
        How many are drawn; fewer are left.
    """
    rows = space.sample(draws, np.random.default_rng(seed))
    live = space.live(rows)
    rows, parts = rows[live.any(axis=1)], np.where(live, rows, -1)[live.any(axis=1)]
    _, first = np.unique(parts, axis=0, return_index=True)
    return rows[np.sort(first)]


def kendall_matrix(values: np.ndarray) -> np.ndarray:
    """Kendall's tau-b between every two columns of `values`, shape ``(n, m)``; returns ``(m, m)``."""
    from scipy.stats import kendalltau

    count = values.shape[1]
    tau = np.eye(count)
    for one in range(count):
        for other in range(one):
            tau[one, other] = tau[other, one] = kendalltau(values[:, one], values[:, other]).statistic
    return tau


def _effects(space: SearchSpace, costs: Sequence[AdditiveCost]) -> tuple[OperatorEffect, ...]:
    """What each choice adds to a network on each device, compared with the mean choice of its decision."""
    found: dict[str, list[list[float]]] = {}
    everything = [cost.marginals() for cost in costs]
    means = [_mean(cost) for cost in costs]
    for index, decision in enumerate(space.decisions):
        relative = [
            100.0 * (marginals[index] - np.nanmean(marginals[index])) / mean
            for marginals, mean in zip(everything, means, strict=True)
        ]
        for choice, label in enumerate(decision.choices):
            found.setdefault(label, []).append([float(vector[choice]) for vector in relative])
    effects = (
        OperatorEffect(label, len(values), tuple(np.nanmean(np.array(values), axis=0).tolist()))
        for label, values in found.items()
    )
    return tuple(sorted(effects, key=lambda effect: -effect.disagreement))


def _mean(cost: AdditiveCost) -> float:
    """Mean over all architectures of a space."""
    return cost.constant + sum(float(np.nanmean(part.table)) for part in cost.parts)


# ---------------------------------------------------------------------- HTML and text


def _page(comparison: Comparison) -> Page:
    names, space = comparison.names, comparison.space
    devices = html_table(
        ("device", "hardware", "runtime", "method", "median [ms]", "10 %", "90 %", "speed", "±90 %"),
        [
            (
                f"<code>{escape(device.key)}</code>",
                escape(device.hardware),
                escape(device.runtime),
                escape(device.method),
                *(f"{ms:.4g}" for ms in (device.median_ms, device.low_ms, device.high_ms)),
                f"{device.speed:.3g}",
                f"{100 * device.error:.2g} %" if np.isfinite(device.error) else "–",
            )
            for device in comparison.devices
        ],
        frozenset({4, 5, 6, 7, 8}),
        sortable=True,
    )
    operators = html_table(
        ("choice", "decisions", *(f"{device.key} [%]" for device in comparison.devices), "apart"),
        [
            (
                escape(each.choice),
                str(each.layers),
                *(f"{percent:+.2f}" for percent in each.percent),
                f"{each.disagreement:.2f}",
            )
            for each in comparison.operators
        ],
        frozenset(range(1, len(names) + 2)),
        sortable=True,
    )
    shown = comparison.operators[:40]
    grids = [
        {"rows": names, "columns": names, "values": comparison.tau, "bar": "tau", "suffix": "", "numbers": True}
        | {"min": min(0.0, float(np.nanmin(comparison.tau))), "max": 1.0},
        {
            "rows": [each.choice for each in shown],
            "columns": names[:-1],
            "values": np.array([each.percent for each in shown]),
            "bar": "percent",
            "suffix": " % of a network",
            "numbers": True,
            "middle": 0.0,
        },
    ]
    count = len(comparison.architectures)
    body = (
        f"<header><h1>{len(comparison.devices)} devices compared</h1>"
        f'<p class="sub">on {count} random architectures of <code>{escape(space)}</code></p></header>'
        + section(
            "devices",
            "Devices",
            devices,
            "<p>Prices from each device's table, by the table's method; no device was measured for this page. Speed is "
            "relative to the first device, the median of the architectures. ±90 %: what 90 % of the networks "
            "in the table are within of their price.</p>",
            wide=True,
        )
        + section(
            "tau",
            "Do they rank alike?",
            plot("grid-0", "Kendall's tau between the devices", 150 + 34 * len(names)),
            f"<p>Kendall's tau of the latencies of the same architectures, and of their {MACS}: 1 ranks alike, 0 is "
            "unrelated.</p>",
        )
        + section(
            "operators",
            "Where they disagree",
            plot("grid-1", "what each choice adds on each device", 150 + 34 * len(shown)),
            "<p>What a choice adds to a network, compared with the mean choice in its place, in percent of the mean "
            "latency on that device; mean over the decisions that offer it. Largest differences first.</p>",
        )
        + section("list", "All choices", operators, wide=True)
    )
    return Page(f"devices compared on {space}", body, {"grids": grids})


def _text(comparison: Comparison, most: int) -> str:
    names = comparison.names
    wide = max(map(len, names))
    lines = [f"{len(comparison.architectures)} architectures of {comparison.space}", ""]
    head: tuple[str, ...] = ("device", "method", "median ms", "10 %", "90 %", "speed", "±90 %")
    rows = [
        (
            device.key,
            device.method,
            *(f"{ms:.4g}" for ms in (device.median_ms, device.low_ms, device.high_ms)),
            f"{device.speed:.3g}",
            f"{100 * device.error:.2g} %" if np.isfinite(device.error) else "–",
        )
        for device in comparison.devices
    ]
    lines += [*_aligned(head, rows), "", "Kendall's tau"]
    numbers = [f"{index}" for index in range(1, len(names) + 1)]
    lines.append(" " * (wide + 4) + "  ".join(f"{each:>5}" for each in numbers))
    for each, name, row in zip(numbers, names, comparison.tau.tolist(), strict=True):
        lines.append(f"{each:>2}  {name:{wide}}" + "  ".join(f"{value:5.2f}" for value in row))
    lines += ["", "what a choice adds, in percent of a network's mean latency; where the devices are farthest apart"]
    head = ("choice", *names[:-1], "apart")
    rows = [
        (each.choice, *(f"{value:+.2f}" for value in each.percent), f"{each.disagreement:.2f}")
        for each in comparison.operators[:most]
    ]
    return "\n".join([*lines, *_aligned(head, rows)])


def _aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [head, *rows]
    widths = [max(len(line[index]) for line in cells) for index in range(len(head))]
    return [
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in cells
    ]
