"""Claim: after a few minutes of profiling, whole networks of families that were never seen are priced within 10 %.

A device is profiled for any network (`hwnas profile` without a space): once with random networks of the prior, once
with active sampling (``--active``), a few of either in turns. The networks of `zoo.py` (51 of 16 families, several
resolutions) have no part in that. They are measured before and after, which gives the repeatability floor, and
predicted from growing parts of what was profiled. Beside hwnas, on the same measurements: a line on
multiply-accumulates, a line on multiply-accumulates and bytes, a roofline for each family of kernels summed up, and
random forests on the raw settings of kernels, one a family, summed up, as nn-Meter does it (Zhang et al., MobiSys
2021). "hwnas, no counters" learns from the whole latencies of the same networks, as on a device that counts no kernels.
With ``--source`` also from 5 to 50 networks with the help of another device.

    python benchmarks/latency_models.py --tables DIR                         # onnxruntime, float32: half an hour
    python benchmarks/latency_models.py --tables DIR --device cpu-onnxruntime.int8 --source cpu-onnxruntime
    python benchmarks/latency_models.py --tables DIR --networks 60 120 240 480 --active 480        # full scale: an hour

What was measured lies in ``--tables``: repeating the command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from record import append_rows
from scipy.stats import spearmanr
from zoo import ZOO

import hwnas
from hwnas.kernel_features import kernel_facts
from hwnas.kernel_predictor import KernelPredictor
from hwnas.latency_tables import LatencyTable
from hwnas.profilers import Protocol, get_profiler
from hwnas.profilers.division import DividedNetwork, divided_networks
from hwnas.quantize import preparation
from hwnas.spaces.files import append_line
from hwnas.spaces.graph import Graph
from hwnas.spaces.placement import place_kernels

RESULTS = Path(__file__).parent / "results"
#: networks of the new device in transfer from another
FEW = (5, 10, 20, 50)


def measure_zoo(device: str, graphs: dict[str, Graph], file: Path) -> dict[str, float]:
    """Milliseconds of each network by the shared protocol, in turns; those in `file` are not measured again."""
    known = {}
    if file.exists():
        known = {entry["network"]: entry["ms"] for entry in map(json.loads, file.read_text().splitlines())}
    profiler = get_profiler(device)
    prepare = preparation(profiler.file_precision)

    def model(graph: Graph) -> object:
        return graph.to_onnx() if prepare is None else prepare(graph.to_onnx())

    models = {name: partial(model, graph) for name, graph in graphs.items() if name not in known}
    for name, found in profiler.measure_many(models, Protocol().for_networks()):
        known[name] = found.median_ms
        append_line(file, json.dumps({"network": name, "ms": found.median_ms, "stable": found.stable}))
    return known


# ---------------------------------------------------------------------- methods that are compared


def line(networks: Sequence[DividedNetwork], graphs: Sequence[Graph], bytes_too: bool) -> np.ndarray:
    """Non-negative least squares on relative errors: whole networks by multiply-accumulates, and bytes if asked."""
    from scipy.optimize import nnls

    def columns(macs: float, moved: float) -> list[float]:
        return [1.0, macs, moved] if bytes_too else [1.0, macs]

    known = []
    for network in networks:
        facts = [kernel_facts(kernel.signature) for kernel in network.placement.kernels]
        known.append(columns(sum(f.macs for f in facts), sum(f.bytes for f in facts)))
    rows = np.array(known) / np.array([[network.latency_ms] for network in networks])
    scale = rows.max(axis=0)
    weights = nnls(rows / scale, np.ones(len(rows)))[0] / scale
    return np.array([columns(graph.macs, graph.bytes) for graph in graphs]) @ weights


def kernel_sum(
    networks: Sequence[DividedNetwork],
    graphs: Sequence[Graph],
    fit: Callable[[np.ndarray, np.ndarray], Callable[[np.ndarray], np.ndarray]],
) -> np.ndarray:
    """One model for each family of kernels on their settings alone, summed over a network."""
    rows: dict[str, list[tuple[tuple[float, ...], float]]] = {}
    for network in networks:
        for kernel, ms in zip(network.placement.kernels, network.kernel_ms, strict=True):
            facts = kernel_facts(kernel.signature)
            rows.setdefault(facts.family, []).append((facts.numbers, ms))
    models = {name: fit(np.array([x for x, _ in part]), np.array([y for _, y in part])) for name, part in rows.items()}
    totals = []
    for graph in graphs:
        wanted: dict[str, list[tuple[float, ...]]] = {}
        for kernel in graph.kernels:
            facts = kernel_facts(kernel.signature)
            wanted.setdefault(facts.family, []).append(facts.numbers)
        totals.append(sum(float(models[name](np.array(part)).sum()) for name, part in wanted.items() if name in models))
    return np.array(totals)


def roofline(numbers: np.ndarray, ms: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Milliseconds a kernel, a multiply-accumulate and a number moved."""
    from scipy.optimize import nnls

    def columns(rows: np.ndarray) -> np.ndarray:
        return np.stack([np.ones(len(rows)), rows[:, 0], rows[:, 1:4].sum(axis=1)], axis=1)

    scale = np.maximum(columns(numbers).max(axis=0), 1.0)
    weights = nnls(columns(numbers) / scale, ms)[0] / scale
    return lambda rows: np.asarray(columns(rows) @ weights)


def forest(numbers: np.ndarray, ms: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    from sklearn.ensemble import RandomForestRegressor

    model = RandomForestRegressor(n_estimators=100, n_jobs=1, random_state=0).fit(numbers, ms)
    return lambda rows: np.asarray(model.predict(rows))


# ---------------------------------------------------------------------- the report


def scores(predicted: np.ndarray, measured: np.ndarray) -> dict[str, float]:
    error = np.abs(predicted / measured - 1)
    return {
        "mape_percent": round(100 * float(error.mean()), 2),
        "within_5_percent": round(100 * float((error <= 0.05).mean()), 1),
        "within_10_percent": round(100 * float((error <= 0.1).mean()), 1),
        "worst_percent": round(100 * float(error.max()), 1),
        "spearman": round(float(spearmanr(predicted, measured)[0]), 4),
    }


def draw(device: str, rows: list[dict[str, object]], predicted: np.ndarray, measured: np.ndarray) -> None:
    """Predicted against measured, and the error against what was profiled."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    families = [ZOO[name][0] for name in ZOO]
    for number, family in enumerate(dict.fromkeys(families)):
        inside = np.array([name == family for name in families])
        left.loglog(measured[inside], predicted[inside], "osD^"[number // 5], markersize=5, label=family)
    ends = np.array([0.8 * measured.min(), 1.25 * measured.max()])
    left.fill_between(ends, 0.9 * ends, 1.1 * ends, color="0.9")
    left.set(xlabel="measured, ms", ylabel="predicted, ms", title=device)
    left.legend(fontsize=5, ncols=2)
    for method in ("hwnas", "hwnas, active"):
        part = [row for row in rows if row["method"] == method]
        right.plot([row["kernels"] for row in part], [row["mape_percent"] for row in part], "o-", label=method)
    right.set(xlabel="different kernels measured", ylabel="mean error of networks never seen, %")
    right.set_ylim(bottom=0)
    right.legend()
    figure.savefig(RESULTS / f"latency-models-{device}.svg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, required=True)
    parser.add_argument("--device", default="cpu-onnxruntime")
    parser.add_argument("--networks", type=int, nargs="+", default=[16, 48, 96, 160, 240], help="points of the curve")
    parser.add_argument("--active", type=int, default=240, help="as many at most by active sampling; 0: none")
    parser.add_argument("--source", help="device that was profiled before into --tables, for transfer to this one")
    arguments = parser.parse_args()
    device, sizes = arguments.device, sorted(arguments.networks)
    ways = {"hwnas": False, **({"hwnas, active": True} if arguments.active else {})}
    points = {way: [n for n in sizes if not active or n <= arguments.active] for way, active in ways.items()}
    folders = {way: arguments.tables / ("active" if active else "random") for way, active in ways.items()}
    arguments.tables.mkdir(parents=True, exist_ok=True)
    graphs = {name: make() for name, (_, make) in ZOO.items()}
    first = measure_zoo(device, graphs, arguments.tables / f"{device}-before.jsonl")
    for count in sizes:
        for way, active in ways.items():
            if count not in points[way]:
                continue
            found = hwnas.profile_kernels(device, networks=count, active=active, tables=str(folders[way]))
            print(way, found.networks, "networks", round(found.seconds), "s", *found.curve, sep="  ", flush=True)
    second = measure_zoo(device, graphs, arguments.tables / f"{device}-after.jsonl")
    measured = np.array([(first[name] * second[name]) ** 0.5 for name in graphs])
    placed = [place_kernels(graph) for graph in graphs.values()]
    rows: list[dict[str, object]] = []

    def add(method: str, known: Sequence[DividedNetwork], predicted: np.ndarray, coverage: object = "") -> None:
        kernels = len({kernel.signature for network in known for kernel in network.placement.kernels})
        rows.append(
            {
                "date": datetime.date.today().isoformat(),
                "device": device,
                "method": method,
                "networks": len(known),
                "kernels": kernels,
                **scores(predicted, measured),
                "coverage_of_90": coverage,
            }
        )
        print(*list(rows[-1].values())[1:], sep="  ", flush=True)

    def fitted(method: str, networks: Sequence[DividedNetwork]) -> np.ndarray:
        predictor = KernelPredictor.fit(networks)
        predicted = np.array([predictor.latency(placement) for placement in placed])
        low, high = predictor.interval(0.9)
        inside = (low * predicted <= measured) & (measured <= high * predicted)
        add(method, networks, predicted, round(100 * float(inside.mean()), 1))
        return predicted

    best = np.empty(0)
    for way in ways:
        networks = divided_networks(LatencyTable.load(folders[way] / device))[: points[way][-1]]
        for count in points[way]:
            predicted = fitted(way, networks[:count])
        if way == "hwnas":
            fitted("hwnas, no counters", [replace(network, counted=False) for network in networks])
            best = predicted
            for name, value, truth in sorted(
                zip(ZOO, best, measured, strict=True), key=lambda n: -abs(n[1] / n[2] - 1)
            ):
                print(f"    {name}: measured {truth:.3f} ms, predicted {value:.3f} ms, {value / truth - 1:+.1%}")
        everything = list(graphs.values())
        note = "" if way == "hwnas" else ", active"
        add(f"line, MACs{note}", networks, line(networks, everything, False))
        add(f"line, MACs and bytes{note}", networks, line(networks, everything, True))
        add(f"kernel sum, rooflines{note}", networks, kernel_sum(networks, everything, roofline))
        add(f"kernel sum, random forests{note}", networks, kernel_sum(networks, everything, forest))
    if arguments.source:
        other = KernelPredictor.fit(divided_networks(LatencyTable.load(folders["hwnas"] / arguments.source)))
        networks = divided_networks(LatencyTable.load(folders["hwnas"] / device))
        for count in FEW:
            for way, source in (("hwnas, few", None), (f"hwnas, few, from {arguments.source}", other)):
                predictor = KernelPredictor.fit(networks[:count], source=source, calibrate=False)
                add(way, networks[:count], np.array([predictor.latency(placement) for placement in placed]))
    floor = np.array([second[name] / first[name] for name in graphs])
    add("measured again (the floor)", [], floor * measured)
    append_rows("latency_models", rows)
    draw(device, rows, best, measured)


if __name__ == "__main__":
    main()
