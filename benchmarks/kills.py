"""Claim: a kill at any moment loses nothing that was finished, and going on ends with the same kind of result.

Starts ``hwnas profile`` and ``hwnas search`` again and again, sends SIGKILL after a random time, and
checks after every kill that each finished row, network and trial is still there, unchanged; then lets
each run end. Appends to ``benchmarks/results/kills.csv``.

    python benchmarks/kills.py --kills 20
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from record import append_rows

SPACE = "mobilenet(width=0.25,depth=0.5)"
LOGS = ("latencies.csv", "networks.csv", "trials.jsonl", "finalists.jsonl")


def whole_lines(folder: Path) -> dict[str, list[bytes]]:
    """Complete lines of every log below `folder`."""
    return {
        str(file.relative_to(folder)): file.read_bytes().split(b"\n")[:-1]
        for name in LOGS
        for file in folder.rglob(name)
    }


def killed(command: list[str], folder: Path, environment: dict[str, str], after: float) -> tuple[bool, int]:
    """Run `command`, kill it after a time; return whether it had ended by itself, and how many lines were lost."""
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )
    seen = whole_lines(folder)
    deadline = time.monotonic() + after
    while time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
        seen = whole_lines(folder)
    ended = process.poll() is not None
    if ended and process.returncode:
        raise SystemExit(f"{command} failed: {process.stderr.read().decode() if process.stderr else ''}")
    if not ended:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    now = whole_lines(folder)
    lost = sum(
        1 for name, lines in seen.items() for i, line in enumerate(lines) if now.get(name, [])[i : i + 1] != [line]
    )
    return ended, lost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="kills of each command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=14.0, help="longest time before a kill, seconds")
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    hwnas = [sys.executable, "-m", "hwnas"]
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        environment = {**os.environ, "HWNAS_HOME": str(home / "home")}
        environment.pop("HWNAS_TABLES", None)
        profile = [*hwnas, "profile", "--device", "cpu-onnxruntime", "--space", SPACE, "--data", "digits", "--quick"]
        run = home / "run"
        search = [*hwnas, "search", "--space", SPACE, "--data", "digits", "--run", str(run)]
        search += ["--constraint", "latency@cpu-onnxruntime <= 0.12ms", "--supernet-epochs", "12"]
        search += ["--epochs", "8", "--evaluations", "300"]
        for name, first in (("profile", profile), ("search", search)):
            lost = kills = runs_ended = 0
            result: dict[str, object] = {}
            while kills < arguments.kills:
                started = (run / "run.toml").exists()
                command = [*hwnas, "search", "--resume", str(run)] if name == "search" and started else first
                ended, gone = killed(command, home, environment, rng.uniform(1.0, arguments.longest))
                lost += gone
                kills += not ended
                if ended:
                    # it got through between two kills: begin a fresh one and go on killing that
                    runs_ended += 1
                    for folder in (home / "home", run) if name == "profile" else (run,):
                        if folder.exists():
                            folder.rename(home / f"ended-{name}-{runs_ended}-{folder.name}")
            started = (run / "run.toml").exists()
            command = [*hwnas, "search", "--resume", str(run)] if name == "search" and started else first
            output = subprocess.run([*command, "--json"], env=environment, check=True, capture_output=True, text=True)
            result = json.loads(output.stdout)
            rows.append(
                {
                    "date": datetime.date.today().isoformat(),
                    "command": name,
                    "kills": kills,
                    "runs_ended_between_kills": runs_ended,
                    "finished_lines_lost": lost,
                    "result": f"{result['missing']} rows missing, {result['skipped']} kept"
                    if name == "profile"
                    else f"accuracy {result['accuracy']:.3f}, {result['costs']}",
                }
            )
            print(rows[-1])
    append_rows("kills", rows)


if __name__ == "__main__":
    main()
