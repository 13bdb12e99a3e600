"""Claim: in which order should two stages search? Later layers first, earlier first, or all jointly.

On NAS-Bench-Macro (CIFAR-10), a published table of all 6,561 networks of a chain of eight layers with
three operators each, under budgets of multiply-accumulates (the table has no latency). `hurricane` in both
orders against `evolution` over all layers jointly and `random`, with the same number of evaluations and the
same population, 200 seeds. Counted is how many evaluations each needs until the best network that it has
seen lies within 0.1 points of the best feasible one; a search that never gets there counts as infinite. Beside it
stands by how much the best network of a whole search falls short of the best feasible one.
The score is the mean accuracy of the table's three trainings: the order is judged, not its robustness to
noise, and no supernet is involved.

    python benchmarks/hurricane_order.py                    # a minute on one core
    python benchmarks/hurricane_order.py --split 4          # eight layers divided in the middle
"""

from __future__ import annotations

import argparse
import datetime
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import pyarrow.parquet as parquet
from record import append_rows

from hwnas.costs import AdditiveCost, Part
from hwnas.evaluators import Evaluation
from hwnas.evaluators.tabular import data_folder
from hwnas.nearest import Bound
from hwnas.sampler import FeasibleSampler
from hwnas.spaces import Decision, SearchSpace
from hwnas.strategies import make_strategy

SHARES = (0.25, 0.50, 0.75)
WITHIN = 0.1
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "later first": ("hurricane", {"order": "later-first"}),
    "earlier first": ("hurricane", {"order": "earlier-first"}),
    "joint": ("evolution", {}),
    "random": ("random", {}),
}


class Macro(SearchSpace):
    """The published networks: eight layers, each an identity or one of two inverted residuals. No graphs."""

    name: ClassVar[str] = "nasbench-macro"
    summary: ClassVar[str] = "eight layers with three operators each"
    decisions = tuple(Decision(f"layer{index}", ("identity", "mb3e3", "mb5e6")) for index in range(8))
    parameters: ClassVar[dict[str, Any]] = {}

    def build(self, architecture: Any) -> Any:
        raise NotImplementedError("only the table is used")

    @cached_property
    def table(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean accuracy in percent and multiply-accumulates, in the order of `all`."""
        columns = parquet.read_table(data_folder() / "nasbench_macro" / "nasbench_macro_cifar10.parquet").to_pydict()
        index = np.argsort(np.array([int(text, 3) for text in columns["arch"]]))
        assert len(index) == self.size
        return np.array(columns["mean_acc"])[index], np.array(columns["flops"], dtype=np.float64)[index]

    def score(self, architectures: np.ndarray) -> np.ndarray:
        """Accuracy of `architectures`, ``(n, 8)``."""
        return self.table[0][np.ravel_multi_index(tuple(np.array(architectures).T), tuple(self.radices))]


def macs_of(space: Macro) -> AdditiveCost:
    """The table's counts as a sum over layers, which they are exactly."""
    rows, macs = space.all(), space.table[1]
    encoded = np.concatenate([np.ones((len(rows), 1)), space.encode(rows)], axis=1)
    weights = np.linalg.lstsq(encoded, macs, rcond=None)[0]
    tables = weights[1:].reshape(8, 3)
    cost = AdditiveCost(space.radices, [Part((d,), table) for d, table in enumerate(tables)], float(weights[0]))
    error = float(np.abs(cost.values(rows) / macs - 1).max())
    print(f"multiply-accumulates as a sum over layers: largest error {error:.1e}")
    return cost


def search_once(
    space: Macro, sampler: FeasibleSampler, name: str, hyper: dict[str, Any], seed: int, most: int, goal: float
) -> tuple[float, float]:
    """How many evaluations until one reaches `goal` (infinite if none of `most` does), and the best of all."""
    strategy = make_strategy(name, space, sampler, seed=seed, **hyper)
    strategy.expect(most)
    done, needed, best = 0, np.inf, -np.inf
    while done < most:
        found = strategy.ask(most - done)
        if not found:
            break
        scores = space.score(np.array(found)).tolist()
        for score in scores:
            done += 1
            best = max(best, score)
            needed = min(needed, done if score >= goal else np.inf)
        strategy.tell([Evaluation(a, score) for a, score in zip(found, scores, strict=True)])
    return needed, best


def median_interval(values: np.ndarray, rng: np.random.Generator) -> tuple[float, float, float]:
    """Median and its 95 % bootstrap interval."""
    draws = np.median(rng.choice(values, (2000, len(values))), axis=1)
    return float(np.median(values)), float(np.quantile(draws, 0.025, method="lower")), float(
        np.quantile(draws, 0.975, method="higher")
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--evaluations", type=int, default=200, help="of each search")
    parser.add_argument("--population", type=int, default=20)
    parser.add_argument("--split", type=int, default=3, help="how many of the eight layers are earlier ones")
    arguments = parser.parse_args()
    space = Macro()
    cost = macs_of(space)
    low, high = cost.range()
    rows = []
    half = arguments.population // 2
    for share in SHARES:
        budget = low + share * (high - low)
        sampler = FeasibleSampler(space, [Bound("macs <= budget", cost, upper=budget)])
        feasible = sampler.contains(space.all())
        best = float(space.table[0][feasible].max())
        close = int((space.table[0][feasible] >= best - WITHIN).sum())
        for method, (name, hyper) in METHODS.items():
            settings = {**hyper}
            if name == "evolution":
                settings |= {"population": arguments.population, "mutants": half, "crossovers": half}
            elif name == "hurricane":
                settings |= {"population": arguments.population, "split": arguments.split}
            played = [
                search_once(space, sampler, name, settings, seed, arguments.evaluations, best - WITHIN)
                for seed in range(arguments.seeds)
            ]
            needed = np.array([count for count, _ in played])
            gap = best - np.array([score for _, score in played])
            median, lower, upper = median_interval(needed, np.random.default_rng(0))
            rows.append(
                {
                    "date": datetime.date.today().isoformat(),
                    "budget_share": share,
                    "feasible": int(feasible.sum()),
                    "good_enough": close,
                    "method": method,
                    "split": arguments.split,
                    "population": arguments.population,
                    "seeds": arguments.seeds,
                    "evaluations": arguments.evaluations,
                    "reached_percent": round(100 * float(np.isfinite(needed).mean()), 1),
                    "median_needed": median,
                    "low95": lower,
                    "high95": upper,
                    "median_gap": round(float(np.median(gap)), 3),
                    "largest_gap": round(float(gap.max()), 3),
                }
            )
            print(rows[-1])
    append_rows("hurricane_order", rows)


if __name__ == "__main__":
    main()
