"""Claim: operators chosen for a device beat a fixed pool on that device, and less so on another.

On Fashion-MNIST, two devices of this machine (onnxruntime in float32 and in int8): the pools that `hwnas pool` keeps
for the one and for the other, SPOS's four choice blocks, and four random operators a layer (others with each seed).
The bound is the median latency of SPOS's pool on the device, for every pool alike, and the chosen pools are chosen
within it (``--no-within``: over all latencies). In each pool a supernet is trained; on each device SPOS's evolution
searches it under the bound, and the winner is trained from scratch. Each pool is so used on its own device and on the
other. In the end all winners are measured in turns. Accuracies are those of the float32 networks, on the int8 device
too.

    python benchmarks/hurricane_pools.py --tables DIR --runs DIR                      # scaled: about an hour
    python benchmarks/hurricane_pools.py --tables DIR --runs DIR --resolution 28 --width 1 --depth 1 \\
        --limit 55000 --supernet-epochs 120 --epochs 100 --evaluations 1000           # full scale

What was finished lies in ``--runs``: repeating the command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from record import append_rows

import hwnas
from hwnas.constraints import ConstraintSet
from hwnas.latency_tables import find_table
from hwnas.operator_pool import rank_agreement
from hwnas.pool_plot import draw_pools
from hwnas.pricing import LatencyModel
from hwnas.spaces.files import atomic_write

DEVICES = ("cpu-onnxruntime", "cpu-onnxruntime.int8")
SPOS = "shuffle3+shuffle5+shuffle7+xception"


def run_one(job: dict[str, Any]) -> dict[str, Any]:
    """Train the pool's supernet, search it for each device, and train the winners from scratch, in this process."""
    import torch

    from hwnas.data import load_data
    from hwnas.evaluators.one_shot import OneShotEvaluator
    from hwnas.spaces.supernet import Supernet
    from hwnas.strategies import make_strategy
    from hwnas.training import TrainConfig, train, train_supernet

    torch.set_num_threads(1)
    space, seed = hwnas.get_space(job["space"]), job["seed"]
    data = load_data("fashion-mnist", resolution=space.resolution, limit=job["limit"])
    torch.manual_seed(seed)
    supernet = Supernet(space)
    common: dict[str, Any] = {"batch_size": 64, "seed": seed, "precision": "float32"}
    train_supernet(supernet, data, TrainConfig.supernet(epochs=job["supernet_epochs"], **common))
    evaluator = OneShotEvaluator(supernet, data, batches=2, limit=job["validation"], seed=seed)
    found: dict[str, Any] = {}
    for device, bound in job["bounds"].items():
        limits = ConstraintSet([f"latency@{device} <= {bound}ms"], space, job["tables"])
        strategy = make_strategy("evolution", space, limits.sampler(), seed=seed)
        done = 0
        while done < job["evaluations"] and (asked := strategy.ask(min(8, job["evaluations"] - done))):
            strategy.tell(evaluator.evaluate(asked))
            done += len(asked)
        best = strategy.best
        assert best is not None
        torch.manual_seed(seed)
        module = space.lower(best.architecture).to_module()
        result = train(module, data, TrainConfig(epochs=job["epochs"], **common))
        found[device] = {
            "architecture": best.architecture,
            "one_shot": best.score,
            "valid": result.valid_accuracy,
            "test": result.test_accuracy,
            "predicted_ms": float(limits.values(np.array([best.architecture]))[0, 0]),
        }
    return found


def run_job(job: dict[str, Any], file: Path) -> dict[str, Any]:
    """In a process of its own, unless it is there already."""
    if not file.exists():
        subprocess.run([sys.executable, __file__, "--one", json.dumps(job), "--result", str(file)], check=True)
    result: dict[str, Any] = json.loads(file.read_text())
    print(file.stem, {device: round(100 * found["test"], 2) for device, found in result.items()}, flush=True)
    return result


def measure(winners: dict[tuple[str, tuple[int, ...]], hwnas.SearchSpace], device: str) -> dict[Any, float]:
    """Median latency of ``(space, architecture)`` on a device, all in turns."""
    from hwnas.profilers import Protocol, get_profiler
    from hwnas.profilers.campaign import network_model
    from hwnas.quantize import quantize_for_timing

    def model(space: hwnas.SearchSpace, architecture: tuple[int, ...]) -> Any:
        made = network_model(space, architecture)
        return quantize_for_timing(made) if device.endswith("int8") else made

    sources = {key: partial(model, space, key[1]) for key, space in winners.items()}
    return {
        key: found.median_ms for key, found in get_profiler(device).measure_many(sources, Protocol().for_networks())
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path)
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--resolution", type=int, default=16)
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--depth", type=float, default=0.5)
    parser.add_argument("--rule", default="bands")
    parser.add_argument(
        "--within", action=argparse.BooleanOptionalAction, default=True, help="choose pools within the bounds"
    )
    parser.add_argument("--size", type=int, default=4, help="operators in a layer's pool")
    parser.add_argument("--limit", type=int, default=2000, help="training images")
    parser.add_argument("--validation", type=int, default=1000, help="validation images of the one-shot accuracy")
    parser.add_argument("--supernet-epochs", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--evaluations", type=int, default=50)
    parser.add_argument("--networks", type=int, default=24, help="whole networks that correct each pool's prices")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time, one thread each")
    parser.add_argument("--prepare", action="store_true", help="only measure the blocks, draw the pools, and stop")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        atomic_write(arguments.result, json.dumps(run_one(json.loads(arguments.one))).encode())
        return
    arguments.runs.mkdir(parents=True, exist_ok=True)
    tables = str(arguments.tables)
    size = f"resolution={arguments.resolution},channels=1,classes=10"
    source = hwnas.get_space(f"hurricane({size},width={arguments.width},depth={arguments.depth})")

    def restricted(pool: str) -> str:
        return type(source)(**{**source.parameters, "pool": pool}).spec

    bounds: dict[str, float] = {}
    for device in DEVICES:
        hwnas.profile(device, source.spec, context="isolated", networks=0, tables=tables)
        space = hwnas.get_space(restricted(SPOS))
        hwnas.profile(device, space.spec, context="isolated", networks=arguments.networks, tables=tables)
        prices = LatencyModel.from_table(space, find_table(device, tables)).predict(
            space.sample(1000, np.random.default_rng(0))
        )
        bounds[device] = round(float(np.median(prices)), 5)
    print(bounds)
    chosen = [
        hwnas.select_pool(
            source.spec,
            device,
            size=arguments.size,
            rule=arguments.rule,
            constraint=f"latency@{device} <= {bounds[device]}ms" if arguments.within else None,
            tables=tables,
        )
        for device in DEVICES
    ]
    for pair, tau in rank_agreement({pool.device: pool.layers for pool in chosen}).items():
        print(f"Kendall's tau of {' and '.join(pair)}: {tau:.3f}")
    draw_pools(chosen, Path(__file__).parent / "results" / "hurricane-pools.svg")

    spaces: dict[tuple[str, int], str] = {}
    for seed in range(arguments.seeds):
        rng = np.random.default_rng([seed, 7])
        drawn = ("+".join(rng.choice(d.choices, arguments.size, replace=False)) for d in source.decisions)
        spaces |= {(f"for {pool.device}", seed): pool.space for pool in chosen}
        spaces |= {("SPOS", seed): restricted(SPOS), ("random", seed): restricted("/".join(drawn))}
    for device in DEVICES:
        for spec in dict.fromkeys(spaces.values()):
            hwnas.profile(device, spec, context="isolated", networks=arguments.networks, tables=tables)
    if arguments.prepare:
        return
    described = {
        key: {
            "space": spec,
            "seed": key[1],
            "bounds": bounds,
            "tables": tables,
            "limit": arguments.limit,
            "validation": arguments.validation,
            "supernet_epochs": arguments.supernet_epochs,
            "epochs": arguments.epochs,
            "evaluations": arguments.evaluations,
        }
        for key, spec in spaces.items()
    }
    files = {key: arguments.runs / f"{key[0].replace(' ', '-')}-{key[1]}.json" for key in described}
    order = [list(described)[i] for i in np.random.default_rng(0).permutation(len(described)).tolist()]
    with ThreadPoolExecutor(arguments.jobs) as workers:
        results = dict(zip(order, workers.map(lambda key: run_job(described[key], files[key]), order), strict=True))
    rows = []
    for device in DEVICES:
        winners = {
            (spaces[key], tuple(r[device]["architecture"])): hwnas.get_space(spaces[key]) for key, r in results.items()
        }
        measured = measure(winners, device)
        for pool in dict.fromkeys(name for name, _ in spaces):
            mine = [results[pool, seed][device] for seed in range(arguments.seeds)]
            latency = [measured[spaces[pool, s], tuple(r["architecture"])] for s, r in enumerate(mine)]
            test = [100 * r["test"] for r in mine]
            rows.append(
                {
                    "date": datetime.date.today().isoformat(),
                    "space": source.spec,
                    "rule": f"{arguments.rule}{' within the bound' if arguments.within else ''}",
                    "device": device,
                    "pool": pool,
                    "bound_ms": bounds[device],
                    "seeds": arguments.seeds,
                    "test_accuracy": round(float(np.mean(test)), 2),
                    "lowest": round(min(test), 2),
                    "highest": round(max(test), 2),
                    "one_shot": round(100 * float(np.mean([r["one_shot"] for r in mine])), 2),
                    "predicted_ms": round(float(np.mean([r["predicted_ms"] for r in mine])), 5),
                    "measured_ms": round(float(np.mean(latency)), 5),
                    "fit_as_measured": sum(value <= bounds[device] for value in latency),
                }
            )
            print(rows[-1])
    append_rows("hurricane_pools", rows)


if __name__ == "__main__":
    main()
