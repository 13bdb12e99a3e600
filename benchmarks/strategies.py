"""Every search strategy on NAS-Bench-201 under a latency budget of a real phone: accuracy against evaluations.

    python benchmarks/strategies.py                 # 50 seeds, under an hour on one core
    python benchmarks/strategies.py --device latbench.mobile-cpu-snapdragon-855-kryo-485-int8
    python benchmarks/strategies.py --strategies pnas     # again, beside the rows of the others from before

The protocol is the benchmark's own: strategies see the validation accuracy after 12 epochs, and what
is reported is the test accuracy after 200 epochs of the architecture that is best by validation so
far (never the running maximum of test accuracies). Every strategy gets the same number of
evaluations, repeats included, and has its default settings. Most strategies ask for architectures
within the budget only, whose latency is known beforehand; `epnas`, `fpnas` and `parsec` also ask for
others, which count like any evaluation. Where nothing within the budget was evaluated yet, the
accuracy is 0.

The default device is HW-NAS-Bench's Pixel 3: a real phone, measured in floating-point precision (the
phones of HELP are rounded to whole milliseconds), and with a latency for all 15,625 architectures
(nn-Meter's phone columns have 1,999), so that what is infeasible is so for the budget alone. Two
networks that are the same computation differ by about 6 % in that column; the Kryo 485 column
(2 %, compiled int8, 15,284 architectures) is the cross-check.

A run that was stopped goes on where it was. Writes
``strategies-nasbench201-DEVICE.{csv,md,svg}`` to ``benchmarks/results``.
"""

from __future__ import annotations

import argparse
import csv
import functools
import io
import itertools
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from record import finish

import hwnas
from hwnas.constraints import ConstraintSet
from hwnas.evaluators.tabular import REPORT, SCORE, TabularEvaluator
from hwnas.sampler import FeasibleSampler
from hwnas.spaces.files import atomic_write, make_folder
from hwnas.strategies import make_strategy

STRATEGIES = (
    "random",
    "evolution",
    "regularized-evolution",
    "hurricane",
    "reinforce",
    "controller",
    "pnas",
    "epnas",
    "parsec",
    "fpnas",
    "manas",
    "manas-ls",
)
COLOURS = {"random": "0.45"} | {name: f"C{number}" for number, name in enumerate(STRATEGIES[1:])}
MEASURES = ("validation", "test")
AHEAD = "{ahead_of_random:+.2f} [{ahead_of_random_low95:+.2f}, {ahead_of_random_high95:+.2f}]"
CHECKPOINTS = (10, 25, 50, 100, 200, 300, 500, 1000)
KEY = ("latency_quantile", "measure", "strategy", "evaluations")


@dataclass(frozen=True)
class Setting:
    """One budget on one device, and what can be reached under it."""

    quantile: float
    budget_ms: float
    sampler: FeasibleSampler
    optima: tuple[float, float]  # best validation and best test accuracy
    by_validation: float  # test accuracy of the best by validation


def settings_of(table: TabularEvaluator, device: str, quantiles: list[float]) -> list[Setting]:
    """The budgets at `quantiles` of the device's latencies."""
    latencies, rows = table.models[device].values, table.space.all()
    found = []
    for quantile in quantiles:
        budget = float(f"{np.nanquantile(latencies, quantile):.4g}")
        limits = ConstraintSet(f"latency@{device} <= {budget}ms", table.space, table.models)
        inside = limits.feasible(rows)
        test = np.where(inside, table.report["test"], -np.inf)
        validation = np.where(inside, table.scores, -np.inf)
        optima = float(validation.max()), float(test.max())
        found.append(Setting(quantile, budget, limits.sampler(), optima, float(test[np.argmax(validation)])))
    return found


@functools.cache
def prepared(device: str, quantile: float) -> tuple[TabularEvaluator, FeasibleSampler]:
    """The tables and what is within the budget; once a process."""
    table = TabularEvaluator.nasbench201([device])
    return table, settings_of(table, device, [quantile])[0].sampler


def run(device: str, quantile: float, name: str, seed: int, evaluations: int) -> list[list[float]]:
    """One search: after each evaluation the validation and test accuracy of the best by validation, ``(n, 2)``."""
    table, sampler = prepared(device, quantile)
    strategy = make_strategy(name, table.space, sampler, seed=seed)
    strategy.expect(evaluations)
    curve = np.zeros((evaluations, 2))
    for step in range(evaluations):
        asked = strategy.ask()
        if asked:
            strategy.tell(table.evaluate(asked))
        if strategy.best is not None:
            curve[step] = strategy.best.score, strategy.best.info["test"]
    return curve.tolist()


def median_interval(values: np.ndarray, rng: np.random.Generator) -> tuple[float, float, float]:
    """Median of `values`, shape ``(seeds,)``, and its bootstrapped 95 % interval."""
    resampled = np.median(rng.choice(values, size=(2000, len(values))), axis=1)
    low, high = np.quantile(resampled, [0.025, 0.975])
    return float(np.median(values)), float(low), float(high)


def table_rows(curves: dict[tuple[float, str], np.ndarray], settings: list[Setting]) -> list[dict[str, Any]]:
    """One row a budget, measure, strategy and checkpoint."""
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    names = [name for name in STRATEGIES if (settings[0].quantile, name) in curves]
    for setting, (column, measure), name in itertools.product(settings, enumerate(MEASURES), names):
        curve = curves[setting.quantile, name][:, :, column]
        baseline = curves[setting.quantile, "random"][:, :, column]
        for evaluations in (c for c in CHECKPOINTS if c <= curve.shape[1]):
            values = curve[:, evaluations - 1]
            median, low, high = median_interval(values, rng)
            ahead, ahead_low, ahead_high = median_interval(values - baseline[:, evaluations - 1], rng)
            row = {
                "latency_quantile": setting.quantile,
                "budget_ms": setting.budget_ms,
                "feasible": setting.sampler.exact_count,
                "measure": measure,
                "strategy": name,
                "evaluations": evaluations,
                "seeds": len(values),
                "median": median,
                "median_low95": low,
                "median_high95": high,
                "quartile1": float(np.quantile(values, 0.25)),
                "quartile3": float(np.quantile(values, 0.75)),
                "ahead_of_random": ahead,
                "ahead_of_random_low95": ahead_low,
                "ahead_of_random_high95": ahead_high,
                "optimum": setting.optima[column],
                "test_of_best_validation": setting.by_validation,
            }
            rows.append({key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()})
    return rows


def markdown(rows: list[dict[str, Any]], device: str, about: str) -> str:
    """The tables for people: medians, intervals and quartiles at a few checkpoints."""
    shown = [c for c in (25, 50, 100, 200, 500) if any(row["evaluations"] == c for row in rows)]
    lines = [
        f"# Strategies on NAS-Bench-201 under a latency budget ({device})",
        "",
        about,
        "",
        "Cells: median over seeds [bootstrapped 95 % interval of the median] (quartiles), percent. *Validation* is "
        "what the strategies see: the best accuracy after 12 epochs so far. *Test* is the accuracy after 200 epochs "
        "of that same architecture; it may fall while validation rises, for 12 epochs rank only roughly. The last "
        "column compares with random search seed by seed.",
    ]
    for budget, measure in itertools.product(dict.fromkeys(row["budget_ms"] for row in rows), MEASURES):
        here = [row for row in rows if (row["budget_ms"], row["measure"]) == (budget, measure)]
        first = here[0]
        if measure == MEASURES[0]:
            share = f"{100 * first['latency_quantile']:g} %"
            lines += ["", f"## Budget {budget} ms: {first['feasible']:,} feasible architectures, the fastest {share}"]
        end = f"; that of the best by validation is {first['test_of_best_validation']:.2f}" if measure == "test" else ""
        lines += [
            "",
            f"{measure.capitalize()} accuracy (the best feasible one is {first['optimum']:.2f}{end}):",
            "",
            "| strategy | " + " | ".join(f"{c} evaluations" for c in shown) + f" | ahead of random at {shown[-1]} |",
            "| --- |" + " --- |" * (len(shown) + 1),
        ]
        for name in STRATEGIES:
            cells = [
                "{median:.2f} [{median_low95:.2f}, {median_high95:.2f}] ({quartile1:.2f}–{quartile3:.2f})".format(**row)
                for row in here
                if row["strategy"] == name and row["evaluations"] in shown
            ]
            last = next(row for row in here if row["strategy"] == name and row["evaluations"] == shown[-1])
            ahead = AHEAD.format(**last)
            lines.append(f"| {name} | " + " | ".join([*cells, "–" if name == "random" else ahead]) + " |")
    return "\n".join(lines) + "\n"


def plot(rows: list[dict[str, Any]], device: str, path: Path) -> None:
    """Medians against evaluations, one panel a budget."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "hwnas", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot

    budgets = list(dict.fromkeys(row["budget_ms"] for row in rows))
    figure, axes = pyplot.subplots(2, len(budgets), figsize=(4.2 * len(budgets), 6.4), squeeze=False, sharex=True)
    for (line, measure), (column, budget) in itertools.product(enumerate(MEASURES), enumerate(budgets)):
        axis, lowest = axes[line][column], []
        here = [row for row in rows if (row["budget_ms"], row["measure"]) == (budget, measure)]
        for name in STRATEGIES:
            curve = [(row["evaluations"], row["median"]) for row in here if row["strategy"] == name]
            style = "--" if STRATEGIES.index(name) > 10 else "-"  # there are ten colours
            width = 2.4 if name == "random" else 1.2
            axis.plot(*zip(*curve, strict=True), style, color=COLOURS[name], linewidth=width, label=name)
            lowest += [median for evaluations, median in curve if evaluations == 25]
        best, by_validation = here[0]["optimum"], here[0]["test_of_best_validation"]
        axis.axhline(best, color="black", linestyle="--", linewidth=0.8, label="optimum")
        if measure == "test":
            axis.axhline(by_validation, color="black", linestyle=":", linewidth=0.8, label="best by validation")
            axis.set_xlabel("evaluations")
        else:
            axis.set_title(f"latency ≤ {budget:g} ms (fastest {100 * here[0]['latency_quantile']:g} %)")
        axis.set(xscale="log", xlim=(10, None), ylim=(min(lowest) - 0.3, best + 0.2))
        if column == 0:
            axis.set_ylabel(f"{measure} accuracy, % (median of {here[0]['seeds']} seeds)")
    axes[1][-1].legend(loc="lower right", fontsize=7)
    figure.suptitle(f"NAS-Bench-201, {device}")
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    atomic_write(path, buffer.getvalue())


def with_others(rows: list[dict[str, Any]], file: Path) -> list[dict[str, Any]]:
    """New rows, and from `file` those of strategies that did not run this time, in the order of `STRATEGIES`."""
    found = {tuple(row[key] for key in KEY): row for row in rows}
    if file.exists():
        with open(file, newline="", encoding="utf-8") as stream:
            for text in csv.DictReader(stream):
                row: dict[str, Any] = {key: _number(value) for key, value in text.items()}
                found.setdefault(tuple(row[key] for key in KEY), row)
    order = {name: number for number, name in enumerate(STRATEGIES)}
    return sorted(found.values(), key=lambda row: (row["budget_ms"], row["measure"] == "test", order[row["strategy"]]))


def _number(text: str) -> Any:
    return text if not text.replace(".", "").replace("-", "").isdigit() else float(text) if "." in text else int(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="hwnb.c10.pixel3_latency", help="latency column of the published table")
    parser.add_argument("--quantiles", type=float, nargs="+", default=[0.25, 0.5], help="budgets, as quantiles")
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--evaluations", type=int, default=500)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()

    table = TabularEvaluator.nasbench201([options.device])
    settings = settings_of(table, options.device, options.quantiles)
    curves = {}
    for setting in settings:
        for name in dict.fromkeys(["random", *options.strategies]):
            calls = [
                (options.device, setting.quantile, name, seed, options.evaluations) for seed in range(options.seeds)
            ]
            curves[setting.quantile, name] = np.array(finish("strategies", run, calls, options.jobs))
            print(
                f"{setting.budget_ms:g} ms, {name}: {np.median(curves[setting.quantile, name][:, -1, 1]):.2f} %",
                flush=True,
            )
    about = (
        f"{options.seeds} seeds, {options.evaluations} evaluations each, search on `{SCORE}`, report `{REPORT}`; "
        f"hwnas {hwnas.__version__}, Python {platform.python_version()}, numpy {np.__version__}."
    )
    stem = make_folder(options.out) / f"strategies-nasbench201-{options.device}"
    rows = table_rows(curves, settings)
    if set(options.strategies) != set(STRATEGIES):
        rows = with_others(rows, Path(f"{stem}.csv"))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    atomic_write(f"{stem}.csv", buffer.getvalue())
    text = markdown(rows, options.device, about)
    atomic_write(f"{stem}.md", text)
    plot(rows, options.device, Path(f"{stem}.svg"))
    print(text)


if __name__ == "__main__":
    main()
