"""``vpu-openvino`` without an Intel NPU: what it says then, and its logic on OpenVINO's CPU plug-in."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from hwnas.profilers import get_profiler, list_profilers
from hwnas.profilers.npu_compiler import own_library
from hwnas.profilers.openvino_profiler import OpenVinoProfiler
from hwnas.profilers.testing import QUICK, check_profiler
from hwnas.profilers.vpu_openvino import VpuOpenVino
from hwnas.quantize import quantize_for_timing
from hwnas.spaces import ConfigError, DeviceUnavailable, ModelError, get_space

openvino = pytest.importorskip("openvino")
no_npu = pytest.mark.skipif(
    any(name.startswith("NPU") for name in openvino.Core().available_devices), reason="there is an Intel NPU"
)
linux = pytest.mark.skipif(os.name != "posix", reason="Windows shows NPUs elsewhere")


class OnTheCpu(VpuOpenVino):
    """The same class on the plug-in that is here, without the two things that only NPUs have."""

    plugin = "CPU"

    def settings(self) -> dict[str, Any]:
        return {name: value for name, value in super().settings().items() if not name.startswith("NPU_")}

    def runtime_version(self) -> str:
        return OpenVinoProfiler.runtime_version(self)


@no_npu
@linux
def test_without_an_npu_it_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VpuOpenVino, "nodes", tmp_path / "accel")

    def state() -> str:
        found = next(found for found in list_profilers() if found.name == "vpu-openvino")
        assert not found.available
        assert "finds no Intel NPU (it finds CPU" in found.state
        return found.state

    assert "no kernel driver" in state()
    assert "modprobe intel_vpu" in state()
    (tmp_path / "accel").mkdir()
    (tmp_path / "accel" / "accel0").touch()
    assert "intel-level-zero-npu" in state()
    assert "intel-driver-compiler-npu" in state()
    monkeypatch.setattr("hwnas.profilers.vpu_openvino.os.access", lambda *_: False)
    assert "is closed to you; add yourself to its group" in state()
    monkeypatch.setattr("hwnas.profilers.vpu_openvino.sys.platform", "win32")
    assert "NPU driver for Windows" in state()
    with pytest.raises(DeviceUnavailable, match="finds no Intel NPU"):
        get_profiler("vpu-openvino")


@pytest.mark.parametrize("qualifiers", [[], ["b4"]])
def test_it_keeps_the_rules_of_profilers(qualifiers: list[str]) -> None:
    profiler = OnTheCpu.from_qualifiers(qualifiers)
    check_profiler(profiler, [get_space("mobilenet(resolution=16,width=0.25)").catalog[2].to_onnx()])
    assert profiler.device_record().name == openvino.Core().get_property("CPU", "FULL_DEVICE_NAME")
    assert not profiler.device_record().protocol["pinned_to"]


def test_layers_are_those_that_the_plug_in_counts() -> None:
    block = get_space("mobilenet(resolution=32,width=0.5)").catalog[4]
    names = [node.name for node in block.nodes]
    shares = OnTheCpu().kernel_shares(block.to_onnx(), names, QUICK)
    assert shares is not None
    assert set(shares) == set(names)
    assert shares["stage2/0/k3e3/expand"] > 0

    class Counted:
        def __init__(self, node_name: str, node_type: str) -> None:
            self.node_name, self.node_type = node_name, node_type

    counted = [Counted("conv/WithoutBiases?t_Convolution/cluster_0", "Convolution"), Counted("gate", "Sigmoid")]
    found = [(node.name, node.op) for node in VpuOpenVino().executed(None, counted)]
    assert found == [("conv", "Conv"), ("gate", "Sigmoid")]


def test_keys_and_settings() -> None:
    assert VpuOpenVino.from_qualifiers(["int8", "b2"]).key == "vpu-openvino.int8.b2"
    settings = VpuOpenVino().settings()
    assert settings["PERFORMANCE_HINT"] == "LATENCY"
    assert settings["NPU_COMPILER_TYPE"] == ("PLUGIN" if own_library() else "DRIVER")
    with pytest.raises(ConfigError, match="takes one thread, not 2"):
        VpuOpenVino.from_qualifiers(["t2"])


def test_int8_takes_quantised_models_only() -> None:
    block = get_space("mobilenet(resolution=16,width=0.25)").catalog[2].to_onnx()
    profiler = OnTheCpu(precision="int8")
    assert profiler.measure(quantize_for_timing(block), QUICK).median_ms > 0
    with pytest.raises(ModelError, match="quantise it to int8"):
        profiler.measure(block, QUICK)
