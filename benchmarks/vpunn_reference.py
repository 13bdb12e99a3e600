"""Claim: our reader of Intel's cost networks gives the cycles of Intel's own code, a layer in under a millisecond.

Four parts, each with a baseline of the same run:

- ``reference``: the distinct rows of ``$HWNAS_DATA/vpunn/reference_rows.csv``, which Intel's library logged;
- ``model`` and ``range``: values of Intel's own tests (``vpunn_published.csv``): cycles of workloads that its code
  gives, and ranges in which its costs of layers must lie;
- ``truth``: cycles that Intel's tests call the ground truth, without saying whether of silicon or of a simulator. This
  part alone says something of the networks; the others are of our reading of them;
- ``speed``: CPU time of 20 random networks of `mobilenet` a platform, nothing kept from one to the next.

The baseline of cycles takes them in proportion to the products, with the factor that suits the group best; that of the
speed puts one layer after the other to the network.

    python benchmarks/vpunn_reference.py
"""

from __future__ import annotations

import argparse
import csv
import datetime
import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from record import append_rows

import hwnas
from hwnas.profilers.vpunn import PLATFORMS, LayerCosts, network_cost, read_network
from hwnas.profilers.vpunn.lowering import DpuStep, Lowering
from hwnas.profilers.vpunn.network import CostNetwork
from hwnas.profilers.vpunn.rows import read_rows
from hwnas.profilers.vpunn.tiling import DpuLayer
from hwnas.profilers.vpunn.workload import Workload, cycles, describe

TODAY = datetime.date.today().isoformat()
PUBLISHED = Path(__file__).parent / "vpunn_published.csv"
#: spacings of float32 within which a value counts as next to a whole number
NEAR = 8


def products(work: Workload | DpuLayer) -> int:
    """Multiplications, or one an output where there is none."""
    taps = math.prod(work.kernel) * (work.input[2] if work.operation in ("CONVOLUTION", "CM_CONVOLUTION") else 1)
    return math.prod(work.output) * taps


def in_double(network: CostNetwork, workloads: list[Workload]) -> np.ndarray:
    """What the network gives without the rounding of float32."""
    values = describe(network.descriptor, workloads).astype(float)
    for layer in network.layers:
        values = values @ layer.weights.T.astype(float) + layer.bias
        values = np.maximum(values, 0) if layer.relu else values
    return values[:, 0]


def compare(given: np.ndarray, network: CostNetwork, work: list[Workload]) -> dict[str, object]:
    """One line of the results: the network's against given cycles, and cycles in proportion to products."""
    found, exact = cycles(network, work), in_double(network, work)
    error = found / given - 1
    count = np.array([products(one) for one in work], float)
    line = count * np.median(given / count) / given - 1
    other = found != given
    near = abs(exact - np.round(exact)) <= NEAR * np.spacing(exact.astype(np.float32)).astype(float)
    return {
        "rows": len(given),
        "exact_percent": f"{100 * np.mean(~other):.1f}",
        "within_1_percent": f"{100 * np.mean(abs(error) <= 0.01):.1f}",
        "mape_percent": f"{100 * np.mean(abs(error)):.3g}",
        "lowest_percent": f"{100 * error.min():.3g}",
        "highest_percent": f"{100 * error.max():.3g}",
        "largest_difference": f"{abs(found - given).max():.0f}",
        "differ_next_to_whole_number": int((other & near).sum()),
        "products_mape_percent": f"{100 * np.mean(abs(line)):.3g}",
    }


def reference(folder: Path) -> list[dict[str, object]]:
    rows = read_rows(folder / "reference_rows.csv")
    network = read_network(folder / "vpu_5_1.vpunn")  # all rows are of its device
    work = [row.workload for row in rows]
    given, found, exact = np.array([row.cycles for row in rows]), cycles(network, work), in_double(network, work)
    for place in np.flatnonzero(given != found):
        print(f"{work[place].operation}: {given[place]} logged, {found[place]:.0f} read, {exact[place]:.3f} in float64")
    groups = defaultdict(list)
    for place, row in enumerate(rows):
        groups[row.device, row.workload.operation, row.other or "the network"].append(place)
        groups[row.device, "all", row.other or "the network"].append(place)
    return [
        {
            "date": TODAY,
            "what": "reference",
            "device": device,
            "group": f"{operation}, cost of {source}",
            **compare(given[places], network, [work[place] for place in places]),
        }
        for (device, operation, source), places in sorted(groups.items())
    ]


def published(folder: Path) -> list[dict[str, object]]:
    with open(PUBLISHED, newline="") as stream:
        rows = list(csv.DictReader(stream))
    networks = {key: read_network(folder / platform.files[0]) for key, platform in PLATFORMS.items()}
    groups = defaultdict(list)
    for row in rows:
        if row["what"] == "range":
            continue
        kind = f"kernel {row['kernel']}, stride {row['stride']}, {row['type']}" if row["what"] == "truth" else "all"
        groups[row["what"], row["platform"], kind].append(row)
    found = []
    for (what, key, group), members in sorted(groups.items()):
        work = [_workload(row) for row in members]
        given = np.array([float(row["low"]) for row in members])
        measures = compare(given, networks[key], work)
        found.append({"date": TODAY, "what": what, "device": key, "group": group, **measures})
    for row in rows:
        if row["what"] != "range":
            continue
        key = row["platform"]
        costs = LayerCosts(networks[key], replace(PLATFORMS[key], tiles=int(row["tiles"])))
        (value,) = costs.cycles([DpuLayer(row["operation"], *_sizes(row), row["type"])])  # type: ignore[arg-type]
        inside = float(row["low"]) <= value <= float(row["high"])
        print(f"{key} {row['test']}: {value:.0f} cycles, {'in' if inside else 'NOT IN'} {row['low']} to {row['high']}")
        if not inside:
            raise SystemExit(f"{row['test']}: {value} is not between {row['low']} and {row['high']}")
    return found


def _sizes(row: dict[str, str]) -> list[tuple[int, ...]]:
    return [tuple(map(int, row[name].split("x"))) for name in ("input", "output", "kernel", "stride", "padding")]


def _workload(row: dict[str, str]) -> Workload:
    kinds = (*[row["type"]] * 3, row["mode"], row["strategy"], int(row["write_tiles"]))
    return Workload(row["operation"], *_sizes(row), *kinds)  # type: ignore[arg-type]


def speed(folder: Path, count: int) -> list[dict[str, object]]:
    space = hwnas.get_space("mobilenet")
    graphs = [space.lower(architecture) for architecture in space.sample(count, np.random.default_rng(0)).tolist()]
    found: list[dict[str, object]] = []
    for key, platform in PLATFORMS.items():
        network, lowering = read_network(folder / platform.files[0]), Lowering(platform)
        network_cost(graphs[0], LayerCosts(network, platform))
        pairs = []
        for graph in graphs:
            steps = [step for node in graph.nodes for step in lowering.lower(node.kernel, graph.input_shapes(node))]
            layers = [step.layer for step in steps if isinstance(step, DpuStep)]

            def one_by_one(network=network, platform=platform, layers=layers) -> None:  # type: ignore[no-untyped-def]
                for layer in layers:
                    LayerCosts(network, platform).cycles([layer])

            costs = LayerCosts(network, platform)
            cold = _ms(lambda graph=graph, costs=costs: network_cost(graph, costs))  # type: ignore[misc]
            warm = _ms(lambda graph=graph, costs=costs: network_cost(graph, costs))  # type: ignore[misc]
            pairs.append([value / len(graph.nodes) for value in (cold, warm, _ms(one_by_one))])
        cold_ms, warm_ms, apart_ms = np.array(pairs).T
        low, high = np.quantile(cold_ms, (0.05, 0.95))
        found.append(
            {
                "date": TODAY,
                "platform": key,
                "networks": count,
                "layers": sum(len(graph.nodes) for graph in graphs),
                "cpu_ms_a_layer": f"{np.median(cold_ms):.3f}",
                "cpu_ms_a_layer_5_percent": f"{low:.3f}",
                "cpu_ms_a_layer_95_percent": f"{high:.3f}",
                "cpu_ms_a_layer_again": f"{np.median(warm_ms):.3f}",
                "cpu_ms_a_layer_one_by_one": f"{np.median(apart_ms):.3f}",
            }
        )
    return found


def _ms(run: Callable[[], object]) -> float:
    start = time.process_time()  # the machine may be busy
    run()
    return 1e3 * (time.process_time() - start)


def show(rows: Iterable[dict[str, object]]) -> None:
    for index, row in enumerate(rows):
        if index == 0:
            print(*row, sep=" | ")
        print(*row.values(), sep=" | ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("HWNAS_DATA", "../shared/data")) / "vpunn"
    parser.add_argument("--data", type=Path, default=default, help="folder with .vpunn files and reference_rows.csv")
    parser.add_argument("--networks", type=int, default=20, help="random networks whose pricing is timed")
    arguments = parser.parse_args()
    agreement = reference(arguments.data) + published(arguments.data)
    show(agreement)
    times = speed(arguments.data, arguments.networks)
    show(times)
    append_rows("vpunn_reference", agreement)
    append_rows("vpunn_speed", times)


if __name__ == "__main__":
    main()
