"""``gpu-openvino`` without an Intel GPU: what it says then, and its logic on OpenVINO's CPU plug-in."""

from __future__ import annotations

from typing import Any

import pytest

from hwnas.profilers import get_profiler, list_profilers
from hwnas.profilers.gpu_openvino import GpuOpenVino
from hwnas.profilers.testing import QUICK, check_profiler
from hwnas.quantize import quantize_for_timing
from hwnas.spaces import ConfigError, DeviceUnavailable, ModelError, get_space

openvino = pytest.importorskip("openvino")
no_gpu = pytest.mark.skipif(
    any(name.startswith("GPU") for name in openvino.Core().available_devices), reason="there is an Intel GPU"
)


class OnTheCpu(GpuOpenVino):
    """The same class on the plug-in that is here."""

    plugin = "CPU"


@no_gpu
def test_without_a_gpu_it_says_what_to_install() -> None:
    state = next(found for found in list_profilers() if found.name == "gpu-openvino")
    assert not state.available
    assert "finds no Intel GPU (it finds CPU)" in state.state
    assert "intel-opencl-icd" in state.state
    with pytest.raises(DeviceUnavailable, match="finds no Intel GPU"):
        get_profiler("gpu-openvino")


@pytest.mark.parametrize("qualifiers", [[], ["float32"], ["b4"]])
def test_it_keeps_the_rules_of_profilers(qualifiers: list[str]) -> None:
    profiler = OnTheCpu.from_qualifiers(qualifiers)
    check_profiler(profiler, [get_space("mobilenet(resolution=16,width=0.25)").catalog[2].to_onnx()])
    assert profiler.device_record().name == openvino.Core().get_property("CPU", "FULL_DEVICE_NAME")
    assert not profiler.device_record().protocol["pinned_to"]


def test_keys_choose_the_number_format() -> None:
    def hint(*qualifiers: str) -> Any:
        profiler = OnTheCpu.from_qualifiers(qualifiers)
        assert isinstance(profiler, GpuOpenVino)
        assert profiler.key == ".".join(["gpu-openvino", *qualifiers])
        return profiler.settings()["INFERENCE_PRECISION_HINT"]

    assert (hint(), hint("float32"), hint("int8")) == ("f16", "f32", "f16")
    with pytest.raises(ConfigError, match="takes one thread, not 2"):
        OnTheCpu.from_qualifiers(["t2"])


def test_int8_takes_quantised_models_only() -> None:
    block = get_space("mobilenet(resolution=16,width=0.25)").catalog[2].to_onnx()
    profiler = OnTheCpu(precision="int8")
    assert profiler.measure(quantize_for_timing(block), QUICK).median_ms > 0
    with pytest.raises(ModelError, match="quantise it to int8"):
        profiler.measure(block, QUICK)
