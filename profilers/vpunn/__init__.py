"""Intel's NPU cost model (VPUNN), read and applied by code of our own; see ``docs/devices/vpu-vpunn.md``."""

from __future__ import annotations

from hwnas.profilers.vpunn.costs import LayerCost, NetworkCost, network_cost
from hwnas.profilers.vpunn.network import read_network
from hwnas.profilers.vpunn.platforms import PLATFORMS, Platform, get_platform
from hwnas.profilers.vpunn.tiling import LayerCosts

__all__ = [
    "PLATFORMS",
    "LayerCost",
    "LayerCosts",
    "NetworkCost",
    "Platform",
    "get_platform",
    "network_cost",
    "read_network",
]
