"""Claim: PNAS's surrogates rank cells of the size they were trained on, and to a lesser degree those one block larger.

    python benchmarks/surrogates.py cells        # trains the cells: some 50 minutes of one core, goes on where it was
    python benchmarks/surrogates.py ranks        # an hour of one core, most of it for the RNNs; goes on, too

``cells``: random cells of the space ``pnas`` (every one of one block, and equally many of each further size), trained
on ``digits`` at 8 pixels with 8 filters, one cell a stage, for a few epochs. The score is the accuracy on all images
that training has not seen (validation and test together: nothing is chosen by it, and there are only 718). Some cells
are trained a second time from another seed: a perfect predictor reaches about the root of how far two agree.

``ranks``: the protocol of the paper's table (arXiv 1712.00559, section 5.2), repeated with several splits. A surrogate
is fitted on ``--taught`` cells of each size up to b, size after size, and ranks (Spearman) the cells of size b that it
was taught, the others of size b, and all of size b + 1. The multiplications of a cell rank without any training: the
baseline that a surrogate must beat.

Results: ``benchmarks/results/pnas_cells.csv`` and ``progressive_surrogates.csv``.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import functools
import itertools
import json
from concurrent.futures import ProcessPoolExecutor, as_completed

import numpy as np
from record import RESULTS, append_rows, finish
from scipy.stats import spearmanr

from hwnas.spaces import get_space
from hwnas.spaces.pnas import MOST_BLOCKS, PNAS
from hwnas.strategies.surrogate import Surrogate

CELLS = RESULTS / "pnas_cells.csv"
MODELS = {"MLP": ("mlp", 1), "MLP, ensemble": ("mlp", 5), "RNN": ("rnn", 1), "RNN, ensemble": ("rnn", 5)}


def space_of(arguments: argparse.Namespace) -> PNAS:
    space = get_space("pnas", resolution=8, channels=1, classes=10, width=arguments.width, depth=0.5)
    assert isinstance(space, PNAS)
    return space


def chosen_cells(space: PNAS, each: int) -> dict[int, np.ndarray]:
    """Of each size, `each` different cells in random order; all of the first size. The same in every call."""
    found = {1: space.seeds()}
    for blocks in range(2, MOST_BLOCKS + 1):
        rng = np.random.default_rng(blocks)
        rows: dict[tuple[int, ...], None] = {}
        while len(rows) < each:
            drawn = space.sample(each, rng)
            drawn[:, 0] = blocks - space.fewest
            rows.update(dict.fromkeys(map(tuple, space.canonical(drawn).tolist())))
        found[blocks] = np.array(list(rows)[:each])
    return found


def train_cell(row: list[int], seed: int, width: float, epochs: int) -> dict[str, object]:
    """Train one cell's network."""
    import torch

    from hwnas.data import load_data
    from hwnas.training import TrainConfig, train

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    space = space_of(argparse.Namespace(width=width))
    data, graph = load_data("digits", seed=seed), space.lower(row)
    config = TrainConfig(epochs=epochs, precision="float32", device="cpu", seed=seed)
    result = train(graph.to_module(), data, config)
    images = len(data.valid), len(data.test)
    return {
        "date": datetime.date.today().isoformat(),
        "blocks": int(space.complexity(np.array([row]))[0]),
        "cell": json.dumps(row),
        "seed": seed,
        "filters": round(24 * width),
        "epochs": epochs,
        "accuracy": round(float(np.average([result.valid_accuracy, result.test_accuracy], weights=images)), 5),
        "macs": graph.macs,
        "params": graph.params,
    }


def known_cells() -> list[dict[str, str]]:
    if not CELLS.exists():
        return []
    with open(CELLS, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def cells(arguments: argparse.Namespace) -> None:
    """Train what is not in the table yet."""
    done = {(row["cell"], int(row["seed"])) for row in known_cells()}
    wanted = []
    for rows in chosen_cells(space_of(arguments), arguments.each).values():
        wanted += [(row, 0) for row in rows.tolist()]
        wanted += [(row, 1) for row in rows[: arguments.twice].tolist()]
    wanted = [(row, seed) for row, seed in wanted if (json.dumps(row), seed) not in done]
    with ProcessPoolExecutor(arguments.jobs) as pool:
        futures = [pool.submit(train_cell, row, seed, arguments.width, arguments.epochs) for row, seed in wanted]
        for number, future in enumerate(as_completed(futures), start=1):
            append_rows(CELLS.stem, [future.result()])
            if number % 20 == 0:
                print(f"{number} of {len(wanted)} cells", flush=True)


@functools.cache
def scored_cells() -> dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Of each size the rows, accuracies and multiplications of the trained cells."""
    found: dict[int, list[dict[str, str]]] = {}
    for row in known_cells():
        if row["seed"] == "0":
            found.setdefault(int(row["blocks"]), []).append(row)
    return {
        blocks: (
            np.array([json.loads(row["cell"]) for row in group]),
            np.array([float(row["accuracy"]) for row in group]),
            np.array([float(row["macs"]) for row in group]),
        )
        for blocks, group in sorted(found.items())
    }


def split_ranks(label: str, taught_each: int, width: float, split: int) -> list[tuple[str, int, float]]:
    """Rank correlations of one surrogate taught on one split: measure, blocks, Spearman."""
    space, cells = space_of(argparse.Namespace(width=width)), scored_cells()
    kind, members = MODELS[label]
    rng = np.random.default_rng(split)
    order = {blocks: rng.permutation(len(accuracies)) for blocks, (_, accuracies, _) in cells.items()}
    model = Surrogate(kind, space.vocabularies, space.token_kinds, seed=split, members=members)
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    found = []
    for blocks, (rows, scores, _) in cells.items():
        taught, others = np.split(order[blocks], [taught_each])
        seen.append((rows[taught], scores[taught]))
        model.fit(space.parts(np.concatenate([r for r, _ in seen])), np.concatenate([s for _, s in seen]))
        asked = [("taught", blocks, taught), ("same size", blocks, others)]
        if blocks + 1 in cells:
            asked.append(("one larger", blocks + 1, np.arange(len(cells[blocks + 1][0]))))
        for measure, size, which in asked:
            predicted = model.predict(space.parts(cells[size][0][which]))
            found.append((measure, size, float(spearmanr(predicted, cells[size][1][which]).statistic)))
    return found


def ranks(arguments: argparse.Namespace) -> None:
    """Rank correlations of every surrogate."""
    again = {row["cell"]: float(row["accuracy"]) for row in known_cells() if row["seed"] == "1"}
    found: list[dict[str, object]] = []

    def add(model: str, measure: str, blocks: int, values: list[float]) -> None:
        low, median, high = np.quantile(values, [0.025, 0.5, 0.975]).round(3).tolist()
        found.append(
            {
                "date": datetime.date.today().isoformat(),
                "model": model,
                "taught_each_size": arguments.taught,
                "splits": len(values),
                "measure": measure,
                "blocks": blocks,
                "spearman_median": median,
                "low95": low,
                "high95": high,
            }
        )
        print(model, measure, blocks, median, f"[{low}, {high}]", flush=True)

    for blocks, (rows, scores, macs) in scored_cells().items():
        twice = [
            (score, again[json.dumps(row)])
            for row, score in zip(rows.tolist(), scores.tolist(), strict=True)
            if json.dumps(row) in again
        ]
        first, second = np.array(twice).T
        drawn = np.random.default_rng(0).integers(0, len(first), (1000, len(first)))
        add("trained again", "same size", blocks, [spearmanr(first[d], second[d]).statistic for d in drawn])
        drawn = np.random.default_rng(0).integers(0, len(scores), (1000, len(scores)))
        add("MACs", "same size", blocks, [spearmanr(macs[d], scores[d]).statistic for d in drawn])
    for label in MODELS:
        splits = min(arguments.splits, arguments.slow_splits) if label == "RNN, ensemble" else arguments.splits
        calls = [(label, arguments.taught, arguments.width, split) for split in range(splits)]
        values: dict[tuple[str, int], list[float]] = {}
        for measure, size, rho in itertools.chain(
            *finish("progressive_surrogates", split_ranks, calls, arguments.jobs)
        ):
            values.setdefault((measure, size), []).append(rho)
        for (measure, size), rhos in values.items():
            add(label, measure, size, rhos)
    append_rows("progressive_surrogates", found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("cells", "ranks"))
    parser.add_argument("--each", type=int, default=120, help="cells of each size beyond the first")
    parser.add_argument("--twice", type=int, default=30, help="cells of each size that are trained again")
    parser.add_argument("--width", type=float, default=1 / 3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--taught", type=int, default=80, help="cells of each size that a surrogate is taught")
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--slow-splits", type=int, default=8, help="of the ensemble of RNNs, which takes minutes each")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    {"cells": cells, "ranks": ranks}[arguments.what](arguments)


if __name__ == "__main__":
    main()
