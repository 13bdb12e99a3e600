"""Claim: FP-NAS's adaptive and factorised sampling needs fewer architectures than PARSEC for the same quality.

    HWNAS_DATA=DIR python benchmarks/fpnas.py tables           # NAS-Bench-201 and NAS-Bench-Macro
    HWNAS_DATA=DIR python benchmarks/fpnas.py budgets          # FLOPs targets, by draws and by the expected cost
    python benchmarks/fpnas.py interactions                    # factorised, joint, and one after the other

``tables``: PARSEC with 14 and with 16 draws a step searches for a number of architectures. For each seed, FP-NAS's
count is that after which what it would deliver stays at least as good, by the score that is searched on, as what PARSEC
delivers in the end; a seed that never gets there counts as infinite. The learning rate of each method is the one of
``--rates`` with the best median result on seeds of its own, so that PARSEC is not beaten by a setting.

``budgets``: five bounds on FLOPs, which four to one in five networks of NAS-Bench-201 meet. The gradient of the budget
comes from the draws, as in the paper, or from the expected cost, exactly. Reported is how much of the bound what is
delivered uses, by how much it is worse than the best network that fits (both by the score that is searched on), and
the share of the last draws that fit.

``interactions``: scores are sums of random look-ups, part of them over pairs of decisions of one layer. The joint
distribution can hold a preference for a pair, the factorised one cannot.

Results are appended to ``benchmarks/results/fpnas_tables.csv``, ``fpnas_budgets.csv`` and ``fpnas_interactions.csv``.
"""

from __future__ import annotations

import argparse
import datetime
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from record import append_rows, median_interval

from hwnas.constraints import ConstraintSet
from hwnas.costs import AdditiveCost, Part
from hwnas.evaluators import Evaluation
from hwnas.evaluators.tabular import REPORT, SCORE, nasbench201_columns
from hwnas.sampler import FeasibleSampler
from hwnas.spaces import Architecture, Decision, SearchSpace, get_space
from hwnas.spaces.graph import Graph
from hwnas.strategies import make_strategy

DATA = Path(os.environ.get("HWNAS_DATA", Path(__file__).parents[2] / "shared" / "data"))
#: Seeds that settings are chosen on; the reported ones begin at 0.
TUNING_SEEDS = range(1000, 1010)
#: Names of the ways through the two distributions, and the share of the search that is factorised.
WAYS = (("factorised", 1.0), ("joint", 0.0), ("joint after 1/10", 0.1), ("joint after 1/4", 0.25))
Scores = Callable[[np.ndarray], np.ndarray]


class Numbers(SearchSpace):
    """Decisions alone, in layers: a space for tables and formulas, of which no network is built."""

    name: ClassVar[str] = "numbers"
    summary: ClassVar[str] = "decisions without networks"
    resolution = channels = classes = 1

    def __init__(self, radices: Sequence[int], layers: tuple[tuple[int, ...], ...]) -> None:
        self.decisions = tuple(Decision(f"d{d}", tuple(map(str, range(r)))) for d, r in enumerate(radices))
        self._layers = layers

    @property
    def layers(self) -> tuple[tuple[int, ...], ...]:
        return self._layers

    def build(self, architecture: Architecture) -> Graph:
        raise NotImplementedError("this space has no networks")


def tables() -> dict[str, tuple[SearchSpace, np.ndarray, np.ndarray]]:
    """Space, scores to search on and scores to report, both in the order of ``space.all()``."""
    import pyarrow.parquet as pq

    columns = nasbench201_columns([SCORE, REPORT], DATA)
    macro = pq.read_table(DATA / "nasbench_macro" / "nasbench_macro_cifar10.parquet").to_pydict()
    order = np.argsort([int(text, 3) for text in macro["arch"]])
    runs = np.stack([np.array(macro[f"test_acc_{run}"])[order] for run in range(3)])
    eight = Numbers([3] * 8, tuple((2 * pair, 2 * pair + 1) for pair in range(4)))
    return {
        "NAS-Bench-201": (get_space("nasbench201"), columns[SCORE], columns[REPORT]),
        # one of three trainings is searched on, the mean of the two others is reported
        "NAS-Bench-Macro": (eight, runs[0], runs[1:].mean(axis=0)),
    }


def search(
    name: str,
    space: SearchSpace,
    score: Scores,
    seed: int,
    evaluations: int,
    *,
    sampler: FeasibleSampler | None = None,
    **settings: Any,
) -> tuple[list[tuple[int, Architecture]], Any]:
    """What a strategy would deliver after so many architectures each, and the strategy."""
    strategy = make_strategy(name, space, sampler, seed=seed, **settings)
    strategy.expect(evaluations)
    done, delivered = 0, []
    while done < evaluations:
        found = strategy.ask(64)
        values = score(np.array(found)).tolist()
        strategy.tell([Evaluation(a, value) for a, value in zip(found, values, strict=True)])
        done += len(found)
        recommended = strategy.recommendation
        assert recommended is not None
        delivered.append((done, recommended))
    return delivered, strategy


def reached(delivered: list[tuple[int, Architecture]], score: Scores, wanted: float) -> float:
    """After how many architectures what is delivered stays at `wanted` or above; infinite if never."""
    values = score(np.array([architecture for _, architecture in delivered]))
    below = np.flatnonzero(values < wanted)
    first = 0 if not len(below) else int(below[-1]) + 1
    return float(delivered[first][0]) if first < len(delivered) else np.inf


def best_rate(
    name: str, space: SearchSpace, score: Scores, evaluations: int, rates: Sequence[float], **settings: Any
) -> float:
    """The learning rate with the best median of what is delivered in the end, on seeds of its own."""

    def quality(rate: float) -> float:
        ends = [
            search(name, space, score, seed, evaluations, learning_rate=rate, **settings)[0][-1][1]
            for seed in TUNING_SEEDS
        ]
        return float(np.median(score(np.array(ends))))

    return max(rates, key=quality)


def compare_on_tables(seeds: int, evaluations: int, rates: Sequence[float]) -> list[dict[str, object]]:
    """FP-NAS with several rates and its two halves, against PARSEC."""
    rows: list[dict[str, object]] = []
    for benchmark, (space, scores, report) in tables().items():
        look_up = partial(_look_up, space, scores)
        variants: dict[str, tuple[str, dict[str, Any]]] = {
            "parsec K=16": ("parsec", {"samples": 16}),
            "parsec K=14": ("parsec", {"samples": 14}),
            "fpnas K=H/4": ("fpnas", {"rate": 0.25}),
            "fpnas K=H": ("fpnas", {"rate": 1.0}),
            "fpnas K=1.5H": ("fpnas", {"rate": 1.5}),
            "adaptive only, K=1.5H": ("fpnas", {"rate": 1.5, "coarse": 0.0}),
            "factorised only, K=1.5H": ("fpnas", {"rate": 1.5, "coarse": 1.0}),
        }
        wanted: dict[int, float] = {}
        for label, (name, settings) in variants.items():
            rate = best_rate(name, space, look_up, evaluations, rates, **settings)
            begun = time.perf_counter()
            found = [search(name, space, look_up, s, evaluations, learning_rate=rate, **settings) for s in range(seeds)]
            seconds = (time.perf_counter() - begun) / seeds
            ends = np.array([delivered[-1][1] for delivered, _ in found])
            if not wanted:  # PARSEC comes first
                wanted = dict(enumerate(look_up(ends).tolist()))
            counts = np.array([reached(delivered, look_up, wanted[s]) for s, (delivered, _) in enumerate(found)])
            median, low, high = median_interval(counts)
            quality = median_interval(_look_up(space, report, ends))
            rows.append(
                {
                    "date": datetime.date.today().isoformat(),
                    "benchmark": benchmark,
                    "method": label,
                    "learning_rate": rate,
                    "seeds": seeds,
                    "architectures": evaluations,
                    "logits": found[0][1].distribution.size,
                    "delivered_median": round(quality[0], 3),
                    "delivered_low95": round(quality[1], 3),
                    "delivered_high95": round(quality[2], 3),
                    "architectures_to_parsec": median,
                    "low95": low,
                    "high95": high,
                    "fewer_percent": round(100 * (1 - median / evaluations), 1),
                    "seeds_that_get_there": int(np.isfinite(counts).sum()),
                    "seconds_a_search": round(seconds, 2),
                }
            )
            print(*list(rows[-1].values())[1:], sep="  ", flush=True)
    return rows


def _look_up(space: SearchSpace, column: np.ndarray, architectures: np.ndarray) -> np.ndarray:
    return np.asarray(column[np.ravel_multi_index(tuple(architectures.T), tuple(space.radices.tolist()))])


def budgets(seeds: int, evaluations: int) -> list[dict[str, object]]:
    """Bounds on FLOPs on NAS-Bench-201, with the two ways to the budget's gradient."""
    space, scores, _ = tables()["NAS-Bench-201"]
    look_up = partial(_look_up, space, scores)
    every = space.all()
    flops = ConstraintSet(["flops <= 1G"], space).bounds[0].cost.values(every)
    rows: list[dict[str, object]] = []
    for share in (0.2, 0.35, 0.5, 0.65, 0.8):
        target = int(np.quantile(flops, share))
        best = float(look_up(every[flops <= target]).max())
        for label, expected in (("draws", False), ("expected cost", True)):
            used, behind, inside = [], [], []
            for seed in range(seeds):
                sampler = ConstraintSet([f"flops <= {target}"], space).sampler()
                settings = {"rate": 1.0, "learning_rate": 0.1, "expected": expected, "sampler": sampler}
                delivered, strategy = search("fpnas", space, look_up, seed, evaluations, **settings)
                chosen = np.array([delivered[-1][1]])
                used.append(float(_look_up(space, flops, chosen)[0]) / target)
                behind.append(best - float(look_up(chosen)[0]))
                inside.append(float(np.mean([step["within_budget"] for step in strategy.trace[-20:]])))
            rows.append(
                {
                    "date": datetime.date.today().isoformat(),
                    "benchmark": "NAS-Bench-201",
                    "target_mflops": round(target / 1e6, 3),
                    "networks_that_fit_percent": round(100 * share),
                    "gradient": label,
                    "seeds": seeds,
                    "architectures": evaluations,
                    "used_percent_median": round(100 * float(np.median(used)), 2),
                    "used_percent_most": round(100 * max(used), 2),
                    "behind_best_median": round(median_interval(np.array(behind))[0], 3),
                    "behind_low95": round(median_interval(np.array(behind))[1], 3),
                    "behind_high95": round(median_interval(np.array(behind))[2], 3),
                    "last_draws_that_fit_percent": round(100 * float(np.mean(inside)), 1),
                }
            )
            print(*list(rows[-1].values())[1:], sep="  ", flush=True)
    return rows


def interactions(seeds: int, evaluations: int, strengths: Sequence[float]) -> list[dict[str, object]]:
    """Factorised, joint, and factorised then joint, on sums of look-ups with more and more of them over pairs."""
    rows: list[dict[str, object]] = []
    radices, layers = [3, 2, 2, 4] * 6, tuple(tuple(range(4 * layer, 4 * layer + 4)) for layer in range(6))
    space = Numbers(radices, layers)
    pairs = [(group[i], group[j]) for group in layers for i in range(4) for j in range(i)]
    for strength in strengths:
        results: dict[str, list[float]] = {}
        logits: dict[str, int] = {}
        for seed in range(seeds):
            rng = np.random.default_rng(seed)
            single = [Part((d,), rng.normal(size=radix)) for d, radix in enumerate(radices)]
            double = [
                Part(tuple(sorted(pair)), strength * rng.normal(size=int(np.prod([radices[d] for d in pair]))))
                for pair in pairs
            ]
            cost = AdditiveCost(space.radices, [*single, *double])
            # layers are independent, so the best network is the best choice in each
            best = sum(_best_of_layer(cost, layer, radices) for layer in layers)
            typical = cost.values(space.sample(20_000, rng))
            for label, coarse in WAYS:
                delivered, strategy = search(
                    "fpnas", space, cost.values, seed, evaluations, coarse=coarse, rate=1.0, learning_rate=0.1
                )
                value = float(cost.values(np.array([delivered[-1][1]]))[0])
                results.setdefault(label, []).append((best - value) / float(typical.std()))
                logits[label] = strategy.distribution.size
        for label, regrets in results.items():
            median, low, high = median_interval(np.array(regrets))
            rows.append(
                {
                    "date": datetime.date.today().isoformat(),
                    "pair_strength": strength,
                    "distribution": label,
                    "logits": logits[label],
                    "seeds": seeds,
                    "architectures": evaluations,
                    "regret_in_spreads": round(median, 4),
                    "low95": round(low, 4),
                    "high95": round(high, 4),
                }
            )
            print(*list(rows[-1].values())[1:], sep="  ", flush=True)
    return rows


def _best_of_layer(cost: AdditiveCost, layer: tuple[int, ...], radices: Sequence[int]) -> float:
    rows = np.zeros((int(np.prod([radices[d] for d in layer])), len(radices)), dtype=int)
    rows[:, list(layer)] = np.stack(np.unravel_index(np.arange(len(rows)), tuple(radices[d] for d in layer)), axis=1)
    inside = [part for part in cost.parts if set(part.decisions) <= set(layer)]
    return float(AdditiveCost(cost.radices, inside).values(rows).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("tables", "budgets", "interactions"))
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--architectures", type=int, default=2000)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.05, 0.1, 0.2, 0.4])
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.0, 0.5, 1.0, 2.0])
    arguments = parser.parse_args()
    if arguments.what == "tables":
        append_rows("fpnas_tables", compare_on_tables(arguments.seeds, arguments.architectures, arguments.rates))
    elif arguments.what == "budgets":
        append_rows("fpnas_budgets", budgets(arguments.seeds, arguments.architectures))
    else:
        append_rows("fpnas_interactions", interactions(arguments.seeds, arguments.architectures, arguments.strengths))


if __name__ == "__main__":
    main()
