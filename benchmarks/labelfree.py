"""Claim: cells are ranked without labels nearly as with them (UnNAS, arXiv 2003.12056).

    HWNAS_DATA=DIR python benchmarks/labelfree.py cells --data fashion-mnist     # hours; goes on where it was stopped
    HWNAS_DATA=DIR python benchmarks/labelfree.py cells --data fashion-mnist --tasks classification rotation --seeds 6
    HWNAS_DATA=DIR python benchmarks/labelfree.py cells --data cifar10-jpeg
    python benchmarks/labelfree.py ranks

``cells``: random cells of the space `darts`, two edges a node, each trained for every task with several seeds, by the
same number of steps of 64 inputs: accuracy on test images of what was best on validation images. ``cifar10-jpeg`` is
CIFAR-10 as JPEG files from the published tables (20,000 training images): not to be compared with results on the
original pixels.

``ranks``: Spearman's rank correlation between the accuracy on a task and that on the classes, over cells, seeds
averaged (a task has as many seeds as all cells were trained with); bootstrapped 95 % interval over cells. "Two
trainings" is the mean over all pairs of seeds. "At most" is what a task would reach that ranks cells exactly as
classes do, but for the noise of trainings on both sides (the square root of the product of both sides' reliabilities,
each by Spearman and Brown's formula from how far two trainings agree). The multiplications of a cell rank without any
training.

Results: ``benchmarks/results/labelfree_cells.csv`` and ``labelfree_ranks.csv``. At the paper's scale (DARTS cells of 20
layers and 16 channels, 100 epochs): ``--resolution 32 --width 1 --depth 2.5 --limit 40000 --steps 62500 --cells 500
--seeds 3``.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import io
import json
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from record import RESULTS, append_rows
from scipy.stats import rankdata

from hwnas.data import load_data
from hwnas.data.augment import Augmentation
from hwnas.data.base import ArraySplit, Dataset, channel_statistics, resize_images
from hwnas.spaces.darts import DARTS
from hwnas.tasks import get_task

FILE = RESULTS / "labelfree_cells.csv"
DATA = Path(os.environ.get("HWNAS_DATA", Path(__file__).parents[2] / "shared" / "data"))
TASKS = {
    "fashion-mnist": ("classification", "rotation", "jigsaw"),
    "cifar10-jpeg": ("classification", "rotation", "jigsaw", "colorization"),
}
#: Images that a training is judged by: for the choice of an epoch, and for the result.
VALID, TEST = 500, 4000


def jpeg(name: str, count: int, resolution: int) -> ArraySplit:
    """Images of one of the published files of JPEGs."""
    from PIL import Image

    file = np.load(DATA / "cifar10_jpeg" / name)
    blob, offsets = file["blob"].tobytes(), file["offsets"]
    order = np.random.default_rng(0).permutation(len(file["labels"]))[:count]
    images = [np.asarray(Image.open(io.BytesIO(blob[offsets[i] : offsets[i + 1]]))) for i in order]
    return ArraySplit(resize_images(np.stack(images).transpose(0, 3, 1, 2), resolution), file["labels"][order])


@lru_cache(maxsize=1)
def load(name: str, limit: int, resolution: int) -> Dataset:
    """A data set of `limit` training images, and few others."""
    if name != "cifar10-jpeg":
        data = load_data(name, limit=limit, resolution=resolution)
        rng = np.random.default_rng(0)
        return replace(
            data,
            valid=data.valid.take(rng.permutation(len(data.valid))[:VALID]),
            test=data.test.take(rng.permutation(len(data.test))[:TEST]),
        )
    train = jpeg("cifar10_train_20000.npz", limit + VALID, resolution)
    test = jpeg("cifar10_test_10000.npz", TEST, resolution)
    mean, std = channel_statistics([train.images[:limit]])
    return Dataset(
        name,
        train.take(np.arange(limit)),
        train.take(np.arange(limit, limit + VALID)),
        test,
        channels=3,
        resolution=resolution,
        class_names=tuple(map(str, range(10))),
        mean=mean,
        std=std,
        augmentation=Augmentation(pad=2, flip=True),
    )


def space_of(data: Dataset, width: float, depth: float) -> DARTS:
    return DARTS(data.resolution, data.channels, data.classes, width, depth)


def train_cell(row: list[int], task: str, seed: int, arguments: argparse.Namespace) -> dict[str, object]:
    """Train one cell's network for one task."""
    import torch

    from hwnas.training import TrainConfig, train

    torch.set_num_threads(1)
    data = load(arguments.data, arguments.limit, arguments.resolution)
    space = space_of(data, arguments.width, arguments.depth)
    made, examples = get_task(task).apply(space, data)
    torch.manual_seed(seed)
    epochs = max(1, round(arguments.steps / examples.steps(64)))
    config = TrainConfig(epochs=epochs, batch_size=64, precision="float32", device="cpu", seed=seed)
    result = train(made.lower(row).to_module(), examples, config)
    graph = space.lower(row)
    return {
        "date": datetime.date.today().isoformat(),
        "data": arguments.data,
        "training_images": arguments.limit,
        "resolution": arguments.resolution,
        "width": arguments.width,
        "depth": arguments.depth,
        "steps": epochs * examples.steps(64),
        "cell": json.dumps(row),
        "task": task,
        "seed": seed,
        "accuracy": round(result.test_accuracy, 5),
        "seconds": round(result.seconds, 1),
        "macs": graph.macs,
        "params": graph.params,
    }


def known(data: str, arguments: argparse.Namespace) -> list[dict[str, str]]:
    """Trainings of a data set at this scale."""
    if not FILE.exists():
        return []
    scale = (arguments.limit, arguments.resolution, arguments.width, arguments.depth)
    columns = ("training_images", "resolution", "width", "depth")
    with open(FILE, newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["data"] == data]
    return [row for row in rows if tuple(float(row[column]) for column in columns) == scale]


def cells(arguments: argparse.Namespace) -> None:
    """Train what is not in the table yet; cell by cell, so that a part of it can be looked at."""
    space = space_of(load(arguments.data, arguments.limit, arguments.resolution), arguments.width, arguments.depth)
    rows = space.sample_derived(arguments.cells, np.random.default_rng(0)).tolist()
    done = {(row["cell"], row["task"], int(row["seed"])) for row in known(arguments.data, arguments)}
    wanted = [
        (row, task, seed)
        for row in rows
        for task in arguments.tasks or TASKS[arguments.data]
        for seed in range(arguments.seeds)
        if (json.dumps(row), task, seed) not in done
    ]
    with ProcessPoolExecutor(arguments.jobs) as pool:
        futures = [pool.submit(train_cell, row, task, seed, arguments) for row, task, seed in wanted]
        for number, future in enumerate(as_completed(futures), start=1):
            append_rows(FILE.stem, [future.result()])
            if number % 10 == 0:
                print(f"{number} of {len(wanted)} trainings", flush=True)


def reliability(agreement: np.ndarray, seeds: int) -> np.ndarray:
    """Of a mean over `seeds` trainings, from the correlation of two single ones (Spearman and Brown, 1910)."""
    agreement = agreement.clip(0)
    return np.asarray(seeds * agreement / (1 + (seeds - 1) * agreement))


def agreement(columns: np.ndarray) -> float:
    """Spearman's rank correlation of the columns, averaged over all pairs of them."""
    correlation = np.corrcoef(rankdata(columns, axis=0), rowvar=False)
    return float(correlation[np.triu_indices(len(correlation), 1)].mean())


def ranks(arguments: argparse.Namespace) -> None:
    """Rank correlations on each data set that has cells."""
    found: list[dict[str, object]] = []
    for data, tasks in TASKS.items():
        table: dict[str, dict[str, dict[int, float]]] = {}
        macs: dict[str, float] = {}
        for row in known(data, arguments):
            table.setdefault(row["cell"], {}).setdefault(row["task"], {})[int(row["seed"])] = float(row["accuracy"])
            macs[row["cell"]] = float(row["macs"])
        full = [cell for cell, of in table.items() if all(len(of.get(task, ())) >= 2 for task in tasks)]
        if len(full) < 10:
            continue
        seeds = {task: min(len(table[cell][task]) for cell in full) for task in tasks}
        runs = {
            task: np.array([[table[cell][task][seed] for seed in range(seeds[task])] for cell in full])
            for task in tasks
        }  # (cells, seeds)
        means = {task: of.mean(axis=1) for task, of in runs.items()}
        means["MACs"] = np.array([macs[cell] for cell in full])
        columns = {name: np.stack([of, means["classification"]], axis=1) for name, of in means.items()}
        del columns["classification"]
        columns.update({f"{task}, two trainings": of for task, of in runs.items()})
        draws = np.random.default_rng(0).integers(0, len(full), (2000, len(full)))
        draws = np.concatenate([np.arange(len(full))[None], draws])  # all cells, then resampled ones
        rhos = {name: np.array([agreement(of[draw]) for draw in draws]) for name, of in columns.items()}
        trusted = {task: reliability(rhos[f"{task}, two trainings"], seeds[task]) for task in tasks}
        for task in tasks[1:]:
            rhos[f"{task}, at most"] = np.sqrt(trusted[task] * trusted["classification"])
        for name, (rho, *resampled) in rhos.items():
            low, high = np.quantile(resampled, [0.025, 0.975])
            task = name.split(",")[0]
            found.append(
                {
                    "date": datetime.date.today().isoformat(),
                    "data": data,
                    "cells": len(full),
                    "seeds": seeds.get(task, seeds["classification"]),
                    "ranked_by": name,
                    "spearman": round(float(rho), 3),
                    "low95": round(float(low), 3),
                    "high95": round(float(high), 3),
                    "accuracy_median": round(float(np.median(means[task])), 4) if task in tasks else "",
                    "accuracy_spread": round(float(means[task].std()), 4) if task in tasks else "",
                }
            )
            print(*list(found[-1].values())[1:], sep="  ", flush=True)
    append_rows("labelfree_ranks", found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("cells", "ranks"))
    parser.add_argument("--data", choices=list(TASKS), default="fashion-mnist")
    parser.add_argument("--tasks", nargs="+", choices=TASKS["cifar10-jpeg"], help="all that suit the data by default")
    parser.add_argument("--cells", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=2, help="of each cell and task that is trained")
    parser.add_argument("--limit", type=int, default=2560, help="training images")
    parser.add_argument("--resolution", type=int, default=16)
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--depth", type=float, default=0.25)
    parser.add_argument("--steps", type=int, default=320, help="of a training, 64 inputs each")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    {"cells": cells, "ranks": ranks}[arguments.what](arguments)


if __name__ == "__main__":
    main()
