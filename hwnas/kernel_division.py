"""Dividing networks among their kernels on devices that count no kernels: by a model of the kernels themselves.

Whole latencies are divided first in proportion to a roofline, then by predictors that were fitted on the division of
the other networks, several times over. What kernels cost shows because networks have them in different numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from hwnas.boosted_roofline import fit_roofline
from hwnas.profilers.division import DividedNetwork
from hwnas.spaces.placement import Placement

__all__ = ["divide_by_model"]

#: how often networks are divided anew, and into how many parts they fall for that
ROUNDS, FOLDS = 6, 3


class _Model(Protocol):
    def known_ms(self, network: Placement) -> np.ndarray: ...


def divide_by_model(
    networks: Sequence[DividedNetwork],
    costs: Callable[[Placement], np.ndarray],
    fit: Callable[[Sequence[DividedNetwork]], _Model],
    *,
    seed: int = 0,
) -> list[DividedNetwork]:
    """Divide those networks that were only measured as a whole (`DividedNetwork.counted`).

    Parameters
    ----------
    networks
        All networks; those that were counted stay as they are.
    costs
        What a roofline is linear in, of the kernels of a network, shape ``(kernels, columns)``.
    fit
        Makes a predictor, whose `known_ms` gives milliseconds of every kernel, from divided networks.
    seed
        Of the parts: a network is divided by predictors that were fitted on others, or the first division would stay.
    """
    whole = [index for index, network in enumerate(networks) if not network.counted]
    divided = list(networks)
    if not whole:
        return divided
    columns = [costs(network.placement) for network in networks]
    latency = np.array([network.latency_ms for network in networks])
    line = fit_roofline(np.array([rows.sum(axis=0) for rows in columns]), latency)

    def parts(index: int, ms: np.ndarray) -> DividedNetwork:
        ms = np.maximum(ms, 1e-9)
        return replace(networks[index], kernel_ms=tuple((ms / ms.sum() * latency[index]).tolist()))

    for index in whole:
        divided[index] = parts(index, columns[index] @ line)
    if len(networks) < 2 * FOLDS:
        return divided
    order = np.random.default_rng(seed).permutation(whole).tolist()
    for _ in range(ROUNDS):
        anew = list(divided)
        for fold in range(FOLDS):
            held = set(order[fold::FOLDS])
            model = fit([network for index, network in enumerate(divided) if index not in held])
            for index in held:
                anew[index] = parts(index, model.known_ms(networks[index].placement))
        divided = anew
    return divided
