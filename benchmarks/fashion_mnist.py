"""Claim: the network that a search finds beats feasible random networks trained the same way, and fits as measured.

On Fashion-MNIST and `mobilenet`, at budgets of 25, 50 and 75 % of the space's range of latency:
``evolution`` over a supernet (trained once, and shared by the budgets) against random architectures
that meet the same budget, drawn exactly uniformly. All are trained from scratch with the same
settings; the accuracy is that of the best-on-validation weights on the test images. Seeds are
paired: random network i is trained with seed i, and the winner with each of these seeds; the
interval is that of the mean of the paired differences. All trainings are done in random order, so
that the machine treats them alike.

    python benchmarks/fashion_mnist.py --tables DIR --runs DIR                       # scaled: under an hour on 2 cores
    python benchmarks/fashion_mnist.py --tables DIR --runs DIR --resolution 28 --width 1 --depth 1 \\
        --limit 55000 --supernet-epochs 120 --epochs 100 --evaluations 1000 --random 20       # full scale

Everything is kept in ``--runs``: repeating the command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
from record import append_rows

import hwnas
from hwnas.constraints import ConstraintSet, parse_constraint
from hwnas.latency_tables import find_table
from hwnas.plan import SearchSettings
from hwnas.pricing import LatencyModel
from hwnas.run import Run

SHARES = (0.25, 0.50, 0.75)


def train_one(job: dict[str, object]) -> None:
    """Train one architecture from scratch in this process and write its accuracy (the command ``--one``)."""
    import torch

    from hwnas.data import load_data
    from hwnas.training import TrainConfig, train

    torch.set_num_threads(1)
    space = hwnas.get_space(str(job["space"]))
    data = load_data("fashion-mnist", resolution=space.resolution, limit=job["limit"])  # type: ignore[arg-type]
    config = TrainConfig(**job["config"])  # type: ignore[arg-type]
    torch.manual_seed(config.seed)
    module = space.lower(job["architecture"]).to_module()  # type: ignore[arg-type]
    result = train(module, data, config)
    Path(str(job["result"])).write_text(json.dumps({"valid": result.valid_accuracy, "test": result.test_accuracy}))


def run_job(job: dict[str, object]) -> dict[str, float]:
    """Train in a process of its own with one thread, unless the result is there already."""
    file = Path(str(job["result"]))
    if not file.exists():
        subprocess.run([sys.executable, __file__, "--one", json.dumps(job)], check=True)
    result: dict[str, float] = json.loads(file.read_text())
    return result


def t_interval(values: list[float]) -> float:
    """Half of the 95 % interval of a mean."""
    from scipy.stats import t

    if len(values) < 2:
        return math.nan
    return float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path)
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--device", default="cpu-onnxruntime")
    parser.add_argument("--resolution", type=int, default=16)
    parser.add_argument("--width", type=float, default=0.1)
    parser.add_argument("--depth", type=float, default=0.25)
    parser.add_argument("--limit", type=int, default=8000, help="training images")
    parser.add_argument("--supernet-epochs", type=int, default=30)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--evaluations", type=int, default=200)
    parser.add_argument(
        "--random", type=int, default=5, help="random networks at each budget, and trainings of each winner"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time, one thread each")
    parser.add_argument("--threads", type=int, default=2, help="threads of the supernet's training")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        train_one(json.loads(arguments.one))
        return
    tables, runs = str(arguments.tables), arguments.runs
    size = f"resolution={arguments.resolution},channels=1,classes=10"
    spec = f"mobilenet({size},width={arguments.width},depth={arguments.depth})"
    space = hwnas.get_space(spec)
    print(hwnas.profile(arguments.device, spec, tables=tables))
    model = LatencyModel.from_table(space, find_table(arguments.device, tables))
    low, high = model.additive.range()
    config = {"epochs": arguments.epochs, "batch_size": 64, "lr": 0.1, "precision": "float32"}
    rows: list[dict[str, object]] = []
    supernet: Path | None = None
    found = []
    for share in SHARES:
        budget = low + share * (high - low)
        text = f"latency@{arguments.device} <= {budget:.5f}ms"
        folder = runs / f"search-{round(100 * share)}"
        if not (folder / "run.toml").exists():
            settings = SearchSettings(
                space=spec,
                data="fashion-mnist",
                constraints=(text,),
                evaluations=arguments.evaluations,
                supernet_epochs=arguments.supernet_epochs,
                epochs=arguments.epochs,
                seed=arguments.seed,
                tables=tables,
                limit=arguments.limit,
                batch_size=64,
                lr=0.1,
                threads=arguments.threads,
            )
            with Run.create(folder, asdict(settings)) as run:
                if supernet is not None:  # its training does not depend on the budget
                    shutil.copy(supernet, run.checkpoint("supernet"))
        # a run that goes on keeps the budget that it began with
        (text,) = Run.open(folder, write=False).settings["constraints"]
        budget = parse_constraint(text, root=tables).bound
        result = hwnas.resume(folder, progress=_printer(folder.name))
        supernet = folder / "checkpoints" / "supernet.safetensors"
        found.append((share, budget, text, result))
    jobs = []
    for share, _, text, result in found:
        limits = ConstraintSet([text], space, tables)
        drawn = limits.sampler().sample(arguments.random, np.random.default_rng([arguments.seed, round(100 * share)]))
        for number, row in enumerate(drawn.tolist()):
            jobs.append((share, "random", number, tuple(row), arguments.seed + number))
            jobs.append((share, "evolution", number, result.architecture, arguments.seed + number))
    order = np.random.default_rng(arguments.seed).permutation(len(jobs))
    described = {}
    for index in order.tolist():
        *_, architecture, seed = jobs[index]
        described[index] = {
            "space": spec,
            "architecture": list(architecture),
            "limit": arguments.limit,
            "config": {**config, "seed": seed},
            "result": str(
                runs / f"trained-{'-'.join(map(str, architecture))}-{arguments.limit}-{arguments.epochs}-{seed}.json"
            ),
        }
    with ThreadPoolExecutor(arguments.jobs) as pool:
        scores = dict(zip(described, pool.map(run_job, described.values()), strict=True))
    measured = _measure(space, {jobs[i][3] for i in described}, arguments.device)
    for share, budget, text, result in found:
        mine = {kind: sorted(i for i in described if jobs[i][:2] == (share, kind)) for kind in ("random", "evolution")}
        ahead = [
            100 * (scores[ours]["test"] - scores[theirs]["test"])
            for ours, theirs in zip(mine["evolution"], mine["random"], strict=True)
        ]  # in the order of the seeds
        for kind, members in mine.items():
            test = [100 * scores[i]["test"] for i in members]
            valid = [100 * scores[i]["valid"] for i in members]
            latency = [measured[jobs[i][3]] for i in members]
            rows.append(
                {
                    "date": datetime.date.today().isoformat(),
                    "space": spec,
                    "images": arguments.limit,
                    "epochs": arguments.epochs,
                    "supernet_epochs": arguments.supernet_epochs,
                    "evaluations": result.trials,
                    "budget_share": share,
                    "budget_ms": round(budget, 5),
                    "method": kind,
                    "networks": len({jobs[i][3] for i in members}),
                    "trainings": len(members),
                    "test_accuracy": round(float(np.mean(test)), 2),
                    "half_interval_95": round(t_interval(test), 2),
                    "ahead": round(float(np.mean(ahead)), 2) if kind == "evolution" else "",
                    "ahead_half_interval_95": round(t_interval(ahead), 2) if kind == "evolution" else "",
                    "seeds_ahead": sum(value > 0 for value in ahead) if kind == "evolution" else "",
                    "best_test_accuracy": round(max(test), 2),
                    "valid_accuracy": round(float(np.mean(valid)), 2),
                    "measured_ms_mean": round(float(np.mean(latency)), 5),
                    "measured_ms_max": round(max(latency), 5),
                    "fit_as_measured": sum(value <= budget for value in latency),
                    "search_predicted_ms": round(result.costs[text]["predicted"], 5) if kind == "evolution" else "",
                    "search_measured_ms": round(result.costs[text]["measured"], 5) if kind == "evolution" else "",
                }
            )
            print(rows[-1])
    append_rows("fashion_mnist", rows)


def _measure(
    space: hwnas.SearchSpace, architectures: set[tuple[int, ...]], device: str
) -> dict[tuple[int, ...], float]:
    from functools import partial

    from hwnas.profilers import Protocol, get_profiler
    from hwnas.profilers.campaign import network_model

    sources = {architecture: partial(network_model, space, architecture) for architecture in architectures}
    results = get_profiler(device).measure_many(sources, Protocol().for_networks())
    return {architecture: result.median_ms for architecture, result in results}


def _printer(name: str) -> object:
    last = ""

    def report(done: float, total: float, text: str) -> None:
        nonlocal last
        tenth = f"{name} {text.split(':')[0]} {10 * done // max(total, 1):.0f}0 %"
        if tenth != last:
            print(tenth, text, flush=True)
            last = tenth

    return report


if __name__ == "__main__":
    main()
