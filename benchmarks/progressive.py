"""Claim: PNAS needs fewer models than reinforcement learning for the same quality of its best ones.

    HWNAS_DATA=DIR python benchmarks/progressive.py models          # about an hour on one core

On NAS-Bench-201, CIFAR-10 and CIFAR-100 (validation accuracy after 12 epochs, which is what is searched on). Every
strategy evaluates the same number of different models; a repeated one costs nothing. The protocol is the paper's
(arXiv 1712.00559, section 5.3): for M = 1, 5 and 25, the mean accuracy of a strategy's best M models after its full
budget is the goal, and it is counted after how many models PNAS's best M reach it, seed by seed; a seed that never
does counts as infinite. `surrogate=random` is the control: the same beam, ranked by chance.

Learning rates of the two policy-gradient strategies are those with the best median of M = 1 on seeds of their own.
Results are appended to ``benchmarks/results/progressive_models.csv``.
"""

from __future__ import annotations

import argparse
import datetime
import time
from typing import Any

import numpy as np
from record import append_rows

from hwnas.evaluators import Evaluation
from hwnas.evaluators.tabular import nasbench201_columns
from hwnas.spaces import SearchSpace, get_space
from hwnas.strategies import make_strategy

DATASETS = {"CIFAR-10": "c10_val_12ep", "CIFAR-100": "c100_val_12ep"}
TOPS = (1, 5, 25)
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
}
#: A strategy that repeats itself ends after so many asks for each model of the budget.
PATIENCE = 20


def search(name: str, space: SearchSpace, scores: np.ndarray, seed: int, models: int, **settings: Any) -> np.ndarray:
    """Scores of the different models in the order in which they were evaluated, at most `models` of them."""
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
    return np.array(list(seen.values()))


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


def median_interval(values: np.ndarray) -> tuple[float, float, float]:
    """Lower median and its bootstrapped 95 % interval; infinite values are the largest."""
    drawn = np.sort(np.random.default_rng(0).choice(values, (2000, len(values))), axis=1)[:, (len(values) - 1) // 2]
    low, high = np.sort(drawn)[[50, 1949]]
    return float(np.sort(values)[(len(values) - 1) // 2]), float(low), float(high)


def models(seeds: int, budget: int) -> list[dict[str, object]]:
    """Each strategy's best models after its budget, and how many models PNAS needs for them."""
    space = get_space("nasbench201")
    rows: list[dict[str, object]] = []
    for dataset, column in DATASETS.items():
        scores = nasbench201_columns([column])[column]
        curves: dict[str, dict[int, np.ndarray]] = {}
        seconds: dict[str, float] = {}
        rates: dict[str, Any] = {}
        for label, (name, settings) in METHODS.items():
            if name in RATES:
                qualities = {
                    rate: np.median(
                        [search(name, space, scores, s, budget, learning_rate=rate).max() for s in TUNING_SEEDS]
                    )
                    for rate in RATES[name]
                }
                rates[label] = max(qualities, key=lambda rate: qualities[rate])
                settings = {**settings, "learning_rate": rates[label]}
            start = time.process_time()
            found = [search(name, space, scores, seed, budget, **settings) for seed in range(seeds)]
            seconds[label] = (time.process_time() - start) / seeds
            curves[label] = {
                top: np.array([np.pad(best_means(f, top), (0, budget - len(f)), mode="edge") for f in found])
                for top in TOPS
            }
            print(
                dataset, label, {top: round(float(np.median(curves[label][top][:, -1])), 3) for top in TOPS}, flush=True
            )
        for label in METHODS:
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
                for rival in ("pnas, MLP", "pnas, RNN", "pnas, chance"):
                    counts = np.array(
                        [reached(curve, goal) for curve, goal in zip(curves[rival][top], goals, strict=True)]
                    )
                    median, low, high = median_interval(counts)
                    key = rival.replace("pnas, ", "pnas_").lower()
                    row |= {f"models_of_{key}": median, f"{key}_low95": low, f"{key}_high95": high}
                rows.append(row)
                print(*list(row.values())[1:], sep="  ")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("models",))
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--models", type=int, default=500)
    arguments = parser.parse_args()
    append_rows("progressive_models", models(arguments.seeds, arguments.models))


if __name__ == "__main__":
    main()
