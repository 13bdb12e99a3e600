"""Claim: our cost model of Intel's NPUs ranks networks as Intel's compiler does, and learns what it leaves out.

Random architectures of four spaces at 224 pixels with 1,000 classes, each planned by Intel's NPU compiler
(`vpu-npu3720`, `-npu4000`, `-npu5010`; ``vendor-estimate``) and priced by `hwnas.profilers.vpunn` with the tiles and
the clock of that plan (``modelled``). Neither is silicon. Compared are, with the compiler as the truth:

- ``MACs``: a line through zero, its factor fitted on the networks of the other spaces;
- ``cost model``: as it is, nothing fitted;
- ``cost model, scaled``: with the factor that the other spaces ask for;
- ``kernels``: `hwnas.KernelPredictor`, without the model;
- ``cost model + kernels``: the same with the model's price of each kernel in its roofline, so that it learns what the
  model leaves out.

What is fitted is fitted without the space that it predicts. The last two learn from the networks of the other spaces
and from those that ``hwnas profile --device vpu-npu3720`` (and so on) has drawn, each divided among its kernels by the
compiler's plan; ``kernels, none of these spaces`` learns from the latter only, which is the predictor that ships.
``a search's prices`` are what a search in that space goes by: rows of the table that ships, or what is learned of
kernels where there are none; networks that the table holds are left out there. Spearman is of all networks together, of
each space, and as the mean over the spaces.

    HWNAS_DATA=DIR python benchmarks/npu_cost_model.py plan      # 20 minutes on one core; goes on where it was stopped
    HWNAS_DATA=DIR python benchmarks/npu_cost_model.py score

Needs the compiler, see docs/devices/vpu-npu3720.md. Results: ``npu_cost_model_networks.csv``, ``npu_cost_model.csv``.
"""

from __future__ import annotations

import argparse
import datetime
import os
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from record import append_rows, finish
from scipy.stats import spearmanr

from hwnas.kernel_predictor import KernelPredictor
from hwnas.latency_tables import find_table
from hwnas.pricing import LatencyModel
from hwnas.profilers import get_profiler
from hwnas.profilers.division import DividedNetwork, divided_networks
from hwnas.profilers.vpu_npu import VpuNpu
from hwnas.profilers.vpunn import LayerCost, LayerCosts, get_platform, network_cost, read_network
from hwnas.profilers.vpunn.network import CostNetwork
from hwnas.spaces import ModelError, SearchSpace, get_space
from hwnas.spaces.placement import PlacedKernel, Placement, place_kernels
from hwnas.spaces.signature import kernel_graph

SPACES = ("mobilenet", "shufflenet", "hurricane", "fbnetv2")
PLATFORMS = ("npu3720", "npu4000", "npu5010")


@cache
def tools(platform: str) -> tuple[VpuNpu, CostNetwork]:
    """The compiler and the cost network of a platform; once a process."""
    folder = Path(os.environ.get("HWNAS_DATA", "../shared/data"), "vpunn")
    profiler = get_profiler(f"vpu-{platform}")
    assert isinstance(profiler, VpuNpu)
    return profiler, read_network(folder / get_platform(platform).files[0])


# ---------------------------------------------------------------------- networks


def _space(name: str, resolution: int) -> SearchSpace:
    return get_space(name, resolution=resolution, channels=3, classes=1000)


def plan(platform: str, name: str, architecture: list[int], resolution: int) -> dict[str, Any]:
    """One network, by both; and what the compiler's plan says of each kernel."""
    compiler, network = tools(platform)
    graph = _space(name, resolution).lower(architecture)
    onnx = graph.to_onnx()
    schedule = compiler.schedule(onnx)
    told = replace(get_platform(platform), tiles=schedule.tiles, dpu_mhz=schedule.clock_mhz)
    cost = network_cost(graph, LayerCosts(network, told))
    shares = compiler.kernel_shares(onnx, [node.name for node in graph.nodes])
    assert shares is not None
    placed = place_kernels(graph)
    kernels = [
        [kernel.signature, kernel.after, kernel.before, round(schedule.makespan_us * shares[node.name], 4)]
        for kernel, node in zip(placed.kernels, graph.nodes, strict=True)
    ]
    return {
        "macs": graph.macs,
        "tiles": schedule.tiles,
        "mhz": schedule.clock_mhz,
        "compiler_us": round(schedule.makespan_us, 3),
        "model_us": round(cost.total_us, 3),
        "moved": [placed.weights, placed.activations, placed.largest],
        "kernels": kernels,
    }


def planned(platform: str, arguments: argparse.Namespace) -> Iterator[tuple[str, list[int], dict[str, Any]]]:
    """Space, architecture and plan of each network of a platform; plans what is not planned yet."""
    for name in SPACES:
        drawn = _space(name, arguments.resolution).sample(arguments.networks, np.random.default_rng(0)).tolist()
        calls = [(platform, name, architecture, arguments.resolution) for architecture in drawn]
        for architecture, found in zip(drawn, finish("npu_cost_model", plan, calls, arguments.jobs), strict=True):
            yield name, architecture, found


def plan_all(arguments: argparse.Namespace) -> None:
    """Plan what is not planned yet, and write the table of networks."""
    today = datetime.date.today().isoformat()
    for platform in arguments.platforms:
        rows = [
            {
                "date": today,
                "platform": platform,
                "space": name,
                "resolution": arguments.resolution,
                "architecture": " ".join(map(str, architecture)),
                **{key: value for key, value in found.items() if key not in ("moved", "kernels")},
            }
            for name, architecture, found in planned(platform, arguments)
        ]
        append_rows("npu_cost_model_networks", rows)
        print(platform, len(rows), flush=True)


# ---------------------------------------------------------------------- what is learned


class ModelPrices:
    """What the cost model says of kernels in networks, as the source of a `KernelPredictor`."""

    def __init__(self, platform: str, tiles: int, mhz: float) -> None:
        told = replace(get_platform(platform), tiles=tiles, dpu_mhz=mhz)
        self._costs = LayerCosts(tools(platform)[1], told)
        self._layers: dict[str, LayerCost | None] = {}

    def _layer(self, kernel: PlacedKernel) -> LayerCost | None:
        if kernel.signature not in self._layers:
            try:
                (self._layers[kernel.signature],) = network_cost(kernel_graph(kernel.signature), self._costs).layers
            except ModelError:  # no kernel of hwnas
                self._layers[kernel.signature] = None
        return self._layers[kernel.signature]

    def known_ms(self, network: Placement) -> np.ndarray:
        """Milliseconds of each kernel, waiting for its weights included (see `network_cost`)."""
        found, before = [], 0.0
        for layer in map(self._layer, network.kernels):
            if layer is None:
                found.append(0.0)
                continue
            wait = max(0.0, layer.dma_us / self._costs.platform.dma_ports - before)
            found.append((layer.us + wait) / 1e3)
            before = layer.us or before
        return np.array(found)


def predictions(
    platform: str, found: list[tuple[str, list[int], dict[str, Any]]], resolution: int
) -> dict[str, np.ndarray]:
    """µs that each method says of every network."""
    spaces = np.array([name for name, _, _ in found])
    truth, model, macs = (np.array([row[key] for _, _, row in found]) for key in ("compiler_us", "model_us", "macs"))
    (tiles,), (mhz,) = ({row[key] for _, _, row in found} for key in ("tiles", "mhz"))
    networks = [_divided(str(number), row) for number, (_, _, row) in enumerate(found)]
    others = divided_networks(find_table(f"vpu-{platform}"))
    prices: Any = ModelPrices(platform, tiles, mhz)
    result = {"MACs": np.zeros(len(found)), "cost model": model, "cost model, scaled": np.zeros(len(found))}
    for space in np.unique(spaces):
        held, seen = spaces == space, spaces != space
        result["MACs"][held] = macs[held] * np.median(truth[seen] / macs[seen])
        result["cost model, scaled"][held] = model[held] * np.median(truth[seen] / model[seen])
    rest = {str(space): [n for n, own in zip(networks, spaces, strict=True) if own != space] for space in SPACES}
    result["a search's prices"] = searched(platform, found, resolution)
    rest = {str(space): [n for n, own in zip(networks, spaces, strict=True) if own != space] for space in SPACES}
    result["a search's prices"] = np.zeros(len(found))
    for space in SPACES:
        priced = LatencyModel.from_table(_space(space, resolution), find_table(f"vpu-{platform}"))
        asked = np.array([architecture for name, architecture, _ in found if name == space])
        result["a search's prices"][spaces == space] = 1e3 * priced.predict(asked)
    learned = {
        "kernels, none of these spaces": (None, dict.fromkeys(SPACES, others)),
        "kernels": (None, {space: others + rest[space] for space in SPACES}),
        "cost model + kernels": (prices, {space: others + rest[space] for space in SPACES}),
    }
    for name, (source, seen_by) in learned.items():
        print(platform, name, flush=True)
        result[name] = np.zeros(len(found))
        fits = {id(seen): KernelPredictor.fit(seen, source=source, calibrate=False) for seen in seen_by.values()}
        for number, network in enumerate(networks):
            predictor = fits[id(seen_by[spaces[number]])]
            result[name][number] = 1e3 * predictor.latency(network.placement)
    return result


def searched(platform: str, found: list[tuple[str, list[int], dict[str, Any]]], resolution: int) -> np.ndarray:
    """µs that a search goes by for every network; NaN for those that the table holds."""
    result, spaces = np.full(len(found), np.nan), np.array([name for name, _, _ in found])
    table = find_table(f"vpu-{platform}")
    for name in SPACES:
        space = _space(name, resolution)
        held = {row.architecture for row in table.networks if row.space == space.spec}
        held |= {tuple(row["architecture"]) for row in table.records("shares") if row["space"] == space.spec}
        asked = [architecture for own, architecture, _ in found if own == name]
        priced = 1e3 * LatencyModel.from_table(space, table).predict(np.array(asked))
        result[spaces == name] = np.where([tuple(architecture) in held for architecture in asked], np.nan, priced)
    return result


def _divided(name: str, row: dict[str, Any]) -> DividedNetwork:
    placement = Placement(tuple(PlacedKernel(*kernel[:3]) for kernel in row["kernels"]), *row["moved"])
    return DividedNetwork(name, placement, tuple(kernel[3] / 1e3 for kernel in row["kernels"]), stable=True)


def score(arguments: argparse.Namespace) -> None:
    """Print and record how far each method is off."""
    out = []
    for platform in arguments.platforms:
        found = list(planned(platform, arguments))
        truth, spaces = np.array([row["compiler_us"] for _, _, row in found]), np.array([name for name, _, _ in found])
        for method, predicted in predictions(platform, found, arguments.resolution).items():
            off = np.abs(predicted / truth - 1)
            known = np.isfinite(predicted)
            groups = {"all": known} | {space: known & (spaces == space) for space in SPACES}
            alone = [float(spearmanr(predicted[groups[s]], truth[groups[s]]).statistic) for s in SPACES]
            for group, held in groups.items():
                out.append(
                    {
                        "date": datetime.date.today().isoformat(),
                        "platform": platform,
                        "method": method,
                        "space": group,
                        "networks": int(held.sum()),
                        "mape_percent": round(100 * float(off[held].mean()), 2),
                        "worst_percent": round(100 * float(off[held].max()), 1),
                        "bias_percent": round(100 * float(np.median(predicted[held] / truth[held]) - 1), 2),
                        "spearman": round(float(spearmanr(predicted[held], truth[held]).statistic), 4),
                        "mean_of_spaces": round(float(np.mean(alone)), 4) if group == "all" else "",
                    }
                )
                print(*list(out[-1].values())[1:], sep="  ", flush=True)
    append_rows("npu_cost_model", out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("plan", "score"))
    parser.add_argument("--platforms", nargs="+", default=list(PLATFORMS), choices=PLATFORMS)
    parser.add_argument("--networks", type=int, default=26, help="of each space")
    parser.add_argument("--resolution", type=int, default=224)
    parser.add_argument("--jobs", type=int, default=1)
    arguments = parser.parse_args()
    {"plan": plan_all, "score": score}[arguments.step](arguments)


if __name__ == "__main__":
    main()
