"""Workloads with their cycles as Intel's own library logs them, to check readings of cost networks against.

The library writes one row a workload (its variable ``ENABLE_VPUNN_DATA_SERIALIZATION``); kinds are written like
``Operation.CONVOLUTION``, sizes as whole numbers, and ``cost_source`` says whether the network gave the cycles.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hwnas.profilers.vpunn.workload import Workload
from hwnas.spaces.errors import ModelError

__all__ = ["LoggedRow", "read_rows"]

_MAX_BYTES = 256 * 2**20
_STRATEGIES = {"Clustering": "CLUSTERING", "SplitOverH": "SPLIT_OVER_H", "SplitOverK": "SPLIT_OVER_K"}
#: what the descriptors here leave out, and the value that says so
_PLAIN = {
    "input_0_batch": "1",
    "output_0_batch": "1",
    "input_sparsity_enabled": "0",
    "output_sparsity_enabled": "0",
    "input_0_layout": "ZXY",
    "output_0_layout": "ZXY",
    "activation_function": "NONE",
    "sep_enabled": "0",
    "in_place_input1": "0",
    "in_place_output": "0",
    "superdense_output": "0",
    "mpe_engine": "SCL",
}


@dataclass(frozen=True)
class LoggedRow:
    """One logged workload.

    Attributes
    ----------
    device
        Such as ``NPU_5_0``.
    workload
        What was computed.
    cycles
        What Intel's library gave.
    other
        Why it is not a plain answer of the cost network (another source, a halo, ...); None if it is one.
    """

    device: str
    workload: Workload
    cycles: int
    other: str | None


def read_rows(path: str | Path) -> list[LoggedRow]:
    """Read a log; rows that repeat are given once.

    Raises
    ------
    ModelError
        If the file cannot be read, or a row lacks a column or holds something else than a number.
    """
    file = Path(path)
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise ModelError(f"{file} has more than {_MAX_BYTES >> 20} MiB; this is no log of workloads")
        with open(file, encoding="utf-8", newline="") as stream:
            rows = [_row(row) for row in csv.DictReader(stream)]
    except OSError as error:
        raise ModelError(f"cannot read {file}: {error.strerror}; check the path") from error
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        raise ModelError(f"{file} is no log of workloads ({type(error).__name__}: {error})") from error
    return list(dict.fromkeys(rows))


def _kind(value: str) -> str:
    return value.rpartition(".")[2]


def _row(row: Mapping[str, str]) -> LoggedRow:
    def sizes(tensor: str) -> tuple[int, int, int]:
        return (int(row[f"{tensor}_width"]), int(row[f"{tensor}_height"]), int(row[f"{tensor}_channels"]))

    sides = [int(row[f"kernel_pad_{side}"]) for side in ("top", "bottom", "left", "right")]
    workload = Workload(
        operation=_kind(row["operation"]),
        input=sizes("input_0"),
        output=sizes("output_0"),
        kernel=(int(row["kernel_width"]), int(row["kernel_height"])),
        stride=(int(row["kernel_stride_width"]), int(row["kernel_stride_height"])),
        padding=(sides[0], sides[1], sides[2], sides[3]),
        input_type=_kind(row["input_0_datatype"]),
        output_type=_kind(row["output_0_datatype"]),
        weight_type=_kind(row["input_1_datatype"]),
        mode=_kind(row["execution_order"]),
        strategy=_STRATEGIES[_kind(row["isi_strategy"])],
        write_tiles=int(row["output_write_tiles"]),
        sparsity=float(row["weight_sparsity_rate"]) if row["weight_sparsity_enabled"] == "1" else None,
    )
    odd = [f"{name} {row[name]}" for name, plain in _PLAIN.items() if _kind(row[name]) != plain]
    odd += [f"{name} {row[name]}" for name in row if "_halo_" in name and row[name] != "0"]
    if not row["cost_source"].startswith("nn_"):
        odd.insert(0, f"cost source {row['cost_source']}")
    return LoggedRow(_kind(row["device"]), workload, int(row["vpunn_cycles"]), "; ".join(odd) or None)
