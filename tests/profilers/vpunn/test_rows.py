"""The reader of Intel's logs of workloads."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from hwnas.profilers.vpunn.rows import LoggedRow, read_rows
from hwnas.profilers.vpunn.workload import Workload
from hwnas.spaces import ModelError

ROW = {
    "device": "VPUDevice.NPU_5_0",
    "operation": "Operation.CONVOLUTION",
    **dict.fromkeys(["input_0_batch", "output_0_batch"], "1"),
    **{"input_0_width": "14", "input_0_height": "12", "input_0_channels": "48"},
    **{"output_0_width": "7", "output_0_height": "6", "output_0_channels": "96"},
    **dict.fromkeys(["input_0_layout", "output_0_layout"], "Layout.ZXY"),
    **{"input_0_datatype": "DataType.UINT8", "output_0_datatype": "FLOAT16", "input_1_datatype": "DataType.INT8"},
    **dict.fromkeys(["input_sparsity_enabled", "output_sparsity_enabled", "weight_sparsity_enabled"], "0"),
    "weight_sparsity_rate": "0.25",
    **{"kernel_width": "3", "kernel_height": "5", "kernel_stride_width": "2", "kernel_stride_height": "1"},
    **{f"kernel_pad_{side}": str(size) for size, side in enumerate(["top", "bottom", "left", "right"])},
    "execution_order": "ExecutionMode.CUBOID_8x16",
    "activation_function": "ActivationFunction.NONE",
    "isi_strategy": "ISIStrategy.SplitOverK",
    "output_write_tiles": "2",
    **dict.fromkeys(["sep_enabled", "in_place_input1", "in_place_output", "superdense_output", "input_halo_top"], "0"),
    "mpe_engine": "MPEEngine.SCL",
    "cost_source": "nn_sim_runs",
    "vpunn_cycles": "4711",
}
WORKLOAD = Workload(
    *("CONVOLUTION", (14, 12, 48), (7, 6, 96), (3, 5), (2, 1), (0, 1, 2, 3), "UINT8", "FLOAT16", "INT8"),
    *("CUBOID_8x16", "SPLIT_OVER_K", 2),
)


def write(path: Path, *rows: dict[str, str]) -> Path:
    with open(path, "w", newline="") as stream:
        writer = csv.DictWriter(stream, ROW)
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_rows_are_read_once_each(tmp_path: Path) -> None:
    sparse = {**ROW, "weight_sparsity_enabled": "1"}
    file = write(tmp_path / "log.csv", ROW, sparse, ROW)
    assert read_rows(file) == [
        LoggedRow("NPU_5_0", WORKLOAD, 4711, None),
        LoggedRow("NPU_5_0", WORKLOAD._replace(sparsity=0.25), 4711, None),
    ]


def test_what_is_no_plain_answer_of_the_network_is_said(tmp_path: Path) -> None:
    odd = {**ROW, "cost_source": "profiling", "input_halo_top": "2", "activation_function": "ActivationFunction.PRELU"}
    (row,) = read_rows(write(tmp_path / "log.csv", odd))
    assert row.other == "cost source profiling; activation_function ActivationFunction.PRELU; input_halo_top 2"


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"kernel_width": "three"}, "invalid literal"), ({"isi_strategy": "Other"}, "'Other'")],
)
def test_other_files_are_refused(tmp_path: Path, changes: dict[str, str], words: str) -> None:
    with pytest.raises(ModelError, match=f"is no log of workloads .*{words}"):
        read_rows(write(tmp_path / "log.csv", {**ROW, **changes}))
    (tmp_path / "log.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ModelError, match="is no log of workloads"):
        read_rows(tmp_path / "log.csv")
    with pytest.raises(ModelError, match=r"cannot read .*: No such file"):
        read_rows(tmp_path / "none.csv")
