"""Claim: the schedule model of `dsp-qnn` ranks networks of NAS-Bench-201 as a Hexagon processor was measured to.

The only published measurements of this space on one are LatBench's, of a Snapdragon 675 (Hexagon 685, v65: no matrix
unit, and older than what Qualcomm's compiler makes programs for). Networks are compiled for the oldest chip that it
does (Snapdragon 888, v68) and ranked by the model; beside it multiply-accumulates, parameters, and a line on both that
is fitted on the measurements themselves, each network left out. Computations that are the same count once. Networks
that are the same computation agree in rank with each other to 0.84 in this column: more cannot be asked for.

    HWNAS_DATA=DIR python benchmarks/dsp_nasbench201.py --work DIR --count 60      # goes on where it was stopped
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
from importlib.metadata import version
from pathlib import Path

import numpy as np
from record import append_rows
from scipy.stats import kendalltau, spearmanr

from hwnas.profilers import get_profiler
from hwnas.profilers.dsp_qnn import DspQnn
from hwnas.quantize import quantize_for_timing
from hwnas.spaces import get_space

DATA = Path(os.environ.get("HWNAS_DATA", Path(__file__).parents[2] / "shared" / "data"))
COLUMN = "latbench.mobile-dsp-snapdragon-675-hexagon-685-int8"
DRAWS = 2000


def published() -> tuple[np.ndarray, np.ndarray]:
    """Architectures, shape ``(n, 6)``, and milliseconds: one of each computation, in a random order."""
    import pyarrow.parquet

    edges = ["op_0to1", "op_0to2", "op_1to2", "op_0to3", "op_1to3", "op_2to3"]
    folder = DATA / "nb201"
    times = pyarrow.parquet.read_table(folder / "latency.parquet", columns=["arch_idx", COLUMN]).to_pydict()
    table = pyarrow.parquet.read_table(
        folder / "accuracy.parquet", columns=["arch_idx", *edges, "comp_id", "connected"]
    ).to_pydict()
    by_index = dict(zip(times["arch_idx"], times[COLUMN], strict=True))
    ms = np.array([by_index.get(index, np.nan) for index in table["arch_idx"]], dtype=float)
    chosen = np.flatnonzero(np.array(table["connected"], dtype=bool) & np.isfinite(ms))
    order = np.random.default_rng(0).permutation(chosen)
    _, first = np.unique(np.array(table["comp_id"])[order], return_index=True)
    order = order[np.sort(first)]
    return np.column_stack([np.array(table[edge])[order] for edge in edges]), ms[order]


def modelled(architectures: np.ndarray, device: str, log: Path) -> list[dict[str, float]]:
    """Modelled microseconds, multiply-accumulates and parameters of each, from the log where they are."""
    space, profiler = get_space("nasbench201"), get_profiler(device)
    assert isinstance(profiler, DspQnn)
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    known = {tuple(row["architecture"]): row for row in map(json.loads, lines)}
    found = []
    for index, choices in enumerate(map(tuple, architectures.tolist())):
        if choices not in known:
            graph = space.lower(choices)
            model = quantize_for_timing(graph.to_onnx(), samples=1)
            found_us = profiler.schedule(model)
            row = {"us": found_us.total_us, **found_us.critical, **found_us.busy_us}
            row |= {"macs": graph.macs, "params": graph.params}
            with open(log, "a", encoding="utf-8") as stream:
                stream.write(json.dumps({"architecture": list(choices), **row}) + "\n")
            known[choices] = row
            print(f"{index + 1}: {row['us']:.1f} us", flush=True)
        found.append(known[choices])
    return found


def left_out_line(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Least squares on the columns of `x` and a constant; each value by a fit without it."""
    basis = np.column_stack([np.ones(len(y)), x / x.mean(0)])
    hat = basis @ np.linalg.pinv(basis)
    return y - (y - hat @ y) / (1 - np.diag(hat))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps what was compiled")
    parser.add_argument("--count", type=int, default=60, help="networks")
    parser.add_argument("--device", default="dsp-qnn:30")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    architectures, ms = published()
    architectures, ms = architectures[: given.count], ms[: given.count]
    found = modelled(architectures, given.device, given.work / f"nasbench201-{given.device.replace(':', '.')}.jsonl")
    macs, params = (np.array([row[name] for row in found], dtype=float) for name in ("macs", "params"))
    by = {
        "schedule": np.array([row["us"] for row in found]),
        "multiply-accumulates": macs,
        "parameters": params,
        "line on both, fitted here": left_out_line(np.column_stack([macs, params]), ms),
    }
    draws = np.random.default_rng(0).integers(0, len(ms), (DRAWS, len(ms)))
    out = []
    for method, values in by.items():
        rho = [spearmanr(values[draw], ms[draw]).statistic for draw in draws]
        low, high = np.percentile(rho, [5, 95])
        out.append(
            {
                "date": datetime.date.today().isoformat(),
                "device": given.device,
                "compiler": f"onnxruntime-qnn {version('onnxruntime-qnn')}",
                "column": COLUMN,
                "networks": len(ms),
                "method": method,
                "spearman": round(float(spearmanr(values, ms).statistic), 4),
                "low_90": round(float(low), 4),
                "high_90": round(float(high), 4),
                "kendall": round(float(kendalltau(values, ms).statistic), 4),
            }
        )
        last = out[-1]
        print(f"{method:<28} ρ {last['spearman']:.3f} ({low:.3f} to {high:.3f})  τ {last['kendall']:.3f}")
    append_rows("dsp_nasbench201", out)


if __name__ == "__main__":
    main()
