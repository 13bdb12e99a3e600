"""A run, finished or not, as one HTML page and in words."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.constraints import Constraint, parse_constraints
from hwnas.report import panels
from hwnas.report.drawing import draw_network
from hwnas.report.files import ExportedFile, exported_files
from hwnas.report.page import Page, html_table, plot, section
from hwnas.report.prices import DevicePrices, device_prices
from hwnas.report.trials import Trials
from hwnas.report.words import as_text, costs_of, number, span, summarise, value_of
from hwnas.run import Run, checked
from hwnas.spaces.errors import ConfigError, HwnasError
from hwnas.spaces.files import atomic_write
from hwnas.spaces.space import SearchSpace, get_space

__all__ = ["Report", "build_page", "make_report"]

#: Settings in which a random search may differ from the run that it is compared with.
_MAY_DIFFER = frozenset(
    {"strategy", "options", "evaluations", "finalists", "seed", "threads", "jobs", "tables", "data_root", "distill"}
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


def make_report(
    run: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str] | None = None,
    against: str | os.PathLike[str] | None = None,
) -> Report:
    """Summarise a run, finished or not, and write it as HTML.

    Parameters
    ----------
    run
        The run folder; it is only read, so a run that is still going on can be reported.
    output
        The file to write; ``report.html`` in the run folder by default.
    against
        The folder of a random search with otherwise the same settings, which the progress is drawn against.

    Raises
    ------
    ConfigError
        If `run` or `against` is not a run folder, one of its files is damaged, or the two do not compare.
    """
    opened = Run.open(run, write=False)
    page, summary = build_page(opened, against)
    html = Path(output) if output is not None else opened.path / "report.html"
    atomic_write(html, page.html())
    return Report(summary, as_text(summary), html)


def build_page(run: Run, against: str | os.PathLike[str] | None = None) -> tuple[Page, dict[str, Any]]:
    """The page of a run, and its summary as plain values; see `make_report`."""
    constraints = _constraints(run)
    trials = Trials.read(run, constraints)
    other = None if against is None else _other(run, against, constraints)
    scored = trials.scores[np.isfinite(trials.scores)]
    summary = summarise(run, len(trials), float(scored.max()) if len(scored) else None)
    space, exact = _space(run, summary["best"], trials)
    devices = list(dict.fromkeys(c.device for c in constraints if c.metric == "latency" and c.device))
    tables = run.settings.get("tables")
    prices = device_prices(space, devices, tables) if space is not None and exact else []
    shown = panels.finalists(summary["finalists"], list(trials.costs))
    state = run.state
    data = {
        "points": panels.points(trials, constraints, space),
        "finalists": shown,
        "score": panels.score_name(run.settings),
        "predicted": panels.predicted(prices, shown),
        "progress": panels.progress(run, trials, other, _uniform(run, state)),
        "choices": panels.choices(trials, space),
        "table": panels.table(prices, space),
        "traces": panels.traces(state),
    }
    title = f"{run.settings.get('space', 'run')} on {run.settings.get('data', '?')}"
    body = "".join(_sections(run, summary, data, trials, space if exact else None, prices, state))
    return Page(title, f"{_head(title, summary, trials)}{body}", data), summary


# ---------------------------------------------------------------------- what a run says of itself


def _constraints(run: Run) -> list[Constraint]:
    """The constraints of the run; devices that are not known here are taken as they are."""
    texts = run.settings.get("constraints", [])
    found = []
    for text in texts if isinstance(texts, list) else []:
        named = re.findall(r"@\s*([^\s<>=≤≥@]+)", str(text))
        found += parse_constraints(str(text), devices=[*named, *(name.lower() for name in named)])
    return found


def _space(run: Run, best: Mapping[str, Any] | None, trials: Trials) -> tuple[SearchSpace | None, bool]:
    """The run's space, and whether it is exactly the run's: shaped by its data, too."""
    exact = run.info.get("space") or (best or {}).get("space")
    for spec, known in ((exact, True), (run.settings.get("space"), False)):
        if not isinstance(spec, str):
            continue
        try:
            space = get_space(spec)
        except HwnasError:  # of a package that is not here, or of another version
            continue
        matrix = trials.architectures
        if not len(matrix) or (matrix.shape[1] == len(space.radices) and (matrix.max(axis=0) < space.radices).all()):
            return space, known
    return None, False


def _uniform(run: Run, state: Mapping[str, Any] | None) -> float:
    """How many of the first trials are uniform draws, by the strategy and its settings in the saved state."""
    from hwnas.strategies import get_strategy

    saved = (state or {}).get("strategy")
    hyper = saved.get("hyper") if isinstance(saved, dict) else None
    if run.settings.get("jobs", 1) != 1 or not isinstance(hyper, dict):  # several at a time end in any order
        return 0.0
    try:
        return get_strategy(str(run.settings.get("strategy", "evolution"))).uniform_start(hyper)
    except HwnasError:
        return 0.0


def _other(run: Run, path: str | os.PathLike[str], constraints: Sequence[Constraint]) -> Trials:
    """The trials of the random search in `path`, if it may be compared with `run`."""
    other = Run.open(path, write=False)
    strategy = other.settings.get("strategy", "evolution")
    if strategy != "random":
        raise ConfigError(f"the run {other.path} has the strategy {strategy}, not random; name a random search")
    for key in dict.fromkeys([*run.settings, *other.settings]):
        ours, theirs = run.settings.get(key), other.settings.get(key)
        if key not in _MAY_DIFFER and ours != theirs:
            raise ConfigError(
                f"the runs do not compare: {key} is {ours!r} in {run.path} and {theirs!r} in {other.path}; "
                "make the random search with the same settings"
            )
    return Trials.read(other, constraints)


# ---------------------------------------------------------------------- HTML


def _head(title: str, summary: Mapping[str, Any], trials: Trials) -> str:
    settings, best = summary["settings"], summary["best"]
    facts = [("Strategy", str(settings.get("strategy", "evolution"))), ("Evaluated", f"{summary['evaluations']:,}")]
    if best is None:
        at = trials.best
        facts.append(("Best score so far", number(None if at is None else float(trials.scores[at]))))
        command = escape(f"hwnas search --resume {summary['run']}")
        state = f'<p class="note">Not finished; <code>{command}</code> goes on with it if it was stopped.</p>'
    else:
        facts.append(("Test accuracy", number(best.get("accuracy"))))
        for text, cost in costs_of(best):
            method = str(cost.get("method") or "measured")
            value = value_of(text, checked(cost) if checked(cost) is not None else cost.get("predicted"))
            facts.append((f"{text.split(' ', 1)[0]}, {method}", value))
        state = ""
    cells = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
    limits = ", ".join(f"<code>{escape(str(text))}</code>" for text in settings.get("constraints", []))
    return (
        f'<header><h1>{escape(title)}</h1><div data-part="head"><p class="sub">under {limits or "no constraint"}</p>'
        f'<dl class="facts">{cells}</dl>{state}</div></header>'
        "<noscript><p>The plots and the table of trials need JavaScript.</p></noscript>"
    )


def _sections(
    run: Run,
    summary: Mapping[str, Any],
    data: Mapping[str, Any],
    trials: Trials,
    space: SearchSpace | None,
    prices: Sequence[DevicePrices],
    state: Mapping[str, Any] | None,
) -> list[str]:
    """The sections in order; those without content are left out."""
    found = [
        section(
            "scatter",
            "Accuracy against cost",
            '<div class="switches" id="axis"></div>' if len(trials.costs) > 1 else "",
            plot("scatter", "score of every architecture against its cost", 440),
            _scatter_words(data, trials),
            wide=True,
        ),
        '<section id="detail" class="full" hidden><h2>Selected architecture</h2><div id="chosen"></div></section>',
        section("progress", "Progress", plot("progress", "best score so far by evaluations"), _progress_words(data)),
    ]
    found += _predicted_sections(data)
    if data["traces"]:
        parts = [plot(f"trace-{index}", each["title"], 240) for index, each in enumerate(data["traces"])]
        found.append(section("distribution", "Distribution of the strategy", *parts, _marginals(run, state), wide=True))
    if summary["finalists"]:
        found.append(section("finalists", "Finalists", _finalists(summary["finalists"]), wide=True))
    files = exported_files(run)
    if files:
        found.append(section("files", "Exported files", _files(files), wide=True))
    if data["choices"]:
        rows = len(data["choices"]["rows"])
        words = (
            f"<p>Share of each choice among all {data['choices']['counts'][0]:,} evaluated architectures, and among "
            f"the best tenth of those that fit ({data['choices']['counts'][1]:,}).</p>"
        )
        figure = plot("choices", "share of each choice by decision", 150 + 18 * rows)
        found.append(section("choices", "Operator choices", '<div class="switches" id="which"></div>', figure, words))
    found += _table_sections(data, prices)
    found.append(_network(summary, trials, space, prices))
    found.append(section("trials", "Trials", '<div id="rows"></div>', wide=True))
    found.append(section("settings", "Settings", _settings(summary), wide=True))
    return found


def _scatter_words(data: Mapping[str, Any], trials: Trials) -> str:
    shown = len(data["points"]["index"])
    failed = int(np.isnan(trials.scores).sum())
    if not len(trials):
        return "<p>No architecture was evaluated yet.</p>"
    words = f"Score: {escape(data['score'])}. Costs of dots are predicted; click one for its choices."
    if shown < len(trials):
        words += (
            f" Drawn are {shown:,} of {len(trials):,} trials: the front, the best and an even choice of the rest; the "
            "front is that of all."
        )
    if failed:
        words += f" {failed:,} evaluations failed and have no score."
    if trials.stage.any():
        words += " Only scores of the last stage compare with each other."
    return f"<p>{words}</p>"


def _progress_words(data: Mapping[str, Any]) -> str:
    return f"<p>Best score so far of what fits the budget. {escape(data['progress']['note'])}</p>"


def _predicted_sections(data: Mapping[str, Any]) -> list[str]:
    found = []
    for index, each in enumerate(data["predicted"]):
        words = []
        if each["finalists"]:
            words.append("Finalists, with the 90 % interval of the prediction and that of the device's number.")
        if each["networks"]:
            words.append(
                f"Dots: {len(each['networks']['given']):,} networks of the device's table ({escape(each['method'])}), "
                "each predicted by a fit that never saw it."
            )
        figure = plot(f"predicted-{index}", f"predicted against given latency of {each['name']}")
        title = "Predicted against measured"
        if any(cost["method"] not in ("measured", "") for cost in each["finalists"]) or each["method"] != "measured":
            title = "Predicted against the device's number"
        found.append(section(f"predicted-{index}", title, figure, f"<p>{' '.join(words)}</p>"))
    return found


def _table_sections(data: Mapping[str, Any], prices: Sequence[DevicePrices]) -> list[str]:
    found = []
    for index, each in enumerate(data["table"]):
        words = (
            f"<p>Milliseconds of what depends on each decision, by choice, on {escape(each['name'])} "
            f"({escape(each['hardware'])}): {escape(each['method'])}, corrected on whole networks where the table has "
            "some; the table as it is now.</p>"
        )
        figure = plot(f"table-{index}", f"latency of each choice on {each['name']}", 150 + 18 * len(each["rows"]))
        found.append(section(f"table-{index}", "Latency table", figure, words))
    problems = "".join(f"<p>{escape(price.device)}: {escape(price.problem)}.</p>" for price in prices if price.problem)
    return [*found, section("no-table", "Latency table", problems)] if problems else found


def _finalists(finalists: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for finalist in finalists:
        verdict = '<span class="fit">fits</span>' if finalist.get("fits") else '<span class="miss">misses</span>'
        first = True
        for text, cost in costs_of(finalist) or [("", {})]:
            rows.append(
                (
                    _architecture(finalist["architecture"]) if first else "",
                    number(finalist.get("accuracy")) if first else "",
                    escape(text),
                    value_of(text, cost.get("predicted")),
                    span(text, cost.get("interval")) or "–",
                    value_of(text, checked(cost)),
                    escape(str(cost.get("method") or "–")),
                    verdict if first else "",
                )
            )
            first = False
    head = ("architecture", "test accuracy", "constraint", "predicted", "90 % interval", "checked", "by", "")
    return html_table(head, rows, frozenset({1, 3, 4, 5}))


def _architecture(choices: Sequence[Any]) -> str:
    return f"<code>{escape(' '.join(str(choice) for choice in choices)[:2000])}</code>"


def _files(files: Sequence[ExportedFile]) -> str:
    rows = []
    for file in files:
        between = "–" if file.interval_ms is None else span("latency", list(file.interval_ms))
        rows.append(
            (
                f"<code>{escape(file.name)}</code>",
                f"{file.size / 1000:,.4g} KB",
                escape(file.precision or "–"),
                number(file.accuracy),
                escape(file.device or "–"),
                "–" if file.predicted_ms is None else value_of("latency", file.predicted_ms),
                "–" if file.latency_ms is None else value_of("latency", file.latency_ms),
                between,
                escape(file.problem or file.method or "–"),
            )
        )
    head = ("file", "size", "precision", "accuracy", "device", "predicted", "latency", "interval", "by")
    return html_table(head, rows, frozenset({1, 3, 5, 6, 7})) + "<p>As the files' own metadata say.</p>"


def _network(
    summary: Mapping[str, Any], trials: Trials, space: SearchSpace | None, prices: Sequence[DevicePrices]
) -> str:
    """The winner drawn, or the best trial so far; a table of choices where the space is not known here."""
    best, at = summary["best"], trials.best
    if best is None and at is None:
        return ""
    choices = best.get("architecture") if best is not None else trials.architectures[at].tolist()
    title = "The architecture" if best is not None else "The best architecture so far"
    if space is not None:
        try:
            graph = space.lower(choices)
        except HwnasError as error:
            return section("network", title, f"<p>It cannot be drawn: {escape(str(error))}.</p>", wide=True)
        price = next((price for price in prices if price.blocks), None)
        drawing = draw_network(graph, *((price.blocks, price.method) if price else ()))
        facts = f"{graph.macs / 1e6:.4g} M multiply-adds, {graph.params / 1e3:,.4g} K parameters"
        rests = f"; latencies of its blocks: table of {escape(price.device)} ({escape(price.method)})" if price else ""
        return section("network", title, f"<p>{facts}{rests}.</p>", drawing, wide=True)
    labels = best.get("choices") if best is not None else None
    if isinstance(labels, dict):
        rows = [(escape(str(name)), escape(str(label))) for name, label in labels.items()]
        return section("network", title, html_table(("decision", "choice"), rows), wide=True)
    return section("network", title, f"<p>{_architecture(choices if isinstance(choices, list) else [])}</p>", wide=True)


def _settings(summary: Mapping[str, Any]) -> str:
    facts = [*summary["settings"].items(), ("created", summary["created_at"])]
    facts += list(summary["versions"].items()) if isinstance(summary["versions"], dict) else []
    rows = [(escape(str(name)), f"<code>{escape(_setting(value))}</code>") for name, value in facts]
    return html_table(("setting", "value"), rows)


def _setting(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "–"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _marginals(run: Run, state: Mapping[str, Any] | None) -> str:
    """The probability of each choice in a probabilistic strategy, as a table that is darker where it is larger."""
    from hwnas.strategies.distribution import ArchitectureDistribution

    spec = (run.best or {}).get("space") or run.info.get("space") or run.settings.get("space")
    try:
        space = get_space(str(spec))
        distribution = ArchitectureDistribution.from_json(
            space.radices, (state or {})["strategy"]["own"]["distribution"]
        )
    except (HwnasError, ValueError, KeyError, TypeError):  # of another version, or shaped by data that is not here
        return "<p>The probabilities of the choices cannot be shown: they do not fit the space of the run.</p>"
    rows = []
    for decision, shares in zip(space.decisions, distribution.marginals(), strict=True):
        cells = (
            f'<span class="p" style="--p:{share:.2f}">{escape(label)} {share:.2f}</span>'
            for label, share in zip(decision.choices, shares.tolist(), strict=True)
        )
        rows.append((escape(decision.name), "".join(cells)))
    return html_table(("decision", "probability of each choice at the end"), rows)
