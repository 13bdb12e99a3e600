"""A run in words: its summary as plain values, and for a terminal."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from hwnas.constraints import METRICS, format_value
from hwnas.run import Run, checked

__all__ = ["as_text", "costs_of", "describe_cost", "number", "span", "summarise", "value_of"]


def number(value: object, digits: int = 4) -> str:
    """A number for the reader; a dash for anything else."""
    return f"{value:.{digits}g}" if isinstance(value, int | float) and math.isfinite(value) else "–"


def value_of(text: str, value: Any) -> str:
    """A value with the unit of the constraint `text`."""
    metric = re.split(r"[@\s]", text, maxsplit=1)[0]
    if metric in METRICS and isinstance(value, int | float):
        return format_value(metric, value)
    return number(value)


def span(text: str, interval: Any) -> str:
    """An interval of the constraint `text` as ``0.40 ms to 0.44 ms``; empty if it is not known."""
    if not isinstance(interval, list | tuple) or len(interval) != 2 or None in interval:
        return ""
    return f"{value_of(text, interval[0])} to {value_of(text, interval[1])}"


def describe_cost(text: str, cost: Mapping[str, Any]) -> str:
    """One cost of a result as words, such as ``predicted 0.42 ms (0.40 ms to 0.44 ms), measured 0.43 ms``.

    Parameters
    ----------
    text
        The constraint, which says the unit.
    cost
        ``predicted``, ``interval``, ``checked`` and ``method``, as in `hwnas.search.SearchResult.costs`.
    """
    if cost.get("method") == "counted":
        return f"counted {value_of(text, checked(cost))}"
    parts = []
    if cost.get("predicted") is not None:
        between = span(text, cost.get("interval"))
        parts.append(f"predicted {value_of(text, cost['predicted'])}" + (f" ({between})" if between else ""))
    if checked(cost) is not None:
        parts.append(f"{cost.get('method') or 'measured'} {value_of(text, checked(cost))}")
    elif cost.get("method"):
        parts.append(f"not measured: {cost['method']}")
    return ", ".join(parts) or "not priced"


def costs_of(entry: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The costs of a finalist or of the best: constraint text and record."""
    costs = entry.get("costs")
    return [(text, cost) for text, cost in costs.items() if isinstance(cost, dict)] if isinstance(costs, dict) else []


def summarise(run: Run, evaluations: int, best_score: float | None) -> dict[str, Any]:
    """The facts of a run as plain values, ready for JSON.

    Parameters
    ----------
    run
        The run.
    evaluations, best_score
        How many architectures were evaluated, and the highest score of all, also of those that miss a budget.
    """
    best = run.best
    return {
        "run": str(run.path),
        "finished": best is not None,
        "created_at": run.info.get("created_at"),
        "versions": run.info.get("versions", {}),
        "settings": run.settings,
        "evaluations": evaluations,
        "best_score": best_score,
        "finalists": run.finalists(),
        "best": best,
        "onnx": str(run.onnx) if run.onnx.exists() else None,
    }


def as_text(summary: Mapping[str, Any]) -> str:
    """A summary for a terminal."""
    settings = summary["settings"]
    lines = [
        f"run     {summary['run']}",
        f"space   {settings.get('space')}",
        f"data    {settings.get('data')}",
        f"search  {settings.get('strategy')}, {summary['evaluations']} evaluations, best score "
        f"{number(summary['best_score'])}",
    ]
    for finalist in summary["finalists"]:
        verdict = "fits" if finalist.get("fits") else "misses its budget"
        lines.append(f"finalist {finalist['architecture']}: accuracy {number(finalist.get('accuracy'))}, {verdict}")
        lines += [f"  {text}: {describe_cost(text, cost)}" for text, cost in costs_of(finalist)]
    best = summary["best"]
    if best is None:
        lines.append(f"state   not finished; `hwnas search --resume {summary['run']}` goes on with it")
    else:
        lines.append(f"answer  accuracy {number(best.get('accuracy'))}, architecture {best.get('architecture')}")
        lines += [f"  {text}: {describe_cost(text, cost)}" for text, cost in costs_of(best)]
        if summary["onnx"] is not None:
            lines.append(f"onnx    {summary['onnx']}")
    return "\n".join(lines)
