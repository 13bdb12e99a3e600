"""Claim: tuning by MetaSchedule brings TVM's code from many times onnxruntime's latency to near it, within a budget.

The distinct kernels of one network (as hwnas counts them) are measured in interleaved passes in the same run by three
devices: TVM untuned, TVM with the schedules that were found within ``--budget``, and onnxruntime. Kernels that the
budget did not reach are reported as such and have no part in the ratios. Each seed tunes anew, in a folder of its own.

    python benchmarks/tvm_tuning.py --tables DIR --budget 2h                 # 64 trials take 3 to 5 minutes a kernel
    python benchmarks/tvm_tuning.py --tables DIR --space "mobilenet(resolution=8,width=0.25)" --trials 4 --kernels 2

Trials are kept in ``--tables``: repeating the command goes on with tuning where it was stopped.
"""

from __future__ import annotations

import argparse
import datetime
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from record import append_rows

import hwnas
from hwnas.cli.common import duration
from hwnas.latency_tables import host_facts
from hwnas.profilers import Measurement, Protocol, RuntimeProfiler, get_profiler
from hwnas.profilers.interleave import interleave
from hwnas.profilers.timing import Runner
from hwnas.spaces import ModelError, get_space
from hwnas.spaces.graph import Graph

DEVICES = ("cpu-tvm", "cpu-tvm.tuned", "cpu-onnxruntime")


def kernels(space: str, architecture: Sequence[int] | None, count: int | None) -> dict[str, Graph]:
    """The distinct kernels of one network by signature, the largest first; of a network at random if none is named."""
    chosen = get_space(space)
    wanted = tuple(architecture) if architecture else tuple(chosen.sample(1, np.random.default_rng(0))[0].tolist())
    found = {kernel.signature: kernel for kernel in chosen.lower(wanted).kernels if kernel.macs}
    return dict(sorted(found.items(), key=lambda item: -item[1].macs)[:count])


def tune(graphs: dict[str, Graph], folder: Path, trials: int, budget_s: float, seed: int) -> dict[str, int]:
    """Tune the kernels in turn until the time is up; trials of this run by kernel."""
    end, done = time.monotonic() + budget_s, {}
    for signature, graph in graphs.items():
        left = end - time.monotonic()
        if left <= 0:
            break
        file = folder / "kernel.onnx"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(graph.to_onnx().SerializeToString())
        found = hwnas.tune(model=file, trials=trials, budget_s=left, tables=str(folder), seed=seed)
        done[signature] = found.trials
        print(f"  {signature}: {found.trials} trials in {found.seconds:.0f} s", flush=True)
    return done


def measure(graphs: dict[str, Graph], folder: Path, protocol: Protocol) -> dict[tuple[str, str], Measurement]:
    """Every kernel on the three devices, all in turns; a kernel that is not tuned is left out of ``cpu-tvm.tuned``."""
    profilers: dict[str, RuntimeProfiler] = {}
    for key in DEVICES:
        profiler = get_profiler(key, tables=str(folder))
        assert isinstance(profiler, RuntimeProfiler)
        profilers[key] = profiler
    models = {}
    for signature, graph in graphs.items():
        data = graph.to_onnx().SerializeToString()
        for key, profiler in profilers.items():
            try:
                profiler.open(data)
            except ModelError as error:
                print(f"  left out: {signature} on {key}: {error}")
                continue

            def opener(profiler: RuntimeProfiler = profiler, data: bytes = data) -> Runner:
                return profiler.open(data)

            models[key, signature] = opener
    reference = profilers["cpu-onnxruntime"]

    def time_one(runner: Runner, level: float | None) -> object:
        return reference._time(runner, protocol, level)

    found = interleave(models, time_one, protocol, anchor=reference.anchor, cores=reference.cores(protocol))
    overhead = {key: profiler.overhead_ms(protocol) for key, profiler in profilers.items()}
    return {
        (key, signature): replace(result, median_ms=max(1e-6, result.median_ms - overhead[key]))
        for (key, signature), result in found
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", required=True, type=Path, help="folder for the tuning records")
    parser.add_argument("--space", default="mobilenet(resolution=224)")
    parser.add_argument("--architecture", type=int, nargs="+", help="choices of the network [default: one at random]")
    parser.add_argument("--kernels", type=int, help="only the so many largest kernels")
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--budget", default="2h", help="time for tuning of each seed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--quick", action="store_true", help="the shorter protocol")
    parser.add_argument("--dry-run", action="store_true", help="print, and keep nothing")
    arguments = parser.parse_args()
    graphs = kernels(arguments.space, arguments.architecture, arguments.kernels)
    protocol = Protocol.quick() if arguments.quick else Protocol()
    rows = []
    for seed in arguments.seeds:
        folder = arguments.tables / f"seed{seed}-{arguments.trials}"
        print(f"seed {seed}: {len(graphs)} kernels, {arguments.trials} trials each, within {arguments.budget}")
        start = time.monotonic()
        trials = tune(graphs, folder, arguments.trials, duration(arguments.budget, "--budget"), seed)
        spent = time.monotonic() - start
        found = measure(graphs, folder, protocol)
        print(f"{'kernel':60}  untuned    tuned  onnxruntime  untuned/tuned  tuned/onnxruntime")
        for signature in graphs:
            plain, tuned, theirs = (found.get((key, signature)) for key in DEVICES)
            if plain is None or tuned is None or theirs is None:
                continue
            rows.append({
                "date": datetime.date.today().isoformat(),
                "cpu": host_facts()["cpu"],
                "space": arguments.space,
                "kernel": signature,
                "seed": seed,
                "trials": arguments.trials,
                "trials_now": trials.get(signature, 0),
                "tuning_s": round(spent),
                "untuned_ms": f"{plain.median_ms:.5g}",
                "tuned_ms": f"{tuned.median_ms:.5g}",
                "onnxruntime_ms": f"{theirs.median_ms:.5g}",
            })  # fmt: skip
            print(
                f"{signature:60} {plain.median_ms:8.4f} {tuned.median_ms:8.4f} {theirs.median_ms:12.4f} "
                f"{plain.median_ms / tuned.median_ms:14.2f} {tuned.median_ms / theirs.median_ms:18.2f}"
            )
    if not rows:
        print("no kernel was tuned within the budget")
        return
    for name, above, below in (
        ("untuned/tuned", "untuned_ms", "tuned_ms"),
        ("tuned/onnxruntime", "tuned_ms", "onnxruntime_ms"),
    ):
        ratios = [float(row[above]) / float(row[below]) for row in rows]  # type: ignore[arg-type]
        mean = math.exp(statistics.fmean(map(math.log, ratios)))
        print(f"{name}: geometric mean {mean:.2f}, from {min(ratios):.2f} to {max(ratios):.2f}, {len(ratios)} kernels")
    if not arguments.dry_run:
        append_rows("tvm_tuning", rows)


if __name__ == "__main__":
    main()
