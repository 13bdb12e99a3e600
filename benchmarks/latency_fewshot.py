"""Claim: a device that was never seen is predicted from 5 to 50 measurements better than by the simple methods.

On published tables (``HWNAS_DATA``), each column in turn is the new device and others are known ones, of which 900
architectures (FBNet: 800) are measured. Which architectures of the new device are measured, hwnas chooses; the
simple methods get as many at random, and so does hwnas once more ("drawn"). All are tested on all other architectures.

    python benchmarks/latency_fewshot.py nb201      # compiled runtimes, deduplicated: 12 targets
    python benchmarks/latency_fewshot.py help       # HELP's sources and targets on NAS-Bench-201
    python benchmarks/latency_fewshot.py fbnet      # NASFLAT's hard tasks F3 and FA, and HELP's FD

Simple methods: ridge regression on the counts of operators of the new device alone; on the predictions for the known
devices; gradient boosting on one-hot choices; a line on FLOPs; a layer-wise table (ridge on one-hot choices).
Appends to ``results/latency_fewshot.csv``. Draws that are finished lie in ``--cache``: repeating the command goes on.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from record import append_rows
from scipy.stats import spearmanr

import hwnas
from hwnas.features import graph_features
from hwnas.latency_predictor import SOURCES, LatencyPredictor, choose_items
from hwnas.spaces.files import atomic_write
from hwnas.spaces.nasbench201 import NASBench201

DATA = Path(os.environ.get("HWNAS_DATA", Path(__file__).parents[2] / "shared" / "data"))
EDGES = ("op_0to1", "op_0to2", "op_1to2", "op_0to3", "op_1to3", "op_2to3")
NOT_CPU_OR_GPU = ("edgetpu", "eyeriss", "fpga", "dsp", "vpu")
HELP_SOURCES = "1080ti_1 1080ti_32 1080ti_256 silver_4114 silver_4210r samsung_a50 pixel3 essential_ph_1 samsung_s7"
HELP_TARGETS = "titan_rtx_256 gold_6226 fpga pixel2 raspi4 eyeriss"
GPUS = "1080ti 2080ti titan_rtx titanx titanxp"
FBNET_TASKS = {
    "FD": (HELP_SOURCES.replace("256", "64"), "fpga raspi4 eyeriss"),
    "F3": ("essential_ph_1 pixel2 pixel3 raspi4 samsung_s7", "1080ti_1 1080ti_32 2080ti_1 titan_rtx_1 titan_rtx_32"),
    "FA": (
        " ".join(f"{gpu}_{batch}" for gpu in GPUS.split() for batch in (1, 32, 64)),
        "gold_6226 essential_ph_1 samsung_s7 pixel2",
    ),
}


@dataclass(frozen=True)
class Task:
    """Known devices, a new one, and what is known of the architectures."""

    name: str
    target: str
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Problem:
    """Architectures, their features, latencies by device (NaN: not measured), and tasks on them."""

    features: dict[str, np.ndarray]
    counts: np.ndarray
    flops: np.ndarray
    latency: dict[str, np.ndarray]
    tasks: tuple[Task, ...]
    known: int


# ---------------------------------------------------------------------- the published tables


def nasbench201(compiled: bool, cache: Path) -> Problem:
    accuracy, table = (pq.read_table(DATA / "nb201" / f"{name}.parquet") for name in ("accuracy", "latency"))
    architectures = np.stack([accuracy[edge].to_numpy() for edge in EDGES], axis=1).astype(int)
    keep = np.arange(len(architectures))
    if compiled:  # networks that are the same computation count once, and those without a path not at all
        connected = np.flatnonzero(accuracy["connected"].to_numpy())
        keep = connected[np.unique(accuracy["comp_id"].to_numpy()[connected], return_index=True)[1]]
    space = hwnas.get_space("nasbench201")
    assert isinstance(space, NASBench201)
    rows = architectures[keep]
    file = cache / f"features-nb201-{'live' if compiled else 'raw'}.npz"
    if not file.exists():
        print("counting kernels of", len(rows), "networks")
        graphs = (space.build(tuple(row), dead_edges=not compiled) for row in rows.tolist())
        np.savez(file, **graph_features(graphs))
    counts = operator_counts(rows, compiled)
    features = {"choices": space.encode(rows), "operators": counts, **np.load(file)}
    latency = {name: table[name].to_numpy().astype(float)[keep] for name in table.column_names if name != "arch_idx"}
    latency = {name: np.where(values > 0, values, np.nan) for name, values in latency.items()}
    times = [name for name in latency if "energy" not in name and "intensity" not in name]
    if compiled:
        known = [name for name in times if not any(word in name for word in NOT_CPU_OR_GPU)]
        targets = [name for name in times if name.split(".")[0] in ("latbench", "nnmeter", "hw360")]
        tasks = [Task("NAS-Bench-201", t, tuple(name for name in known if name != t)) for t in targets]
    else:
        long = {
            name.split(".")[-1].removesuffix("_latency"): name for name in times if name.startswith(("help", "hwnb"))
        }
        sources = tuple(long[name] for name in HELP_SOURCES.split())
        tasks = [Task("HELP", long[name], sources) for name in HELP_TARGETS.split()]
    weights = np.array([0.0, 1.0, 9.0, 0.0])
    return Problem(features, counts, counts @ weights, latency, tuple(tasks), 900)


def operator_counts(architectures: np.ndarray, live: bool) -> np.ndarray:
    """How many edges carry a skip, a 1x1, a 3x3 convolution, a pooling; those that do something, or all."""
    from hwnas.spaces.nasbench201 import EDGES as ENDS

    used = architectures > 0
    if live:
        reached, needed = np.zeros((2, len(architectures), 4), bool)
        reached[:, 0], needed[:, 3] = True, True
        for index, (source, end) in enumerate(ENDS):
            reached[:, end] |= reached[:, source] & used[:, index]
        for index, (source, end) in reversed(list(enumerate(ENDS))):
            needed[:, source] |= needed[:, end] & used[:, index]
        for index, (source, end) in enumerate(ENDS):
            used[:, index] &= reached[:, source] & needed[:, end]
    return np.stack([((architectures == op) & used).sum(axis=1) for op in (1, 2, 3, 4)], axis=1).astype(float)


def fbnet() -> Problem:
    with np.load(DATA / "fbnet" / "fbnet_5000.npz") as table:
        choices, names = table["op_idx"].astype(int), table["op_names"].tolist()
        latency = {name.removeprefix("lat."): table[name].astype(float) for name in table.files if name[:4] == "lat."}
    one_hot = np.eye(len(names))[choices]
    counts = one_hot.sum(axis=1)
    tasks = [
        Task(name, target, tuple(sources.split()))
        for name, (sources, targets) in FBNET_TASKS.items()
        for target in targets.split()
    ]
    # the channels of the layers are not in the table: multiply-accumulates of a layer relative to its input's square
    macs = [0.0 if n == "skip" else float(n[4]) * (int(n[1]) ** 2 / 100 + (1 if "_g2" in n else 2)) for n in names]
    flops = counts @ np.array(macs)
    totals = np.column_stack([flops, counts.sum(axis=1) - counts[:, names.index("skip")]])
    features = {"choices": one_hot.reshape(len(choices), -1), "kernels": counts, "totals": totals}
    return Problem(features, counts, flops, latency, tuple(tasks), 800)


# ---------------------------------------------------------------------- methods


def ridge(train: np.ndarray, latency: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Ridge regression, its strength by leave-one-out."""
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-4, 3, 15))).fit(train, latency)
    return np.asarray(model.predict(test))


def boosting(train: np.ndarray, latency: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Gradient-boosted trees."""
    from sklearn.ensemble import GradientBoostingRegressor

    return np.asarray(GradientBoostingRegressor(random_state=0).fit(train, latency).predict(test))


def scores(latency: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    error = np.abs(predicted / latency - 1)
    return {
        "spearman": float(spearmanr(latency, predicted)[0]),
        "within_10": float(100 * np.mean(error <= 0.1)),
        "mape": float(100 * np.mean(error)),
    }


def one_seed(problem: Problem, seed: int, samples: tuple[int, ...]) -> list[dict[str, object]]:
    """All tasks and methods with one draw of everything."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, object]] = []
    everything = len(problem.counts)
    known: dict[str, np.ndarray] = {}
    for source in dict.fromkeys(name for task in problem.tasks for name in task.sources):
        there = np.flatnonzero(np.isfinite(problem.latency[source]))
        drawn = rng.choice(there, min(problem.known, len(there)), replace=False)
        part = {name: values[drawn] for name, values in problem.features.items()}
        model = LatencyPredictor.fit(part, problem.latency[source][drawn], reference=problem.features)
        known[source] = model.predict(problem.features, interval=None).ms
    for task in problem.tasks:
        latency = problem.latency[task.target]
        there = np.flatnonzero(np.isfinite(latency))
        sources = np.stack([known[name] for name in task.sources], axis=1)
        features = {name: values[there] for name, values in {**problem.features, SOURCES: sources}.items()}
        chosen, drawn = choose_items(features, max(samples), seed=seed), rng.permutation(len(there))
        for count in samples:
            for method, measured in (("hwnas", chosen[:count]), ("hwnas, drawn", drawn[:count])):
                rest = np.setdiff1d(np.arange(len(there)), measured)
                part = {name: values[measured] for name, values in features.items()}
                model = LatencyPredictor.fit(part, latency[there[measured]], reference=features)
                found = model.predict({name: values[rest] for name, values in features.items()})
                truth = latency[there[rest]]
                covered = float(100 * np.mean((truth >= found.low) & (truth <= found.high)))
                rows.append(row(task, count, method, seed) | scores(truth, found.ms) | {"coverage": covered})
            train, test = there[drawn[:count]], np.delete(there, drawn[:count])
            inputs = {
                "ridge, operator counts": (ridge, problem.counts),
                "ridge, known devices": (ridge, sources),
                "boosting, one-hot": (boosting, problem.features["choices"]),
                "line, FLOPs": (ridge, problem.flops[:, None]),
                "layer-wise table": (ridge, problem.features["choices"]),
            }
            for method, (fit, columns) in inputs.items():
                predicted = fit(columns[train], latency[train], columns[test])
                rows.append(row(task, count, method, seed) | scores(latency[test], predicted) | {"coverage": np.nan})
    print(f"seed {seed}: {everything} architectures, {len(rows)} results", flush=True)
    return rows


def kept_seed(problem: Problem, seed: int, samples: tuple[int, ...], file: Path) -> list[dict[str, object]]:
    """`one_seed`, or what an earlier call kept of it."""
    if not file.exists():
        atomic_write(file, json.dumps(one_seed(problem, seed, samples)).encode())
    kept: list[dict[str, object]] = json.loads(file.read_text())
    return kept


def row(task: Task, samples: int, method: str, seed: int) -> dict[str, object]:
    return {"task": task.name, "target": task.target, "samples": samples, "method": method, "seed": seed}


# ---------------------------------------------------------------------- the report


def summary(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Means over the draws, with half of the 95 % interval of the mean Spearman correlation."""
    from scipy.stats import t

    groups: dict[tuple[object, ...], list[dict[str, object]]] = {}
    for entry in rows:
        key = tuple(entry[name] for name in ("task", "target", "samples", "method"))
        groups.setdefault(key, []).append(entry)
    found = []
    for (task, target, samples, method), members in groups.items():
        values = {name: np.array([m[name] for m in members]) for name in ("spearman", "within_10", "mape", "coverage")}
        half = t.ppf(0.975, len(members) - 1) * values["spearman"].std(ddof=1) / len(members) ** 0.5
        found.append(
            {
                "date": datetime.date.today().isoformat(),
                "task": task,
                "target": target,
                "samples": samples,
                "method": method,
                "draws": len(members),
                "spearman": round(float(values["spearman"].mean()), 4),
                "half_interval_95": round(float(half), 4),
                "within_10_percent": round(float(values["within_10"].mean()), 1),
                "mape_percent": round(float(values["mape"].mean()), 2),
                "coverage_of_90": round(float(values["coverage"].mean()), 1) if method.startswith("hwnas") else "",
            }
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", choices=("nb201", "help", "fbnet"))
    parser.add_argument("--samples", type=int, nargs="+", default=[5, 10, 20, 50])
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--first", type=int, default=100, help="seed of the first draw; below 100 they were tuned on")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument(
        "--cache", type=Path, default=Path(), help="where features of networks, and finished draws, are kept"
    )
    arguments = parser.parse_args()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    problem = fbnet() if arguments.tables == "fbnet" else nasbench201(arguments.tables == "nb201", arguments.cache)
    count, samples = arguments.draws, tuple(arguments.samples)
    seeds = range(arguments.first, arguments.first + count)
    with ProcessPoolExecutor(arguments.jobs) as pool:
        files = [arguments.cache / f"draw-{arguments.tables}-{seed}.json" for seed in seeds]
        parts = pool.map(kept_seed, [problem] * count, seeds, [samples] * count, files)
        rows = [entry for part in parts for entry in part]
    found = summary(rows)
    for entry in found:
        if entry["samples"] == 20 or len(samples) == 1:
            print(*list(entry.values())[1:], sep="  ")
    append_rows("latency_fewshot", found)


if __name__ == "__main__":
    main()
