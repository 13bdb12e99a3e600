"""Pricing and drawing under a budget: architectures a second on one core, against the plain ways of doing it.

    OMP_NUM_THREADS=1 python benchmarks/exact_sampling.py

Prices with the MACs of each block; a latency table's model is the same look-ups with other numbers.
The baselines run in the same process: pricing by summing Python numbers, and drawing by rejection
(draw uniformly, keep what meets the budget), which is what SPOS's released code does. Budgets are
shares of the space's range of MACs. Writes ``exact-sampling.md`` to ``benchmarks/results``.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import hwnas
from hwnas.constraints import ConstraintSet
from hwnas.costs import AdditiveCost
from hwnas.spaces.files import atomic_write
from hwnas.spaces.space import SearchSpace, get_space

SPACES = ("mobilenet", "shufflenet", "nasbench201")
BUDGETS = (0.5, 0.25, 0.1)
#: Rejection stops after this many draws.
PATIENCE = 2_000_000


def seconds(call: Callable[[], Any], repeats: int = 5) -> float:
    """Median time of a call."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def price_plainly(cost: AdditiveCost, architectures: list[list[int]]) -> list[float]:
    """The baseline: one Python number at a time."""
    radices = cost.radices.tolist()
    tables = [(part.decisions, part.table.tolist()) for part in cost.parts]
    found = []
    for architecture in architectures:
        total = cost.constant
        for decisions, table in tables:
            index = 0
            for decision in decisions:
                index = index * radices[decision] + architecture[decision]
            total += table[index]
        found.append(total)
    return found


def reject(space: SearchSpace, cost: AdditiveCost, bound: float, count: int) -> tuple[int, float]:
    """The baseline: draw uniformly and keep what is feasible; how many were found, and the time."""
    rng, found, drawn = np.random.default_rng(0), 0, 0
    start = time.perf_counter()
    while found < count and drawn < PATIENCE:
        found += int((cost.values(space.sample(10_000, rng)) <= bound).sum())
        drawn += 10_000
    return min(found, count), time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    lines = [
        "# Pricing and exact sampling",
        "",
        "One core, medians of 5; "
        f"hwnas {hwnas.__version__}, Python {platform.python_version()}, numpy {np.__version__}.",
        "",
        "| space | decisions | pricing, architectures a second | one Python number at a time |",
        "| --- | --- | --- | --- |",
    ]
    drawing = [
        "",
        "1,000 feasible architectures under a budget on MACs (the share of the way from the cheapest architecture to "
        "the dearest); rejection gives up after 2,000,000 draws.",
        "",
        "| space | budget | feasible share | set-up | 1,000 draws | rejection |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for spec in SPACES:
        space = get_space(spec)
        cost = AdditiveCost.from_space(space, np.array([block.macs for block in space.catalog], dtype=float))
        many = space.sample(1_000_000, rng)
        quick = len(many) / seconds(lambda: cost.values(many))  # noqa: B023 - called at once
        few = many[:20_000].tolist()
        plain = len(few) / seconds(lambda: price_plainly(cost, few))  # noqa: B023
        assert np.allclose(price_plainly(cost, few), cost.values(many[:20_000]))
        lines.append(f"| {spec} | {len(space.decisions)} | {quick / 1e6:.1f} M | {plain / 1e6:.2f} M |")
        low, high = cost.range()
        for share in BUDGETS:
            bound = low + share * (high - low)
            limits = ConstraintSet(f"macs <= {bound}", space)
            setup = seconds(limits.sampler)
            sampler = limits.sampler()
            draws = seconds(lambda: sampler.sample(1000, rng))  # noqa: B023
            found, spent = reject(space, cost, bound, 1000)
            rejection = f"{1e3 * spent:.1f} ms" if found == 1000 else f"{found} found in {spent:.1f} s"
            drawing.append(
                f"| {spec} | {100 * share:g} % | {sampler.share():.2g} | {1e3 * setup:.1f} ms | {1e3 * draws:.1f} ms | "
                f"{rejection} |"
            )
    text = "\n".join([*lines, *drawing]) + "\n"
    atomic_write(options.out / "exact-sampling.md", text)
    print(text)


if __name__ == "__main__":
    main()
