"""Measuring exported files on the devices of a run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from hwnas.export_run import measure_file
from hwnas.quantize import quantize_for_timing
from hwnas.spaces import get_space
from tests.profilers.vpunn.models import random_layers, write_network


@pytest.mark.parametrize(
    ("asked", "precision", "device"),
    [
        ("vpu-vpunn", "float32", "vpu-vpunn"),
        ("vpu-vpunn.int8.2tiles", "float32", "vpu-vpunn.2tiles"),
        ("vpu-vpunn.2tiles", "int8", "vpu-vpunn.int8.2tiles"),
    ],
)
def test_a_file_is_measured_in_a_precision_that_takes_it(
    asked: str, precision: str, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a device whose float format is float16, not the float32 of the file
    monkeypatch.setenv("HWNAS_VPUNN", str(tmp_path))
    write_network(tmp_path / "vpu_4_0.vpunn", random_layers(93, 8, 1), "VPUNN-4111-02")
    model = get_space("mobilenet(resolution=16,width=0.25)").catalog[2].to_onnx()
    file = tmp_path / "model.onnx"
    file.write_bytes((quantize_for_timing(model) if precision == "int8" else model).SerializeToString())
    settings = SimpleNamespace(constraints=[f"latency@{asked} <= 1ms"], tables=None)
    found = measure_file(file, settings, precision)
    assert list(found) == [device]
    assert found[device].method == "modelled"
