"""Claim: the schedule model of `dsp-qnn` ranks networks of NAS-Bench-201 as a Hexagon processor was measured to.

The only published measurements of this space on one are LatBench's, of a Snapdragon 675 (Hexagon 685, v65: no matrix
unit, and older than what Qualcomm's compiler makes programs for). Networks are compiled for the oldest chip that it
does (Snapdragon 888, v68) and ranked by the model; beside it multiply-accumulates, parameters, and a line on both that
is fitted on the measurements themselves, each network left out. Computations that are the same count once. Networks
that are the same computation agree in rank with each other to 0.84 in this column: more cannot be asked for.

Second, as features: latencies of 20 random networks are given, and the rest predicted by ridge regression on how often
each operator is on a live edge, on what the model says of the program, or on both (as in ``hexagon_ranking.py``).

    HWNAS_DATA=DIR python benchmarks/dsp_nasbench201.py compile --work DIR    # half an hour; goes on
    HWNAS_DATA=DIR python benchmarks/dsp_nasbench201.py score --work DIR
"""

from __future__ import annotations

import argparse
import datetime
import os
import time
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path

import numpy as np
from dsp_phones import keep_program, read_program
from hexagon_ranking import few_shot
from record import append_rows
from scipy.stats import kendalltau, spearmanr

from hwnas.profilers.qnn_chips import CHIPS
from hwnas.profilers.qnn_schedule import Schedule, schedule
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


def program_file(work: Path, choices: list[int], chip: int) -> Path:
    return work / f"nasbench201-{''.join(map(str, choices))}.{chip}.gz"


def compile_one(work: Path, choices: list[int], chip: int) -> float:
    """Keep the program of a network in the work folder; seconds that it took."""
    start = time.perf_counter()
    model = quantize_for_timing(get_space("nasbench201").lower(tuple(choices)).to_onnx(), samples=1)
    keep_program(program_file(work, choices, chip), model.SerializeToString(), chip)
    return time.perf_counter() - start


def compile_all(work: Path, architectures: np.ndarray, chip: int, jobs: int) -> None:
    wanted = [row for row in architectures.tolist() if not program_file(work, row, chip).exists()]
    with ProcessPoolExecutor(jobs) as pool:
        tasks = [pool.submit(compile_one, work, row, chip) for row in wanted]
        for number, task in enumerate(tasks, start=1):
            print(f"{number} of {len(wanted)}: {task.result():.1f} s", flush=True)


def left_out_line(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Least squares on the columns of `x` and a constant; each value by a fit without it."""
    basis = np.column_stack([np.ones(len(y)), x / x.mean(0)])
    hat = basis @ np.linalg.pinv(basis)
    return y - (y - hat @ y) / (1 - np.diag(hat))


def score(work: Path, architectures: np.ndarray, ms: np.ndarray, chip: int) -> None:
    """Print and record rank correlations of the networks that were compiled."""
    space = get_space("nasbench201")
    have = [index for index, row in enumerate(architectures.tolist()) if program_file(work, row, chip).exists()]
    architectures, ms = architectures[have], ms[have]
    runs: list[Schedule] = [
        schedule(read_program(program_file(work, row, chip)), CHIPS[chip].rates) for row in architectures.tolist()
    ]
    graphs = [space.lower(tuple(row)) for row in architectures.tolist()]
    macs, params = (np.array([getattr(graph, name) for graph in graphs], float) for name in ("macs", "params"))
    total = np.array([run.total_us for run in runs])
    by = {
        "schedule": total,
        "multiply-accumulates": macs,
        "parameters": params,
        "line on both, fitted here": left_out_line(np.column_stack([macs, params]), ms),
    }
    facts = {
        "date": datetime.date.today().isoformat(),
        "device": f"dsp-qnn:{chip}",
        "compiler": f"onnxruntime-qnn {version('onnxruntime-qnn')}",
        "column": COLUMN,
    }
    draws = np.random.default_rng(0).integers(0, len(ms), (DRAWS, len(ms)))
    out = []
    for method, values in by.items():
        rho = [spearmanr(values[draw], ms[draw]).statistic for draw in draws]
        low, high = np.percentile(rho, [5, 95])
        out.append(
            {
                **facts,
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
    live = space.live(architectures)
    counts = np.stack([((architectures == op) & live).sum(axis=1) for op in range(1, 5)], axis=1)
    program = np.column_stack(
        [total, *(np.array([run.busy_us[unit] for run in runs]) for unit in ("dma", "hmx", "hvx"))]
    )
    features = {"operators": counts, "program": program, "operators and program": np.column_stack([counts, program])}
    append_rows("dsp_nasbench201_few_shot", [{**facts, **row} for row in few_shot(features, ms)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("compile", "score"))
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps what was compiled")
    parser.add_argument("--count", type=int, default=300, help="networks")
    parser.add_argument("--chip", type=int, default=30, help="Qualcomm's id of it")
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    architectures, ms = (array[: given.count] for array in published())
    if given.step == "compile":
        compile_all(given.work, architectures, given.chip, given.jobs)
    else:
        score(given.work, architectures, ms, given.chip)


if __name__ == "__main__":
    main()
