"""Claims: MANAS's regret grows more slowly than time, and a step of it needs an eighth of the memory of DARTS'.

    HWNAS_DATA=DIR python benchmarks/multiagent.py regret      # about a quarter of an hour on one core
    python benchmarks/multiagent.py squeeze
    python benchmarks/multiagent.py memory

``regret``: NAS-Bench-201 as a game that does not change (validation accuracy after 12 epochs, CIFAR-10). Cumulative
regret: what always playing the best network would have scored more, summed over T plays; a slope of its logarithm over
that of T below 1 means that play gets better, and uniform play has 1. Simple regret: what the network that is delivered
after T plays is behind the best.

``squeeze``: the Gaussian Squeeze Domain, the paper's own test. Ten agents choose x_i from 0 to 9; the score is
``x exp(-(x - mu)^2 / sigma^2)`` of their sum x, so each agent's best choice depends on what all others do.

``memory``: bytes that a training step keeps for its backward pass (unique storages of saved tensors, without
parameters) in a stack of DARTS cells, for a path of one random operation an edge and for the mixture of K operations.

Results: ``benchmarks/results/multiagent_{regret,squeeze,memory}.csv``.
"""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Callable
from typing import Any

import numpy as np
from fpnas import Numbers
from record import append_rows

from hwnas.evaluators import Evaluation
from hwnas.evaluators.tabular import nasbench201_columns
from hwnas.spaces import SearchSpace, get_space
from hwnas.strategies import make_strategy

PLAYS = (500, 1000, 2000, 4000, 8000, 16000)
#: The largest sum of the agents' choices is 90; the best is reached by many joint choices.
AGENTS, CHOICES, MU, SIGMA = 10, 10, 40.0, 10.0


def play(
    name: str, space: SearchSpace, score: Callable[[tuple[int, ...]], float], plays: int, seed: int
) -> tuple[np.ndarray, float]:
    """Scores of every play, and of what is delivered in the end; uniform play delivers its best."""
    rng = np.random.default_rng(seed)
    if name == "uniform":
        scores = np.array([score(tuple(row)) for row in space.sample(plays, rng).tolist()])
        return scores, float(scores.max())
    strategy = make_strategy(name, space, seed=seed)
    strategy.expect(plays)
    scores = np.empty(plays)
    for number in range(plays):
        (architecture,) = strategy.ask(1)
        scores[number] = score(architecture)
        strategy.tell([Evaluation(architecture, float(scores[number]))])
    delivered = strategy.recommendation
    assert delivered is not None
    return scores, score(delivered)


def slope_interval(regrets: np.ndarray) -> tuple[float, float, float]:
    """Slope of log regret over log T, the median over seeds ``(seeds, T)`` first; bootstrapped 95 % interval."""
    logs = np.log(PLAYS)

    def slope(rows: np.ndarray) -> float:
        return float(np.polyfit(logs, np.log(np.median(rows, axis=0)), 1)[0])

    rng = np.random.default_rng(0)
    drawn = [slope(regrets[rng.integers(0, len(regrets), len(regrets))]) for _ in range(1000)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return slope(regrets), float(low), float(high)


def compare(
    what: str, space: SearchSpace, score: Callable[[tuple[int, ...]], float], best: float, seeds: int
) -> list[dict[str, object]]:
    """Regret of each way to play."""
    rows: list[dict[str, object]] = []
    for name in ("uniform", "manas", "manas-ls"):
        cumulative, simple = np.empty((seeds, len(PLAYS))), np.empty((seeds, len(PLAYS)))
        for seed in range(seeds):
            for column, plays in enumerate(PLAYS):
                scores, delivered = play(name, space, score, plays, seed)
                cumulative[seed, column] = (best - scores).sum()
                simple[seed, column] = best - delivered
        slope, low, high = slope_interval(cumulative)
        for column, plays in enumerate(PLAYS):
            quartiles = np.quantile(simple[:, column], [0.25, 0.5, 0.75])
            rows.append(
                {
                    "date": datetime.date.today().isoformat(),
                    "game": what,
                    "strategy": name,
                    "seeds": seeds,
                    "plays": plays,
                    "regret_median": round(float(np.median(cumulative[:, column])), 2),
                    "regret_a_play": round(float(np.median(cumulative[:, column])) / plays, 5),
                    "slope": round(slope, 3),
                    "slope_low95": round(low, 3),
                    "slope_high95": round(high, 3),
                    "simple_regret_median": round(float(quartiles[1]), 5),
                    "simple_quartile1": round(float(quartiles[0]), 5),
                    "simple_quartile3": round(float(quartiles[2]), 5),
                }
            )
            print(*list(rows[-1].values())[1:], sep="  ", flush=True)
    return rows


def regret(seeds: int) -> list[dict[str, object]]:
    """On NAS-Bench-201; scores in points of accuracy."""
    space = get_space("nasbench201")
    column = nasbench201_columns(["c10_val_12ep"])["c10_val_12ep"]
    shape = tuple(space.radices.tolist())

    def score(architecture: tuple[int, ...]) -> float:
        return float(column[np.ravel_multi_index(architecture, shape)])

    return compare("NAS-Bench-201", space, score, float(column.max()), seeds)


def squeeze(seeds: int) -> list[dict[str, object]]:
    """On the Gaussian Squeeze Domain."""
    space = Numbers([CHOICES] * AGENTS, tuple((agent,) for agent in range(AGENTS)))

    def score(architecture: tuple[int, ...]) -> float:
        total = float(sum(architecture))
        return total * float(np.exp(-((total - MU) ** 2) / SIGMA**2))

    best = max(score((total,)) for total in range(AGENTS * (CHOICES - 1) + 1))
    return compare("Gaussian squeeze", space, score, best, seeds)


def memory(seeds: int) -> list[dict[str, object]]:
    """Saved activations of a single path and of the mixture, as operations are added."""
    import torch
    from torch.nn import functional as F

    from hwnas.spaces.darts import DARTS, OPERATIONS
    from hwnas.spaces.mixture import Mixture
    from hwnas.spaces.supernet import Supernet

    space = DARTS(resolution=32, channels=3, classes=10, width=0.5, depth=1.0)
    torch.manual_seed(0)
    supernet = Supernet(space).train()
    own = {parameter.untyped_storage().data_ptr() for parameter in supernet.parameters()}
    images, labels = torch.randn(8, 3, 32, 32), torch.randint(10, (8,))

    def saved(forward: Callable[[], Any]) -> int:
        kept: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = F.cross_entropy(forward(), labels)
        found = sum(kept.values())
        loss.backward()
        return found

    rows: list[dict[str, object]] = []
    for count in range(2, len(OPERATIONS) + 1):
        # the largest first, so that what is added never makes a path larger; `none` comes last
        operations = [5, 7, 4, 6, 1, 2, 3, 0][:count]
        shares = torch.full((len(space.decisions), len(OPERATIONS)), 1 / count, requires_grad=True)
        mixture = Mixture(supernet, operations)
        whole = saved(lambda mixture=mixture, shares=shares: mixture(images, shares))
        rng = np.random.default_rng(0)
        paths = rng.choice(operations, (seeds, len(space.decisions))).tolist()
        single = np.array([saved(lambda path=path: supernet(images, path)) for path in paths])
        low, high = np.quantile(single, [0.025, 0.975])
        rows.append(
            {
                "date": datetime.date.today().isoformat(),
                "operations": count,
                "names": "+".join(OPERATIONS[operation] for operation in operations),
                "paths": seeds,
                "mixture_mb": round(whole / 1e6, 2),
                "path_mb_median": round(float(np.median(single)) / 1e6, 2),
                "path_mb_low": round(float(low) / 1e6, 2),
                "path_mb_high": round(float(high) / 1e6, 2),
                "mixture_over_path": round(whole / float(np.median(single)), 2),
            }
        )
        print(*list(rows[-1].values())[1:], sep="  ", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("regret", "squeeze", "memory"))
    parser.add_argument("--seeds", type=int, default=20, help="or random paths of `memory`")
    arguments = parser.parse_args()
    claim = {"regret": regret, "squeeze": squeeze, "memory": memory}[arguments.what]
    append_rows(f"multiagent_{arguments.what}", claim(arguments.seeds))


if __name__ == "__main__":
    main()
