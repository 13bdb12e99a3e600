"""Claim: the schedule model of `dsp-qnn` ranks networks on phones as they were measured, and can be corrected.

Qualcomm publishes latencies of int8 networks on its chips (package ``qai-hub-models``, BSD-3, read from its wheel;
nothing of it is kept here). The networks that can be rebuilt (`phone_networks.py`) are compiled for each chip, and
their latencies compared: the schedule model with one factor a phone; a line on multiply-accumulates and weight bytes
fitted on the same phone; and three corrections learned from the program: non-negative weights of the schedule's time
and each unit's busy time, shared by all phones; ridge regression; boosted trees. Everything is fitted without the
network that it predicts, the last method without the phone instead.

    python -m pip download --no-deps -d DIR qai-hub-models==0.65.0
    python benchmarks/dsp_phones.py compile --work DIR        # an hour on two free cores; goes on where it was stopped
    python benchmarks/dsp_phones.py score --work DIR          # needs PyYAML
"""

from __future__ import annotations

import argparse
import datetime
import gzip
import inspect
import json
import tempfile
import time
import zipfile
from collections.abc import Callable
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from phone_networks import NETWORKS
from record import append_rows
from scipy.optimize import nnls
from scipy.stats import kendalltau, spearmanr
from sklearn.linear_model import RidgeCV
from xgboost import XGBRegressor

from hwnas.profilers import qnn_schedule, qnn_schematic
from hwnas.profilers.qnn_compile import qnn_job
from hwnas.profilers.qnn_schedule import RATES, schedule
from hwnas.profilers.qnn_schematic import read_schematic
from hwnas.quantize import quantize_for_timing
from hwnas.spaces.errors import ModelError
from hwnas.spaces.files import atomic_write
from hwnas.spaces.onnx_reader import read_onnx

#: Published phone to its chip.
PHONES = {
    "Samsung Galaxy S22 5G": 36,
    "QCS8550 (Proxy)": 43,
    "Samsung Galaxy S24": 57,
    "Samsung Galaxy S25": 69,
    "Samsung Galaxy S26": 87,
}
RUNTIME, PRECISION = "onnx", "w8a8"
#: what a correction sees: the modelled time, and of that the busy time of each unit, in microseconds
FEATURES = ("total_us", "dma", "hmx", "hvx")
STRENGTHS = (1.0, 10.0, 100.0, 1000.0)


# ---------------------------------------------------------------------- compiling


def quantised(name: str, work: Path) -> tuple[bytes, dict[str, float]]:
    """The int8 file of a network, from the work folder if it was made before; multiply-accumulates and weights."""
    file, facts = work / f"{name.split('|')[0]}.onnx", work / f"{name.split('|')[0]}.json"
    if not file.exists():
        made = NETWORKS[name]()
        model = made if isinstance(made, onnx.ModelProto) else made.to_onnx()
        graph = read_onnx(model)
        facts.write_text(json.dumps({"macs": graph.macs, "weights": graph.params}))
        file.write_bytes(quantize_for_timing(model, samples=1).SerializeToString())
    return file.read_bytes(), json.loads(facts.read_text())


def compile_all(work: Path, only: list[str], phones: int) -> None:
    """Keep the program of each network and each of the first chips in the work folder."""
    work.mkdir(parents=True, exist_ok=True)
    for name in NETWORKS:
        if only and not any(part in name for part in only):
            continue
        for soc in list(PHONES.values())[:phones]:
            kept = program_file(work, name, soc)
            if kept.exists() or kept.with_suffix(".error").exists():
                continue
            start = time.perf_counter()
            try:
                data, _ = quantised(name, work)
                with qnn_job(data, soc, limit_s=600) as (folder, _):
                    (found,) = folder.glob("*_schematic.bin")
                    atomic_write(kept, gzip.compress(found.read_bytes(), 4))
            except ModelError as error:
                kept.with_suffix(".error").write_text(str(error))
                print(error)
            print(f"{name} {soc}: {time.perf_counter() - start:.0f} s", flush=True)


def program_file(work: Path, name: str, soc: int) -> Path:
    return work / f"{name.split('|')[0]}.{soc}.gz"


def model_version() -> str:
    """Of what computes features: what was computed by other code is computed again."""
    sources = [inspect.getsource(module) for module in (qnn_schedule, qnn_schematic)]
    return sha256("".join([*sources, inspect.getsource(count)]).encode()).hexdigest()[:12]


def features(file: Path) -> dict[str, float]:
    """What `count` says of a kept program, from beside it if that was done before."""
    kept = file.with_suffix(f".{model_version()}.features")
    if not kept.exists():
        kept.write_text(json.dumps(count(file)))
    return dict(json.loads(kept.read_text()))


def count(file: Path) -> dict[str, float]:
    """What a program comes to, and what the schedule model says of it."""
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder, "schematic")
        plain.write_bytes(gzip.decompress(file.read_bytes()))
        program = read_schematic(plain)
    found = schedule(program)
    row: dict[str, float] = {"total_us": found.total_us, **found.busy_us, "forced": found.forced}
    issued = [program.operators[number] for number in program.issued]
    row["ddr_bytes"] = sum(operator.ddr_bytes for operator in issued)
    for unit in ("hmx", "hvx"):
        own = [operator for operator in issued if operator.unit == unit]
        row[f"n_{unit}"], row[f"{unit}_bytes"] = len(own), sum(operator.vtcm_bytes for operator in own)
    row["hmx_macs"] = sum(operator.macs for operator in issued)
    return row


# ---------------------------------------------------------------------- scoring


def published(work: Path) -> dict[tuple[str, str], float]:
    """Milliseconds by network and phone, where all layers ran on the processor."""
    import yaml

    wheel = next(work.glob("qai_hub_models-*.whl"), None)
    if wheel is None:
        raise SystemExit(f"download the wheel first: python -m pip download --no-deps -d {work} qai-hub-models==0.65.0")
    found = {}
    with zipfile.ZipFile(wheel) as archive:
        for name in NETWORKS:
            model, component = name.split("|")
            text = archive.read(f"qai_hub_models/models/{model}/perf.yaml")
            parts = yaml.safe_load(text)["precisions"].get(PRECISION, {}).get("components", {})
            for phone, runtimes in parts.get(component, {}).get("performance_metrics", {}).items():
                entry = runtimes.get(RUNTIME, {})
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
    """Predictions of each row by a fit that saw no row of its group."""
    result = np.zeros(count)
    for group in np.unique(groups):
        held = groups == group
        predict = fit(np.flatnonzero(~held))
        for index in np.flatnonzero(held):
            result[index] = predict(index)
    return result


def weigh(parts: np.ndarray, y: np.ndarray, phones: np.ndarray) -> tuple[np.ndarray, dict[int, float]]:
    """Non-negative weights of columns, the same for all phones, and a factor for each phone, of geometric mean 1."""
    factors = dict.fromkeys(np.unique(phones).tolist(), 1.0)
    for _ in range(20):
        scaled = parts * np.array([factors[phone] for phone in phones.tolist()])[:, None]
        weights, _ = nnls(scaled / y[:, None], np.ones(len(y)))
        ratio = y / (parts @ weights)
        factors = {phone: float(np.median(ratio[phones == phone])) for phone in factors}
    mean = float(np.exp(np.mean(np.log(list(factors.values())))))
    return weights * mean, {phone: factor / mean for phone, factor in factors.items()}


def busy_times(x: np.ndarray, y: np.ndarray, phones: np.ndarray) -> Callable[[np.ndarray], Callable[[int], float]]:
    """Weights of a constant and the busy times: what `CORRECTION` and the factors of the chips are."""
    parts = np.column_stack([np.ones(len(y)), x])

    def fit(train: np.ndarray) -> Callable[[int], float]:
        weights, factors = weigh(parts[train], y[train], phones[train])
        return lambda index: float(parts[index] @ weights) * factors.get(int(phones[index]), 1.0)

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


def score(work: Path) -> None:
    """Print and record how far each method is off."""
    ms = published(work)
    rows: list[dict[str, Any]] = [
        {"network": name, "phone": phone, "ms": ms[name, phone], **quantised(name, work)[1], **features(file)}
        for name in NETWORKS
        for phone, soc in PHONES.items()
        if (name, phone) in ms and (file := program_file(work, name, soc)).exists()
    ]
    measured = np.array([row["ms"] for row in rows])
    networks = np.unique([row["network"] for row in rows], return_inverse=True)[1]
    names, phones = np.unique([row["phone"] for row in rows], return_inverse=True)
    modelled = np.array([row["total_us"] + RATES.call_us for row in rows]) / 1e3
    cost = np.array([[1e6, row["macs"] / 1e3, row["weights"]] for row in rows]) / 1e6
    ratio = np.log(measured / modelled)
    busy = np.array([[row[name] for name in FEATURES] for row in rows]) / 1e3
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

    count = len(rows)
    methods = {
        "schedule, a factor a phone": left_out(factor, count, networks),
        "line on MACs and weight bytes": left_out(line, count, networks),
        "weights of busy times": left_out(busy_times(busy, measured, phones), count, networks),
        "schedule and ridge": modelled * np.exp(left_out(from_levels(x, ratio, phones, ridge), count, networks)),
        "schedule and trees": modelled * np.exp(left_out(from_levels(x, ratio, phones, trees), count, networks)),
        "weights of busy times, phone unseen": left_out(busy_times(busy, measured, phones), count, phones),
    }
    facts = {
        "date": datetime.date.today().isoformat(),
        "published": "qai-hub-models 0.65.0, w8a8, onnx",
        "compiler": f"onnxruntime-qnn {version('onnxruntime-qnn')}",
    }
    out = []
    print(f"{len(set(networks))} networks, {len(names)} phones, {count} latencies; every network left out in turn")
    print(f"{'phone':<34}{'method':<36}{'n':>4}{'MAPE':>8}{'median':>8}{'worst':>8}{'≤10 %':>8}{'ρ':>7}{'τ':>7}")
    for method, predicted in methods.items():
        for phone in (*range(len(names)), -1):
            own = phones == phone if phone >= 0 else np.ones(count, bool)
            found = errors(predicted[own], measured[own])
            if phone < 0:  # ranks of one phone among another's mean nothing: their mean instead
                for rank in ("spearman", "kendall"):
                    found[rank] = float(np.mean([row[rank] for row in out if row["method"] == method]))
            label = "all" if phone < 0 else str(names[phone])
            factor_ = "" if phone < 0 else round(float(np.exp(np.median(ratio[own]))), 3)
            soc = "" if phone < 0 else PHONES[label]
            record = {
                **facts,
                "phone": label,
                "soc": soc,
                "factor": factor_,
                "method": method,
                "networks": int(own.sum()),
            }
            out.append({**record, **{key: round(value, 4) for key, value in found.items()}})
            print(
                f"{label:<34}{method:<36}{own.sum():>4}{found['mape']:>8.1%}{found['median_error']:>8.1%}"
                f"{found['worst']:>8.0%}{found['within_10']:>8.0%}{found['spearman']:>7.3f}{found['kendall']:>7.3f}"
            )
    append_rows("dsp_phones", out)
    weights, factors = weigh(np.column_stack([np.ones(count), busy]), measured, phones)
    named = dict(zip(("constant", *FEATURES), weights.round(4).tolist(), strict=True))
    print("weights, fitted on all of them:", named)
    print("factors:", {PHONES[str(names[phone])]: round(factor, 3) for phone, factor in factors.items()})
    detail = []
    for name in NETWORKS:
        own = [index for index, row in enumerate(rows) if row["network"] == name]
        if own:
            detail.append(
                {
                    **facts,
                    "network": name.split("|")[0],
                    "phones": len(own),
                    **{m: round(float(np.median(p[own] / measured[own] - 1)), 4) for m, p in methods.items()},
                }
            )
    append_rows("dsp_phones_networks", detail)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=("compile", "score"))
    parser.add_argument("--work", type=Path, required=True, help="folder of int8 files, features and the wheel")
    parser.add_argument("--only", nargs="*", default=[], help="parts of names of networks")
    parser.add_argument("--phones", type=int, default=len(PHONES), help="compile for so many of them")
    given = parser.parse_args()
    if given.step == "compile":
        compile_all(given.work, given.only, given.phones)
    else:
        score(given.work)


if __name__ == "__main__":
    main()
