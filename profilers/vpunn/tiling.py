"""What a layer costs: it is divided among tiles, in each tile into workloads, in the fastest way that there is.

The rules are those of Intel's layer cost model (facts of intel/npu-nn-cost-model, Apache-2.0). Among tiles a layer is
divided by rows (each tile reads the rows that it needs, padding only at the border), or by output channels (each
tile writes its share to all), or not at all. In a tile with one tensor unit a convolution or an addition is one
workload in its fastest mode; depthwise convolutions and pooling take 16, 32 or 64 channels at a time. The five units
of a tile of Keem Bay share its part in five pieces; Intel's model tries more, and comes out 2 to 3 % lower.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from hwnas.profilers.vpunn.network import CostNetwork
from hwnas.profilers.vpunn.platforms import Platform
from hwnas.profilers.vpunn.workload import Workload, cycles

__all__ = ["DpuLayer", "LayerCosts", "round_up"]

#: a list of workloads that one tile computes, with how often each
_Plan = tuple[tuple[Workload, int], ...]

_CHUNKS = (16, 32, 64)
#: take so many channels at a time only
_CHUNKED = frozenset({"DW_CONVOLUTION", "MAXPOOL", "AVEPOOL"})
#: read all channels for each output channel
_MIXING = frozenset({"CONVOLUTION", "CM_CONVOLUTION"})
#: grids of multipliers of Keem Bay's modes: width, height
_GRIDS = {"VECTOR_FP16": (4, 1), "VECTOR": (16, 1), "MATRIX": (4, 4)}


def round_up(number: int, multiple: int) -> int:
    """The next multiple."""
    return -(-number // multiple) * multiple


class DpuLayer(NamedTuple):
    """A layer for the tensor units: sizes (width, height, channels), padding (top, bottom, left, right)."""

    operation: str
    input: tuple[int, int, int]
    output: tuple[int, int, int]
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    type: str = "FLOAT16"
    #: whether it may be divided among tiles
    divide: bool = True
    #: whether its weights are brought from memory
    stored: bool = True

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights, filled up as the unit reads them, and of the table with 16 bytes a channel."""
        if not self.stored:
            return 0
        channels, size = self.output[2], 1 if self.type == "UINT8" else 2
        taps = self.kernel[0] * self.kernel[1]
        if self.operation in _MIXING:
            taps *= self.input[2]
        elif self.operation != "DW_CONVOLUTION":
            return 0
        return channels * (round_up(taps, 16) * size + 16)


class LayerCosts:
    """Cycles of layers on one platform; what was once computed is kept.

    Parameters
    ----------
    network
        The platform's cost network.
    platform
        Its tiles and modes.
    """

    def __init__(self, network: CostNetwork, platform: Platform) -> None:
        self.network, self.platform = network, platform
        self._layers: dict[DpuLayer, float] = {}
        self._workloads: dict[Workload, float] = {}

    def cycles(self, layers: Sequence[DpuLayer]) -> list[float]:
        """Cycles of each layer, without transfers from memory; all new workloads are put to the network at once."""
        plans = {layer: list(_ways(layer, self.platform)) for layer in layers if layer not in self._layers}
        wanted = dict.fromkeys(
            workload
            for ways in plans.values()
            for tiles in ways
            for variants in tiles
            for plan in variants
            for workload, _ in plan
            if workload not in self._workloads
        )
        found = cycles(self.network, list(wanted))
        self._workloads.update(zip(wanted, found.tolist(), strict=True))
        for layer, ways in plans.items():
            self._layers[layer] = min(max(min(map(self._plan, variants)) for variants in tiles) for tiles in ways)
        return [self._layers[layer] for layer in layers]

    def _plan(self, plan: _Plan) -> float:
        """Cycles of a tile: its units take the workloads in turn, each the next one as soon as it is free."""
        if self.platform.dpus == 1:
            return sum(count * self._workloads[workload] for workload, count in plan)
        free = [0.0] * self.platform.dpus
        for workload, count in plan:
            for _ in range(count):
                heapq.heapreplace(free, free[0] + self._workloads[workload])
        return max(free)


def _ways(layer: DpuLayer, platform: Platform) -> Iterator[list[list[_Plan]]]:
    """Ways to divide a layer among tiles; for each different tile the plans that it can follow."""
    tiles = platform.tiles if layer.divide else 1
    ways = [[(layer, "CLUSTERING", 1)]]
    if tiles > 1 and layer.output[1] > 1:
        ways.append([(part, "CLUSTERING", 1) for part in dict.fromkeys(_by_rows(layer, tiles))])
    if tiles > 1 and layer.output[2] >= 2 * _CHUNKS[0]:
        parts = _by_channels(layer, tiles)
        ways.append([(part, "SPLIT_OVER_K", len(parts)) for part in dict.fromkeys(parts)])
    for way in ways:
        yield [list(_plans(part, strategy, written, platform)) for part, strategy, written in way]


def _by_rows(layer: DpuLayer, tiles: int) -> list[DpuLayer]:
    """Equal shares of the output's rows, the last one smaller, with the input rows that they need."""
    width, height, channels = layer.output
    rows, stride, kernel = -(-height // tiles), layer.stride[1], layer.kernel[1]
    top, bottom, left, right = layer.padding
    parts = []
    for first in range(0, height, rows):
        count = min(rows, height - first)
        start, stop = first * stride - top, (first + count - 1) * stride - top + kernel
        above = max(0, -start)
        below = bottom if first + count == height else min(bottom, max(0, stop - layer.input[1]))
        size = max(1, stop - start - above - below)
        parts.append(
            layer._replace(
                input=(layer.input[0], size, layer.input[2]),
                output=(width, count, channels),
                padding=(above, below, left, right),
            )
        )
    return parts


def _by_channels(layer: DpuLayer, tiles: int) -> list[DpuLayer]:
    """Equal shares of the output's channels, in multiples of 16."""
    channels = layer.output[2]
    share = round_up(-(-channels // tiles), _CHUNKS[0])
    return [_with_channels(layer, min(share, channels - first)) for first in range(0, channels, share)]


def _with_channels(layer: DpuLayer, channels: int) -> DpuLayer:
    output = (*layer.output[:2], channels)
    if layer.operation in _MIXING:
        return layer._replace(output=output)
    return layer._replace(output=output, input=(*layer.input[:2], channels))


def _plans(layer: DpuLayer, strategy: str, tiles: int, platform: Platform) -> Iterator[_Plan]:
    """Lists of workloads that one tile can compute its part of a layer by."""

    def workload(part: DpuLayer, mode: str) -> Workload:
        top, bottom, left, right = part.padding
        (columns, rows), (right_by, down_by) = part.kernel, part.stride
        # what the output needs, which may be less than there is
        width = max(1, (part.output[0] - 1) * right_by + columns - left - right)
        height = max(1, (part.output[1] - 1) * down_by + rows - top - bottom)
        size, kind = (width, height, part.input[2]), part.type
        return Workload(*part._replace(input=size)[:6], kind, kind, kind, mode, strategy, tiles)

    if platform.dpus > 1:
        for mode, parts in _shared(layer, platform.dpus):
            yield tuple((workload(part, mode), count) for part, count in parts)
        return
    modes = platform.modes.get(layer.operation, ("CUBOID_16x16",))
    if layer.operation not in _CHUNKED:
        for mode in modes:
            yield ((workload(layer, mode), 1),)
        return
    made = {size: workload(_with_channels(layer, size), modes[0]) for size in _CHUNKS if size <= layer.output[2]}
    for chunks in _chunkings(layer.output[2], platform.mixed_chunks):
        yield tuple((made[size], count) for size, count in chunks)


@lru_cache(maxsize=1024)
def _chunkings(channels: int, mixed: bool) -> tuple[tuple[tuple[int, int], ...], ...]:
    """Divisions of channels, a multiple of 16, into chunks of 16, 32 and 64: sizes and how often each.

    Chunks are of one size but for the last; if `mixed`, each takes its fair share of what is left, rounded up.
    """
    found: dict[tuple[tuple[int, int], ...], None] = {}
    for count in range(1, channels // _CHUNKS[0] + 1):
        chunks = _fair_chunks(channels, count) if mixed else _equal_chunks(channels, count)
        if chunks:
            found[tuple(sorted(Counter(chunks).items()))] = None
    return tuple(found)


def _equal_chunks(channels: int, count: int) -> list[int]:
    size = round_up(-(-channels // count), _CHUNKS[0])
    rest = channels - (count - 1) * size
    return [*[size] * (count - 1), rest] if {size if count > 1 else rest, rest} <= set(_CHUNKS) else []


def _fair_chunks(channels: int, count: int) -> list[int]:
    chunks: list[int] = []
    for left in range(count, 0, -1):
        size = next((size for size in _CHUNKS if size * left >= channels), None)
        if size is None or size > channels:
            return []
        chunks.append(size)
        channels -= size
    return chunks if channels == 0 else []


def _shared(layer: DpuLayer, dpus: int) -> Iterator[tuple[str, list[tuple[DpuLayer, int]]]]:
    """Divisions of a part among the units of a tile of Keem Bay: the mode, and parts with how often each."""
    width, height, channels = layer.output
    if layer.type == "UINT8":
        grids = {mode: -(-width // w) * -(-height // h) for mode, (w, h) in _GRIDS.items() if mode != "VECTOR_FP16"}
        mode = min(("VECTOR", "MATRIX"), key=grids.__getitem__)  # the first of equals
    else:
        mode = "VECTOR_FP16"
    sizes = dict.fromkeys(
        tuple(
            round_up(-(-length // pieces), grid)
            for length, pieces, grid in zip((width, height), division, _GRIDS[mode], strict=True)
        )
        for division in ((1, 1), (dpus, 1), (1, dpus))
    )
    for wide, high in sizes:
        yield mode, list(_rectangles(layer, wide, high))
    if channels >= dpus * _CHUNKS[0] and (mode == "VECTOR" or layer.operation == "CONVOLUTION"):
        share = round_up(-(-channels // dpus), _CHUNKS[0])
        parts = Counter(min(share, channels - first) for first in range(0, channels, share))
        yield mode, [(_with_channels(layer, size), times) for size, times in parts.items()]


def _rectangles(layer: DpuLayer, wide: int, high: int) -> Iterator[tuple[DpuLayer, int]]:
    width, height, channels = layer.output
    columns = Counter(min(wide, width - first) for first in range(0, width, wide))
    rows = Counter(min(high, height - first) for first in range(0, height, high))
    for part_width, across in columns.items():
        for part_height, down in rows.items():
            yield layer._replace(output=(part_width, part_height, channels)), across * down
