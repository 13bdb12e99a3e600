"""A run in words and as one self-contained HTML file: no scripts, no fonts, nothing from the network."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from hwnas.constraints import METRICS, format_value
from hwnas.run import Run, checked
from hwnas.spaces.errors import ConfigError
from hwnas.spaces.files import atomic_write
from hwnas.svg_plot import COLOURS, Plot, number

__all__ = ["Report", "describe_cost", "make_report"]

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1c2430}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.3rem .8rem .3rem 0;border-bottom:1px solid #d8dee6;vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}.miss{color:#b3261e}.fit{color:#1b6e3c}
span.p{display:inline-block;margin:0 .3rem .2rem 0;padding:0 .4rem;border:1px solid #d8dee6}
svg{width:100%;height:auto}svg text{font-size:12px;fill:#4a5566}code{font-size:.9em}
"""

#: What is drawn of a probabilistic strategy's steps, and from which of its records.
_TRACES = (
    ("entropy of the distribution in nats, by step", ("entropy",)),
    (
        "draws a step (blue), and as how many their weights count (orange)",
        ("samples", "effective_samples"),
    ),
    ("share of the draws within the budget, by step", ("within_budget",)),
    ("mean score of the draws, by step", ("score",)),
)


@dataclass(frozen=True)
class Report:
    """A run's summary.

    Attributes
    ----------
    summary
        The same facts as plain values, ready for JSON.
    text
        Summary for a terminal.
    html
        The file that was written.
    """

    summary: dict[str, Any]
    text: str
    html: Path


def make_report(run: str | os.PathLike[str], *, output: str | os.PathLike[str] | None = None) -> Report:
    """Summarise a run, finished or not, and write it as HTML.

    Parameters
    ----------
    run
        The run folder; it is only read, so a run that is still going on can be reported.
    output
        The file to write; ``report.html`` in the run folder by default.

    Raises
    ------
    ConfigError
        If `run` is not a run folder or one of its files is damaged.
    """
    opened = Run.open(run, write=False)
    summary = _summarise(opened)
    html = Path(output) if output is not None else opened.path / "report.html"
    atomic_write(html, _html(opened, summary))
    return Report(summary, _text(summary), html)


def _summarise(run: Run) -> dict[str, Any]:
    trials, finalists, best = run.trials(), run.finalists(), run.best
    settings = run.settings
    top = max(trials, key=lambda trial: trial.score, default=None)
    return {
        "run": str(run.path),
        "finished": best is not None,
        "created_at": run.info.get("created_at"),
        "versions": run.info.get("versions", {}),
        "settings": settings,
        "evaluations": len(trials),
        "best_score": None if top is None else top.score,
        "finalists": finalists,
        "best": best,
        "onnx": str(run.onnx) if run.onnx.exists() else None,
    }


def _value(text: str, value: Any) -> str:
    """A value with the unit of the constraint `text`."""
    metric = re.split(r"[@\s]", text, maxsplit=1)[0]
    if metric in METRICS and isinstance(value, int | float):
        return format_value(metric, value)
    return number(value)


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
        return f"counted {_value(text, checked(cost))}"
    parts = []
    if cost.get("predicted") is not None:
        parts.append(f"predicted {_value(text, cost['predicted'])}{_span(text, cost)}")
    if checked(cost) is not None:
        parts.append(f"{cost.get('method') or 'measured'} {_value(text, checked(cost))}")
    elif cost.get("method"):
        parts.append(f"not measured: {cost['method']}")
    return ", ".join(parts) or "not priced"


def _span(text: str, cost: Mapping[str, Any]) -> str:
    interval = cost.get("interval")
    if not isinstance(interval, list | tuple) or None in interval:
        return ""
    return f" ({_value(text, interval[0])} to {_value(text, interval[1])})"


def _text(summary: dict[str, Any]) -> str:
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
        lines += [f"  {text}: {describe_cost(text, cost)}" for text, cost in _costs(finalist)]
    best = summary["best"]
    if best is None:
        lines.append(f"state   not finished; `hwnas search --resume {summary['run']}` goes on with it")
    else:
        lines.append(f"answer  accuracy {number(best.get('accuracy'))}, architecture {best.get('architecture')}")
        lines += [f"  {text}: {describe_cost(text, cost)}" for text, cost in _costs(best)]
        if summary["onnx"] is not None:
            lines.append(f"onnx    {summary['onnx']}")
    return "\n".join(lines)


def _costs(entry: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    costs = entry.get("costs")
    return [(text, cost) for text, cost in costs.items() if isinstance(cost, dict)] if isinstance(costs, dict) else []


# ---------------------------------------------------------------------- HTML


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], numeric: frozenset[int] = frozenset()) -> str:
    """Rows of ready-made HTML cells as a table."""

    def line(tag: str, cells: Sequence[str]) -> str:
        marks = (' class="n"' if index in numeric else "" for index in range(len(cells)))
        return "<tr>" + "".join(f"<{tag}{m}>{c}</{tag}>" for m, c in zip(marks, cells, strict=True)) + "</tr>"

    return f"<table>{line('th', head)}{''.join(line('td', row) for row in rows)}</table>"


def _html(run: Run, summary: dict[str, Any]) -> str:
    settings, best = summary["settings"], summary["best"]
    title = f"{settings.get('space', 'run')} on {settings.get('data', '?')}"
    parts = [f"<h1>{escape(str(title))}</h1>"]
    if best is None:
        command = f"hwnas search --resume {summary['run']}"
        parts.append(f"<p>Not finished: <code>{escape(command)}</code> goes on with it.</p>")
    else:
        costs = "; ".join(f"{escape(text)}: {escape(describe_cost(text, cost))}" for text, cost in _costs(best))
        parts.append(f"<p>Accuracy <b>{number(best.get('accuracy'))}</b>. {costs}.</p>")
    parts += ["<h2>Search</h2>", _scatter(run), _distribution(run)]
    if summary["finalists"]:
        parts += ["<h2>Finalists: predicted and checked</h2>", _finalists(summary["finalists"])]
    if best is not None and isinstance(best.get("choices"), dict):
        rows = [(escape(str(name)), escape(str(label))) for name, label in best["choices"].items()]
        parts += ["<h2>Architecture</h2>", _table(("decision", "choice"), rows)]
    facts = [*settings.items(), ("created", summary["created_at"]), *summary["versions"].items()]
    rows = [(escape(str(name)), f"<code>{escape(str(value))}</code>") for name, value in facts]
    parts += ["<h2>Settings</h2>", _table(("setting", "value"), rows)]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(str(title))}</title>'
        f"<style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _finalists(finalists: Sequence[dict[str, Any]]) -> str:
    rows = []
    for finalist in finalists:
        verdict = '<span class="fit">fits</span>' if finalist.get("fits") else '<span class="miss">misses</span>'
        first = True
        for text, cost in _costs(finalist) or [("", {})]:
            rows.append(
                (
                    f"<code>{escape(str(finalist['architecture']))}</code>" if first else "",
                    number(finalist.get("accuracy")) if first else "",
                    escape(text),
                    _value(text, cost.get("predicted")),
                    _span(text, cost).strip(" ()") or "–",
                    _value(text, checked(cost)),
                    escape(str(cost.get("method") or "–")),
                    verdict if first else "",
                )
            )
            first = False
    head = ("architecture", "accuracy", "constraint", "predicted", "interval", "checked", "method", "")
    return _table(head, rows, frozenset({1, 3, 4, 5}))


def _scatter(run: Run) -> str:
    """Score against the first cost of every trial, measured finalists on top, as inline SVG."""
    trials, finalists = run.trials(), run.finalists()
    axis = next((name for trial in trials for name in trial.costs), None)
    if axis is None:
        return f"<p>{len(trials)} architectures evaluated; none of them carries a cost to draw.</p>"
    points = [(t.costs[axis], t.score) for t in trials if axis in t.costs]
    points = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    crosses: list[tuple[float, float, str]] = []
    bounds: list[float] = []
    for finalist in finalists:
        for text, cost in _costs(finalist):
            bound, value, score = cost.get("bound"), checked(cost), finalist.get("score")
            if text.partition(" ")[0] == axis and isinstance(bound, int | float):
                bounds.append(float(bound))
                if isinstance(value, int | float) and isinstance(score, int | float):
                    crosses.append((float(value), float(score), str(cost.get("method") or "measured")))
    if not points:
        return f"<p>{len(trials)} architectures evaluated; none of them has a finite score to draw.</p>"
    xs, ys = zip(*points, *((x, y) for x, y, _ in crosses), strict=True)
    plot = Plot([*xs, *bounds[:1]], ys)
    for bound in bounds[:1]:
        plot.limit(bound, "budget")
    plot.dots(points)
    for x, y, method in crosses:
        plot.cross(x, y, f"{method} {number(x)}, score {number(y)}")
    metric = axis.partition("@")[0]
    unit = next(iter(METRICS[metric].units)) if metric in METRICS else ""
    caption = f"{escape(axis)}{' in ' if unit else ''}{unit}: {len(points)} candidates as predicted (dots)"
    methods = " or ".join(dict.fromkeys(method for _, _, method in crosses))
    caption += f", {len(crosses)} finalists as {methods} (crosses)" if crosses else ""
    return plot.svg(caption, "score against cost", y_label="score")


# ---------------------------------------------------------------------- a strategy's distribution


def _distribution(run: Run) -> str:
    """How the distribution of a probabilistic strategy moved, and where it is; nothing for other strategies."""
    state = (run.state or {}).get("strategy")
    own = state.get("own") if isinstance(state, dict) else None
    if not isinstance(own, dict):
        return ""
    trace = own.get("trace")
    if not isinstance(trace, list) or not trace or not all(isinstance(step, dict) for step in trace):
        return ""
    plots = []
    for title, names in _TRACES:
        lines = []
        for name in names:
            values = [(float(at), step.get(name)) for at, step in enumerate(trace, start=1)]
            lines.append([(x, float(y)) for x, y in values if isinstance(y, int | float) and math.isfinite(y)])
        if not all(lines):
            continue
        plot = Plot([x for line in lines for x, _ in line], [y for line in lines for _, y in line], height=240)
        for line, colour in zip(lines, COLOURS, strict=False):
            plot.line(line, colour)
        plots.append(plot.svg(title, f"{', '.join(names)} by step"))
    return f"<h2>Distribution</h2>{''.join(plots)}{_marginals(run, own)}"


def _marginals(run: Run, own: Mapping[str, Any]) -> str:
    """The probability of each choice, as a table that is darker where it is larger."""
    from hwnas.spaces.space import get_space
    from hwnas.strategies.distribution import ArchitectureDistribution

    spec = (run.best or {}).get("space") or run.settings.get("space")
    try:
        space = get_space(str(spec))
        distribution = ArchitectureDistribution.from_json(space.radices, own["distribution"])
    except (ConfigError, ValueError, KeyError, TypeError):  # of another version, or shaped by data that is not here
        return "<p>The probabilities of the choices cannot be shown: they do not fit the space of the run.</p>"
    rows = []
    for decision, shares in zip(space.decisions, distribution.marginals(), strict=True):
        cells = (
            f'<span class="p" style="background:rgba(53,103,184,{share:.2f})">{escape(label)} {share:.2f}</span>'
            for label, share in zip(decision.choices, shares.tolist(), strict=True)
        )
        rows.append((escape(decision.name), "".join(cells)))
    return _table(("decision", "probability of each choice at the end"), rows)
