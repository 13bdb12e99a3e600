"""Claim: two stages reach the quality of SPOS's single supernet with less training.

On Fashion-MNIST and the operators that `hwnas pool` keeps for the device, under one latency budget: SPOS's
supernet over all layers with its evolution, against `hurricane` (later layers, then earlier ones, with and without
reuse of stage 1's weights), at several lengths of training and with the same number of evaluations. Reported is
what each training cost (image passes, and CPU seconds of one thread) and the one-shot accuracy of the best feasible
network, on validation images. From the curves follows how many image passes `hurricane` needs for the accuracy
that SPOS has at each length. The networks found after the longest training are also trained from scratch, all alike,
and tested. In each seed the methods and lengths run in random order, each in a process of its own.

    python benchmarks/hurricane_stages.py --tables DIR --runs DIR                     # scaled: about an hour
    python benchmarks/hurricane_stages.py --tables DIR --runs DIR --resolution 28 --width 1 --depth 1 \\
        --limit 55000 --epochs 30 60 120 --evaluations 1000                           # full scale

What was finished lies in ``--runs``: repeating the command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from record import append_rows

import hwnas
from hwnas.constraints import ConstraintSet
from hwnas.latency_tables import find_table
from hwnas.pricing import LatencyModel
from hwnas.spaces.files import atomic_write

METHODS: dict[str, dict[str, Any]] = {
    "SPOS": {},
    "two stages": {"reuse": True},
    "two stages, fresh weights": {"reuse": False},
}


def run_one(job: dict[str, Any]) -> dict[str, Any]:
    """Train and search once, in this process."""
    import torch

    from hwnas.data import load_data
    from hwnas.evaluators.one_shot import OneShotEvaluator
    from hwnas.spaces.supernet import Supernet
    from hwnas.strategies import make_strategy
    from hwnas.training import BoxSampler, TrainConfig, train, train_supernet

    torch.set_num_threads(1)
    space = hwnas.get_space(job["space"])
    data = load_data("fashion-mnist", resolution=space.resolution, limit=job["limit"], seed=job["seed"])
    limits = ConstraintSet([job["constraint"]], space, job["tables"])
    name = "evolution" if job["method"] == "SPOS" else "hurricane"
    strategy = make_strategy(name, space, limits.sampler(), seed=job["seed"], **METHODS[job["method"]])
    strategy.expect(job["evaluations"])
    supernet: Supernet | None = None
    evaluator: OneShotEvaluator | None = None
    number, seconds, passes, best, done = -1, 0.0, 0, (-1.0, ()), 0
    while done < job["evaluations"]:
        found = strategy.ask(min(8, job["evaluations"] - done))
        if not found:
            break
        stage = strategy.stage
        if evaluator is None or stage.number != number:
            torch.manual_seed(job["seed"] + stage.number)
            if supernet is None or not stage.reuse:
                supernet = Supernet(space)
            epochs = max(1, round(stage.share * job["epochs"]))
            config = TrainConfig.supernet(epochs=epochs, batch_size=64, seed=job["seed"], precision="float32")
            start = time.process_time()
            sampler = None if stage.allowed is None else BoxSampler(stage.allowed)
            train_supernet(supernet, data, config, sampler=sampler)
            seconds += time.process_time() - start
            passes += epochs * data.steps(config.batch_size) * config.batch_size
            evaluator = OneShotEvaluator(supernet, data, batches=2, limit=job["validation"], seed=job["seed"])
            number, best = stage.number, (-1.0, ())
        evaluations = evaluator.evaluate(found)
        strategy.tell(evaluations)
        done += len(found)
        best = max(best, *((evaluation.score, evaluation.architecture) for evaluation in evaluations))
    result = {"seconds": seconds, "passes": passes, "accuracy": best[0], "architecture": best[1]}
    if job["final_epochs"]:
        torch.manual_seed(job["seed"])
        config = TrainConfig(epochs=job["final_epochs"], batch_size=64, seed=job["seed"], precision="float32")
        result["test"] = train(space.lower(best[1]).to_module(), data, config).test_accuracy
    return result


def run_seed(arguments: argparse.Namespace, seed: int, space: str, constraint: str) -> list[dict[str, Any]]:
    """Everything of one seed, in random order, each in a process of its own unless it is there already."""
    found = []
    jobs = [(method, epochs) for method in METHODS for epochs in arguments.epochs]
    for index in np.random.default_rng(seed).permutation(len(jobs)).tolist():
        method, epochs = jobs[index]
        job = {
            "space": space,
            "constraint": constraint,
            "tables": str(arguments.tables),
            "method": method,
            "epochs": epochs,
            "seed": seed,
            "limit": arguments.limit,
            "final_epochs": arguments.final_epochs if epochs == max(arguments.epochs) else 0,
            "evaluations": arguments.evaluations,
            "validation": arguments.validation,
        }
        file = arguments.runs / f"{method.replace(', ', '-').replace(' ', '-')}-{epochs}-{seed}.json"
        if not file.exists():
            command = [sys.executable, __file__, "--one", json.dumps(job), "--result", str(file)]
            subprocess.run(command, check=True)
        found.append({**json.loads(file.read_text()), "method": method, "epochs": epochs, "seed": seed})
        print(found[-1], flush=True)
    return found


def needed(curve: list[tuple[float, float]], accuracy: float) -> float:
    """Passes at which a curve of (passes, accuracy) reaches `accuracy`, interpolated; NaN where it never does."""
    curve = sorted(curve)
    if curve[0][1] >= accuracy:
        return curve[0][0]  # an upper bound
    for (before, low), (after, high) in itertools.pairwise(curve):
        if low < accuracy <= high:
            return before * (after / before) ** ((accuracy - low) / (high - low))
    return float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path)
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--device", default="cpu-onnxruntime")
    parser.add_argument("--resolution", type=int, default=16)
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--depth", type=float, default=0.5)
    parser.add_argument("--size", type=int, default=4, help="operators in a layer's pool")
    parser.add_argument("--share", type=float, default=0.5, help="budget as a share of the space's range of latency")
    parser.add_argument("--limit", type=int, default=2000, help="training images")
    parser.add_argument("--validation", type=int, default=1000, help="validation images of the one-shot accuracy")
    parser.add_argument("--epochs", type=int, nargs="+", default=[3, 6, 12], help="of the supernets")
    parser.add_argument("--final-epochs", type=int, default=8, help="of the networks found, from scratch")
    parser.add_argument("--evaluations", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--jobs", type=int, default=2, help="seeds at a time, one thread each")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        atomic_write(arguments.result, json.dumps(run_one(json.loads(arguments.one))).encode())
        return
    arguments.runs.mkdir(parents=True, exist_ok=True)
    size = f"resolution={arguments.resolution},channels=1,classes=10"
    spec = f"hurricane({size},width={arguments.width},depth={arguments.depth})"
    tables = str(arguments.tables)
    pool = hwnas.select_pool(spec, arguments.device, size=arguments.size, tables=tables)
    space = hwnas.get_space(pool.space)
    hwnas.profile(arguments.device, pool.space, context="isolated", networks=40, tables=tables)
    low, high = LatencyModel.from_table(space, find_table(arguments.device, tables)).additive.range()
    constraint = f"latency@{arguments.device} <= {low + arguments.share * (high - low):.5f}ms"
    print(pool.space, constraint)
    with ThreadPoolExecutor(arguments.jobs) as workers:
        seeds = list(workers.map(lambda s: run_seed(arguments, s, pool.space, constraint), range(arguments.seeds)))
    rows = []
    for method in METHODS:
        for epochs in arguments.epochs:
            mine = [next(r for r in seed if r["method"] == method and r["epochs"] == epochs) for seed in seeds]
            test = [100 * r["test"] for r in mine if "test" in r]
            goal = [next(r for r in seed if r["method"] == "SPOS" and r["epochs"] == epochs) for seed in seeds]
            curves = [[(r["passes"], r["accuracy"]) for r in seed if r["method"] == method] for seed in seeds]
            share = [needed(curve, g["accuracy"]) / g["passes"] for curve, g in zip(curves, goal, strict=True)]
            rows.append(
                {
                    "date": datetime.date.today().isoformat(),
                    "space": spec,
                    "constraint": constraint,
                    "images": arguments.limit,
                    "evaluations": arguments.evaluations,
                    "method": method,
                    "epochs": epochs,
                    "seeds": arguments.seeds,
                    "image_passes": int(np.mean([r["passes"] for r in mine])),
                    "cpu_seconds": round(float(np.mean([r["seconds"] for r in mine])), 1),
                    "one_shot_accuracy": round(100 * float(np.mean([r["accuracy"] for r in mine])), 2),
                    "lowest": round(100 * min(r["accuracy"] for r in mine), 2),
                    "highest": round(100 * max(r["accuracy"] for r in mine), 2),
                    "test_accuracy": round(float(np.mean(test)), 2) if test else "",
                    "lowest_test": round(min(test), 2) if test else "",
                    "highest_test": round(max(test), 2) if test else "",
                    "passes_for_the_accuracy_of_SPOS": " ".join(f"{value:.2f}" for value in share),
                }
            )
            print(rows[-1])
    append_rows("hurricane_stages", rows)


if __name__ == "__main__":
    main()
