"""Claim: operators that were not measured are priced more exactly than by simple methods, from the same measurements.

TF-NAS's published tables (72,962 inverted residuals with every number of inner channels, on a CPU and on a GPU): from
100 to 10,000 random operators the rest is predicted. Beside hwnas's boosted trees on a roofline: random forests on the
raw settings (as nn-Meter does it), a line on multiply-accumulates, and the nearest neighbour. Entries that are not
positive (the tables extrapolate below about 60 channels) are left out, on both sides.

With ``--tables`` also the operators of this machine's own devices, of all kinds and in the places where they were
measured (`latency_models.py --tables DIR` leaves such tables in ``DIR/random``): every different one that takes time.
There hwnas sees the places, too, as in a whole network; the others see raw settings, one model a family.

    HWNAS_DATA=DIR python benchmarks/latency_operators.py                            # about ten minutes
    python benchmarks/latency_operators.py --tables DIR --devices cpu-onnxruntime cpu-openvino
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

from hwnas.boosted_roofline import SMALLEST_MS, BoostedRoofline, fit_roofline
from hwnas.kernel_features import Vocabulary, kernel_facts
from hwnas.kernel_predictor import DEPTH
from hwnas.latency_tables import LatencyTable
from hwnas.profilers.division import divided_networks
from hwnas.spaces.errors import ModelError
from hwnas.spaces.families import NetworkBuilder
from hwnas.spaces.placement import PlacedKernel, Placement

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


Fit = Callable[[Part, np.ndarray, Part], np.ndarray]
METHODS: dict[str, Fit] = {
    "hwnas": boosted,
    "random forest, raw settings": forests,
    "line, MACs": flops,
    "nearest neighbour": nearest,
}


# ---------------------------------------------------------------------- this machine's own operators


Placed = tuple[PlacedKernel, Placement]


def read_own(folder: Path) -> tuple[list[Placed], np.ndarray]:
    """Every different operator of a table that takes time, where it was first measured, and milliseconds."""
    found: dict[str, tuple[Placed, float]] = {}
    for network in divided_networks(LatencyTable.load(folder)):
        for kernel, ms in zip(network.placement.kernels, network.kernel_ms, strict=True):
            try:
                kernel_facts(kernel.signature)
            except ModelError:
                continue
            if ms > SMALLEST_MS:
                found.setdefault(kernel.signature, ((kernel, network.placement), ms))
    return [placed for placed, _ in found.values()], np.array([ms for _, ms in found.values()])


def own(method: str, train: list[Placed], ms: np.ndarray, test: list[Placed]) -> np.ndarray:
    """Predict by one model a family; families that were not drawn by the roofline of all."""

    def part(placed: list[Placed]) -> Part:
        facts = [kernel_facts(kernel.signature) for kernel, _ in placed]
        return Part(np.array([f.numbers for f in facts]), np.array([(1.0, f.macs, f.bytes) for f in facts]))

    def families(placed: list[Placed]) -> np.ndarray:
        return np.array([kernel_facts(kernel.signature).family for kernel, _ in placed])

    everything, asked = part(train), part(test)
    line = fit_roofline(everything.costs, ms)
    predicted = np.maximum(asked.costs @ line, SMALLEST_MS)
    known, wanted = families(train), families(test)
    for family in np.unique(known):
        rows, places = np.flatnonzero(known == family), np.flatnonzero(wanted == family)
        if not len(places):
            continue
        learn, ask = (Part(p.rows[i], p.costs[i]) for p, i in ((everything, rows), (asked, places)))
        if method == "hwnas":
            vocabulary = Vocabulary.of(train[i][0] for i in rows)
            seen, new = (vocabulary.rows([some[i] for i in i_s]) for some, i_s in ((train, rows), (test, places)))
            model = BoostedRoofline.fit(learn.costs, seen, ms[rows], line=line, depth=DEPTH)
            predicted[places] = model.predict(ask.costs, new)
        else:
            predicted[places] = METHODS[method](learn, ms[rows], ask)
    return predicted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=[100, 300, 1000, 3000, 10_000])
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--held-out", type=int, default=5000)
    parser.add_argument("--tables", type=Path, help="folder that latency_models.py measured into; instead of TF-NAS")
    parser.add_argument("--devices", nargs="+", default=["cpu-onnxruntime"], help="of that folder")
    arguments = parser.parse_args()
    results: list[dict[str, object]] = []
    for device in ("cpu", "gpu") if arguments.tables is None else arguments.devices:
        if arguments.tables is None:
            rows, ms = read(device)
            known = costs(rows)

            def predict(name: str, train: np.ndarray, test: np.ndarray) -> np.ndarray:
                return METHODS[name](Part(rows[train], known[train]), ms[train], Part(rows[test], known[test]))  # noqa: B023
        else:
            placed, ms = read_own(arguments.tables / "random" / device)

            def predict(name: str, train: np.ndarray, test: np.ndarray) -> np.ndarray:
                return own(name, [placed[i] for i in train], ms[train], [placed[i] for i in test])  # noqa: B023

        for count in (n for n in arguments.samples if n < 0.9 * len(ms)):
            errors: dict[str, list[np.ndarray]] = {name: [] for name in METHODS}
            for draw in range(arguments.draws):
                order = np.random.default_rng([draw, count]).permutation(len(ms))
                train, test = order[:count], order[count : count + arguments.held_out]
                for name in METHODS:
                    errors[name].append(np.abs(predict(name, train, test) / ms[test] - 1))
            for name, part in errors.items():
                within = np.array([100 * np.mean(error <= 0.1) for error in part])
                half = 2.776 * within.std(ddof=1) / len(within) ** 0.5 if len(within) == 5 else np.nan
                results.append(
                    {
                        "date": datetime.date.today().isoformat(),
                        "device": f"TF-NAS {device}" if arguments.tables is None else device,
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
    devices = list(dict.fromkeys(str(row["device"]) for row in results))
    for axis, device in zip(figure.subplots(1, len(devices), sharey=True, squeeze=False)[0], devices, strict=True):
        for name in METHODS:
            part = [row for row in results if row["device"] == device and row["method"] == name]
            axis.semilogx([r["operators"] for r in part], [r["within_10_percent"] for r in part], "o-", label=name)
        axis.set(title=device, xlabel="operators measured", ylabel="others within 10 %, %", ylim=(0, 101))
    axis.legend(fontsize=7)
    name = "latency-operators" if devices[0].startswith("TF-NAS") else "latency-operators-own"
    figure.savefig(RESULTS / f"{name}.svg")


if __name__ == "__main__":
    main()
