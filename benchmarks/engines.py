"""Claim: two workers halve the time of a search from scratch, whether this machine's or Ray's.

Trains the same candidates on digits with the local engine and with Ray, with 1 and 2 workers of one thread, in turns
within a run and in an order that rotates; the workers are started, and have trained one candidate each, before the
clock starts. ``ratio`` is the time with 1 local worker of the same repeat over the row's; the median and a bootstrap
interval of 95 % are given. ``task_ms`` is the overhead of a task: the same architecture is submitted again and again,
one after the other, to a worker that remembers its evaluation, so nothing is computed; the median. Appends to
``benchmarks/results/engines.csv``.

Timings: nothing else may run on the machine.

    python benchmarks/engines.py --repeats 7
"""

from __future__ import annotations

import argparse
import datetime
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from record import append_rows

from hwnas.engine import Engine, LocalEngine
from hwnas.plan import Plan, SearchSettings
from hwnas.ray_engine import RayCluster
from hwnas.run import Run
from hwnas.spaces.space import Architecture

CASES = (("local", 1), ("local", 2), ("ray", 1), ("ray", 2))


@contextmanager
def opened(engine: str, jobs: int, settings: SearchSettings, cluster: RayCluster) -> Iterator[Engine]:
    """An engine with a run folder of its own."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "run"
        stack.enter_context(Run.create(folder, settings.to_json()))
        if engine == "local":
            yield stack.enter_context(LocalEngine(folder, jobs, 1))
        else:
            yield stack.enter_context(cluster.engine(folder, settings))


def evaluated(engine: Engine, architectures: list[Architecture]) -> float:
    """Seconds until all are evaluated; each is submitted as soon as there is room."""
    start = time.perf_counter()
    waiting = list(architectures)
    while waiting or engine.busy:
        while waiting and engine.room:
            engine.submit(waiting.pop(0))
        if any(evaluation.failed for evaluation in engine.wait()):
            raise SystemExit("a candidate failed; nothing is recorded")
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--candidates", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--trivial", type=int, default=300, help="tasks that compute nothing")
    parser.add_argument("--no-record", action="store_true", help="print only")
    arguments = parser.parse_args()
    common = {"space": "epnas(width=0.25,depth=0.5)", "data": "digits", "constraints": ("params <= 200k",)}
    common |= {"strategy": "random", "evaluator": "scratch", "epochs": arguments.epochs, "threads": 1}
    plan = Plan(SearchSettings(**common))
    drawn = plan.strategy.ask(arguments.candidates + 2)
    warm, timed = drawn[:2], drawn[2:]
    seconds: dict[tuple[str, int], list[float]] = {case: [] for case in CASES}
    trivial: dict[tuple[str, int], list[float]] = {case: [] for case in CASES}
    with RayCluster() as cluster:
        for repeat in range(arguments.repeats):
            for place in range(len(CASES)):
                engine, jobs = case = CASES[(place + repeat) % len(CASES)]
                settings = SearchSettings(**common, engine=engine, jobs=jobs)
                with opened(engine, jobs, settings, cluster) as found:
                    evaluated(found, warm[:jobs])
                    seconds[case].append(evaluated(found, timed))
                    if jobs == 1:  # with two, the other worker would have to train it first
                        each = [1e3 * evaluated(found, timed[-1:]) for _ in range(arguments.trivial)]
                        trivial[case].append(float(np.median(each)))
                print(f"repeat {repeat + 1}: {engine} with {jobs}: {seconds[case][-1]:.2f} s", flush=True)
    rng = np.random.default_rng(0)
    rows = []
    for engine, jobs in CASES:
        case = (engine, jobs)
        ratios = np.array(seconds["local", 1]) / np.array(seconds[case])
        drawn_medians = np.median(rng.choice(ratios, (2000, len(ratios))), axis=1)
        low, high = np.quantile(drawn_medians, (0.025, 0.975))
        rows.append(
            {
                "date": datetime.date.today().isoformat(),
                "engine": engine,
                "workers": jobs,
                "repeats": arguments.repeats,
                "candidates": arguments.candidates,
                "seconds_median": round(float(np.median(seconds[case])), 3),
                "ratio": round(float(np.median(ratios)), 3),
                "ratio_low95": round(float(low), 3),
                "ratio_high95": round(float(high), 3),
                "task_ms": round(float(np.median(trivial[case])), 3) if trivial[case] else "",
                "method": "measured",
            }
        )
        print(rows[-1])
    if not arguments.no_record:
        append_rows("engines", rows)


if __name__ == "__main__":
    main()
