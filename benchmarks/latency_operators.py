"""Claim: operators that were not measured are priced more exactly than by simple methods, from the same measurements.

TF-NAS's published tables (72,962 inverted residuals with every number of inner channels, on a CPU and on a GPU): from
100 to 10,000 random operators the rest is predicted. Beside hwnas's boosted trees on a roofline: random forests on the
raw settings (as nn-Meter does it), a line on multiply-accumulates, and the nearest neighbour. Entries that are not
positive (the tables extrapolate below about 60 channels) are left out, on both sides.

    HWNAS_DATA=DIR python benchmarks/latency_operators.py                            # about ten minutes
"""

from __future__ import annotations

import argparse
import datetime
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from record import append_rows

from hwnas.boosted_roofline import BoostedRoofline
from hwnas.spaces.families import NetworkBuilder

DATA = Path(os.environ.get("HWNAS_DATA", Path(__file__).parents[2] / "shared" / "data"))
RESULTS = Path(__file__).parent / "results"


def read(device: str) -> tuple[np.ndarray, np.ndarray]:
    """Settings (size, channels in, squeeze-excite, channels out, window, stride, swish, inner channels) and ms."""
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(DATA / "tfnas_lut" / "tfnas_lut.parquet").to_pydict()
    rows, times = [], []
    for where, key, inner, ms in zip(*table.values(), strict=True):
        if where != device or not key.startswith("MBInvertedResBlock") or ms <= 0 or inner < 1:
            continue
        _, size, into, se, out, k, s, act = key.split("_")
        rows.append([int(size), int(into), int(se), int(out), int(k[1:]), int(s[1:]), act == "swish", inner])
        times.append(ms)
    return np.array(rows, dtype=np.int64), np.array(times)


def costs(rows: np.ndarray) -> np.ndarray:
    """One, multiply-accumulates and bytes of each operator."""
    found = np.ones((len(rows), 3))
    for index, (size, into, se, out, k, s, swish, inner) in enumerate(rows.tolist()):
        net = NetworkBuilder((1, into, size, size))
        graph = net.graph(net.inverted("input", out, inner, k, s, "swish" if swish else "relu", se))
        found[index, 1:] = graph.macs, graph.bytes
    return found


def features(rows: np.ndarray, known: np.ndarray) -> np.ndarray:
    inner = rows[:, 7]
    return np.column_stack(
        [rows, known[:, 1:], known[:, 1] / known[:, 2], inner % 4, inner % 8, inner % 16, inner % 32]
    )


@dataclass(frozen=True)
class Part:
    """Some operators: their settings, and what `costs` says of them."""

    rows: np.ndarray
    costs: np.ndarray


def boosted(train: Part, ms: np.ndarray, test: Part) -> np.ndarray:
    model = BoostedRoofline.fit(train.costs, features(train.rows, train.costs), ms)
    return model.predict(test.costs, features(test.rows, test.costs))


def forests(train: Part, ms: np.ndarray, test: Part) -> np.ndarray:
    from sklearn.ensemble import RandomForestRegressor

    return np.asarray(RandomForestRegressor(100, n_jobs=1, random_state=0).fit(train.rows, ms).predict(test.rows))


def flops(train: Part, ms: np.ndarray, test: Part) -> np.ndarray:
    weights, *_ = np.linalg.lstsq(train.costs[:, :2] / ms[:, None], np.ones(len(ms)), rcond=None)
    return np.asarray(test.costs[:, :2] @ weights)


def nearest(train: Part, ms: np.ndarray, test: Part) -> np.ndarray:
    from sklearn.neighbors import KNeighborsRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), KNeighborsRegressor(1)).fit(train.rows, ms)
    return np.asarray(model.predict(test.rows))


METHODS: dict[str, Callable[[Part, np.ndarray, Part], np.ndarray]] = {
    "hwnas": boosted,
    "random forest, raw settings": forests,
    "line, MACs": flops,
    "nearest neighbour": nearest,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=[100, 300, 1000, 3000, 10_000])
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--held-out", type=int, default=5000)
    arguments = parser.parse_args()
    results: list[dict[str, object]] = []
    for device in ("cpu", "gpu"):
        rows, ms = read(device)
        known = costs(rows)
        for count in arguments.samples:
            errors: dict[str, list[np.ndarray]] = {name: [] for name in METHODS}
            for draw in range(arguments.draws):
                order = np.random.default_rng([draw, count]).permutation(len(ms))
                train, test = order[:count], order[count : count + arguments.held_out]
                for name, method in METHODS.items():
                    found = method(Part(rows[train], known[train]), ms[train], Part(rows[test], known[test]))
                    errors[name].append(np.abs(found / ms[test] - 1))
            for name, part in errors.items():
                within = np.array([100 * np.mean(error <= 0.1) for error in part])
                half = 2.776 * within.std(ddof=1) / len(within) ** 0.5 if len(within) == 5 else np.nan
                results.append(
                    {
                        "date": datetime.date.today().isoformat(),
                        "device": f"TF-NAS {device}",
                        "operators": count,
                        "method": name,
                        "draws": len(part),
                        "within_10_percent": round(float(within.mean()), 1),
                        "half_interval_95": round(float(half), 1),
                        "mape_percent": round(100 * float(np.mean([error.mean() for error in part])), 2),
                        "median_error_percent": round(100 * float(np.mean([np.median(error) for error in part])), 2),
                    }
                )
                print(*list(results[-1].values())[1:], sep="  ", flush=True)
    append_rows("latency_operators", results)
    draw_results(results)


def draw_results(results: list[dict[str, object]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.5), layout="constrained")
    for axis, device in zip(figure.subplots(1, 2, sharey=True), ("TF-NAS cpu", "TF-NAS gpu"), strict=True):
        for name in METHODS:
            part = [row for row in results if row["device"] == device and row["method"] == name]
            axis.semilogx([r["operators"] for r in part], [r["within_10_percent"] for r in part], "o-", label=name)
        axis.set(title=device, xlabel="operators measured", ylabel="others within 10 %, %", ylim=(0, 101))
    axis.legend(fontsize=7)
    figure.savefig(RESULTS / "latency-operators.svg")


if __name__ == "__main__":
    main()
