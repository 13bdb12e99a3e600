"""How layers are divided among tiles and into workloads, seen by what the cost network is asked."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from hwnas.profilers.vpunn import PLATFORMS, LayerCosts, read_network
from hwnas.profilers.vpunn.network import CostNetwork
from hwnas.profilers.vpunn.tiling import DpuLayer, round_up
from hwnas.profilers.vpunn.workload import DESCRIPTORS
from tests.paths import shared_data

CONV = DpuLayer("CONVOLUTION", (56, 56, 32), (56, 56, 32), (3, 3), (1, 1), (1, 1, 1, 1))
#: first columns of the output's and the input's sizes, by version
OUTPUT, INPUT = {10: 18, 4111: 42, 5114: 21}, {10: 10, 4111: 10, 5114: 7}


class Asked:
    """Stands in for a cost network: keeps what it is asked, and answers with a function of the output's sizes."""

    def __init__(self, descriptor: int, answer: Callable[[list[int]], float] = math.prod):
        self.name, self.descriptor, self.inputs = "asked", descriptor, DESCRIPTORS[descriptor][0]
        self.rows: list[list[int]] = []
        self._answer = answer

    def predict(self, descriptors: Any) -> Any:
        rows = descriptors.astype(int).tolist()
        self.rows += rows
        return np.array([self._answer(self._sizes(row)) for row in rows])

    def _sizes(self, row: list[int]) -> list[int]:
        return row[OUTPUT[self.descriptor] :][:3]

    @property
    def outputs(self) -> list[list[int]]:
        return [self._sizes(row) for row in self.rows]

    @property
    def given(self) -> list[list[int]]:
        return [row[INPUT[self.descriptor] :][:3] for row in self.rows]


def costs(asked: Asked, key: str, tiles: int | None = None) -> LayerCosts:
    platform = PLATFORMS[key]
    return LayerCosts(cast(CostNetwork, asked), replace(platform, tiles=tiles or platform.tiles))


def test_rows_are_read_with_what_the_kernel_reaches() -> None:
    asked = Asked(5114)
    assert costs(asked, "npu5010").cycles([CONV]) == [19 * 56 * 32]  # the largest of 19, 19 and 18 rows
    padding = [row[34:38] for row in asked.rows]
    found = set(zip(map(tuple, asked.given), map(tuple, asked.outputs), map(tuple, padding), strict=True))
    by_rows = {
        ((56, 20, 32), (56, 19, 32), (1, 0, 1, 1)),
        ((56, 21, 32), (56, 19, 32), (0, 0, 1, 1)),
        ((56, 19, 32), (56, 18, 32), (0, 1, 1, 1)),
    }
    whole, by_channels = ((56, 56, 32), (56, 56, 32), (1, 1, 1, 1)), ((56, 56, 32), (56, 56, 16), (1, 1, 1, 1))
    assert found == {whole, by_channels, *by_rows}
    assert {tuple(row[38:41]) for row in asked.rows} == {(1, 0, 0), (0, 1, 0), (0, 0, 1)}  # each in every mode
    written = {tuple(output): row[43] for output, row in zip(asked.outputs, asked.rows, strict=True)}
    assert written == {(56, 56, 32): 1, (56, 19, 32): 1, (56, 18, 32): 1, (56, 56, 16): 2}


def test_strides_and_uneven_sizes_stay_inside_the_input() -> None:
    asked = Asked(4111)
    layer = CONV._replace(input=(113, 113, 32), output=(57, 57, 32), stride=(2, 2))
    costs(asked, "npu4000").cycles([layer])
    for given, output in zip(asked.given, asked.outputs, strict=True):
        assert given[1] <= 113
        assert 2 * (output[1] - 1) + 1 <= given[1] <= 2 * (output[1] - 1) + 3


def test_the_fastest_division_is_taken() -> None:
    def cheapest(answer: Callable[[list[int]], float], **changes: Any) -> float:
        return costs(Asked(4111, answer), "npu4000").cycles([CONV._replace(**changes)])[0]

    assert cheapest(lambda _: 1000) == 1000
    assert cheapest(lambda sizes: sizes[1]) == 10  # 56 rows on 6 tiles
    assert cheapest(lambda sizes: sizes[2]) == 16
    assert cheapest(lambda sizes: sizes[2], output=(56, 56, 160)) == 32
    assert cheapest(lambda sizes: sizes[1] * sizes[2], divide=False) == 56 * 32


@pytest.mark.parametrize(
    ("key", "descriptor", "channels", "workloads"),
    [
        ("npu4000", 4111, 96, 3),  # of 32
        ("npu5010", 5114, 96, 2),  # 64 and 32
        ("npu4000", 4111, 64, 1),
        ("npu4000", 4111, 144, 5),  # four of 32 and one of 16
        ("npu5010", 5114, 144, 3),  # 64, 64 and 16
    ],
)
def test_depthwise_convolutions_take_a_few_channels_at_a_time(
    key: str, descriptor: int, channels: int, workloads: int
) -> None:
    asked = Asked(descriptor, lambda _: 1)
    layer = CONV._replace(operation="DW_CONVOLUTION", input=(8, 8, channels), output=(8, 8, channels))
    assert costs(asked, key, tiles=1).cycles([layer]) == [workloads]
    assert {sizes[2] for sizes in asked.outputs} <= {16, 32, 64}
    assert asked.given == asked.outputs  # each reads its own channels
    convolution = CONV._replace(input=(8, 8, channels), output=(8, 8, channels))
    assert costs(Asked(descriptor, lambda _: 1), key, tiles=1).cycles([convolution]) == [1]


def test_the_units_of_keem_bay_share_a_tile() -> None:
    def cycles(**changes: Any) -> float:
        return costs(Asked(10), "npu3700", tiles=1).cycles([CONV._replace(**changes)])[0]

    assert cycles(output=(20, 20, 16)) == 20 * 20 * 16 / 5
    assert cycles(output=(4, 1, 160), input=(4, 1, 32), padding=(1, 1, 1, 1)) == 4 * 32  # by channels
    assert cycles(output=(7, 7, 16)) == 7 * 2 * 16  # 2, 2, 2 and 1 rows: one unit has nothing to do


def test_what_was_computed_is_not_asked_again() -> None:
    asked = Asked(4111)
    found = costs(asked, "npu4000")
    wider = CONV._replace(output=(56, 56, 48))
    first = found.cycles([CONV, CONV, wider])
    count = len(asked.rows)
    assert len({tuple(row) for row in asked.rows}) == count
    assert found.cycles([wider, CONV]) == [first[2], first[0]]
    assert len(asked.rows) == count


def test_weights_are_filled_up() -> None:
    def weights(operation: str, given: int, output: int, kernel: int = 1, type_: str = "FLOAT16") -> int:
        layer = DpuLayer(operation, (7, 7, given), (7, 7, output), (kernel, kernel), type=type_)
        return layer.weight_bytes

    # the transfers that Intel's compiler reports for MobileNetV2
    assert weights("CONVOLUTION", 32, 144) == 11520
    assert weights("DW_CONVOLUTION", 96, 96, 3) == 4608
    assert weights("CM_CONVOLUTION", 3, 32, 3, "UINT8") == 32 * (32 + 16)
    assert weights("MAXPOOL", 32, 32, 3) == weights("ELTWISE", 32, 32) == 0
    assert DpuLayer("CONVOLUTION", (7, 7, 32), (7, 7, 144), stored=False).weight_bytes == 0
    assert (round_up(1, 16), round_up(16, 16), round_up(17, 16)) == (16, 16, 32)


def test_layers_in_intels_own_tests() -> None:
    folder = shared_data() / "vpunn"
    # ranges of cycles of which these tests say that Intel's layer cost model must stay in them
    for key, tiles, layer, low, high in [
        ("npu3720", 2, DpuLayer("CONVOLUTION", (7, 7, 512), (7, 7, 2048), type="UINT8"), 16000, 19000),
        ("npu3720", 2, DpuLayer("AVEPOOL", (7, 7, 2032), (1, 1, 2032), (7, 7), type="UINT8"), 14000, 16300),
        ("npu4000", 4, DpuLayer("CONVOLUTION", (28, 28, 256), (28, 28, 128), type="UINT8"), 2200, 4235),
        ("npu4000", 4, DpuLayer("ELTWISE", (28, 28, 256), (28, 28, 256), type="UINT8"), 1000, 2000),
    ]:
        platform = replace(PLATFORMS[key], tiles=tiles)
        (cycles,) = LayerCosts(read_network(folder / platform.files[0]), platform).cycles([layer])
        assert low <= cycles <= high
