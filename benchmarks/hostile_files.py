"""Hostile files: 10,000 spoiled ones of each kind are read, and nothing but a `HwnasError` may come of it.

What spoils them is in `tests/hostile.py`. Each kind is read by a process of its own that may take so much memory more
than it has after its imports (RLIMIT_AS) and so many seconds of CPU time an input; one that dies over an input is
replaced, and the input counts as another error. Any input can be looked at again by its number::

    python benchmarks/hostile_files.py
    python benchmarks/hostile_files.py --kinds onnx --inputs 500 --first 4000
"""

from __future__ import annotations

import argparse
import json
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from record import append_rows

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.hostile import TARGETS

#: bytes that a process may take beyond what it has after its imports, and seconds an input
MEMORY, SECONDS = 2 * 1024**3, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", nargs="+", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--no-record", action="store_true")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        work(given.kinds[0], range(given.first, given.first + given.inputs))
        return
    for kind in given.kinds:
        row = supervise(kind, range(given.first, given.first + given.inputs))
        if not given.no_record:
            append_rows("hostile_files", [row])


def supervise(kind: str, numbers: range) -> dict[str, Any]:
    """Read all inputs of a kind, by as many workers one after the other as it takes."""
    outcomes: Counter[str] = Counter()
    slowest, slowest_number, peak, begin, left = 0.0, -1, 0, time.monotonic(), numbers
    while left:
        command = [sys.executable, __file__, "--worker", "--kinds", kind, "--first", str(left.start)]
        with subprocess.Popen([*command, "--inputs", str(len(left))], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            done = left.start
            while True:
                ready, _, _ = select.select([process.stdout], [], [], 30 * SECONDS)
                line = process.stdout.readline() if ready else b""
                if not line:
                    break
                entry = json.loads(line)
                done = entry["number"] + 1
                outcomes[entry["outcome"]] += 1
                peak = max(peak, entry["peak"])
                if entry["seconds"] > slowest:
                    slowest, slowest_number = entry["seconds"], entry["number"]
                if entry["outcome"] == "other":
                    print(f"{kind} {entry['number']}: {entry['text']}", flush=True)
            hung = process.poll() is None and done < left.stop and not ready
            process.kill()
        if done == left.start == numbers.start:
            raise SystemExit(f"the reader of {kind} does not start")
        if done < left.stop:
            what = f"gave no answer in {30 * SECONDS} s" if hung else f"ended the process ({process.returncode})"
            print(f"{kind} {done}: {what}", flush=True)
            outcomes["other"] += 1
            done += 1
        left = range(done, left.stop)
    row = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "kind": kind,
        "first": numbers.start,
        "inputs": len(numbers),
        "accepted": outcomes["accepted"],
        "refused": outcomes["refused"],
        "other_errors": outcomes["other"],
        "slowest_s": f"{slowest:.2f}",
        "slowest_input": slowest_number,
        "peak_mb": f"{peak / 1e6:.0f}",
        "seconds": f"{time.monotonic() - begin:.0f}",
    }
    print(row, flush=True)
    return row


def work(kind: str, numbers: range) -> None:
    """Read inputs, one line of JSON each."""
    from hwnas.spaces import HwnasError

    warnings.simplefilter("ignore")  # numpy's and Pillow's, which tell of what is refused next
    target = TARGETS[kind]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "valid"
        folder.mkdir()
        seeds = target.seeds(folder)
        for path in folder.iterdir():
            path.unlink()
        for name, data in seeds.items():
            (folder / name).write_bytes(data)
        for name in seeds:  # everything is imported now, and valid files are accepted
            try:
                target.read(folder, name)
            except HwnasError as error:
                if not name.startswith("bomb"):
                    raise SystemExit(f"the valid file {name} is refused: {error}") from error
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        signal.signal(signal.SIGPROF, late)  # of CPU time: other work on the machine is no fault of a file
        for number, name, data in target.cases(seeds, numbers):
            (folder / name).write_bytes(data)
            start, outcome, text = time.process_time(), "accepted", ""
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            try:
                target.read(folder, name)
            except HwnasError as error:
                outcome = "refused"
                if "\n" in str(error).strip() or len(str(error)) > 2000:
                    outcome, text = "other", f"{len(str(error))} characters: {str(error)[:300]!r}"
            except BaseException as error:
                where = traceback.extract_tb(error.__traceback__)
                own = [f"{Path(f.filename).name}:{f.lineno}" for f in where if "site-packages" not in f.filename]
                outcome, text = "other", f"{type(error).__name__}: {str(error)[:200]} at {' '.join(own[-3:])}"
            signal.setitimer(signal.ITIMER_PROF, 0)
            seconds = time.process_time() - start
            (folder / name).write_bytes(seeds[name])
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
            entry = {"number": number, "outcome": outcome, "seconds": seconds, "peak": grown, "text": text}
            print(json.dumps(entry), flush=True)


class TooLateError(BaseException):
    """An input took too long; not an `Exception`, which a reader may catch."""


def late(*_: object) -> None:
    raise TooLateError(f"longer than {SECONDS} s")


if __name__ == "__main__":
    main()
