"""Is the network in the numbers? The same models measured by cpu-onnxruntime here and through SSH on the loopback.

Both sides measure in turns, model by model and round by round, so that drift hits both alike; a round is one pass. The
ratio is that of the medians over rounds, with an interval from resampling the rounds. A second profiler on this side
(``here again``) says what a ratio of nothing looks like on this machine. Needs a host of ~/.ssh/config (or of the file
that HWNAS_SSH_CONFIG names) that leads to this machine, and a Python with the same onnxruntime there::

    python benchmarks/remote.py --host loopback --rounds 15
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime

import numpy as np
from record import append_rows

from hwnas.latency_tables import host_facts
from hwnas.profilers import Protocol, RuntimeProfiler, get_profiler
from hwnas.profilers.campaign import network_model
from hwnas.profilers.timing import pinned
from hwnas.spaces.space import get_space

LEVEL = 90


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", required=True, help="a host that ssh knows and that is this machine")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--note", default="", help="what else ran on the machine")
    given = parser.parse_args()
    space = get_space(f"mobilenet(resolution={given.resolution},width=0.5)")
    rng = np.random.default_rng(0)
    models = {block.signature[:40]: block.to_onnx().SerializeToString() for block in space.catalog[:6:2]}
    for number, row in enumerate(space.sample(2, rng).tolist()):
        models[f"network {number}"] = network_model(space, tuple(row)).SerializeToString()
    sides = {
        "here": get_profiler("cpu-onnxruntime"),
        "here again": get_profiler("cpu-onnxruntime"),
        "over ssh": get_profiler(f"cpu-onnxruntime-ssh:{given.host}"),
    }
    protocol = Protocol()
    overheads: dict[str, float] = {}
    for name, side in sides.items():
        assert isinstance(side, RuntimeProfiler)
        overheads[name] = side.overhead_ms(protocol)
    rows = []
    for model, data in models.items():
        seen: dict[str, list[float]] = {name: [] for name in sides}
        runners = {name: side.open(data) for name, side in sides.items() if isinstance(side, RuntimeProfiler)}
        for _ in range(given.rounds):
            for name in rng.permutation(list(sides)):
                side = sides[name]
                assert isinstance(side, RuntimeProfiler)
                with pinned(side.cores(protocol)):
                    seen[name].append(side._time(runners[name], protocol).value_ms - overheads[name])
        for name in ("here again", "over ssh"):
            low, ratio, high = ratio_of(np.array(seen[name]), np.array(seen["here"]), rng)
            row = {
                "at": datetime.now(UTC).isoformat(timespec="seconds"),
                "cpu": host_facts()["cpu"],
                "note": given.note,
                "model": model,
                "side": name,
                "rounds": given.rounds,
                "here_ms": f"{np.median(seen['here']):.5f}",
                "side_ms": f"{np.median(seen[name]):.5f}",
                "ratio": f"{ratio:.4f}",
                "low": f"{low:.4f}",
                "high": f"{high:.4f}",
                "method": "measured",
            }
            rows.append(row)
            print(f"{model:40}  {name:10}  {row['side_ms']} ms  ratio {row['ratio']} ({row['low']} to {row['high']})")
    append_rows("remote", rows)


def ratio_of(side: np.ndarray, base: np.ndarray, rng: np.random.Generator) -> tuple[float, float, float]:
    """The ratio of two medians over the same rounds, between the ends of its interval by resampling rounds."""
    drawn = rng.integers(len(base), size=(2000, len(base)))
    ratios = np.median(side[drawn], axis=1) / np.median(base[drawn], axis=1)
    low, high = np.percentile(ratios, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return float(low), float(np.median(side) / np.median(base)), float(high)


if __name__ == "__main__":
    main()
