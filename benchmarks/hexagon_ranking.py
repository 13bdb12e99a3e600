"""Does the simulated DSP rank networks as a real one does? NAS-Bench-201, int8, a Snapdragon 675's Hexagon 685.

Packets of the blocks, from a table of ``dsp-hexagon-sim``, price all architectures; Spearman's and Kendall's rank
correlation with the published latencies (LatBench, in ``HWNAS_DATA``), beside those of multiply-accumulates and
weights, and of packets with misses of a modelled cache of 1 MB, a miss counting like so many packets. Networks that are
the same computation count once, and those without a path not at all. Intervals are of 2000 bootstraps.

Second, as a feature: latencies of 20 random networks are given, and the rest predicted by ridge regression on how
often each operator is on a live edge, on the packets, on the misses, or on several; medians of 100 draws, and 90 % of
them.

    hwnas profile --device dsp-hexagon-sim --space nasbench201 --context isolated
    python benchmarks/hexagon_ranking.py    # needs zig and QEMU for the misses
"""

from __future__ import annotations

import argparse
import os
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from record import append_rows
from scipy.stats import kendalltau, spearmanr
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hwnas.costs import AdditiveCost
from hwnas.latency_tables import find_table
from hwnas.pricing import LatencyModel
from hwnas.profilers.dsp_hexagon_sim import DspHexagonSim
from hwnas.quantize import quantize_for_timing
from hwnas.spaces import SearchSpace, get_space

DATA = Path(os.environ.get("HWNAS_DATA", Path(__file__).parents[2] / "shared" / "data"))
EDGES = ("op_0to1", "op_0to2", "op_1to2", "op_0to3", "op_1to3", "op_2to3")
COLUMNS = {
    "Hexagon 685 (DSP)": "latbench.mobile-dsp-snapdragon-675-hexagon-685-int8",
    "Kryo 460 (CPU of the same chip)": "latbench.mobile-cpu-snapdragon-675-kryo-460-int8",
}
BOOTSTRAPS = 2000
#: networks whose latencies are given to a regression, how often they are drawn, and its strengths
GIVEN, DRAWS = 20, 100
STRENGTHS = np.logspace(-2, 3, 11)
CACHE_KB, MISS_PACKETS = 1024, (3, 10, 30, 100)


def misses_of(space: SearchSpace) -> np.ndarray:
    """Misses of each block alone, of the empty cache."""
    profiler = DspHexagonSim(cache_kb=CACHE_KB)
    found = []
    for block in space.catalog:
        model = quantize_for_timing(block.to_onnx()).SerializeToString()
        found.append(sum(operator.misses for operator in profiler.simulate(model)))
    return np.array(found, float)


def interval(measured: np.ndarray, predicted: np.ndarray) -> tuple[float, float]:
    """A 90 % interval of Spearman's correlation."""
    rng, count = np.random.default_rng(0), len(measured)
    draws = (rng.integers(0, count, count) for _ in range(BOOTSTRAPS))
    values = [spearmanr(measured[rows], predicted[rows]).statistic for rows in draws]
    low, high = np.percentile(values, [5, 95])
    return float(low), float(high)


def few_shot(features: dict[str, np.ndarray], measured: np.ndarray) -> list[dict[str, object]]:
    """Rank correlation on the networks that were not given, for each set of features."""
    rows: list[dict[str, object]] = []
    for name, values in features.items():
        found = []
        for draw in range(DRAWS):
            given = np.zeros(len(measured), bool)
            given[np.random.default_rng(draw).choice(len(measured), GIVEN, replace=False)] = True
            model = make_pipeline(StandardScaler(), RidgeCV(STRENGTHS)).fit(values[given], measured[given])
            found.append(float(spearmanr(model.predict(values[~given]), measured[~given]).statistic))
        low, median, high = np.percentile(found, [5, 50, 95]).tolist()
        print(f"  {GIVEN} given, ridge on {name:30} Spearman {median:.3f} ({low:.3f} to {high:.3f})", flush=True)
        rows.append(
            {
                "ridge_on": name,
                "given": GIVEN,
                "draws": DRAWS,
                "networks": len(measured),
                "spearman": round(median, 4),
                "low": round(low, 4),
                "high": round(high, 4),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", help="folder of tables")
    table = find_table("dsp-hexagon-sim", parser.parse_args().tables)
    space = get_space("nasbench201")
    accuracy, latency = (pq.read_table(DATA / "nb201" / f"{name}.parquet") for name in ("accuracy", "latency"))
    connected = np.flatnonzero(accuracy["connected"].to_numpy())
    keep = connected[np.unique(accuracy["comp_id"].to_numpy()[connected], return_index=True)[1]]
    architectures = np.stack([accuracy[edge].to_numpy() for edge in EDGES], axis=1).astype(int)[keep]
    model = LatencyModel.from_table(space, table, "isolated", networks=[])
    sums = {
        "packets": model.predict(architectures),
        "multiply-accumulates": AdditiveCost.from_space(space, np.array([b.macs for b in space.catalog], float)).values(
            architectures
        ),
        "weights": AdditiveCost.from_space(space, np.array([b.params for b in space.catalog], float)).values(
            architectures
        ),
    }
    misses = AdditiveCost.from_space(space, misses_of(space)).values(architectures)
    # the model is in milliseconds, of a thousand packets a microsecond
    packets = sums["packets"] * 1e6
    sums |= {f"packets and {cost} a miss": packets + cost * misses for cost in MISS_PACKETS}
    sums["misses"] = misses
    live = space.live(architectures)
    counts = np.stack([((architectures == op) & live).sum(axis=1) for op in range(1, 5)], axis=1)
    features = {
        "operators": counts,
        "packets": sums["packets"][:, None],
        "operators and packets": np.column_stack([counts, sums["packets"]]),
        "packets and misses": np.column_stack([packets, misses]),
        "operators, packets and misses": np.column_stack([counts, packets, misses]),
    }
    rows: list[dict[str, object]] = []
    few: list[dict[str, object]] = []
    for chip, column in COLUMNS.items():
        measured = latency[column].to_numpy().astype(float)[keep]
        usable = measured > 0
        print(f"{chip}: {usable.sum()} networks")
        for name, values in sums.items():
            rho = float(spearmanr(measured[usable], values[usable]).statistic)
            tau = float(kendalltau(measured[usable], values[usable]).statistic)
            low, high = interval(measured[usable], values[usable])
            print(f"  {name:22} Spearman {rho:.3f} ({low:.3f} to {high:.3f}), Kendall {tau:.3f}", flush=True)
            rows.append(
                {
                    "date": datetime.now(UTC).date().isoformat(),
                    "versions": table.device.runtime_version,
                    "chip": chip,
                    "ranked_by": name,
                    "networks": int(usable.sum()),
                    "spearman": round(rho, 4),
                    "low": round(low, 4),
                    "high": round(high, 4),
                    "kendall": round(tau, 4),
                }
            )
        facts = {"date": datetime.now(UTC).date().isoformat(), "versions": table.device.runtime_version, "chip": chip}
        few += [{**facts, **row} for row in few_shot({k: v[usable] for k, v in features.items()}, measured[usable])]
    append_rows("hexagon_ranking", rows)
    append_rows("hexagon_few_shot", few)


if __name__ == "__main__":
    main()
