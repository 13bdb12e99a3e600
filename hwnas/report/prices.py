"""What a run's devices cost, from their latency tables: by layer and choice, by block, and against whole networks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hwnas.latency_tables import find_table
from hwnas.network_prices import price_model
from hwnas.pricing import CostModel, LatencyModel
from hwnas.spaces.errors import HwnasError
from hwnas.spaces.space import SearchSpace

__all__ = ["DevicePrices", "device_prices"]

#: Networks of a table that are drawn at most.
_MOST_NETWORKS = 1000


@dataclass(frozen=True, eq=False)
class DevicePrices:
    """Prices of a space on one device, as its table is now.

    Attributes
    ----------
    device
        As the constraint names it.
    method, hardware
        How the table's numbers came to be, and of what; empty if there is no table.
    problem
        Why there are no prices; None if there are.
    choices
        Milliseconds of what depends on each decision, by choice; see `hwnas.costs.AdditiveCost.marginals`.
    blocks
        Milliseconds of each block by its signature; empty where the device is priced by whole networks.
    predicted_ms, measured_ms
        Whole networks of the table: predicted by a fit that never saw them, and as the device gave them, ``(n,)``.
    """

    device: str
    method: str = ""
    hardware: str = ""
    problem: str | None = None
    choices: tuple[np.ndarray, ...] = ()
    blocks: dict[str, float] | None = None
    predicted_ms: np.ndarray | None = None
    measured_ms: np.ndarray | None = None


def device_prices(
    space: SearchSpace, devices: Sequence[str], tables: str | os.PathLike[str] | None
) -> list[DevicePrices]:
    """Prices of `space` on each of `devices`, or why there are none."""
    found = []
    for device in devices:
        try:
            table = find_table(device.removeprefix("recorded."), tables)
            model = price_model(space, table)
        except HwnasError as error:
            found.append(DevicePrices(device, problem=str(error)))
            continue
        hardware = f"{table.device.name}, {table.device.runtime} {table.device.runtime_version}"
        choices = tuple(model.additive.marginals())
        predicted, measured = _networks(space, model, [(r.space, r.median_ms) for r in table.networks])
        blocks = None
        if isinstance(model, LatencyModel):
            signatures = (block.signature for block in space.catalog)
            blocks = dict(zip(signatures, model.block_ms.tolist(), strict=True))
        found.append(DevicePrices(device, model.method, hardware, None, choices, blocks, predicted, measured))
    return found


def _networks(
    space: SearchSpace, model: CostModel, networks: Sequence[tuple[str, float]]
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Cross-validated predictions of the networks of the space in a table, and what the device gave."""
    if not isinstance(model, LatencyModel):
        return None, None
    measured = np.array([ms for spec, ms in networks if spec == space.spec])
    if len(measured) < 2 or len(measured) != len(model.residuals):  # else they are the residuals of a predictor
        return None, None
    predicted = measured / (1.0 + model.residuals)
    drawn = np.random.default_rng(0).permutation(len(measured))[:_MOST_NETWORKS]
    return predicted[drawn], measured[drawn]
