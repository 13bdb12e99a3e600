"""Export for a device that loads a compiled form: a whole small job for a Hexagon chip."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

import hwnas
from hwnas.cli import main
from hwnas.export import metadata_of
from hwnas.profilers import qnn_session
from hwnas.spaces import ConfigError

SPACE = "mobilenet(width=0.15,depth=0.25)"
missing = qnn_session.missing_package()


@pytest.mark.skipif(missing is not None, reason=str(missing))
def test_job_for_a_hexagon_chip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables, run = str(tmp_path / "tables"), tmp_path / "run"
    summary = hwnas.profile(
        "dsp-qnn:57", SPACE, data="digits", quick=True, context="network", networks=4, tables=tables
    )
    assert (summary.device, summary.missing) == ("dsp-qnn.57", 0)
    result = hwnas.search(
        SPACE,
        "digits",
        ["latency@dsp-qnn:57 <= 1ms"],
        run=run,
        tables=tables,
        supernet_epochs=1,
        epochs=1,
        evaluations=4,
        limit=200,
        threads=1,
    )
    (cost,) = result.costs.values()
    assert (cost["method"], cost["measured"]) == ("modelled", None)
    assert 0 < cost["checked"] <= 1
    assert metadata_of(onnx.load(result.onnx))["modelled_ms"] == cost["checked"]
    exported = hwnas.export(run, target="dsp-qnn:87")
    assert exported.precision == "int8"
    assert exported.method == "modelled"
    assert set(exported.latency_ms) == {"dsp-qnn.57", "dsp-qnn.87"}
    assert [Path(file).name for file in exported.compiled] == [
        "best.int8.dsp-qnn.87.onnx",
        "best.int8.dsp-qnn.87.bin",
    ]
    assert all(Path(file).stat().st_size > 0 for file in exported.compiled)
    with pytest.raises(ConfigError, match=r"dsp-qnn.57 takes int8 files, not float32"):
        hwnas.export(run, target="dsp-qnn:57", precision="float32")
    with pytest.raises(ConfigError, match="cpu-onnxruntime loads ONNX files as they are"):
        hwnas.export(run, target="cpu-onnxruntime")
    assert main(["predict", str(result.onnx), "--device", "dsp-qnn:57", "--tables", tables]) == 0
    assert "modelled" in capsys.readouterr().out
    assert main(["export", str(run), "--target", "dsp-qnn:57", "--no-measure"]) == 0
    assert "best.int8.dsp-qnn.57.bin" in capsys.readouterr().out
