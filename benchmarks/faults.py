"""Claim: of 200 trials none is lost and none comes twice, although workers, nodes and the driver are killed.

Runs ``hwnas search --evaluator scratch`` as a process of its own, and every few seconds sends SIGKILL to a worker that
is at a candidate or, with Ray, takes a whole node away and adds another one. Now and then the search itself is killed
and resumed. The Ray cluster is real, with several nodes on this machine; its head is not killed. After every kill each
whole line of ``trials.jsonl`` must still be there, unchanged. Appends to ``benchmarks/results/faults.csv``.

    python benchmarks/faults.py --engines local ray --trials 200
"""

from __future__ import annotations

import argparse
import atexit
import collections
import datetime
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any

from record import append_rows

from hwnas.run import Run

SPACE = "epnas(width=0.25,depth=0.5)"
STORE = 80 << 20


def processes(run: Path) -> list[int]:
    """Workers that are at a candidate of the run: of hwnas, or of Ray."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes()
        except OSError:
            continue
        local = b"hwnas.worker" in words and os.fsencode(run) in words
        if local or words.startswith(b"ray::evaluate"):
            found.append(int(entry.parent.name))
    return found


def quick() -> dict[str, int]:
    """Settings of a node: with the ports of its agent named it does not wait for that, 15 s at most, to choose them."""
    ports = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
    sockets = [socket.create_server(("", 0)) for _ in ports]
    found = {name: one.getsockname()[1] for name, one in zip(ports, sockets, strict=True)}
    for one in sockets:
        one.close()
    return {**found, "object_store_memory": STORE}


class Nodes:
    """A Ray cluster whose nodes come and go."""

    def __init__(self, count: int) -> None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        for name, value in (("agent_register_timeout_ms", "300000"), ("worker_register_timeout_seconds", "300")):
            os.environ[f"RAY_{name}"] = value  # a busy machine starts processes slowly
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "include_dashboard": False, **quick()}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.nodes = [self._added() for _ in range(count)]

    def _added(self) -> Any:
        return self.cluster.add_node(num_cpus=1, **quick())

    def replace(self, rng: random.Random) -> None:
        """Kill every process of one node at once, then let another join."""
        self.cluster.remove_node(self.nodes.pop(rng.randrange(len(self.nodes))), allow_graceful=False)
        self.nodes.append(self._added())


def started(command: list[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    """The search, which ends with this process at the latest."""
    driver = subprocess.Popen(command, stdout=log, stderr=log)
    atexit.register(driver.kill)
    return driver


def faults(engine: str, arguments: argparse.Namespace, folder: Path) -> dict[str, object]:
    """One search to its end under fire; what was counted."""
    rng = random.Random(arguments.seed)
    run = folder / engine
    command = [sys.executable, "-m", "hwnas", "search"]
    first = [*command, "--space", SPACE, "--data", "digits", "--strategy", "random", "--constraint", "params <= 200k"]
    first += ["--evaluator", "scratch", "--evaluations", str(arguments.trials), "--epochs", str(arguments.epochs)]
    first += ["--limit", "200", "--jobs", "2", "--threads", "2" if engine == "local" else "1"]
    first += ["--retries", str(arguments.retries), "--run", str(run)]
    again = [*command, "--resume", str(run)]
    nodes = Nodes(2) if engine == "ray" else None
    if nodes is not None:
        first += ["--engine", "ray", "--address", nodes.cluster.address]
        again += ["--address", nodes.cluster.address]
    kills: collections.Counter[str] = collections.Counter()
    trials = run / "trials.jsonl"
    seen: list[bytes] = []
    lost = 0
    start = time.monotonic()
    # the driver is killed when so many trials are done
    deaths = sorted(rng.sample(range(5, arguments.trials - 5), arguments.drivers))
    with open(folder / f"{engine}.log", "ab") as log:
        driver = started(first, log)
        strike = time.monotonic() + rng.expovariate(1 / arguments.every)
        while (state := driver.poll()) is None or deaths:
            if state:
                raise SystemExit(f"the search failed: {(folder / f'{engine}.log').read_text()[-2000:]}")
            time.sleep(0.05)
            now = trials.read_bytes().split(b"\n")[:-1] if trials.exists() else []
            lost += sum(line != new for line, new in zip(seen, [*now, *[b""] * len(seen)], strict=False))
            seen = now
            if deaths and len(now) >= deaths[0]:
                deaths.pop(0)
                os.kill(driver.pid, signal.SIGKILL)
                driver.wait()
                kills["driver"] += 1
                driver = started(again, log)
            elif time.monotonic() >= strike and len(now) < arguments.trials:
                if nodes is not None and rng.random() < 0.5:
                    nodes.replace(rng)
                    kills["node"] += 1
                elif found := processes(run):
                    os.kill(rng.choice(found), signal.SIGKILL)
                    kills["worker"] += 1
                strike = time.monotonic() + rng.expovariate(1 / arguments.every)
    if driver.returncode:
        raise SystemExit(f"the search failed: {(folder / f'{engine}.log').read_text()[-2000:]}")
    if nodes is not None:
        nodes.cluster.shutdown()
    ended = Run.open(run, write=False).trials()
    return {
        "date": datetime.date.today().isoformat(),
        "engine": engine,
        "trials": len(ended),
        "wanted": arguments.trials,
        "lines_lost": lost,
        "duplicated": len(ended) - len({trial.architecture for trial in ended}),
        "failed": sum(trial.failed for trial in ended),
        "workers_killed": kills["worker"],
        "nodes_killed": kills["node"],
        "drivers_killed": kills["driver"],
        "seconds_between_kills": round((time.monotonic() - start) / max(1, kills["worker"] + kills["node"]), 1),
        "retries_allowed": arguments.retries,
        "seconds": round(time.monotonic() - start),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", nargs="+", default=["local", "ray"], choices=["local", "ray"])
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=2, help="of each trial")
    parser.add_argument("--every", type=float, default=4.0, help="mean seconds between kills")
    parser.add_argument("--drivers", type=int, default=3, help="kills of the search itself")
    parser.add_argument("--retries", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-record", action="store_true", help="print only")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        for engine in arguments.engines:
            row = faults(engine, arguments, Path(temporary))
            print("\n".join(f"{name:>22}  {value}" for name, value in row.items()), flush=True)
            if not arguments.no_record:
                append_rows("faults", [row])


if __name__ == "__main__":
    main()
