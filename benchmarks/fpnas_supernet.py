"""Claims: what FP-NAS saves against PARSEC on a supernet, how near it comes to a FLOPs target, what splits are worth.

Fashion-MNIST and a small `fbnetv2`. Every search trains weights of its own; the network that it delivers is trained
from scratch, all alike, `--finals` times, and tested.

``compare``  PARSEC and FP-NAS with the same number of steps, against `evolution` on a supernet of uniform paths, under
             latency budgets (predicted from a table): architectures drawn, CPU seconds, accuracy.
``targets``  FP-NAS under five FLOPs targets, as upper bounds and with a lower bound of 98 % of them, against random
             networks of 98 to 100 % of the same FLOPs.
``splits``   FP-NAS with searched splits, with squeeze-and-excitation everywhere, and without attention, at one FLOPs
             target, from both sides.

    python benchmarks/fpnas_supernet.py compare --runs DIR --tables DIR            # scaled: half an hour on two cores
    python benchmarks/fpnas_supernet.py targets --runs DIR --tables DIR
    python benchmarks/fpnas_supernet.py splits --runs DIR --tables DIR
    python benchmarks/fpnas_supernet.py compare --runs DIR --tables DIR --resolution 28 --width 1 --depth 1 \\
        --limit 55000 --steps 20000 --evolution-steps 100000 --evaluations 1000 --final-epochs 30   # full scale

What was finished lies in ``--runs``: repeating the command goes on where it was stopped. Results are appended to
``benchmarks/results/fpnas_supernet.csv``.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
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
from hwnas.spaces.files import atomic_write

DEVICE = "recorded.cpu-onnxruntime"
SPLITS = {"searched": "0+1+2+4", "squeeze-and-excitation": "1", "none": "0"}


def run_one(job: dict[str, Any]) -> dict[str, Any]:
    """Search once, and train what was found, in this process."""
    import torch

    from hwnas.data import load_data
    from hwnas.training import TrainConfig, train

    torch.set_num_threads(1)
    space = hwnas.get_space(job["space"])
    seed = job["seed"]
    data = load_data("fashion-mnist", resolution=space.resolution, limit=job["limit"], seed=seed)
    limits = ConstraintSet(job["constraints"], space, job["tables"])
    start = time.process_time()
    found: dict[str, Any]
    if job["method"] == "random":
        rows = limits.sampler().sample(1, np.random.default_rng([seed, 1]))
        found = {"architecture": rows[0].tolist(), "drawn": 0}
    elif job["method"] == "evolution":
        found = by_evolution(job, space, data, limits)
    else:
        found = by_distribution(job, space, data, limits)
    found["seconds"] = time.process_time() - start
    graph = space.lower(found["architecture"])
    found["macs"] = graph.macs
    found["costs"] = limits.costs(np.array([found["architecture"]]))[0]
    data = load_data("fashion-mnist", resolution=space.resolution, limit=job["final_limit"], seed=seed)
    found["test"] = []
    for number in range(job["finals"]):
        torch.manual_seed(1000 * number + seed)
        config = TrainConfig(
            epochs=job["final_epochs"], batch_size=64, seed=1000 * number + seed, precision="float32", ema=0.0
        )
        found["test"].append(train(graph.to_module(), data, config).test_accuracy)
    return found


def by_distribution(job: dict[str, Any], space: Any, data: Any, limits: ConstraintSet) -> dict[str, Any]:
    """PARSEC or FP-NAS: weights and distribution by the same draws."""
    import torch

    from hwnas.spaces.supernet import Supernet
    from hwnas.strategies import make_strategy
    from hwnas.training import TrainConfig, train_shared

    strategy = make_strategy(job["method"], space, limits.sampler(), seed=job["seed"], **job["options"])
    torch.manual_seed(job["seed"])
    supernet = Supernet(space)
    epochs = max(1, round(job["steps"] / data.steps(64)))
    config = TrainConfig.supernet(epochs=epochs, batch_size=64, seed=job["seed"], precision="float32")
    train_shared(supernet, strategy, data, config)
    trace = strategy.trace  # type: ignore[attr-defined]
    return {
        "architecture": strategy.recommendation,
        "drawn": int(sum(step["samples"] for step in trace)),
        "steps": len(trace),
        "first_entropy": trace[0]["entropy"],
        "last_entropy": trace[-1]["entropy"],
        "last_within_budget": float(np.mean([step["within_budget"] for step in trace[-20:]])),
        "trace": [[step["samples"], step["entropy"], step["effective_samples"], step["score"]] for step in trace],
    }


def by_evolution(job: dict[str, Any], space: Any, data: Any, limits: ConstraintSet) -> dict[str, Any]:
    """SPOS: a supernet of uniform feasible paths, then evolution on its validation accuracy."""
    import torch

    from hwnas.evaluators.one_shot import OneShotEvaluator
    from hwnas.spaces.supernet import Supernet
    from hwnas.strategies import make_strategy
    from hwnas.training import TrainConfig, train_supernet

    torch.manual_seed(job["seed"])
    supernet = Supernet(space)
    sampler = limits.sampler()
    epochs = max(1, round(job["steps"] / data.steps(64)))
    config = TrainConfig.supernet(epochs=epochs, batch_size=64, seed=job["seed"], precision="float32")
    train_supernet(supernet, data, config, sampler=sampler)
    evaluator = OneShotEvaluator(supernet, data, batches=2, limit=1000, seed=job["seed"])
    strategy = make_strategy("evolution", space, sampler, seed=job["seed"])
    strategy.expect(job["evaluations"])
    done = 0
    while done < job["evaluations"]:
        asked = strategy.ask(min(8, job["evaluations"] - done))
        if not asked:
            break
        strategy.tell(evaluator.evaluate(asked))
        done += len(asked)
    assert strategy.best is not None
    return {"architecture": strategy.best.architecture, "drawn": done, "steps": epochs * data.steps(64)}


# ---------------------------------------------------------------------- the jobs of each claim


def jobs_of(what: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Everything that one claim runs, without the settings that all share."""
    size = f"resolution={arguments.resolution},channels=1,classes=10,width={arguments.width},depth={arguments.depth}"
    fp_nas = {"method": "fpnas", "options": {"rate": arguments.rate}, "steps": arguments.steps}
    space = hwnas.get_space(f"fbnetv2({size})")
    macs = ConstraintSet(["flops <= 1000G"], space).bounds[0].cost
    typical = macs.values(space.sample(4000, np.random.default_rng(0)))
    seeds = range(arguments.seeds)
    found: list[dict[str, Any]] = []
    if what == "compare":
        limits = ConstraintSet([f"latency@{DEVICE} <= 1s"], space, str(arguments.tables))
        latency = limits.bounds[0].cost.values(space.sample(4000, np.random.default_rng(0)))
        variants = {
            "PARSEC": {"method": "parsec", "options": {"samples": arguments.samples}, "steps": arguments.steps},
            "FP-NAS": fp_nas,
            f"FP-NAS, {arguments.less:g} of the entropy": {**fp_nas, "options": {"rate": arguments.less}},
            "evolution": {"method": "evolution", "steps": arguments.evolution_steps},
            "random": {"method": "random"},
        }
        if not arguments.less:
            variants = {label: v for label, v in variants.items() if "of the entropy" not in label}
        for share in arguments.budgets:
            bound = f"latency@{DEVICE} <= {np.quantile(latency, share):.5f}ms"
            for seed in seeds:
                for label, variant in variants.items():
                    if variant["method"] not in arguments.methods:
                        continue
                    found.append({**variant, "label": label, "space": space.spec, "constraints": [bound], "seed": seed})
    elif what == "targets":
        for share in (0.1, 0.3, 0.5, 0.7, 0.9):
            target = round(float(np.quantile(typical, share)), -4)
            bound = f"flops <= {target / 1e6:.2f}M"
            both = [bound, f"flops >= {0.98 * target / 1e6:.3f}M"]
            for seed in range(arguments.target_seeds):
                one = {**fp_nas, "space": space.spec, "seed": seed}
                found.append({**one, "label": "FP-NAS", "constraints": [bound]})
                found.append({**one, "label": "FP-NAS, from both sides", "constraints": both})
            for seed in range(arguments.randoms):
                random = {"method": "random", "label": "random", "space": space.spec, "constraints": both}
                found.append({**random, "seed": seed})
    else:
        target = round(float(np.quantile(typical, 0.3)), -4)
        both = [f"flops <= {target / 1e6:.2f}M", f"flops >= {0.98 * target / 1e6:.3f}M"]
        for seed in seeds:
            for label, splits in SPLITS.items():
                spec = hwnas.get_space(f"fbnetv2({size},splits={splits})").spec
                found.append({**fp_nas, "label": label, "space": spec, "constraints": both, "seed": seed})
    return found


def run_all(jobs: list[dict[str, Any]], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Each job in a process of its own, unless it was finished before."""

    def run(job: dict[str, Any]) -> dict[str, Any]:
        key = hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()[:16]
        file = arguments.runs / f"{job['label'].replace(' ', '-').replace(',', '')}-{job['seed']}-{key}.json"
        if not file.exists():
            subprocess.run(
                [sys.executable, __file__, "--one", json.dumps(job), "--result", str(file)], check=True, stdin=None
            )
        result = json.loads(file.read_text())
        print(
            job["label"], job["constraints"], job["seed"], {k: v for k, v in result.items() if k != "trace"}, flush=True
        )
        return {**job, **result}

    with ThreadPoolExecutor(arguments.jobs) as workers:
        return list(workers.map(run, jobs))


def summarise(what: str, results: list[dict[str, Any]]) -> list[dict[str, object]]:
    """One row for each method and bound."""
    rows: list[dict[str, object]] = []
    for key in dict.fromkeys((r["constraints"][0], r["label"]) for r in results):
        mine = [r for r in results if (r["constraints"][0], r["label"]) == key]
        bound = ConstraintSet(key[0], hwnas.get_space(mine[0]["space"]), mine[0]["tables"]).bounds[0].upper
        used = [100 * next(iter(r["costs"].values())) / bound for r in mine]
        tests = [100 * float(np.mean(r["test"])) for r in mine]
        rows.append(
            {
                "date": datetime.date.today().isoformat(),
                "claim": what,
                "space": mine[0]["space"],
                "constraint": key[0],
                "method": key[1],
                "seeds": len(mine),
                "steps": mine[0].get("steps", 0),
                "architectures_drawn": round(float(np.median([r["drawn"] for r in mine]))),
                "search_cpu_seconds": round(float(np.median([r["seconds"] for r in mine])), 1),
                "last_entropy": round(float(np.median([r.get("last_entropy", np.nan) for r in mine])), 2),
                "used_percent_median": round(float(np.median(used)), 2),
                "used_percent_least": round(min(used), 2),
                "used_percent_most": round(max(used), 2),
                "trainings": sum(len(r["test"]) for r in mine),
                "test_median": round(float(np.median(tests)), 2),
                "test_lowest": round(min(tests), 2),
                "test_highest": round(max(tests), 2),
            }
        )
        print(*list(rows[-1].values())[3:], sep="  ")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("compare", "targets", "splits"))
    parser.add_argument("--tables", type=Path)
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--resolution", type=int, default=16)
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--depth", type=float, default=0.25)
    parser.add_argument("--limit", type=int, default=4000, help="training images of the searches")
    parser.add_argument("--steps", type=int, default=160, help="of weights and distribution")
    parser.add_argument("--samples", type=int, default=14, help="draws a step of PARSEC")
    parser.add_argument("--rate", type=float, default=0.5, help="draws a step of FP-NAS over the entropy in nats")
    parser.add_argument("--less", type=float, default=0.35, help="the same for a second FP-NAS of `compare`; 0: none")
    parser.add_argument(
        "--methods", nargs="+", default=["parsec", "fpnas", "evolution", "random"], help="that `compare` runs"
    )
    parser.add_argument("--evolution-steps", type=int, default=1280, help="of evolution's supernet, one path each")
    parser.add_argument("--evaluations", type=int, default=100, help="of evolution")
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.3], help="quantiles of random latencies")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--target-seeds", type=int, default=1)
    parser.add_argument("--randoms", type=int, default=4, help="random networks at each FLOPs target")
    parser.add_argument("--final-limit", type=int, default=10000, help="training images of the networks found")
    parser.add_argument("--final-epochs", type=int, default=4)
    parser.add_argument("--finals", type=int, default=1, help="trainings of each network found")
    parser.add_argument("--jobs", type=int, default=2, help="at a time, one thread each")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        atomic_write(arguments.result, json.dumps(run_one(json.loads(arguments.one))).encode())
        return
    arguments.runs.mkdir(parents=True, exist_ok=True)
    shared = {
        name: getattr(arguments, name) for name in ("limit", "evaluations", "final_limit", "final_epochs", "finals")
    }
    jobs = [{**job, **shared, "tables": str(arguments.tables)} for job in jobs_of(arguments.what, arguments)]
    append_rows("fpnas_supernet", summarise(arguments.what, run_all(jobs, arguments)))


if __name__ == "__main__":
    main()
