"""Descriptors of workloads, and Intel's own cycles for the same workloads."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from hwnas.profilers.vpunn import PLATFORMS, read_network
from hwnas.profilers.vpunn.rows import read_rows
from hwnas.profilers.vpunn.workload import DESCRIPTORS, Workload, cycles, describe
from hwnas.spaces import ConfigError, ModelError
from tests.paths import shared_data
from tests.profilers.vpunn.models import random_layers, write_network

PUBLISHED = Path(__file__).parents[3] / "benchmarks" / "vpunn_published.csv"
CONV = Workload("CONVOLUTION", (14, 12, 48), (7, 6, 96), (3, 5), (2, 2), (1, 2, 3, 4), "UINT8", "FLOAT16", "INT8")
OPERATIONS = ["CONVOLUTION", "DW_CONVOLUTION", "CM_CONVOLUTION", "ELTWISE", "ELTWISE_MUL", "MAXPOOL", "AVEPOOL"]


@pytest.mark.parametrize("version", DESCRIPTORS)
def test_descriptors_have_their_size_and_one_kind_of_each(version: int) -> None:
    modes = ["CUBOID_16x16", "CUBOID_8x16", "CUBOID_4x16"]
    workloads = [CONV._replace(operation=operation, mode=mode) for operation in OPERATIONS for mode in modes]
    found = describe(version, workloads)
    assert found.shape == (len(workloads), DESCRIPTORS[version][0])
    assert found.dtype == np.float32
    # what is the same in all of them apart, only kinds and sizes that depend on the operation are left
    kinds = found[:, [column for column in range(found.shape[1]) if np.isin(found[:, column], (0, 1)).all()]]
    assert len(set(kinds.sum(axis=1))) <= 3
    assert len(np.unique(found, axis=0)) >= 9
    np.testing.assert_array_equal(found[:3], describe(version, workloads[:3]))
    assert describe(version, []).shape == (0, DESCRIPTORS[version][0])


def test_a_descriptor_of_panther_lake_number_by_number() -> None:
    assert describe(5114, [CONV])[0].tolist() == [
        *(1, 0, 0, 0, 0, 0, 0),  # a convolution
        *(14, 12, 48, 1, 1, 0, 0, 0, 0),  # the input, 8 bits
        *(1, 0, 0, 0, 0),  # the weights, where signs do not count
        *(7, 6, 96, 1, 0, 1, 0, 0, 0),  # the output, float16
        *(3, 5, 2, 2, 1, 2, 3, 4),
        *(1, 0, 0),
        *(0, 0),
        1,
        *(0, 0, 0, 0, 1, 0),
        *(0, 0, 0),
    ]


def test_descriptors_of_meteor_lake_hold_the_weights() -> None:
    def weights(**changes: object) -> list[float]:
        found = describe(11, [CONV._replace(**changes)])[0]  # type: ignore[arg-type]
        return found[26:30].tolist()

    assert weights() == [1, 1, 720, 96]  # 3 * 5 * 48 bytes a filter, a multiple of 16
    assert weights(operation="DW_CONVOLUTION") == [1, 1, 16, 96]
    assert weights(operation="CM_CONVOLUTION", input=(14, 12, 3)) == [1, 1, 48, 96]
    assert weights(operation="CM_CONVOLUTION", input=(14, 12, 1), kernel=(3, 3), input_type="FLOAT16") == [1, 1, 16, 96]
    assert weights(operation="MAXPOOL") == [0, 0, 0, 0]
    assert weights(operation="ELTWISE", input=(14, 12, 96)) == [12, 96, 14, 1]


def test_what_a_network_never_saw_is_replaced() -> None:
    def same(version: int, one: Workload, other: Workload) -> bool:
        first, second = describe(version, [one, other])
        return bool((first == second).all())

    for version in DESCRIPTORS:
        assert same(version, CONV._replace(operation="AVEPOOL"), CONV._replace(operation="DW_CONVOLUTION"))
        assert same(version, CONV, CONV._replace(input_type="INT8"))
    added = CONV._replace(operation="ELTWISE")
    assert same(4111, CONV._replace(operation="ELTWISE_MUL"), added)
    assert not same(5114, CONV._replace(operation="ELTWISE_MUL"), added)
    by_channels = added._replace(strategy="SPLIT_OVER_K", write_tiles=2)
    assert same(11, by_channels, added)
    assert not same(4111, by_channels, added)
    assert same(5114, CONV._replace(write_tiles=2), CONV._replace(write_tiles=3))
    wide = CONV._replace(strategy="SPLIT_OVER_K")
    assert same(11, wide._replace(write_tiles=2), wide._replace(write_tiles=3))
    assert not same(4111, wide._replace(write_tiles=2), wide._replace(write_tiles=3))
    few = CONV._replace(operation="CM_CONVOLUTION", input=(14, 12, 3))
    assert same(5114, few, few._replace(input=(14, 12, 16)))


def test_unknown_kinds_and_versions_are_refused() -> None:
    for version, wrong, words in [
        (11, CONV._replace(operation="SOFTMAX"), "knows no operation SOFTMAX; it knows CONVOLUTION"),
        (5114, CONV._replace(input_type="UINT1"), "knows no type UINT1"),
        (4111, CONV._replace(mode="MATRIX"), "knows no mode MATRIX"),
        (12, CONV, "no reader of descriptors of version 12; there are 10, 11"),
    ]:
        with pytest.raises(ConfigError, match=words):
            describe(version, [CONV, wrong])


def test_cycles_are_rounded_up_and_checked(tmp_path: Path) -> None:
    network = read_network(write_network(tmp_path / "x.vpunn", random_layers(93, 8, 1)))
    found = cycles(network, [CONV])
    (plain,) = network.predict(describe(11, [CONV]))
    assert plain < found[0] == np.ceil(plain)
    assert cycles(network, []).shape == (0,)
    with pytest.raises(ConfigError, match="takes 93 numbers, but descriptors of version 10 have 67"):
        cycles(read_network(write_network(tmp_path / "x.vpunn", random_layers(93, 1), "VPUNN-10-02")), [CONV])
    weights, bias, _ = random_layers(93, 1)[0]
    negative = read_network(write_network(tmp_path / "x.vpunn", [(-weights, bias, False)]))
    with pytest.raises(ModelError, match="cycles, which cannot be"):
        cycles(negative, [CONV])


def test_intels_logged_rows() -> None:
    folder = shared_data() / "vpunn"
    rows = read_rows(folder / "reference_rows.csv")
    assert len(rows) == 100
    assert {row.device for row in rows} == {"NPU_5_0"}
    found = cycles(read_network(folder / "vpu_5_1.vpunn"), [row.workload for row in rows])
    given = np.array([row.cycles for row in rows])
    assert abs(found - given).max() <= 1
    assert np.mean(found == given) >= 0.95  # others lie next to a whole number


def test_values_in_intels_own_tests() -> None:
    with open(PUBLISHED, newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["what"] == "model"]
    network = read_network(shared_data() / "vpunn" / "vpu_2_7.vpunn")
    assert {row["platform"] for row in rows} == {"npu3720"}
    assert cycles(network, [_workload(row) for row in rows]).tolist() == [int(row["low"]) for row in rows]


def _workload(row: dict[str, str]) -> Workload:
    def sizes(name: str) -> tuple[int, ...]:
        return tuple(map(int, row[name].split("x")))

    shape = [sizes(name) for name in ("input", "output", "kernel", "stride", "padding")]
    return Workload(
        row["operation"],
        *shape,  # type: ignore[arg-type]
        *[row["type"]] * 3,
        row["mode"],
        row["strategy"],
        int(row["write_tiles"]),
    )


def test_each_network_takes_its_platforms_descriptors() -> None:
    folder = shared_data() / "vpunn"
    for platform in PLATFORMS.values():
        network = read_network(folder / platform.files[0])
        assert network.descriptor in platform.descriptors
        assert network.inputs == DESCRIPTORS[network.descriptor][0]
