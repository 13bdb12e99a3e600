"""Claims: what PNAS saves in models, and what EPNAS does under four constraints and in parallel. On NAS-Bench-201.

    HWNAS_DATA=DIR python benchmarks/progressive.py models          # about an hour on one core
    HWNAS_DATA=DIR python benchmarks/progressive.py constraints
    HWNAS_DATA=DIR python benchmarks/progressive.py parallel

``models``: CIFAR-10 and CIFAR-100 (validation accuracy after 12 epochs, which is what is searched on). Every strategy
evaluates the same number of different models; a repeated one costs nothing. The protocol is the paper's
(arXiv 1712.00559, section 5.3): for M = 1, 5 and 25, the mean accuracy of a strategy's best M models after its full
budget is the goal, and it is counted after how many models PNAS's best M reach it, seed by seed; a seed that never
does counts as infinite. The beam is narrow (10 of each size but the first and the largest); with K=95 it divides the
models evenly over the sizes. `chance` is the control: the same beam, ranked by chance. Learning rates of the two
policy-gradient strategies are those with the best median of M = 1 on seeds of their own.

``constraints``: parameters, FLOPs, intensity (from below) and the latency of a phone's CPU (Kryo 485, int8), each met
by 60 % of the networks. Share of the evaluated networks that fit, by quarters of the search, and how far the best one
that fits is behind the best there is (CIFAR-10, validation accuracy).

``parallel``: the same with 1, 2, 4 and 8 networks at a time, each evaluated for a simulated time (half of it fixed,
half in proportion to its FLOPs, with log-normal noise): hours until the end, and the quality there.

Results are appended to ``benchmarks/results/progressive_{models,constraints,parallel}.csv``. A run that was stopped
goes on where it was.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import heapq
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from record import append_rows, finish, median_interval

from hwnas.constraints import ConstraintSet
from hwnas.evaluators import Evaluation
from hwnas.evaluators.tabular import TabularEvaluator, nasbench201_columns
from hwnas.spaces import get_space
from hwnas.strategies import make_strategy

DATASETS = {"CIFAR-10": "c10_val_12ep", "CIFAR-100": "c100_val_12ep"}
TOPS = (1, 5, 25)
DEVICE = "latbench.mobile-cpu-snapdragon-855-kryo-485-int8"
#: Seeds that learning rates are chosen on; the reported ones begin at 0.
TUNING_SEEDS = range(1000, 1006)
RATES = {"reinforce": (0.01, 0.05, 0.2), "controller": (0.002, 0.005, 0.02)}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "random": ("random", {}),
    "regularized-evolution": ("regularized-evolution", {}),
    "reinforce": ("reinforce", {}),
    "controller": ("controller", {}),
    "pnas, chance": ("pnas", {"surrogate": "random"}),
    "pnas, MLP": ("pnas", {"surrogate": "mlp"}),
    "pnas, RNN": ("pnas", {"surrogate": "rnn"}),
    "pnas, MLP, K=95": ("pnas", {"surrogate": "mlp", "beam": 95}),
}
#: A strategy that repeats itself ends after so many asks for each model of the budget.
PATIENCE = 4


def search(dataset: str, label: str, rate: float | None, seed: int, models: int) -> dict[str, Any]:
    """Scores of the different models in the order in which they were evaluated, at most `models`, and CPU seconds."""
    space, (name, settings), column = get_space("nasbench201"), METHODS[label], DATASETS[dataset]
    scores, start = nasbench201_columns([column])[column], time.process_time()
    if rate is not None:
        settings = {**settings, "learning_rate": rate}
    strategy = make_strategy(name, space, None, seed=seed, **settings)
    strategy.expect(models)
    seen: dict[tuple[int, ...], float] = {}
    for _ in range(PATIENCE * models):
        found = strategy.ask(1)
        if not found or len(seen) >= models:
            break
        (architecture,) = found
        value = float(scores[np.ravel_multi_index(architecture, tuple(space.radices))])
        seen.setdefault(architecture, value)
        strategy.tell([Evaluation(architecture, value)])
    return {"scores": list(seen.values()), "seconds": round(time.process_time() - start, 3)}


def best_means(scores: np.ndarray, top: int) -> np.ndarray:
    """Mean of the best `top` after each model; minus infinity before there are so many."""
    found = np.full(len(scores), -np.inf)
    best: list[float] = []
    for number, score in enumerate(scores.tolist()):
        best = sorted([*best, score], reverse=True)[:top]
        if len(best) == top:
            found[number] = np.mean(best)
    return found


def reached(curve: np.ndarray, goal: float) -> float:
    """After how many models a curve is at `goal`; infinite if never."""
    above = np.flatnonzero(curve >= goal)
    return float(above[0] + 1) if len(above) else np.inf


def models(
    seeds: int, budget: int, jobs: int, datasets: Sequence[str], methods: Sequence[str]
) -> list[dict[str, object]]:
    """Each strategy's best models after its budget, and how many models PNAS needs for them."""
    rows: list[dict[str, object]] = []
    searches = partial(finish, "progressive_models", search, jobs=jobs)
    for dataset in datasets:
        curves: dict[str, dict[int, np.ndarray]] = {}
        seconds: dict[str, float] = {}
        rates: dict[str, float] = {}
        for label in methods:
            if label in RATES:
                tried = {
                    rate: searches(calls=[(dataset, label, rate, seed, budget) for seed in TUNING_SEEDS])
                    for rate in RATES[label]
                }
                rates[label] = max(tried, key=lambda rate: np.median([max(run["scores"]) for run in tried[rate]]))
            runs = searches(calls=[(dataset, label, rates.get(label), seed, budget) for seed in range(seeds)])
            seconds[label] = float(np.mean([run["seconds"] for run in runs]))
            found = [np.array(run["scores"]) for run in runs]
            curves[label] = {
                top: np.array([np.pad(best_means(f, top), (0, budget - len(f)), mode="edge") for f in found])
                for top in TOPS
            }
            print(
                dataset, label, {top: round(float(np.median(curves[label][top][:, -1])), 3) for top in TOPS}, flush=True
            )
        for label in methods:
            for top in TOPS:
                goals = curves[label][top][:, -1]
                row: dict[str, object] = {
                    "date": datetime.date.today().isoformat(),
                    "dataset": dataset,
                    "strategy": label,
                    "learning_rate": rates.get(label, ""),
                    "seeds": seeds,
                    "models": budget,
                    "top": top,
                    "accuracy_median": round(float(np.median(goals)), 3),
                    "seconds_a_search": round(seconds[label], 2),
                }
                for rival in ("pnas, MLP", "pnas, RNN", "pnas, MLP, K=95", "pnas, chance"):
                    key = rival.replace("pnas, ", "pnas_").replace(", K=", "_k").lower()
                    if rival not in methods:
                        row |= {f"models_of_{key}": "", f"{key}_low95": "", f"{key}_high95": ""}
                        continue
                    counts = np.array(
                        [reached(curve, goal) for curve, goal in zip(curves[rival][top], goals, strict=True)]
                    )
                    median, low, high = median_interval(counts)
                    row |= {f"models_of_{key}": median, f"{key}_low95": low, f"{key}_high95": high}
                rows.append(row)
                print(*list(row.values())[1:], sep="  ")
    return rows


# ---------------------------------------------------------------------- EPNAS


class Budget:
    """Four constraints on NAS-Bench-201, each met by `share` of the networks, and what is best under them."""

    def __init__(self, share: float = 0.6) -> None:
        self.table = TabularEvaluator.nasbench201([DEVICE])
        self.space, rows = self.table.space, self.table.space.all()
        free = ["params <= 1G", "flops <= 1000G", "intensity >= 0", f"latency@{DEVICE} <= 1000s"]
        values = ConstraintSet(free, self.space, self.table.models).values(rows)
        high, low = np.nanquantile(values, share, axis=0), np.nanquantile(values, 1 - share, axis=0)
        self.texts = [
            f"params <= {high[0]:.0f}",
            f"flops <= {high[1]:.0f}",
            f"intensity >= {low[2]:.3f}",
            f"latency@{DEVICE} <= {high[3]:.3f}ms",
        ]
        self.limits = ConstraintSet(self.texts, self.space, self.table.models)
        self.inside = self.limits.feasible(rows)
        self.best = float(self.table.scores[self.inside].max())
        self.flops = values[:, 1]


EPNAS_METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "epnas, soft": ("epnas", {"penalty": "soft"}),
    "epnas, soft, no predictor": ("epnas", {"penalty": "soft", "predictor": False}),
    "epnas, hard": ("epnas", {"penalty": "hard"}),
    "epnas, hard, no predictor": ("epnas", {"penalty": "hard", "predictor": False}),
    "random": ("random", {}),
    "evolution": ("evolution", {}),
    "regularized-evolution": ("regularized-evolution", {}),
    "reinforce": ("reinforce", {"learning_rate": 0.05}),
}
the_budget = functools.cache(Budget)


def constrained_search(label: str, seed: int, evaluations: int) -> dict[str, Any]:
    """One search under the four constraints: which of its networks fit, and how far behind the best one is."""
    budget, (name, settings) = the_budget(), EPNAS_METHODS[label]
    strategy = make_strategy(name, budget.space, budget.limits.sampler(), seed=seed, **settings)
    strategy.expect(evaluations)
    asked: list[tuple[int, ...]] = []
    while len(asked) < evaluations:
        found = strategy.ask(min(8, evaluations - len(asked)))
        if not found:
            break
        strategy.tell(budget.table.evaluate(found))
        asked += found
    index = budget.table.index(asked)
    best = np.maximum.accumulate(np.where(budget.inside[index], budget.table.scores[index], -np.inf))
    marks = [evaluations // 4, evaluations // 2, evaluations]
    return {
        "fits": budget.inside[index].astype(int).tolist(),
        "behind": [float(budget.best - best[min(mark, len(best)) - 1]) for mark in marks],
        "spared": getattr(strategy, "spared", 0),
    }


def constraints(seeds: int, evaluations: int, jobs: int) -> list[dict[str, object]]:
    """Every strategy under the four constraints at once."""
    budget = the_budget()
    print(budget.texts, f"{100 * budget.inside.mean():.1f} % of the networks fit, the best has {budget.best:.2f} %")
    rows: list[dict[str, object]] = []
    for label in EPNAS_METHODS:
        calls = [(label, seed, evaluations) for seed in range(seeds)]
        runs = finish("progressive_constraints", constrained_search, calls, jobs)
        fits = np.array([np.pad(run["fits"], (0, evaluations - len(run["fits"]))) for run in runs])
        quarters = 100 * fits.reshape(seeds, 4, -1).mean(axis=(0, 2))
        row: dict[str, object] = {
            "date": datetime.date.today().isoformat(),
            "constraints": "; ".join(budget.texts),
            "strategy": label,
            "seeds": seeds,
            "evaluations": evaluations,
            "spared": round(float(np.mean([run["spared"] for run in runs])), 1),
        }
        row |= {
            f"fit_percent_quarter{number}": round(share, 1) for number, share in enumerate(quarters.tolist(), start=1)
        }
        for mark, values in zip(("quarter", "half", "end"), np.array([run["behind"] for run in runs]).T, strict=True):
            median, low, high = median_interval(values)
            row |= {
                f"behind_{mark}": round(median, 3),
                f"{mark}_low95": round(low, 3),
                f"{mark}_high95": round(high, 3),
            }
        rows.append(row)
        print(*list(row.values())[2:], sep="  ", flush=True)
    return rows


def parallel_search(networks: int, seed: int, evaluations: int) -> dict[str, float]:
    """One search with so many networks at a time: simulated hours, and how far behind the best it ends."""
    budget, best = the_budget(), -np.inf
    rng = np.random.default_rng([seed, networks])
    strategy = make_strategy("epnas", budget.space, budget.limits.sampler(), seed=seed, networks=networks)
    now, done = 0.0, 0
    running: list[tuple[float, int, tuple[int, ...]]] = []
    while done < evaluations:
        while len(running) < networks and done + len(running) < evaluations:
            (asked,) = strategy.ask(1)
            index = int(budget.table.index([asked])[0])
            minutes = 10 * (0.5 + 0.5 * budget.flops[index] / budget.flops.mean()) * rng.lognormal(0, 0.2)
            heapq.heappush(running, (now + minutes, index, asked))
        now, index, asked = heapq.heappop(running)
        strategy.tell(budget.table.evaluate([asked]))
        done += 1
        if budget.inside[index]:
            best = max(best, float(budget.table.scores[index]))
    return {"hours": float(now / 60), "behind": budget.best - best}


def parallel(seeds: int, evaluations: int, jobs: int) -> list[dict[str, object]]:
    """EPNAS with more and more networks at a time, in simulated time."""
    rows: list[dict[str, object]] = []
    for networks in (1, 2, 4, 8):
        calls = [(networks, seed, evaluations) for seed in range(seeds)]
        runs = finish("progressive_parallel", parallel_search, calls, jobs)
        median, low, high = median_interval(np.array([run["behind"] for run in runs]))
        rows.append(
            {
                "date": datetime.date.today().isoformat(),
                "networks": networks,
                "seeds": seeds,
                "evaluations": evaluations,
                "simulated_hours_median": round(float(np.median([run["hours"] for run in runs])), 2),
                "behind_best_median": round(median, 3),
                "low95": round(low, 3),
                "high95": round(high, 3),
            }
        )
        print(*list(rows[-1].values())[1:], sep="  ", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("models", "constraints", "parallel"))
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--evaluations", type=int, default=500)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--datasets", nargs="+", default=list(DATASETS), choices=list(DATASETS), help="of `models`")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS), help="of `models`")
    arguments = parser.parse_args()
    claim: Callable[[int, int, int], list[dict[str, object]]] = {
        "models": partial(models, datasets=arguments.datasets, methods=arguments.methods),
        "constraints": constraints,
        "parallel": parallel,
    }[arguments.what]
    append_rows(f"progressive_{arguments.what}", claim(arguments.seeds, arguments.evaluations, arguments.jobs))


if __name__ == "__main__":
    main()
