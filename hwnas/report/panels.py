"""The numbers that the plots and the table of a report show, as plain values of bounded size.

``page.js`` draws them. All counts, fronts and averages are of all trials; only what is drawn one by one is a choice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hwnas.constraints import METRICS, Constraint
from hwnas.report.prices import DevicePrices
from hwnas.report.trials import Trials, choice_shares, expected_best, pareto_front
from hwnas.report.words import costs_of
from hwnas.run import Run, checked
from hwnas.spaces.space import SearchSpace

__all__ = ["MOST_POINTS", "choices", "finalists", "points", "predicted", "progress", "score_name", "table", "traces"]

#: Trials that are drawn and listed one by one.
MOST_POINTS = 3000
#: Places at which the curve of random search is drawn.
_CURVE = 120
#: Rows of a heat map.
_MOST_ROWS = 160

#: What is drawn of a probabilistic strategy's steps, and from which of its records.
_TRACES = (
    ("entropy of the distribution [nats]", ("entropy",)),
    ("draws a step, and as how many their weights count", ("samples", "effective_samples")),
    ("share of the draws within the budget", ("within_budget",)),
    ("mean score of the draws", ("score",)),
)


def score_name(settings: Mapping[str, Any]) -> str:
    """What the score of a trial is, so that no estimate passes as a trained network's accuracy."""
    task = settings.get("task", "classification")
    what = "validation accuracy" if task == "classification" else f"validation accuracy at {task}"
    how = {"one-shot": " with the supernet's weights", "scratch": " after a short training"}
    return what + how.get(str(settings.get("evaluator", "one-shot")), "")


def points(trials: Trials, constraints: Sequence[Constraint], space: SearchSpace | None) -> dict[str, Any]:
    """The trials to draw and list, the axes to draw them against, and the fronts."""
    axes, fronts = [], []
    usable = trials.comparable
    for name, values in trials.costs.items():
        limits = [c for c in constraints if c.name == name]
        lower = not limits or any(c.relation == "<=" for c in limits)
        metric = name.partition("@")[0]
        unit = next(iter(METRICS[metric].units), "") if metric in METRICS else ""
        front = usable[pareto_front(values[usable], trials.scores[usable], lower=lower)]
        fronts.append(front)
        bounds = [{"value": c.bound, "text": c.text} for c in limits]
        axes.append({"name": name, "unit": unit, "bounds": bounds, "lower": lower})
    best = trials.best
    must = dict.fromkeys([*([] if best is None else [best]), *(int(i) for front in fronts for i in front)])
    shown = trials.sample(must, MOST_POINTS)
    place = {int(index): position for position, index in enumerate(shown)}
    for axis, front in zip(axes, fronts, strict=True):
        axis["front"] = [place[index] for index in front.tolist() if index in place]
    return {
        "total": len(trials),
        "index": (shown + 1).tolist(),
        "score": _rounded(trials.scores[shown]),
        "fits": trials.fits[shown].astype(int).tolist(),
        "stage": trials.stage[shown].tolist() if trials.stage.any() else None,
        "architecture": [" ".join(map(str, row)) for row in trials.architectures[shown].tolist()],
        "costs": {name: _rounded(values[shown]) for name, values in trials.costs.items()},
        "axes": axes,
        "best": place.get(best) if best is not None else None,
        "decisions": _decisions(space),
    }


def _decisions(space: SearchSpace | None) -> list[dict[str, Any]] | None:
    """Names of the decisions and choices; None where the space is not known."""
    if space is None:
        return None
    return [{"name": decision.name, "choices": list(decision.choices)} for decision in space.decisions]


def finalists(entries: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """Finalists with, for every cost that is an axis, what was predicted and what the device gave."""
    found = []
    for entry in entries:
        costs = {}
        for text, cost in costs_of(entry):
            name = text.split(" ", 1)[0]
            if name in names:
                costs[name] = {
                    "predicted": _number(cost.get("predicted")),
                    "interval": _pair(cost.get("interval")),
                    "checked": _number(checked(cost)),
                    "spread": _pair(cost.get("checked_interval")),
                    "method": str(cost.get("method") or ""),
                }
        found.append(
            {
                "architecture": " ".join(str(choice) for choice in entry["architecture"])[:2000],
                "score": _number(entry.get("score")),
                "accuracy": _number(entry.get("accuracy")),
                "fits": bool(entry.get("fits")),
                "costs": costs,
            }
        )
    return found


def predicted(prices: Sequence[DevicePrices], shown: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A plot a device of latency predicted against given by the device: finalists, and the table's networks."""
    found = []
    for price in prices:
        name = f"latency@{price.device}"
        own = [entry["costs"][name] for entry in shown if name in entry["costs"]]
        own = [cost for cost in own if cost["predicted"] is not None and cost["checked"] is not None]
        networks = None
        if price.predicted_ms is not None and price.measured_ms is not None:
            networks = {"predicted": _rounded(price.predicted_ms), "given": _rounded(price.measured_ms)}
        if own or networks:
            found.append({"name": name, "method": price.method, "networks": networks, "finalists": own})
    return found


def progress(run: Run, trials: Trials, against: Trials | None, uniform: float) -> dict[str, Any]:
    """The best score so far, and what random search finds, as far as there are draws of it.

    Parameters
    ----------
    run, trials
        The run.
    against
        Trials of a random search of the same space under the same settings.
    uniform
        How many of the run's own first trials are uniform draws.
    """
    lines = [{"x": x.tolist(), "y": _rounded(y)} for x, y in trials.progress()]
    random = None
    strategy = str(run.settings.get("strategy", "evolution"))
    if against is not None:
        random = _random(against)
        note = (
            f"Random search: what the best of so many of the {len(against)} random trials of the other run scores on "
            "average, and between which scores it lies in 80 % of draws."
        )
    elif strategy == "random":
        note = "This run is a random search."
    else:
        first = int(min(uniform, len(trials)))
        random = _random(trials, first) if first >= 2 and not trials.stage.any() else None
        note = (
            f"Random search: the first {first} trials of this run are uniform draws under the budget; the curve is "
            "what the best of so many of them scores on average, with the range of 80 % of draws, and ends with them."
            if random is not None
            else f"No trial of this run is known to be a uniform draw ({strategy}). A random search to compare with, "
            "made with --strategy random and otherwise the same settings, is named with --against."
        )
    return {"lines": lines, "random": random, "note": note}


def _random(trials: Trials, first: int | None = None) -> dict[str, Any] | None:
    """The curve of random search from its trials; one that failed or misses the budget found nothing."""
    part = slice(None, first)
    scores, fits = trials.scores[part], trials.fits[part]
    if not fits.any():
        return None
    # a trial that does not fit finds nothing: it stands at the lowest score, where it never is the best of several
    known = np.where(fits, scores, scores[fits].min())
    counts = np.unique(np.geomspace(1, len(known), num=min(_CURVE, len(known))).round().astype(np.int64))
    mean, low, high = expected_best(known, counts)
    return {"x": counts.tolist(), "mean": _rounded(mean), "low": _rounded(low), "high": _rounded(high)}


def choices(trials: Trials, space: SearchSpace | None) -> dict[str, Any] | None:
    """Shares of each choice in each decision: among all trials, and among the best tenth of those that fit."""
    if not len(trials):
        return None
    matrix = trials.architectures
    if space is None:
        radices = matrix.max(axis=0).astype(np.int64) + 1
        if int(radices.max()) > 1000:
            return None
        names = [f"decision {index}" for index in range(len(radices))]
        labels = [tuple(str(choice) for choice in range(radix)) for radix in radices.tolist()]
        live = np.ones(matrix.shape, dtype=bool)
    else:
        radices = space.radices
        names = [decision.name for decision in space.decisions]
        labels = [decision.choices for decision in space.decisions]
        live = space.live(matrix)
    fitting = trials.comparable[trials.fits[trials.comparable]]
    order = fitting[np.argsort(-trials.scores[fitting], kind="stable")]
    best = order[: max(1, math.ceil(len(order) / 10))] if len(order) else order
    columns = list(dict.fromkeys(label for own in labels for label in own))
    return {
        "rows": names[:_MOST_ROWS],
        "columns": columns,
        "all": _grid(choice_shares(matrix, radices, live), labels, columns),
        "best": _grid(choice_shares(matrix[best], radices, live[best]), labels, columns),
        "counts": [len(trials), len(best)],
    }


def table(prices: Sequence[DevicePrices], space: SearchSpace | None) -> list[dict[str, Any]]:
    """A heat map a device: milliseconds of what depends on each decision, by choice."""
    if space is None:
        return []
    labels = [decision.choices for decision in space.decisions]
    columns = list(dict.fromkeys(label for own in labels for label in own))
    return [
        {
            "name": price.device,
            "method": price.method,
            "hardware": price.hardware,
            "rows": [decision.name for decision in space.decisions][:_MOST_ROWS],
            "columns": columns,
            "ms": _grid(price.choices, labels, columns),
        }
        for price in prices
        if price.problem is None
    ]


def traces(state: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """How the distribution of a probabilistic strategy moved; nothing for other strategies."""
    strategy = (state or {}).get("strategy")
    own = strategy.get("own") if isinstance(strategy, dict) else None
    trace = own.get("trace") if isinstance(own, dict) else None
    if not isinstance(trace, list) or not trace or not all(isinstance(step, dict) for step in trace):
        return []
    found = []
    stride = max(1, math.ceil(len(trace) / 400))
    for title, names in _TRACES:
        lines = []
        for name in names:
            values = [(at + 1, _number(trace[at].get(name))) for at in range(0, len(trace), stride)]
            known = [(x, y) for x, y in values if y is not None]
            lines.append({"name": name.replace("_", " "), "x": [x for x, _ in known], "y": [y for _, y in known]})
        if all(line["x"] for line in lines):
            found.append({"title": title, "lines": lines})
    return found


def _grid(
    values: Sequence[np.ndarray], labels: Sequence[Sequence[str]], columns: Sequence[str]
) -> list[list[float | None]]:
    """Values by decision and choice as rows over all labels that occur; None where a decision lacks one."""
    place = {label: column for column, label in enumerate(columns)}
    rows: list[list[float | None]] = []
    for own, vector in list(zip(labels, values, strict=True))[:_MOST_ROWS]:
        row: list[float | None] = [None] * len(columns)
        for label, value in zip(own, _rounded(vector), strict=True):
            row[place[label]] = value
        rows.append(row)
    return rows


def _rounded(values: np.ndarray) -> list[float | None]:
    return [float(f"{value:.5g}") if math.isfinite(value) else None for value in values.tolist()]


def _number(value: Any) -> float | None:
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known else None


def _pair(value: Any) -> list[float] | None:
    if not isinstance(value, list | tuple) or len(value) != 2:
        return None
    ends = [_number(end) for end in value]
    return None if None in ends else [end for end in ends if end is not None]
