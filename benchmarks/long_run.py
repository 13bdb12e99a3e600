"""Claim: a run folder of 100,000 trials is resumed, reported and asked for its best in seconds, in bounded memory.

A run folder is made as a search leaves it: NAS-Bench-201 has too few architectures, so those of `mobilenet` are drawn,
and what stands for an accuracy is a made-up smooth function of the choices, which takes a reader of the folder as long
as a real one. Each of the three is then done in a process of its own, `--repeat` times. Wall and CPU seconds without
the imports (the two differ where the machine has other work) and the process's peak memory are appended to
``benchmarks/results/long_run.csv``; ``added_mib`` is what the peak grew by.

    python benchmarks/long_run.py                       # 1,000, 10,000 and 100,000 trials
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from record import append_rows

from hwnas.constraints import ConstraintSet
from hwnas.evaluators import Evaluation
from hwnas.run import Run
from hwnas.spaces import get_space
from hwnas.strategies import make_strategy

SPEC = "mobilenet(resolution=32,channels=3,classes=10)"
CONSTRAINTS = ["flops <= 115M", "params <= 3M"]

#: What is timed, each in a fresh process: code after the imports, which are not of the claim.
TASKS = {
    "open": "run = Run.open(path)\nrun.close()",
    "best": "run = Run.open(path, write=False)\nmax(run.iter_trials(), key=lambda trial: trial.score)",
    "resume": """
space = get_space(run.info["space"])
with Run.open(path) as run:
    strategy = make_strategy("evolution", space, ConstraintSet(run.settings["constraints"], space).sampler())
    trials, state = run.trials(), run.state
    strategy.load_state_dict(state["strategy"])
    strategy.tell(trials[state["told"]:])
    strategy.ask(8)
""",
    "save": "run.save_state({'told': 0, 'strategy': state['strategy']})",
    "report": "hwnas.report(path, output=path + '.html')",
}
PROCESS = """
import json, sys, time

def peak():
    # not getrusage: what that says of a process includes the one that started it
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024

path, name = sys.argv[1:3]
import hwnas, numpy, scipy.special
from hwnas.constraints import ConstraintSet
from hwnas.run import Run
from hwnas.spaces import get_space
from hwnas.strategies import make_strategy
from hwnas.report.page import plotly_source
plotly_source()
run = Run.open(path, write=False)
state = run.state if name == "save" else None
code = compile(TASK, name, "exec")
before = peak()
began, worked = time.perf_counter(), time.process_time()
exec(code)
seconds, worked = time.perf_counter() - began, time.process_time() - worked
after = peak()
print(json.dumps([seconds, worked, after, after - before]))
"""


def make_run(path: Path, count: int) -> None:
    """A run folder with `count` trials and the state of an evolution that made them."""
    space = get_space(SPEC)
    limits = ConstraintSet(CONSTRAINTS, space)
    sampler = limits.sampler()
    rng = np.random.default_rng(0)
    rows = np.unique(sampler.sample(count + count // 50 + 10, rng), axis=0)
    rows = rows[rng.permutation(len(rows))[:count]]
    worth = [rng.normal(size=int(radix)) for radix in space.radices]
    raw = sum(vector[rows[:, place]] for place, vector in enumerate(worth))
    scores = 1 / (1 + np.exp(-raw / 4)) + rng.normal(scale=0.01, size=len(rows))
    costs = limits.costs(rows)
    strategy = make_strategy("evolution", space, sampler)
    settings = {"space": SPEC, "data": "made-up", "constraints": CONSTRAINTS, "strategy": "evolution"}
    with Run.create(path, settings, space=space.spec) as run, open(run.path / "trials.jsonl", "w") as stream:
        for row, score, cost in zip(rows.tolist(), scores.tolist(), costs, strict=True):
            evaluation = Evaluation(tuple(row), score, cost)
            stream.write(json.dumps(evaluation.to_json(), separators=(",", ":")) + "\n")
            strategy.tell([evaluation])
        run.save_state({"told": len(rows), "strategy": strategy.state_dict()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="*", default=[1_000, 10_000, 100_000])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="keep the run folders here, and use those that are here already")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for count in arguments.trials:
            path = (arguments.folder or Path(folder)) / str(count)
            if not path.exists():
                make_run(path, count)
            for name, code in TASKS.items():
                found = []
                for _ in range(arguments.repeat):
                    command = [sys.executable, "-c", PROCESS.replace("TASK", repr(code)), str(path), name]
                    done = subprocess.run(command, capture_output=True, text=True, check=True)
                    found.append(json.loads(done.stdout))
                seconds = [each[0] for each in found]
                row = {
                    "date": datetime.date.today().isoformat(),
                    "trials": count,
                    "task": name,
                    "seconds": round(statistics.median(seconds), 3),
                    "fastest": round(min(seconds), 3),
                    "slowest": round(max(seconds), 3),
                    "cpu_seconds": round(statistics.median(each[1] for each in found), 3),
                    "peak_mib": round(statistics.median(each[2] for each in found), 1),
                    "added_mib": round(statistics.median(each[3] for each in found), 1),
                    "bytes": (path / "trials.jsonl").stat().st_size,
                    "page_bytes": Path(f"{path}.html").stat().st_size if name == "report" else "",
                    "repeats": arguments.repeat,
                    "load": round(os.getloadavg()[0], 1),
                }
                rows.append(row)
                print(
                    f"{count:>7} {name:7} {row['seconds']:8.3f} s, {row['cpu_seconds']} of CPU, {row['peak_mib']} MiB"
                )
    append_rows("long_run", rows)


if __name__ == "__main__":
    main()
