"""Rows for a space that was never profiled, from what a device's predictor knows of kernels."""

from __future__ import annotations

import numpy as np

from hwnas.kernel_profiling import load_predictor
from hwnas.latency_tables import LatencyTable
from hwnas.profilers.coverage import covering_networks
from hwnas.spaces.placement import place_kernels
from hwnas.spaces.space import SearchSpace

__all__ = ["learn_rows"]

#: in how many networks each block is priced
COVER = 3


def learn_rows(space: SearchSpace, table: LatencyTable) -> tuple[np.ndarray, list[float]] | None:
    """Price every block of a space inside whole networks, as measuring in context would do it.

    Parameters
    ----------
    space
        The space.
    table
        A table with a predictor, see `hwnas.profile_kernels`.

    Returns
    -------
    tuple or None
        Milliseconds of each block of ``space.catalog``, and relative residuals of the predictor on whole networks
        that it had not seen; None if the table has no predictor.
    """
    predictor = load_predictor(table)
    if predictor is None:
        return None
    column = {block.signature: index for index, block in enumerate(space.catalog)}
    total, seen = np.zeros(len(column)), np.zeros(len(column))
    for architecture in covering_networks(space, np.full(len(column), COVER)):
        graph = space.lower(architecture)
        placed = place_kernels(graph)
        known = predictor.kernel_ms(placed)
        prices = np.where(np.isnan(known), predictor.roofline_ms(placed), known)
        ms = dict(zip((node.name for node in graph.nodes), prices.tolist(), strict=True))
        for block in graph.blocks:
            total[column[block.signature]] += sum(ms[node.name] for node in block.nodes)
            seen[column[block.signature]] += 1
    for index in np.flatnonzero(seen == 0).tolist():  # in no network that was found
        total[index] = predictor.latency(place_kernels(space.catalog[index]))
    residuals = [ratio / predictor.correction - 1.0 for ratio in predictor.ratios]
    return total / np.maximum(seen, 1), residuals
