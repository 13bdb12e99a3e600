"""Claim: the schedule model of `dsp-qnn`, its rates learned, predicts networks on phones as they were measured.

Qualcomm publishes latencies of int8 networks on its chips (package ``qai-hub-models``, BSD-3, read from its wheel;
nothing of it is kept here). The networks that can be rebuilt (`phone_networks.py`) are compiled for each chip, and
their latencies compared: the schedule model with rates learned for the chip; with the rates that it began with and one
factor a phone, and with a regression or boosted trees on top of these; a line on multiply-accumulates and weight bytes
fitted on the same phone. Everything is fitted without the network that it predicts, the last method
without the phone instead. What the same networks take by Qualcomm's two other runtimes says how far the published
numbers agree with themselves.

    python -m pip download --no-deps -d DIR qai-hub-models==0.65.0
    python benchmarks/dsp_phones.py compile --work DIR        # an hour on two free cores; goes on where it was stopped
    python benchmarks/dsp_phones.py score --work DIR          # a third of an hour on two free cores; needs PyYAML
"""

from __future__ import annotations

import argparse
import datetime
import gzip
import json
import multiprocessing
import tempfile
import time
import zipfile
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from phone_networks import NETWORKS, QUANTISED
from record import append_rows
from scipy.optimize import nnls
from scipy.stats import kendalltau, spearmanr
from sklearn.linear_model import RidgeCV
from xgboost import XGBRegressor

from hwnas.profilers.qnn_chips import CHIPS
from hwnas.profilers.qnn_compile import qnn_job
from hwnas.profilers.qnn_schedule import Rates, schedule
from hwnas.profilers.qnn_schematic import Schematic, read_schematic
from hwnas.quantize import quantize_for_timing
from hwnas.spaces.errors import ModelError
from hwnas.spaces.files import atomic_write
from hwnas.spaces.onnx_reader import read_onnx

#: Published phone or board to its chip.
DEVICES = {
    "Samsung Galaxy S22 5G": 36,
    "QCS8550 (Proxy)": 43,
    "Samsung Galaxy S24": 57,
    "Samsung Galaxy S25": 69,
    "Samsung Galaxy S26": 87,
    "Snapdragon X Elite CRD": 60,
    "Dragonwing IQ-9075 EVK": 77,
    "Dragonwing Q-6690 MTP": 78,
    "Snapdragon 7 Gen 4 QRD": 86,
    "Snapdragon X2 Elite CRD": 88,
    "Dragonwing RB3 Gen 2 Vision Kit": 93,
}
RUNTIME, OTHERS, PRECISION = "onnx", ("qnn_dlc", "tflite"), "w8a8"
STRENGTHS = (1.0, 10.0, 100.0, 1000.0)
#: Round numbers of the right size, from which learning starts.
START = Rates(dma_bytes=50e3, hmx_macs=20e6, hvx_bytes=50e3, division_bytes=10e3, operator_us=0.1, call_us=60.0)
LEARNED = ("dma_bytes", "hmx_macs", "hvx_bytes", "division_bytes", "operator_us")
#: Rounds of learning: replay all programs, fit the rates to what was critical.
ROUNDS = 4


# ---------------------------------------------------------------------- compiling


def quantised(name: str, work: Path) -> tuple[bytes, dict[str, float]]:
    """The int8 file of a network, from the work folder if it was made before; multiply-accumulates and weights."""
    file, facts = work / f"{name.split('|')[0]}.onnx", work / f"{name.split('|')[0]}.json"
    if not file.exists():
        made = NETWORKS[name]()
        model = made if isinstance(made, onnx.ModelProto) else made.to_onnx()
        graph = read_onnx(model)
        facts.write_text(json.dumps({"macs": graph.macs, "weights": graph.params}))
        made = quantize_for_timing(model, samples=1)
        file.write_bytes(QUANTISED.get(name, lambda same: same)(made).SerializeToString())
    return file.read_bytes(), json.loads(facts.read_text())


def compile_all(work: Path, only: list[str], chips: list[int]) -> None:
    """Keep the program of each network and chip in the work folder."""
    work.mkdir(parents=True, exist_ok=True)
    for name in NETWORKS:
        if only and not any(part in name for part in only):
            continue
        for soc in chips:
            kept = program_file(work, name, soc)
            if kept.exists() or kept.with_suffix(".error").exists():
                continue
            start = time.perf_counter()
            try:
                keep_program(kept, quantised(name, work)[0], soc)
            except ModelError as error:
                kept.with_suffix(".error").write_text(str(error))
                print(error)
            print(f"{name} {soc}: {time.perf_counter() - start:.0f} s", flush=True)


def keep_program(file: Path, model: bytes, soc: int) -> None:
    """Compile a model for a chip, and keep the program."""
    with qnn_job(model, soc, limit_s=600) as (folder, _):
        (found,) = folder.glob("*_schematic.bin")
        atomic_write(file, gzip.compress(found.read_bytes(), 4))


def program_file(work: Path, name: str, soc: int) -> Path:
    return work / f"{name.split('|')[0]}.{soc}.gz"


def read_program(file: Path) -> Schematic:
    """A kept program."""
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder, "schematic")
        plain.write_bytes(gzip.decompress(file.read_bytes()))
        return read_schematic(plain)


# ---------------------------------------------------------------------- scoring


@cache
def published(work: Path, runtime: str = RUNTIME) -> dict[tuple[str, str], float]:
    """Milliseconds by network and phone, where all layers ran on the processor."""
    import yaml

    wheel = next(work.glob("qai_hub_models-*.whl"), None)
    if wheel is None:
        raise SystemExit(f"download the wheel first: python -m pip download --no-deps -d {work} qai-hub-models==0.65.0")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    found = {}
    with zipfile.ZipFile(wheel) as archive:
        for name in NETWORKS:
            model, component = name.split("|")
            text = archive.read(f"qai_hub_models/models/{model}/perf.yaml")
            parts = yaml.load(text, loader)["precisions"].get(PRECISION, {}).get("components", {})
            for phone, runtimes in parts.get(component, {}).get("performance_metrics", {}).items():
                entry = runtimes.get(runtime, {})
                layers, ms = entry.get("layer_counts") or {}, entry.get("inference_time_milliseconds")
                if ms and layers.get("npu") == layers.get("total"):
                    found[name, phone] = float(ms)
    return found


def errors(predicted: np.ndarray, measured: np.ndarray) -> dict[str, float]:
    off = np.abs(predicted / measured - 1)
    return {
        "mape": float(off.mean()),
        "median_error": float(np.median(off)),
        "worst": float(off.max()),
        "within_10": float((off <= 0.1).mean()),
        "spearman": float(spearmanr(predicted, measured).statistic),
        "kendall": float(kendalltau(predicted, measured).statistic),
    }


def left_out(fit: Callable[[np.ndarray], Callable[[int], float]], count: int, groups: np.ndarray) -> np.ndarray:
    """Predictions of each row by a fit that saw no row of its group, in a process a core."""
    with multiprocessing.get_context("fork").Pool(initializer=_Held.begin, initargs=(fit, groups)) as pool:
        found = pool.map(_Held.predict, np.unique(groups).tolist(), chunksize=1)
    result = np.zeros(count)
    for rows, values in found:
        result[rows] = values
    return result


class _Held:
    """What a process of `left_out` predicts with: neither programs nor fits can be sent to one."""

    fit: Callable[[np.ndarray], Callable[[int], float]]
    groups: np.ndarray

    @classmethod
    def begin(cls, fit: Callable[[np.ndarray], Callable[[int], float]], groups: np.ndarray) -> None:
        cls.fit, cls.groups = fit, groups

    @classmethod
    def predict(cls, group: int) -> tuple[np.ndarray, list[float]]:
        held = np.flatnonzero(cls.groups == group)
        predict = cls.fit(np.flatnonzero(cls.groups != group))
        return held, [predict(index) for index in held]


def learn(programs: list[Schematic], us: np.ndarray) -> Rates:
    """Rates of the schedule model for one chip.

    What is critical depends on the rates, so they are found in rounds: replay the programs, take what was critical as
    linear in the rates' inverses, and fit these without letting any be negative (absolute relative errors count, by
    weights).
    """
    rates = START
    for _ in range(ROUNDS):
        runs = [schedule(program, rates) for program in programs]
        total = np.array([run.total_us for run in runs]) + rates.call_us
        scale = float(np.median(us / total))
        now = np.array([*(_cost(rates, name) for name in LEARNED), rates.call_us])
        parts = np.array([[*(run.critical[name] for name in LEARNED), 1.0] for run in runs]) * now
        # each column in units of what it costs now, and held there by rows that count like three networks in ten
        columns, goal = scale * parts / us[:, None], 1 - scale * (total - parts.sum(axis=1)) / us
        hold, found = 0.3 * np.eye(len(now)), np.ones(len(now))
        for _ in range(15):
            weight = 1 / np.sqrt(np.maximum(np.abs(columns @ found - goal), 0.03))
            rows = np.vstack([columns * weight[:, None], hold])
            found, _ = nnls(rows, np.concatenate([goal * weight, hold.sum(axis=0)]))
        costs = now * scale * np.maximum(found, 0.1)
        named = dict(zip((*LEARNED, "call_us"), costs.tolist(), strict=True))
        rates = Rates(**{name: cost if name.endswith("_us") else 1 / cost for name, cost in named.items()})
    return rates


def _cost(rates: Rates, name: str) -> float:
    value = float(getattr(rates, name))
    return value if name.endswith("_us") else 1 / value


def learned(rows: list[dict[str, Any]]) -> Callable[[np.ndarray], Callable[[int], float]]:
    """Milliseconds by rates that were learned from other rows of the same chip.

    If there are none, the rates are those of the chip whose architecture is nearest, the older of two.
    """
    versions = {soc: CHIPS[soc].hexagon for soc in DEVICES.values()}

    def fit(train: np.ndarray) -> Callable[[int], float]:
        @cache
        def rates_of(soc: int) -> Rates:
            seen = {rows[index]["soc"] for index in train}
            chosen = min(seen, key=lambda other: (other != soc, abs(versions[other] - versions[soc]), versions[other]))
            own = [rows[index] for index in train if rows[index]["soc"] == chosen]
            return learn([row["program"] for row in own], np.array([row["ms"] for row in own]) * 1e3)

        def predict(index: int) -> float:
            rates = rates_of(rows[index]["soc"])
            return (schedule(rows[index]["program"], rates).total_us + rates.call_us) / 1e3

        return predict

    return fit


def from_levels(
    x: np.ndarray, ratio: np.ndarray, phones: np.ndarray, regress: Callable[[np.ndarray, np.ndarray], Any]
) -> Callable[[np.ndarray], Callable[[int], float]]:
    """Logarithm of measured over modelled: a level of the phone and what `regress` learns of the rest."""

    def fit(train: np.ndarray) -> Callable[[int], float]:
        levels = {phone: float(np.median(ratio[train][phones[train] == phone])) for phone in np.unique(phones[train])}
        model = regress(x[train], ratio[train] - np.array([levels[phone] for phone in phones[train]]))
        mean = float(np.mean(list(levels.values())))
        return lambda index: float(model.predict(x[index : index + 1])[0]) + levels.get(phones[index], mean)

    return fit


def ridge(x: np.ndarray, y: np.ndarray) -> Any:
    return RidgeCV(STRENGTHS).fit(x, y)


def trees(x: np.ndarray, y: np.ndarray) -> Any:
    return XGBRegressor(
        max_depth=2, n_estimators=60, learning_rate=0.1, subsample=0.8, min_child_weight=5, n_jobs=1, random_state=0
    ).fit(x, y)


def rows_of(work: Path) -> list[dict[str, Any]]:
    """What was published, beside the program that was compiled, for each network and phone that has both."""
    ms, rows = published(work), []
    for name in NETWORKS:
        for phone, soc in DEVICES.items():
            file = program_file(work, name, soc)
            if (name, phone) not in ms or not file.exists():
                continue
            try:
                program = read_program(file)
            except ModelError as error:
                print(f"{name} {soc}: {error}", flush=True)
                continue
            facts = {"network": name, "phone": phone, "soc": soc, "ms": ms[name, phone], "program": program}
            rows.append({**facts, **quantised(name, work)[1]})
    return rows


def predictions(rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Milliseconds of each row by each method, which saw no row of its network, or of its phone."""
    measured = np.array([row["ms"] for row in rows])
    networks = np.unique([row["network"] for row in rows], return_inverse=True)[1]
    phones = np.unique([row["phone"] for row in rows], return_inverse=True)[1]
    runs = [schedule(row["program"], START) for row in rows]
    modelled = np.array([run.total_us + START.call_us for run in runs]) / 1e3
    cost = np.array([[1e6, row["macs"] / 1e3, row["weights"]] for row in rows]) / 1e6
    ratio = np.log(measured / modelled)
    busy = np.array([[run.total_us, *run.busy_us.values()] for run in runs]) / 1e3
    # scale-free: how large the program is, and how its units share the work
    x = np.log(np.column_stack([busy[:, 0], busy[:, 1:] / busy[:, :1] + 1e-3, cost[:, 1:] / busy[:, :1] + 1e-3]))
    x = (x - x.mean(0)) / x.std(0)

    def factor(train: np.ndarray) -> Callable[[int], float]:
        level = {phone: float(np.median(ratio[train][phones[train] == phone])) for phone in np.unique(phones[train])}
        return lambda index: modelled[index] * np.exp(level[phones[index]])

    def line(train: np.ndarray) -> Callable[[int], float]:
        fits = {}
        for phone in np.unique(phones[train]):
            own = train[phones[train] == phone]
            # relative errors are minimised, as everywhere here
            fits[phone] = np.linalg.lstsq(cost[own] / measured[own, None], np.ones(len(own)), rcond=None)[0]
        return lambda index: max(float(cost[index] @ fits[phones[index]]), 1e-3)

    count, by_rates = len(rows), learned(rows)
    return {
        "learned rates": left_out(by_rates, count, networks),
        "first rates, a factor a phone": left_out(factor, count, networks),
        "first rates and ridge": modelled * np.exp(left_out(from_levels(x, ratio, phones, ridge), count, networks)),
        "first rates and trees": modelled * np.exp(left_out(from_levels(x, ratio, phones, trees), count, networks)),
        "line on MACs and weight bytes": left_out(line, count, networks),
        "learned rates, phone unseen": left_out(by_rates, count, phones),
    }


def score(work: Path) -> None:
    """Print and record how far each method is off, and the rates that all rows of a chip give."""
    rows = rows_of(work)
    facts = {
        "date": datetime.date.today().isoformat(),
        "published": f"qai-hub-models 0.65.0, {PRECISION}, {RUNTIME}",
        "compiler": f"onnxruntime-qnn {version('onnxruntime-qnn')}",
    }

    def keep(found: list[dict[str, Any]]) -> None:
        append_rows("dsp_phones", [{**facts, **row} for row in found])

    for phone, soc in DEVICES.items():
        own = [row for row in rows if row["phone"] == phone]
        rates = learn([row["program"] for row in own], np.array([row["ms"] for row in own]) * 1e3)
        print(soc, {name: float(f"{getattr(rates, name):.3g}") for name in (*LEARNED, "call_us")}, flush=True)
    measured, phones = np.array([row["ms"] for row in rows]), [row["phone"] for row in rows]
    for other in OTHERS:
        values = by_runtime(rows, published(work, other))
        keep(judged({f"published by {other}, a factor a phone": values}, measured, phones))
    found = predictions(rows)
    keep(judged(found, measured, phones))
    append_rows("dsp_phones_networks", [{**facts, **row} for row in of_networks(rows, found, measured)])


def by_runtime(rows: list[dict[str, Any]], other: dict[tuple[str, str], float]) -> np.ndarray:
    """What is published of each row by another runtime, brought to this one's level on the phone; nan if nothing is."""
    values = np.array([other.get((row["network"], row["phone"]), np.nan) for row in rows])
    ratio = values / np.array([row["ms"] for row in rows])
    phones = np.array([row["phone"] for row in rows])
    for phone in np.unique(phones[np.isfinite(ratio)]):
        values[phones == phone] /= np.nanmedian(ratio[phones == phone])
    return values


def judged(found: dict[str, np.ndarray], measured: np.ndarray, phones: list[str]) -> list[dict[str, Any]]:
    """How far each method is off on each phone, and on all: printed, and as rows."""
    rows: list[dict[str, Any]] = []
    print(f"{'phone':<34}{'method':<40}{'n':>4}{'MAPE':>8}{'median':>8}{'worst':>8}{'≤10 %':>8}{'ρ':>7}{'τ':>7}")
    for method, predicted in found.items():
        for phone in (*sorted(set(phones)), "all"):
            own = np.array([phone in (name, "all") for name in phones]) & np.isfinite(predicted)
            if not own.any():
                continue
            error = errors(predicted[own], measured[own])
            if phone == "all":  # ranks of one phone among another's mean nothing: their mean instead
                for rank in ("spearman", "kendall"):
                    error[rank] = float(np.mean([row[rank] for row in rows if row["method"] == method]))
            row = {
                "phone": phone,
                "soc": DEVICES.get(phone, ""),
                "method": method,
                "networks": int(own.sum()),
            }
            rows.append({**row, **{key: round(value, 4) for key, value in error.items()}})
            print(
                f"{phone:<34}{method:<40}{own.sum():>4}{error['mape']:>8.1%}{error['median_error']:>8.1%}"
                f"{error['worst']:>8.0%}{error['within_10']:>8.0%}{error['spearman']:>7.3f}{error['kendall']:>7.3f}",
                flush=True,
            )
    return rows


def of_networks(rows: list[dict[str, Any]], found: dict[str, np.ndarray], measured: np.ndarray) -> list[dict[str, Any]]:
    """The median error over the phones of each network, by each method."""
    result = []
    for name in dict.fromkeys(row["network"] for row in rows):
        own = [index for index, row in enumerate(rows) if row["network"] == name]
        medians = {method: round(float(np.median(p[own] / measured[own] - 1)), 4) for method, p in found.items()}
        result.append({"network": name.split("|")[0], "phones": len(own), **medians})
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=("compile", "score"))
    parser.add_argument("--work", type=Path, required=True, help="folder of int8 files, programs and the wheel")
    parser.add_argument("--only", nargs="*", default=[], help="parts of names of networks")
    parser.add_argument("--chips", nargs="*", type=int, default=list(DEVICES.values()), help="their ids")
    given = parser.parse_args()
    if given.step == "compile":
        compile_all(given.work, given.only, given.chips)
    else:
        score(given.work)


if __name__ == "__main__":
    main()
