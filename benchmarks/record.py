"""Where benchmarks keep their results: one CSV a claim, one line a result, lines only ever added.

What takes long is divided into tasks. Those that are done lie in a file of JSON lines under ``build/benchmarks``, so
that a benchmark that was stopped goes on where it was; delete the file to begin anew.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"
DONE = Path(__file__).parents[1] / "build" / "benchmarks"


def append_rows(name: str, rows: Sequence[Mapping[str, object]]) -> None:
    """Append `rows` to ``results/<name>.csv``; a new file begins with their keys."""
    file = RESULTS / f"{name}.csv"
    fresh = not file.exists()
    with open(file, "a", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0], lineterminator="\n")
        if fresh:
            writer.writeheader()
        writer.writerows(rows)


def finish(name: str, task: Callable[..., Any], calls: Sequence[Sequence[Any]], jobs: int = 1) -> list[Any]:
    """Results of ``task(*call)`` for every call, in their order; those that `name` has already are not run again.

    Parameters
    ----------
    name
        Of the file that remembers.
    task
        A function of a module; what it takes and returns must survive JSON.
    calls
        Its arguments, all of them, as settings that change a result must be among them.
    jobs
        Processes at work.
    """
    file = DONE / f"{name}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    done: dict[str, Any] = {}
    if file.exists():
        for line in file.read_text().splitlines():
            entry = json.loads(line)
            done[json.dumps(entry["call"])] = entry["result"]
    left = [call for call in calls if json.dumps(call) not in done]
    if left:
        print(f"{name}: {len(calls) - len(left)} of {len(calls)} tasks are done already", flush=True)
    with ProcessPoolExecutor(jobs) as pool, open(file, "a") as stream:
        futures = {pool.submit(task, *call): call for call in left}
        for future in as_completed(futures):
            call, result = futures[future], future.result()
            done[json.dumps(call)] = result
            stream.write(json.dumps({"call": call, "result": result}) + "\n")
            stream.flush()
    return [done[json.dumps(call)] for call in calls]


def median_interval(values: np.ndarray) -> tuple[float, float, float]:
    """Lower median, and its bootstrapped 95 % interval; infinite values are the largest."""
    drawn = np.sort(np.random.default_rng(0).choice(values, (2000, len(values))), axis=1)[:, (len(values) - 1) // 2]
    low, high = np.sort(drawn)[[50, 1949]]
    return float(np.sort(values)[(len(values) - 1) // 2]), float(low), float(high)
