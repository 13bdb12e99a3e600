"""Claims: what MANAS, DARTS and evolution find in the space `darts` against random cells, with labels and without.

    HWNAS_DATA=DIR python benchmarks/cell_search.py searches --data fashion-mnist  # hours; goes on where it was stopped
    HWNAS_DATA=DIR python benchmarks/cell_search.py searches --data cifar10-jpeg --methods darts manas random
    python benchmarks/cell_search.py summary

``searches``: every method gets the same bound on FLOPs (the median of random cells with two edges a node), and a
supernet of its own, trained by as many steps, `darts` excepted: its steps compute all operations of all edges, so
it gets fewer and still takes the most time. With a task that reads no labels its weights, its parameters and the score
of its candidates know images only. What it delivers is trained from scratch with labels, all alike: test
accuracy of the epoch that was best on validation images. `random` is a random cell under the same bound, trained the
same way, with all edges (as `manas` and `evolution` deliver) or with two edges a node (as `darts` does). The data
are those of ``labelfree.py``.

``summary``: medians over seeds, and the relative improvement over random cells of the same form, ``100 (a - r) / r``
of the means (the measure of "NAS evaluation is frustratingly hard", ICLR 2020), with a bootstrapped 95 % interval.

Results: ``benchmarks/results/cell_search.csv`` and ``cell_search_summary.csv``. At the papers' scale: ``--resolution 32
--width 1 --depth 1 --limit 25000 --steps 20000 --mixture-steps 20000 --final-limit 40000 --final-epochs 600``.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

import numpy as np
from labelfree import TASKS, load, space_of
from record import RESULTS, append_rows

from hwnas.constraints import ConstraintSet
from hwnas.spaces.darts import DARTS
from hwnas.tasks import get_task

FILE = RESULTS / "cell_search.csv"
METHODS = ("random", "random, two edges", "evolution", "manas", "manas-ls", "darts")
#: Searched with every task; the others with labels only.
LABEL_FREE = ("darts", "manas")


def bound_of(space: DARTS) -> str:
    """The median FLOPs of random cells with two edges a node."""
    rows = space.sample_derived(200, np.random.default_rng(0))
    macs = ConstraintSet("flops <= 1000G", space).bounds[0].cost.values(rows)
    return f"flops <= {np.median(macs) / 1e6:.3f}M"


def steps_of(method: str, arguments: argparse.Namespace) -> int:
    """Of the weights of a search's supernet."""
    return int(arguments.mixture_steps if method == "darts" else arguments.steps)


def deliver(method: str, task: str, seed: int, arguments: argparse.Namespace) -> tuple[tuple[int, ...], float]:
    """What one search delivers, and its CPU seconds."""
    import torch

    from hwnas.evaluators.one_shot import OneShotEvaluator
    from hwnas.spaces.supernet import Supernet
    from hwnas.strategies import make_strategy
    from hwnas.training import TrainConfig, train_mixture, train_shared, train_supernet

    data = load(arguments.data, arguments.limit, arguments.resolution)
    space = space_of(data, arguments.width, arguments.depth)
    limits = ConstraintSet(bound_of(space), space)
    sampler, rng = limits.sampler(), np.random.default_rng([seed, 1])
    if method == "random":
        return tuple(sampler.sample(1, rng)[0].tolist()), 0.0
    if method == "random, two edges":
        drawn = space.sample_derived(200, rng)
        return tuple(drawn[limits.feasible(drawn)][0].tolist()), 0.0
    start = time.process_time()
    made, examples = get_task(task).apply(space, data)
    torch.manual_seed(seed)
    supernet = Supernet(made)
    strategy = make_strategy(method, space, sampler, seed=seed)
    strategy.expect(arguments.evaluations)
    epochs = max(1, round(steps_of(method, arguments) / examples.steps(64)))
    config = TrainConfig.supernet(epochs=epochs, batch_size=64, seed=seed, precision="float32", device="cpu")
    if strategy.shares_weights:
        train: Any = train_mixture if strategy.mixes else train_shared
        train(supernet, strategy, examples, config)
        (found, *_) = strategy.candidates(1)
        return found, time.process_time() - start
    train_supernet(supernet, examples, config, sampler=sampler)
    evaluator = OneShotEvaluator(supernet, examples, batches=2, seed=seed)
    for _ in range(0, arguments.evaluations, 8):
        strategy.tell(evaluator.evaluate(strategy.ask(8)))
    assert strategy.best is not None
    return strategy.best.architecture, time.process_time() - start


def search(method: str, task: str, seed: int, arguments: argparse.Namespace) -> dict[str, object]:
    """One search, and the trainings of what it delivers."""
    import torch

    from hwnas.training import TrainConfig, train

    torch.set_num_threads(1)
    found, seconds = deliver(method, task, seed, arguments)
    data = load(arguments.data, arguments.final_limit, arguments.resolution)
    graph = space_of(data, arguments.width, arguments.depth).lower(found)
    torch.manual_seed(seed)
    config = TrainConfig(epochs=arguments.final_epochs, batch_size=64, seed=seed, precision="float32", device="cpu")
    accuracy = train(graph.to_module(), data, config).test_accuracy
    return {
        "date": datetime.date.today().isoformat(),
        "data": arguments.data,
        "search_images": arguments.limit,
        "search_steps": steps_of(method, arguments),
        "resolution": arguments.resolution,
        "width": arguments.width,
        "depth": arguments.depth,
        "method": method,
        "task": task,
        "seed": seed,
        "search_cpu_seconds": round(seconds, 1),
        "cell": json.dumps(list(found)),
        "macs": graph.macs,
        "params": graph.params,
        "final_images": arguments.final_limit,
        "final_epochs": arguments.final_epochs,
        "test_accuracy": round(accuracy, 5),
    }


def known(data: str) -> list[dict[str, str]]:
    if not FILE.exists():
        return []
    with open(FILE, newline="", encoding="utf-8") as stream:
        return [row for row in csv.DictReader(stream) if row["data"] == data]


def searches(arguments: argparse.Namespace) -> None:
    """What is not in the table yet, seed by seed, so that a part of it can be looked at."""
    done = {(row["method"], row["task"], int(row["seed"])) for row in known(arguments.data)}
    wanted = [
        (method, task, seed)
        for seed in range(arguments.seeds)
        for method in arguments.methods
        for task in (TASKS[arguments.data] if method in LABEL_FREE else ("classification",))
        if (method, task, seed) not in done
    ]
    with ProcessPoolExecutor(arguments.jobs) as pool:
        futures = [pool.submit(search, *one, arguments) for one in wanted]
        for number, future in enumerate(as_completed(futures), start=1):
            row = future.result()
            append_rows(FILE.stem, [row])
            shown = (row[key] for key in ("method", "task", "seed", "search_cpu_seconds", "macs", "test_accuracy"))
            print(f"{number} of {len(wanted)}", *shown, sep="  ", flush=True)


def summary(_: argparse.Namespace) -> None:
    """Medians, and improvements over random cells of the same form."""
    rows: list[dict[str, object]] = []
    for data in TASKS:
        of_data = known(data)
        accuracy = {
            key: np.array([100 * float(row["test_accuracy"]) for row in of_data if (row["method"], row["task"]) == key])
            for key in dict.fromkeys((row["method"], row["task"]) for row in of_data)
        }
        for (method, task), values in accuracy.items():
            form = "random, two edges" if method in ("darts", "random, two edges") else "random"
            base = accuracy[form, "classification"]
            mine = [row for row in of_data if (row["method"], row["task"]) == (method, task)]
            rng = np.random.default_rng(0)
            a, r = (rng.choice(v, (4000, len(v))).mean(axis=1) for v in (values, base))
            low, high = np.quantile(100 * (a - r) / r, [0.025, 0.975])
            rows.append(
                {
                    "date": datetime.date.today().isoformat(),
                    "data": data,
                    "method": method,
                    "task": task,
                    "seeds": len(values),
                    "search_cpu_seconds": round(float(np.median([float(m["search_cpu_seconds"]) for m in mine])), 1),
                    "mmacs_median": round(float(np.median([float(m["macs"]) for m in mine])) / 1e6, 3),
                    "test_median": round(float(np.median(values)), 2),
                    "test_lowest": round(float(values.min()), 2),
                    "test_highest": round(float(values.max()), 2),
                    "over_random_percent": round(float(100 * (values.mean() - base.mean()) / base.mean()), 2),
                    "low95": round(float(low), 2),
                    "high95": round(float(high), 2),
                }
            )
            print(*list(rows[-1].values())[1:], sep="  ")
    append_rows("cell_search_summary", rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("searches", "summary"))
    parser.add_argument("--data", choices=list(TASKS), default="fashion-mnist")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--resolution", type=int, default=16)
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--depth", type=float, default=0.375)
    parser.add_argument("--limit", type=int, default=2000, help="training images of the searches")
    parser.add_argument("--steps", type=int, default=400, help="of the searches' weights, 64 inputs each")
    parser.add_argument("--mixture-steps", type=int, default=150, help="of those of `darts`")
    parser.add_argument("--evaluations", type=int, default=64, help="of evolution")
    parser.add_argument("--final-limit", type=int, default=4000, help="training images of what was found")
    parser.add_argument("--final-epochs", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    {"searches": searches, "summary": summary}[arguments.what](arguments)


if __name__ == "__main__":
    main()
