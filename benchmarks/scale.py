"""A simulation of 1 to 1,024 workers: how long a search takes, how busy the workers are, and what is found.

    python benchmarks/scale.py tasks          # trains networks of nasbench201: results/scale_tasks.csv
    python benchmarks/scale.py simulate       # results/scale.csv

``tasks`` trains architectures of ``nasbench201`` from scratch on digits and keeps the CPU seconds of one thread of each
(`measured`; CPU seconds, as other work on the machine does not lengthen them). ``simulate`` is a discrete-event
simulation (`simulated`). The strategies are the real ones; an evaluation is looked up in NAS-Bench-201 (validation
accuracy after 12 epochs), and takes ``a + b * multiply-accumulates``, fitted to the measured trainings, times a
residual drawn from theirs. ``--mean`` stretches all times alike, to a mean of so many seconds.

synchronous
    as many architectures as there are workers are asked for; all are waited for, and told together.
asynchronous
    a worker that is free is given the next architecture at once; each evaluation is told when it ends. This is what
    the engines of hwnas do.

Assumed: the workers are alike, none is lost, starting a task costs ``--overhead`` seconds, and strategy and driver take
no time of their own (column ``strategy_ms`` says what the strategy took, CPU milliseconds an evaluation). A
strategy that has nothing to ask for until it is told more leaves workers idle. The same residuals meet both modes.
"""

from __future__ import annotations

import argparse
import csv
import functools
import heapq
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from record import RESULTS, append_rows, finish

from hwnas.constraints import ConstraintSet
from hwnas.evaluators.tabular import TabularEvaluator, nasbench201_columns
from hwnas.spaces import get_space
from hwnas.strategies import make_strategy

SPACE = "nasbench201"
STRATEGIES = ("random", "evolution", "regularized-evolution", "reinforce", "epnas")
WORKERS = (1, 4, 16, 64, 256, 1024)


# ---------------------------------------------------------------------- measured trainings


def train_one(architecture: list[int], epochs: int, limit: int) -> dict[str, Any]:
    """CPU seconds of one training from scratch on digits, by one thread."""
    import torch

    from hwnas.data import load_data
    from hwnas.evaluators.scratch import ScratchEvaluator
    from hwnas.training import TrainConfig

    torch.set_num_threads(1)
    data = load_data("digits", limit=limit)
    space = get_space(SPACE, resolution=data.resolution, channels=data.channels, classes=data.classes)
    evaluator = ScratchEvaluator(space, data, TrainConfig(epochs=epochs))
    start = time.process_time()
    evaluator.evaluate([architecture])
    seconds = time.process_time() - start
    return {"macs": space.lower(architecture).macs, "cpu_seconds": round(seconds, 4)}


def tasks(arguments: argparse.Namespace) -> None:
    """Train architectures drawn at random, and keep their times."""
    rng = np.random.default_rng(arguments.seed)
    rows = get_space(SPACE).all()
    chosen = rows[rng.choice(len(rows), arguments.count, replace=False)].tolist()
    calls = [(architecture, arguments.epochs, arguments.limit) for architecture in chosen]
    train_one(*calls[0])  # the first call of a process loads and compiles things
    found = finish("scale_tasks", train_one, calls)
    file = RESULTS / "scale_tasks.csv"
    file.unlink(missing_ok=True)
    fixed = {
        "space": SPACE,
        "data": "digits",
        "images": arguments.limit,
        "epochs": arguments.epochs,
        "method": "measured",
    }
    made = zip(chosen, found, strict=True)
    append_rows("scale_tasks", [{"architecture": "".join(map(str, a)), **result, **fixed} for a, result in made])


# ---------------------------------------------------------------------- the simulation


@functools.cache
def durations() -> tuple[np.ndarray, np.ndarray]:
    """Seconds of every architecture of the space, and residual factors to draw from."""
    with open(RESULTS / "scale_tasks.csv", newline="") as stream:
        measured = list(csv.DictReader(stream))
    macs = np.array([float(row["macs"]) for row in measured])
    seconds = np.array([float(row["cpu_seconds"]) for row in measured])
    # weighted by 1 / seconds: what is fitted is the relative error
    slope, base = np.polyfit(macs, seconds, 1, w=1 / seconds)
    factors = seconds / (base + slope * macs)
    # the table's counts are at 32 pixels and 3 channels; ranks agree, and the measured range is kept
    table = nasbench201_columns(["flops_M"])["flops_M"]
    low, high = np.nanmin(table), np.nanmax(table)
    scaled = macs.min() + (np.nan_to_num(table, nan=low) - low) / (high - low) * (macs.max() - macs.min())
    return base + slope * scaled, factors / factors.mean()


@functools.cache
def prepared(device: str, quantile: float) -> tuple[TabularEvaluator, Any, dict[tuple[int, ...], int]]:
    table = TabularEvaluator.nasbench201([device])
    budget = float(f"{np.nanquantile(table.models[device].values, quantile):.4g}")
    limits = ConstraintSet(f"latency@{device} <= {budget}ms", table.space, table.models)
    return table, limits.sampler(), {tuple(row): i for i, row in enumerate(table.space.all().tolist())}


def simulate(
    name: str, mode: str, workers: int, seed: int, evaluations: int, mean_s: float, overhead_s: float
) -> dict[str, float]:
    """One search on simulated workers.

    Returns
    -------
    dict
        ``wall_s``; ``utilisation``, the share of the workers' time that was training; ``evaluations``; ``validation``
        and ``test`` accuracy of the best by validation; ``strategy_ms``, CPU milliseconds an evaluation.
    """
    table, sampler, numbers = prepared("hwnb.c10.pixel3_latency", 0.5)
    seconds, factors = durations()
    strategy = make_strategy(name, table.space, sampler, seed=seed)
    strategy.expect(evaluations)
    rng = np.random.default_rng([seed, 1])
    stretch = mean_s / seconds.mean()
    running: list[tuple[float, int, Any]] = []  # end, order, architecture
    clock = trained = thinking = 0.0
    begun = ended = 0

    def ask(count: int) -> list[Any]:
        nonlocal thinking
        before = time.process_time()
        found = strategy.ask(count)
        thinking += time.process_time() - before
        return found

    while ended < evaluations:
        wanted = min(workers - len(running), evaluations - begun)
        if wanted and (mode == "asynchronous" or not running):
            for architecture in ask(wanted):
                took = seconds[numbers[architecture]] * stretch * rng.choice(factors)
                heapq.heappush(running, (clock + overhead_s + took, begun, architecture))
                trained += took
                begun += 1
        if not running:
            break
        batch = [heapq.heappop(running)]
        if mode == "synchronous":
            batch += [heapq.heappop(running) for _ in range(len(running))]
        clock = batch[-1][0]
        told = table.evaluate([architecture for _, _, architecture in batch])
        before = time.process_time()
        strategy.tell(told)
        thinking += time.process_time() - before
        ended += len(batch)
    best = strategy.best
    row = numbers[best.architecture] if best else None
    return {
        "wall_s": clock,
        "utilisation": trained / (workers * clock),
        "evaluations": ended,
        "validation": float(table.scores[row]) if row is not None else 0.0,
        "test": float(table.report["test"][row]) if row is not None else 0.0,
        "strategy_ms": 1e3 * thinking / max(1, ended),
    }


def summaries(arguments: argparse.Namespace) -> Iterator[dict[str, object]]:
    """Medians over the seeds, with the lowest and the highest accuracy."""
    for name in arguments.strategies:
        for mode in ("synchronous", "asynchronous"):
            alone: float | None = None
            for workers in arguments.workers:
                settings = (arguments.evaluations, arguments.mean, arguments.overhead)
                calls = [(name, mode, workers, seed, *settings) for seed in range(arguments.seeds)]
                found = finish("scale", simulate, calls)
                wall = statistics.median(one["wall_s"] for one in found)
                alone = alone or wall * workers
                yield {
                    "strategy": name,
                    "mode": mode,
                    "workers": workers,
                    "seeds": len(found),
                    "evaluations": statistics.median(one["evaluations"] for one in found),
                    "mean_task_s": arguments.mean,
                    "overhead_s": arguments.overhead,
                    "wall_s": round(wall, 1),
                    "speed_up": round(alone / wall, 2),
                    "utilisation": round(statistics.median(one["utilisation"] for one in found), 4),
                    "validation": round(statistics.median(one["validation"] for one in found), 3),
                    "test": round(statistics.median(one["test"] for one in found), 3),
                    "test_low": round(min(one["test"] for one in found), 3),
                    "test_high": round(max(one["test"] for one in found), 3),
                    "strategy_ms": round(statistics.median(one["strategy_ms"] for one in found), 3),
                    "method": "simulated",
                }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = parser.add_subparsers(required=True)
    first = steps.add_parser("tasks")
    first.add_argument("--count", type=int, default=32, help="trainings")
    first.add_argument("--epochs", type=int, default=1)
    first.add_argument("--limit", type=int, default=300, help="images")
    first.add_argument("--seed", type=int, default=0)
    first.set_defaults(run=tasks)
    second = steps.add_parser("simulate")
    second.add_argument("--strategies", nargs="+", default=STRATEGIES)
    second.add_argument("--workers", nargs="+", type=int, default=WORKERS)
    second.add_argument("--seeds", type=int, default=5)
    second.add_argument("--evaluations", type=int, default=1000)
    second.add_argument("--mean", type=float, default=60.0, help="mean seconds of a training")
    second.add_argument("--overhead", type=float, default=0.01, help="seconds of starting a task")
    second.set_defaults(run=None)
    arguments = parser.parse_args()
    if arguments.run is not None:
        arguments.run(arguments)
        return
    rows = []
    for row in summaries(arguments):
        rows.append(row)
        print({key: row[key] for key in ("strategy", "mode", "workers", "wall_s", "utilisation", "test")}, flush=True)
    Path(RESULTS / "scale.csv").unlink(missing_ok=True)
    append_rows("scale", rows)


if __name__ == "__main__":
    main()
