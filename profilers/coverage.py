"""Choosing whole networks of a space so that together they show every block several times."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from hwnas.spaces.space import Architecture, SearchSpace

__all__ = ["covering_networks"]

_POOL = 256
#: Spaces up to this size are searched whole, for the sake of blocks that only a few architectures have.
_SMALL = 20_000
_ROUNDS = 8


def covering_networks(
    space: SearchSpace, need: np.ndarray, *, seed: int = 0, avoid: Collection[Architecture] = ()
) -> list[Architecture]:
    """Few architectures that between them contain each block as often as needed.

    A greedy cover: of a pool of candidates, the one with the most blocks that are still needed is
    taken next. The pool holds random architectures and random Latin squares (each choice of each
    decision exactly once in as many networks as there are choices), which cover a space whose
    blocks depend on one decision each with no waste. A small space is its own pool.

    Parameters
    ----------
    space
        The search space.
    need
        In how many distinct networks each catalog block shall occur, shape ``(len(space.catalog),)``.
    seed
        Seed of the candidates.
    avoid
        Architectures that must not be chosen.

    Returns
    -------
    list
        Distinct architectures. If a block occurs in too few networks of the space, in all that were found.
    """
    if not (need > 0).any():
        return []
    rng = np.random.default_rng(seed)
    remaining = np.array(need, dtype=np.int64)
    taken = set(avoid)
    chosen: list[Architecture] = []
    for _ in range(_ROUNDS):
        if not (remaining > 0).any():
            break
        pool = [row for row in _candidates(space, rng, int(remaining.max())) if row not in taken]
        if not pool:
            continue
        shows = space.counts(np.array(pool)) > 0
        free = np.ones(len(pool), dtype=bool)
        while free.any():
            gain = np.where(free, (shows & (remaining > 0)).sum(axis=1), 0)
            best = int(gain.argmax())
            if gain[best] == 0:
                break
            free[best] = False
            remaining -= shows[best]
            chosen.append(pool[best])
            taken.add(pool[best])
    return chosen


def _candidates(space: SearchSpace, rng: np.random.Generator, squares: int) -> list[Architecture]:
    if space.size <= _SMALL:
        return [tuple(row) for row in rng.permutation(space.all()).tolist()]
    radices = space.radices
    rows = [space.sample(_POOL, rng)]
    for _ in range(squares):
        order = [rng.permutation(radix) for radix in radices]
        for shift in range(int(radices.max())):
            rows.append(np.array([[places[shift % len(places)] for places in order]]))
    return list(dict.fromkeys(tuple(row) for row in np.concatenate(rows).tolist()))
