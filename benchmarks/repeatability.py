"""Claim: two independent profilings of the same blocks agree.

Profiles a space into the tables ``a`` and ``b``, which take turns of half a minute (interleaved), or,
with ``--later``, into the table ``c``, to be run an hour after the others; then compares the medians
of the same blocks. Appends to ``benchmarks/results/repeatability.csv``.

    python benchmarks/repeatability.py --tables DIR             # a and b, interleaved
    python benchmarks/repeatability.py --tables DIR --later     # an hour later: c, against a and b
"""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path

import numpy as np
from record import append_rows

from hwnas.latency_tables import LatencyTable
from hwnas.profilers import Protocol, get_profiler, profile_space
from hwnas.spaces import get_space


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, required=True)
    parser.add_argument("--space", default="mobilenet")
    parser.add_argument("--device", default="cpu-onnxruntime")
    parser.add_argument("--turn", type=float, default=30.0, help="seconds of a turn")
    parser.add_argument("--contexts", nargs="+", default=["isolated", "network"])
    parser.add_argument("--later", action="store_true")
    arguments = parser.parse_args()
    space = get_space(arguments.space)
    protocol = Protocol()
    profiler = get_profiler(arguments.device)
    record = profiler.device_record(protocol)
    tables = {name: LatencyTable.create(arguments.tables / name / profiler.key, record) for name in "abc"}
    turns = ["c"] if arguments.later else ["a", "b"]
    complete = dict.fromkeys(turns, False)
    while not all(complete.values()):
        for name in turns:
            if not complete[name]:
                # a fresh profiler each turn: nothing measured for one table leaks into the other
                summary = profile_space(
                    space, get_profiler(arguments.device), tables[name], contexts=arguments.contexts, protocol=protocol,
                    budget_s=None if arguments.later else arguments.turn,
                )  # fmt: skip
                complete[name] = summary.complete
    rows = []
    pairs = [("a", "c"), ("b", "c")] if arguments.later else [("a", "b")]
    for first, second in pairs:
        for context in arguments.contexts:
            signatures = [block.signature for block in space.catalog]
            ratio = tables[second].vector(signatures, context) / tables[first].vector(signatures, context)
            error = np.abs(ratio - 1)
            gap = _minutes(tables[first], tables[second], signatures, context)
            rows.append(
                {
                    "date": datetime.date.today().isoformat(),
                    "hardware": record.name,
                    "runtime": f"{record.runtime} {record.runtime_version}",
                    "space": space.spec,
                    "rows": context,
                    "minutes_between": round(gap, 1),
                    "blocks": len(ratio),
                    "within_3_percent": round(100 * float((error <= 0.03).mean()), 1),
                    "within_5_percent": round(100 * float((error <= 0.05).mean()), 1),
                    "median_ratio": round(float(np.median(ratio)), 4),
                    "median_error_percent": round(100 * float(np.median(error)), 2),
                    "worst_error_percent": round(100 * float(error.max()), 2),
                    "within_3_percent_after_common_factor": round(
                        100 * float((np.abs(ratio / np.median(ratio) - 1) <= 0.03).mean()), 1
                    ),
                }
            )
            print(rows[-1])
    append_rows("repeatability", rows)


def _minutes(first: LatencyTable, second: LatencyTable, signatures: list[str], context: str) -> float:
    def middle(table: LatencyTable) -> float:
        times = [datetime.datetime.fromisoformat(table.rows[s, context].measured_at) for s in signatures]
        return float(np.mean([moment.timestamp() for moment in times]))

    return (middle(second) - middle(first)) / 60


if __name__ == "__main__":
    main()
