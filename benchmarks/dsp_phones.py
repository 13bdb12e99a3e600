"""Claim: the schedule model of `dsp-qnn` ranks networks on phones as they were measured, and can be corrected.

Qualcomm publishes latencies of int8 networks on its chips (package ``qai-hub-models``, BSD-3, read from its wheel;
nothing of it is kept here). The networks that can be rebuilt (`phone_networks.py`) are compiled for each chip, and
their latencies compared: the schedule model with one factor a phone; a line on multiply-accumulates and weight bytes
fitted on the same phone; and a ridge regression that corrects the schedule model by features of the program, fitted
without the network (or without the phone) that it predicts. The factor and the line are also fitted without it.

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
from scipy.stats import kendalltau, spearmanr

from hwnas.profilers import qnn_schedule, qnn_schematic
from hwnas.profilers.qnn_compile import qnn_job
from hwnas.profilers.qnn_schedule import RATES, schedule
from hwnas.profilers.qnn_schematic import read_schematic
from hwnas.quantize import quantize_for_timing
from hwnas.spaces.errors import ModelError
from hwnas.spaces.files import atomic_write
from hwnas.spaces.onnx_reader import read_onnx

#: Published phone to its chip: the five of the first comparison, then more.
PHONES = {
    "Samsung Galaxy S22 5G": 36,
    "QCS8550 (Proxy)": 43,
    "Samsung Galaxy S24": 57,
    "Samsung Galaxy S25": 69,
    "Samsung Galaxy S26": 87,
    "Snapdragon X Elite CRD": 60,
    "Dragonwing RB3 Gen 2 Vision Kit": 93,
    "SA8295P ADP": 39,
    "Snapdragon 7 Gen 4 QRD": 86,
    "Snapdragon X2 Elite CRD": 88,
    "Dragonwing IQ-9075 EVK": 77,
}
RUNTIME, PRECISION = "onnx", "w8a8"
#: what a correction sees, each as a logarithm
FEATURES = ("total_us", "dma", "hmx", "hvx", "ddr_bytes", "hmx_bytes", "hvx_bytes", "hmx_macs", "n_hmx", "n_hvx")
STRENGTHS = (0.01, 0.1, 1.0, 10.0)


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


def ridge(x: np.ndarray, y: np.ndarray, phones: np.ndarray, strength: float) -> tuple[np.ndarray, dict[int, float]]:
    """Weights of standardised features, and a free level for each phone."""
    levels = {phone: float(y[phones == phone].mean()) for phone in np.unique(phones)}
    centre = {phone: x[phones == phone].mean(0) for phone in levels}
    xs = x - np.array([centre[phone] for phone in phones])
    ys = y - np.array([levels[phone] for phone in phones])
    weights = np.linalg.solve(xs.T @ xs + strength * len(y) / 10 * np.eye(x.shape[1]), xs.T @ ys)
    return weights, {phone: levels[phone] - float(centre[phone] @ weights) for phone in levels}


def corrected(x: np.ndarray, y: np.ndarray, networks: np.ndarray, phones: np.ndarray) -> Any:
    """Logarithm of measured over modelled, learned; the strength by leaving networks out within them."""

    def fit(train: np.ndarray) -> Callable[[int], float]:
        def loss(strength: float) -> float:
            total = 0.0
            for network in np.unique(networks[train]):
                inner, held = train[networks[train] != network], train[networks[train] == network]
                weights, levels = ridge(x[inner], y[inner], phones[inner], strength)
                at = np.array([levels.get(phones[i], np.mean(list(levels.values()))) for i in held])
                total += float(np.sum((x[held] @ weights + at - y[held]) ** 2))
            return total

        best = min(STRENGTHS, key=loss)
        weights, levels = ridge(x[train], y[train], phones[train], best)
        mean = float(np.mean(list(levels.values())))
        return lambda index: float(x[index] @ weights + levels.get(phones[index], mean))

    return fit


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
    x = np.log(np.array([[row[name] + 1.0 for name in FEATURES] for row in rows]))
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

    learned = corrected(x, ratio, networks, phones)
    count = len(rows)
    methods = {
        "schedule, a factor a phone": left_out(factor, count, networks),
        "line on MACs and weight bytes": left_out(line, count, networks),
        "schedule and ridge": modelled * np.exp(left_out(learned, count, networks)),
        "schedule and ridge, phone unseen": modelled * np.exp(left_out(learned, count, phones)),
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
