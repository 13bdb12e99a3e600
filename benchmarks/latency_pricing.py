"""Claim: a table of blocks, corrected on whole networks, predicts whole networks that the fit never saw.

For each space, one profiling run measures every block alone and inside whole networks, and random
whole networks end to end. Some of these, drawn at random, fit the correction, the others judge it; the
same with the earlier ones fitting and the later ones judging shows what drift adds. What `hwnas` does
by default is also averaged over 20 random splits. The kind of rows that takes longer to measure is also judged
"at equal time": with as many networks fewer in its correction as the difference would have measured. Some
of the judges are then measured once more, which is the floor: how well the machine predicts itself. Results
are appended to ``benchmarks/results/latency_pricing.csv``; the table stays, and can be shipped.

    python benchmarks/latency_pricing.py --spaces mobilenet shufflenet nasbench201 --tables TABLES
    python benchmarks/latency_pricing.py --device cpu-openvino.int8 --tables TABLES
"""

from __future__ import annotations

import argparse
import datetime
import time
from functools import partial
from pathlib import Path

import numpy as np
from onnx import ModelProto
from record import append_rows

from hwnas.latency_tables import LatencyTable, NetworkRow
from hwnas.pricing import LatencyModel
from hwnas.profilers import Profiler, Protocol, get_profiler, profile_space
from hwnas.profilers.campaign import network_model
from hwnas.quantize import preparation
from hwnas.spaces import Architecture, SearchSpace, get_space

#: A longer gap in the record is a run that was stopped, not a measurement.
PAUSE_S = 60.0


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks of distinct values."""
    return np.argsort(np.argsort(values)).astype(float)


def scores(predicted: np.ndarray, measured: np.ndarray) -> dict[str, float]:
    """MAPE, shares within 5 and 10 %, Spearman's correlation, and the mean bias."""
    error = predicted / measured - 1
    return {
        "mape_percent": 100 * float(np.abs(error).mean()),
        "within_5_percent": 100 * float((np.abs(error) <= 0.05).mean()),
        "within_10_percent": 100 * float((np.abs(error) <= 0.10).mean()),
        "spearman": float(np.corrcoef(ranks(predicted), ranks(measured))[0, 1]),
        "bias_percent": 100 * float(error.mean()),
    }


def contexts_of(profiler: Profiler) -> tuple[str, ...]:
    """The kinds of rows that a device can give."""
    counts = type(profiler).kernel_shares is not Profiler.kernel_shares
    return ("isolated", "network") if counts else ("isolated",)


def spent(table: LatencyTable, space: SearchSpace) -> dict[str, float]:
    """Seconds that each kind of row and the random networks took, from the record; so a killed run may go on."""
    blocks = {f"{block.signature} isolated" for block in space.catalog}
    observed = {f"{space.spec} {e['architecture']}" for e in table.records("shares") if e["space"] == space.spec}
    # estimators leave no passes in the record: their rows count as made at no cost
    found = {"networks": 0.0, **dict.fromkeys((context for _, context in table.rows), 0.0)}
    before: datetime.datetime | None = None
    for entry in table.records():
        at = datetime.datetime.fromisoformat(entry["at"])
        name = str(entry.get("model"))
        if name in blocks:
            kind = "isolated"
        elif entry["kind"] == "shares" or name in observed:
            kind = "network"
        else:
            kind = "networks"
        gap = 0.0 if before is None else (at - before).total_seconds()
        if gap < PAUSE_S and (kind != "networks" or name.startswith(space.spec)):
            found[kind] = found.get(kind, 0.0) + gap
        before = at
    return found


def evaluate(
    name: str, device: str, root: Path, networks: int, fitted: int, floor: int, cover: int, protocol: Protocol
) -> list[dict[str, object]]:
    """Profile one space and judge every way of pricing it."""
    space = get_space(name)
    profiler = get_profiler(device)
    table = LatencyTable.create(root / profiler.key, profiler.device_record(protocol))
    prepare = preparation(profiler.file_precision)
    start = time.monotonic()
    for context in contexts_of(profiler):
        profile_space(space, profiler, table, contexts=(context,), cover=cover, protocol=protocol, prepare=prepare)
    profile_space(space, profiler, table, contexts=("isolated",), networks=networks, protocol=protocol, prepare=prepare)
    rows = [row for row in table.networks if row.space == space.spec]
    seconds = spent(table, space)
    seconds["one network"] = seconds.pop("networks") / len(rows)
    found: list[dict[str, object]] = []
    mixed = [rows[index] for index in np.random.default_rng(0).permutation(len(rows))]
    for split, order in (("random", mixed), ("later networks judge earlier ones", rows)):
        found += judge_prices(space, table, order[:fitted], order[fitted:], split, seconds)
    found.append(average_over_splits(space, table, rows, fitted))
    judge = mixed[fitted:][:floor]
    if not judge:
        return found

    def source(architecture: Architecture) -> ModelProto:
        model = network_model(space, architecture)
        return model if prepare is None else prepare(model)

    sources = {row.architecture: partial(source, row.architecture) for row in judge}
    second = dict(profiler.measure_many(sources, protocol.for_networks()))
    repeated = np.array([second[row.architecture].median_ms for row in judge])
    found.append(result_row(space, table, "measured again (the floor)", "random", repeated, judge, 0, 0.0))
    print(f"{profiler.key} {name}: {time.monotonic() - start:.0f} s")
    return found


def result_row(
    space: SearchSpace,
    table: LatencyTable,
    pricing: str,
    split: str,
    predicted: np.ndarray,
    judge: list[NetworkRow],
    fitted: int,
    took: float,
    coverage: float | None = None,
) -> dict[str, object]:
    """One line of the results."""
    measured = np.array([row.median_ms for row in judge])
    precision = "" if table.device.precision == "float32" else f" {table.device.precision}"
    return {
        "date": datetime.date.today().isoformat(),
        "hardware": table.device.name,
        "runtime": f"{table.device.runtime} {table.device.runtime_version}{precision}",
        "space": space.spec,
        "pricing": pricing,
        "split": split,
        "fitted_on": fitted,
        "judged_on": len(judge),
        "block_seconds": round(took, 1),
        **{key: round(value, 3) for key, value in scores(predicted, measured).items()},
        "interval_coverage_percent": "" if coverage is None else round(100 * coverage, 1),
    }


def average_over_splits(
    space: SearchSpace, table: LatencyTable, rows: list[NetworkRow], fitted: int, splits: int = 20
) -> dict[str, object]:
    """The default way of pricing, fitted and judged on `splits` random divisions of the networks; means over them."""
    lines = []
    for seed in range(splits):
        order = [rows[index] for index in np.random.default_rng(seed).permutation(len(rows)).tolist()]
        judge = order[fitted:]
        model = LatencyModel.from_table(space, table, networks=order[:fitted])
        architectures = np.array([row.architecture for row in judge])
        measured = np.array([row.median_ms for row in judge])
        low, high = model.interval(architectures, 0.9)
        covered = float(((low <= measured) & (measured <= high)).mean())
        split = f"mean of {splits} random ones"
        lines.append(
            result_row(space, table, "default", split, model.predict(architectures), judge, fitted, 0.0, covered)
        )
    numbers = ("mape_percent", "within_5_percent", "within_10_percent", "spearman", "bias_percent")
    means = {key: round(float(np.mean([line[key] for line in lines])), 3) for key in numbers}  # type: ignore[arg-type]
    coverage = round(float(np.mean([line["interval_coverage_percent"] for line in lines])), 1)  # type: ignore[arg-type]
    return {**lines[0], **means, "interval_coverage_percent": coverage}


def judge_prices(
    space: SearchSpace,
    table: LatencyTable,
    fit: list[NetworkRow],
    judge: list[NetworkRow],
    split: str,
    seconds: dict[str, float],
) -> list[dict[str, object]]:
    """Every way of pricing, fitted on `fit` and judged by `judge`."""
    architectures = np.array([row.architecture for row in judge])
    measured = np.array([row.median_ms for row in judge])
    found = []

    def add(what: str, predicted: np.ndarray, took: float, coverage: float | None = None) -> None:
        found.append(result_row(space, table, what, split, predicted, judge, len(fit), took, coverage))

    kinds = [kind for kind in ("isolated", "network") if kind in seconds]
    for context in kinds:
        plain = LatencyModel.from_table(space, table, context, networks=[])
        add(f"{context}: sum", space.price(architectures, plain.block_ms), seconds[context])
        for refine in (False, True):
            model = LatencyModel.from_table(space, table, context, networks=fit, refine=refine)
            low, high = model.interval(architectures, 0.9)
            coverage = float(((low <= measured) & (measured <= high)).mean())
            kind = "line and rows refined" if refine else "line"
            add(f"{context}: {kind}", model.predict(architectures), seconds[context], coverage)
    if len(kinds) == 2 and seconds["one network"] > 0:
        slower, faster = sorted(kinds, key=lambda kind: -seconds[kind])
        fewer = len(fit) - round((seconds[slower] - seconds[faster]) / seconds["one network"])
        model = LatencyModel.from_table(space, table, slower, networks=fit[: max(0, fewer)])
        what = f"{slower}: line and rows refined, at the time of {faster}"
        row = result_row(space, table, what, split, model.predict(architectures), judge, max(0, fewer), seconds[faster])
        found.append(row)
    macs = np.array([space.lower(a).macs for a in architectures], dtype=float)
    fit_macs = np.array([space.lower(row.architecture).macs for row in fit], dtype=float)
    line = np.polyfit(fit_macs, [row.median_ms for row in fit], 1)
    add("MACs: line", np.polyval(line, macs), 0.0)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spaces", nargs="+", default=["mobilenet", "shufflenet", "nasbench201"])
    parser.add_argument("--device", default="cpu-onnxruntime")
    parser.add_argument("--networks", type=int, default=120, help="whole networks in all")
    parser.add_argument("--fit", type=int, default=60, help="of these, how many fit the correction")
    parser.add_argument("--floor", type=int, default=60, help="how many of the others are measured once more")
    parser.add_argument("--cover", type=int, default=5, help="whole networks that show each block, for network rows")
    parser.add_argument("--max-passes", type=int, default=9, help="of one model, see the measuring protocol")
    parser.add_argument("--tables", type=Path, required=True, help="folder of the table that is made")
    arguments = parser.parse_args()
    rows: list[dict[str, object]] = []
    for space in arguments.spaces:
        rows += evaluate(
            space,
            arguments.device,
            arguments.tables,
            arguments.networks,
            arguments.fit,
            arguments.floor,
            arguments.cover,
            Protocol(max_passes=arguments.max_passes, open_models=arguments.networks),
        )
    append_rows("latency_pricing", rows)
    for row in rows:
        print(
            f"{str(row['space']).split('(')[0]:12} {row['pricing']:34} {str(row['split'])[:6]} "
            f"MAPE {row['mape_percent']:6.2f} %  "
            f"±5 % {row['within_5_percent']:5.1f}  ±10 % {row['within_10_percent']:5.1f}  rho {row['spearman']:.3f}  "
            f"bias {row['bias_percent']:+.1f}  coverage {row['interval_coverage_percent']}  ({row['block_seconds']} s)"
        )


if __name__ == "__main__":
    main()
