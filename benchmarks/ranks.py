"""Claim: two ranks of one thread train faster than one process of one thread, and end with the same loss.

Trains a supernet, then one network, with 1 and with 2 ranks in turns, and compares seconds a step (all but the first
epoch, which warms up). The machine needs two idle cores. Appends to ``benchmarks/results/ranks.csv``.

    python benchmarks/ranks.py                                  # Fashion-MNIST, batches of 256, 3 turns
    python benchmarks/ranks.py --data digits --limit 256 --batch-size 64 --turns 1     # tries the script
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from record import append_rows

STAGES = ("supernet", "network")


def work(arguments: argparse.Namespace) -> None:
    """On every rank: train, and on rank 0 write seconds a step and the last loss of each stage."""
    import time

    import torch

    from hwnas import ranks
    from hwnas.data import load_data
    from hwnas.spaces import get_space
    from hwnas.spaces.supernet import Supernet
    from hwnas.training import TrainConfig, train, train_supernet

    torch.set_num_threads(1)
    ranks.start()
    data = load_data(arguments.data, limit=arguments.limit)
    space = get_space(arguments.space, resolution=data.resolution, channels=data.channels, classes=data.classes)
    settings: dict[str, Any] = {"batch_size": arguments.batch_size, "epochs": arguments.epochs, "precision": "float32"}
    steps = data.steps(arguments.batch_size)
    found: dict[str, list[float]] = {}
    for stage in STAGES:
        moments: list[float] = []
        torch.manual_seed(0)

        def tick(done: float, _total: float, _text: str, moments: list[float] = moments) -> None:
            if done % steps == 0:  # the end of an epoch's steps; scoring and what follows is of the next one
                moments.append(time.perf_counter())

        if stage == "supernet":
            loss = (
                train_supernet(Supernet(space), data, TrainConfig.supernet(**settings), progress=tick).history[-1].loss
            )
        else:
            module = space.lower(space.sample(1, np.random.default_rng(0))[0].tolist()).to_module()
            loss = train(module, data, TrainConfig(**settings), progress=tick).history[-1].loss
        found[stage] = [(moments[-1] - moments[0]) / (steps * (len(moments) - 1)) if moments else 0.0, loss]
    if ranks.leads():
        arguments.work.write_text(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--space", default="mobilenet(width=0.5,depth=0.5)")
    parser.add_argument("--limit", type=int, default=10_240)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.epochs < 2:
        parser.error("--epochs must be at least 2: the first one is not timed")
    if arguments.work is not None:
        work(arguments)
        return
    times: dict[tuple[str, int], list[float]] = {}
    losses: dict[tuple[str, int], float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(arguments.turns):
            for number in (1, 2) if turn % 2 == 0 else (2, 1):
                file = Path(folder) / f"{turn}-{number}.json"
                command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(number)]
                command += ["--master-addr", "127.0.0.1", "--", *sys.argv, "--work", str(file)]
                subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
                for stage, (seconds, loss) in json.loads(file.read_text()).items():
                    times.setdefault((stage, number), []).append(seconds)
                    losses[stage, number] = loss
    rows = []
    for stage in STAGES:
        ratios = [one / two for one, two in zip(times[stage, 1], times[stage, 2], strict=True)]
        rows.append(
            {
                "date": datetime.date.today().isoformat(),
                "data": arguments.data,
                "space": arguments.space,
                "batch_size": arguments.batch_size,
                "stage": stage,
                "turns": arguments.turns,
                "ms_a_step_1_rank": round(1e3 * float(np.median(times[stage, 1])), 2),
                "ms_a_step_2_ranks": round(1e3 * float(np.median(times[stage, 2])), 2),
                "speedup_median": round(float(np.median(ratios)), 3),
                "speedup_lowest": round(min(ratios), 3),
                "speedup_highest": round(max(ratios), 3),
                "last_loss_1_rank": round(losses[stage, 1], 5),
                "last_loss_2_ranks": round(losses[stage, 2], 5),
                "load_average": round(os.getloadavg()[0], 1),
            }
        )
        print(rows[-1])
    append_rows("ranks", rows)


if __name__ == "__main__":
    main()
