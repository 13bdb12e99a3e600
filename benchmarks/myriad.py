"""Claim: the Myriad X latency of a NAS-Bench-201 cell is predicted from 20, 100 or 900 other cells, better than simply.

On the published measurements of an NCS2 (nn-Meter's, 1,999 cells; ``HWNAS_DATA``). Cells that are the same computation
count once, with the first that was measured, so no test cell has a copy among the training cells. hwnas chooses which
cells to measure, and gets as many at random once more ("drawn"), as the simple methods do; ridge gets the chosen ones,
too. All are tested on all cells left.

    python benchmarks/myriad.py --jobs 2

Beside them: what was computed on these columns before (``dedup_baselines.csv`` of the data folder), how well the
data repeat, and nn-Meter's own figure as it was printed. Appends to ``results/myriad.csv``.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq
from record import append_rows
from scipy.stats import spearmanr, t

import hwnas
from hwnas.evaluators.tabular import data_folder
from hwnas.features import choice_features
from hwnas.latency_predictor import LatencyPredictor, choose_items

EDGES = ("op_0to1", "op_0to2", "op_1to2", "op_0to3", "op_1to3", "op_2to3")
COLUMN = "nnmeter.myriad_vpu_ncs2"
#: training cells, and how often they are drawn
SIZES = {20: 50, 100: 50, 900: 20}
#: seed of the first draw; below, features were chosen
FIRST = 1000

Fit = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Cells:
    """Architectures that are different computations, which one each is, and their latency in ms, ``(n,)``."""

    rows: np.ndarray
    computation: np.ndarray
    latency: np.ndarray

    @property
    def live(self) -> np.ndarray:
        """The rows without operators on dead edges."""
        return np.where(hwnas.get_space("nasbench201").live(self.rows), self.rows, 0)

    @property
    def counts(self) -> np.ndarray:
        """How many live edges carry each operator, ``(n, 4)``."""
        return np.stack([(self.live == operator).sum(axis=1) for operator in (1, 2, 3, 4)], axis=1).astype(float)

    @property
    def one_hot(self) -> np.ndarray:
        """The operator on each live edge, ``(n, 30)``."""
        return np.eye(5)[self.live].reshape(len(self.rows), -1)


def measured_cells() -> Cells:
    """All cells that were measured and have a path from input to output."""
    accuracy, table = (pq.read_table(data_folder() / "nb201" / f"{name}.parquet") for name in ("accuracy", "latency"))
    latency = table[COLUMN].to_numpy().astype(float)
    there = np.flatnonzero(np.isfinite(latency) & accuracy["connected"].to_numpy())
    rows = np.stack([accuracy[edge].to_numpy() for edge in EDGES], axis=1).astype(int)
    return Cells(rows[there], accuracy["comp_id"].to_numpy()[there], latency[there])


def distinct(cells: Cells) -> Cells:
    """The first cell of each computation."""
    first = np.sort(np.unique(cells.computation, return_index=True)[1])
    return Cells(cells.rows[first], cells.computation[first], cells.latency[first])


# ---------------------------------------------------------------------- methods


def ridge(train: np.ndarray, latency: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Ridge regression, its strength by leave-one-out."""
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-4, 3, 15))).fit(train, latency)
    return np.asarray(model.predict(test))


def boosting(train: np.ndarray, latency: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Gradient-boosted trees as scikit-learn sets them."""
    from sklearn.ensemble import GradientBoostingRegressor

    return np.asarray(GradientBoostingRegressor(random_state=0).fit(train, latency).predict(test))


def patient_boosting(train: np.ndarray, latency: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Gradient-boosted trees, more, deeper and slower ones."""
    from sklearn.ensemble import GradientBoostingRegressor

    model = GradientBoostingRegressor(n_estimators=500, max_depth=4, learning_rate=0.05, subsample=0.7, random_state=0)
    return np.asarray(model.fit(train, latency).predict(test))


def scores(latency: np.ndarray, predicted: np.ndarray) -> tuple[float, float, float]:
    """Spearman correlation, percent within ±10 %, mean absolute percentage error."""
    error = np.abs(predicted / latency - 1)
    return float(spearmanr(latency, predicted)[0]), float(100 * np.mean(error <= 0.1)), float(100 * np.mean(error))


def one_draw(cells: Cells, size: int, seed: int) -> dict[str, tuple[float, ...]]:
    """Scores of every method on one draw; for hwnas also the percent of its 90 % intervals that hold."""
    everything = np.arange(len(cells.rows))
    drawn = np.random.default_rng(seed).permutation(everything)[:size]
    features = choice_features(hwnas.get_space("nasbench201"), cells.rows)
    trainings = {"drawn": drawn}
    if size < 500:  # of most cells there is little to choose
        trainings["chosen"] = choose_items(features, size, seed=seed)
    found: dict[str, tuple[float, ...]] = {}
    for how, train in trainings.items():
        test = np.setdiff1d(everything, train)
        truth, known = cells.latency[test], cells.latency[train]
        part = {name: values[train] for name, values in features.items()}
        model = LatencyPredictor.fit(part, known, reference=features)
        guess = model.predict({name: values[test] for name, values in features.items()})
        held = float(100 * np.mean((truth >= guess.low) & (truth <= guess.high)))
        found[f"hwnas, {how}"] = (*scores(truth, guess.ms), held)
        simple: dict[str, tuple[Fit, np.ndarray]] = {"ridge on live counts": (ridge, cells.counts)}
        if how == "drawn":
            simple["boosting on live edges"] = (boosting, cells.one_hot)
            simple["patient boosting on live edges"] = (patient_boosting, cells.one_hot)
        for name, (fit, columns) in simple.items():
            found[f"{name}, {how}"] = scores(truth, fit(columns[train], known, columns[test]))
    return found


# ---------------------------------------------------------------------- the data's own limits


def repeated(cells: Cells, draws: int = 200) -> dict[str, object]:
    """How well two cells that are the same computation agree, two drawn of each; they differ in the order of edges."""
    members = [np.flatnonzero(cells.computation == one) for one in np.unique(cells.computation)]
    members = [member for member in members if len(member) > 1]
    found = []
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        pairs = np.array([rng.choice(member, 2, replace=False) for member in members])
        found.append(scores(cells.latency[pairs[:, 0]], cells.latency[pairs[:, 1]]))
    # the spread of these draws is not that of a mean: the pairs overlap
    entry = summary("", f"another cell of the same computation, {len(members)} computations", found)
    return entry | {"spearman_half_95": "", "within_10_half_95": ""}


def printed_before() -> list[dict[str, object]]:
    """What the data folder says of simple methods on this column, and what nn-Meter's authors printed."""
    rows: list[dict[str, object]] = []
    with open(data_folder() / "nb201" / "dedup_baselines.csv", newline="") as stream:
        line = next(line for line in csv.DictReader(stream) if line["column"] == COLUMN)
    for size, kind, name in ((20, "ridge20", "ridge on live counts"), (900, "gbt900", "boosting")):
        within, mape = (round(100 * float(line[f"{kind}_{score}"]), 2) for score in ("acc10", "mape"))
        entry = row(size, f"{name}, in dedup_baselines.csv")
        rows.append(entry | {"spearman": line[f"{kind}_rho"], "within_10_percent": within, "mape_percent": mape})
    rows.append(
        row("", "nn-Meter, from kernels, on its benchmark of many families, as printed") | {"within_10_percent": 83.4}
    )
    return rows


# ---------------------------------------------------------------------- the report


def row(size: int | str, method: str) -> dict[str, object]:
    """A line of the results without numbers."""
    names = (
        "draws spearman spearman_half_95 within_10_percent within_10_half_95 mape_percent intervals_of_90_hold_percent"
    )
    date = datetime.date.today().isoformat()
    return {"date": date, "training_cells": size, "method": method, **dict.fromkeys(names.split(), "")}


def summary(size: int | str, method: str, found: list[tuple[float, ...]]) -> dict[str, object]:
    """Means over the draws, with half of the 95 % intervals of the means."""
    values = np.array(found)
    half = t.ppf(0.975, len(values) - 1) * values.std(axis=0, ddof=1) / len(values) ** 0.5
    entry = row(size, method) | {
        "draws": len(values),
        "spearman": round(float(values[:, 0].mean()), 4),
        "spearman_half_95": round(float(half[0]), 4),
        "within_10_percent": round(float(values[:, 1].mean()), 1),
        "within_10_half_95": round(float(half[1]), 1),
        "mape_percent": round(float(values[:, 2].mean()), 2),
    }
    if values.shape[1] > 3:
        entry["intervals_of_90_hold_percent"] = round(float(values[:, 3].mean()), 1)
    return entry


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--draws", type=int, help="of each size [default: 50, of 900 cells 20]")
    parser.add_argument("--jobs", type=int, default=1)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    everything = measured_cells()
    cells = distinct(everything)
    print(f"{len(everything.rows)} cells measured, {len(cells.rows)} different computations")
    lines: list[dict[str, object]] = []
    with ProcessPoolExecutor(arguments.jobs) as pool:
        for size in arguments.sizes:
            seeds = range(FIRST, FIRST + (arguments.draws or SIZES.get(size, 20)))
            draws = list(pool.map(one_draw, *zip(*[(cells, size, seed) for seed in seeds], strict=True)))
            lines += [summary(size, method, [draw[method] for draw in draws]) for method in draws[0]]
            print(*([*entry.values()][1:] for entry in lines[-len(draws[0]) :]), sep="\n", flush=True)
    lines += printed_before()
    lines.append(repeated(everything))
    print(*([*entry.values()][1:] for entry in lines[-4:]), sep="\n")
    append_rows("myriad", lines)


if __name__ == "__main__":
    main()
