"""How much CPU time does `hwnas` need before it does anything?

Claim: `import hwnas` and `hwnas --help` take far less than half a second of CPU. Each is run many
times in fresh interpreters, interleaved with two yardsticks of the same machine: an interpreter
that does nothing, and one that imports numpy. CPU time is user + system time of the child process,
so that a busy machine changes it little.

    python benchmarks/startup.py [--runs 40]
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import random
import subprocess
import sys
import sysconfig
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

HWNAS = Path(sysconfig.get_path("scripts")) / "hwnas"
CASES = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import numpy": [sys.executable, "-c", "import numpy"],
    "import hwnas": [sys.executable, "-c", "import hwnas"],
    "hwnas --help": [str(HWNAS), "--help"],
}


def cpu_seconds(command: list[str], folder: str) -> float:
    """User and system time of one child process."""
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=folder)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed: {child.stderr.read().decode() if child.stderr else ''}")
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Measure, print the table, and append it to the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=40, help="runs of each command (default 40)")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "startup.csv")
    arguments = parser.parse_args()

    times: dict[str, list[float]] = {name: [] for name in CASES}
    with tempfile.TemporaryDirectory() as folder:
        for command in CASES.values():  # once for the files' caches and the compiled modules
            cpu_seconds(command, folder)
        for _ in range(arguments.runs):
            for name in random.sample(list(CASES), len(CASES)):
                times[name].append(cpu_seconds(CASES[name], folder))

    floor, numpy_time = np.median(times["python -c pass"]), np.median(times["import numpy"])
    print(f"CPU seconds, {arguments.runs} runs each, Python {platform.python_version()}")
    print(f"{'command':<16}{'median':>9}{'p10':>9}{'p90':>9}{'x pass':>9}{'x numpy':>9}")
    rows = []
    for name, samples in times.items():
        low, median, high = np.quantile(samples, (0.1, 0.5, 0.9))
        print(f"{name:<16}{median:9.3f}{low:9.3f}{high:9.3f}{median / floor:9.2f}{median / numpy_time:9.2f}")
        rows.append((name, arguments.runs, *(f"{v:.4f}" for v in (median, low, high))))

    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    fresh = not arguments.results.exists()
    with open(arguments.results, "a", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        if fresh:
            writer.writerow(("measured_at", "python", "command", "runs", "median_s", "p10_s", "p90_s"))
        now = datetime.now(UTC).isoformat(timespec="seconds")
        writer.writerows((now, platform.python_version(), *row) for row in rows)


if __name__ == "__main__":
    main()
