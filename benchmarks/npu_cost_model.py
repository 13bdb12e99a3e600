"""Claim: our cost model of Intel's NPUs ranks networks as Intel's compiler does, and learns what it leaves out.

Random architectures of four spaces at 224 pixels with 1,000 classes, each planned by Intel's NPU compiler
(`vpu-npu3720`, `-npu4000`, `-npu5010`; ``vendor-estimate``) and priced by `hwnas.profilers.vpunn` with the tiles and
the clock of that plan (``modelled``). Neither is silicon. Compared are, with the compiler as the truth:

- ``MACs``: a line through zero, its factor fitted on the networks of the other spaces;
- ``cost model``: as it is, nothing fitted;
- ``cost model, scaled``: with the factor that the other spaces ask for;
- ``weights``: non-negative weights of the model's own sums (tensor units by kind of layer, vector processors, moves,
  waiting for weights, inputs and outputs), of how many layers use each, and of a constant; held to the scaled model as
  strongly as suits the other spaces best when each of them is left out;
- ``trees``: gradient boosting of the logarithm of the ratio, on shares of the same sums.

What is fitted is fitted without the space that it predicts. Spearman is the mean over the spaces, each ranked alone,
and of all networks together.

    HWNAS_DATA=DIR python benchmarks/npu_cost_model.py plan      # 40 minutes on one core; goes on where it was stopped
    HWNAS_DATA=DIR python benchmarks/npu_cost_model.py score

Needs the compiler, see docs/devices/vpu-npu3720.md. Results: ``npu_cost_model_networks.csv``, ``npu_cost_model.csv``.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import os
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from record import RESULTS, append_rows, finish
from scipy.optimize import nnls
from scipy.stats import spearmanr
from xgboost import XGBRegressor

from hwnas.profilers import get_profiler
from hwnas.profilers.vpu_npu import VpuNpu
from hwnas.profilers.vpunn import LayerCosts, get_platform, network_cost, read_network
from hwnas.profilers.vpunn.network import CostNetwork
from hwnas.spaces import get_space

SPACES = ("mobilenet", "shufflenet", "hurricane", "fbnetv2")
PLATFORMS = ("npu3720", "npu4000", "npu5010")
NETWORKS = "npu_cost_model_networks"
#: of the cost model's microseconds: tensor units by kind of layer, vector processors, moves on the chip, waiting for
#: weights, inputs and outputs; and how many layers use each
PARTS = ("conv_us", "dwconv_us", "other_us", "shave_us", "move_us", "wait_us", "ends_us")
COUNTS = ("conv_layers", "dwconv_layers", "other_layers", "shave_layers", "move_layers")
#: how strongly weights are held to what they are without learning
HOLDS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


@cache
def tools(platform: str) -> tuple[VpuNpu, CostNetwork]:
    """The compiler and the cost network of a platform; once a process."""
    folder = Path(os.environ.get("HWNAS_DATA", "../shared/data"), "vpunn")
    profiler = get_profiler(f"vpu-{platform}")
    assert isinstance(profiler, VpuNpu)
    return profiler, read_network(folder / get_platform(platform).files[0])


def plan(platform: str, name: str, architecture: list[int], resolution: int) -> dict[str, Any]:
    """One network, by both."""
    compiler, network = tools(platform)
    graph = get_space(name, resolution=resolution, channels=3, classes=1000).lower(architecture)
    schedule = compiler.schedule(graph.to_onnx())
    told = replace(get_platform(platform), tiles=schedule.tiles, dpu_mhz=schedule.clock_mhz)
    cost = network_cost(graph, LayerCosts(network, told))
    parts = dict.fromkeys(PARTS, 0.0)
    counts = dict.fromkeys(COUNTS, 0)
    for layer in cost.layers:
        kind = layer.kind if layer.kind in ("conv", "dwconv") else "other"
        parts[f"{kind}_us"] += layer.parts_us["dpu"]
        parts["shave_us"] += layer.parts_us["shave"]
        parts["move_us"] += layer.parts_us["dma"]
        parts["wait_us"] += layer.wait_us
        counts[f"{kind}_layers"] += layer.parts_us["dpu"] > 0
        counts["shave_layers"] += layer.parts_us["shave"] > 0
        counts["move_layers"] += layer.parts_us["dma"] > 0
    parts["ends_us"] = cost.input_us + cost.output_us
    return {
        "macs": graph.macs,
        "tiles": schedule.tiles,
        "mhz": schedule.clock_mhz,
        "compiler_us": round(schedule.makespan_us, 3),
        "model_us": round(cost.total_us, 3),
        **{name: round(value, 3) for name, value in parts.items()},
        **counts,
    }


def plan_all(arguments: argparse.Namespace) -> None:
    """Plan what is not planned yet, and write the table of networks."""
    rows = []
    for platform in arguments.platforms:
        for name in SPACES:
            space = get_space(name, resolution=arguments.resolution, channels=3, classes=1000)
            drawn = space.sample(arguments.networks, np.random.default_rng(0)).tolist()
            calls = [(platform, name, architecture, arguments.resolution) for architecture in drawn]
            for architecture, found in zip(drawn, finish("npu_cost_model", plan, calls, arguments.jobs), strict=True):
                rows.append(
                    {
                        "date": datetime.date.today().isoformat(),
                        "platform": platform,
                        "space": name,
                        "resolution": arguments.resolution,
                        "architecture": " ".join(map(str, architecture)),
                        **found,
                    }
                )
            print(platform, name, flush=True)
    append_rows(NETWORKS, rows)


def weigh(sums: np.ndarray, truth: np.ndarray, prior: np.ndarray, hold: float) -> np.ndarray:
    """Non-negative weights of sums ``(n, m)`` that minimise relative errors, held to `prior`.

    A sum is held the less, the larger its share is.
    """
    x = sums / truth[:, None]
    size = np.sqrt((x**2).mean(axis=0)) + 1e-12
    held = hold * np.sqrt(len(x)) * np.diag(np.maximum(size, size.max() / 100))
    weights: np.ndarray = nnls(np.vstack([x, held]), np.concatenate([np.ones(len(x)), held @ prior]))[0]
    return weights


def choose_hold(sums: np.ndarray, truth: np.ndarray, prior: np.ndarray, spaces: np.ndarray) -> float:
    """The hold that does best when each of the spaces is left out."""
    errors = {}
    for hold in HOLDS:
        off = [
            np.abs(sums[out] @ weigh(sums[~out], truth[~out], prior, hold) / truth[out] - 1).mean()
            for out in (spaces == space for space in np.unique(spaces))
        ]
        errors[hold] = np.mean(off)
    return min(errors, key=lambda hold: errors[hold])


def predictions(rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """What each method says of every network, fitted without its space."""
    truth = np.array([row["compiler_us"] for row in rows])
    model = np.array([row["model_us"] for row in rows])
    macs = np.array([row["macs"] for row in rows])
    spaces = np.array([row["space"] for row in rows])
    sums = np.array([[1.0, *(row[name] for name in COUNTS), *(row[name] for name in PARTS)] for row in rows])
    shares = np.column_stack([np.log(model), sums[:, 1:] / model[:, None]])
    found = {name: np.zeros(len(rows)) for name in ("MACs", "cost model, scaled", "weights", "trees")}
    for space in np.unique(spaces):
        held, seen = spaces == space, spaces != space
        scale = np.median(truth[seen] / model[seen])
        found["MACs"][held] = macs[held] * np.median(truth[seen] / macs[seen])
        found["cost model, scaled"][held] = model[held] * scale
        prior = np.repeat([0.0, scale], [1 + len(COUNTS), len(PARTS)])
        hold = choose_hold(sums[seen], truth[seen], prior, spaces[seen])
        found["weights"][held] = sums[held] @ weigh(sums[seen], truth[seen], prior, hold)
        trees = XGBRegressor(max_depth=2, n_estimators=100, learning_rate=0.1, subsample=0.8, n_jobs=1, random_state=0)
        trees.fit(shares[seen], np.log(truth[seen] / model[seen]))
        found["trees"][held] = model[held] * np.exp(trees.predict(shares[held]))
    return {"MACs": found.pop("MACs"), "cost model": model, **found}


def score(arguments: argparse.Namespace) -> None:
    """Print and record how far each method is off."""
    with open(RESULTS / f"{NETWORKS}.csv", newline="") as stream:
        texts = ("date", "platform", "space", "architecture")
        rows: list[dict[str, Any]] = [
            {key: value if key in texts else float(value) for key, value in row.items()}
            for row in csv.DictReader(stream)
        ]
    out = []
    for platform in arguments.platforms:
        own = [row for row in rows if row["platform"] == platform]
        truth, spaces = np.array([row["compiler_us"] for row in own]), np.array([row["space"] for row in own])
        for method, predicted in predictions(own).items():
            off = np.abs(predicted / truth - 1)
            groups = {"all": np.ones(len(own), bool)} | {space: spaces == space for space in SPACES}
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
                print(*list(out[-1].values())[1:], sep="  ")
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
