"""``gpu-cuda`` without an NVIDIA GPU: what it refuses, and its logic on onnxruntime's CPU provider."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime
import pytest

from hwnas.profilers import Profiler, get_profiler, list_profilers
from hwnas.profilers.gpu_cuda import GpuCuda, cuda_device, faster
from hwnas.profilers.onnxruntime_session import OnnxRuntimeProfiler
from hwnas.profilers.reference import anchor_model
from hwnas.profilers.testing import check_profiler
from hwnas.spaces import ConfigError, DeviceUnavailable, ModelError

without_gpu = pytest.mark.skipif(cuda_device() is not None, reason="there is an NVIDIA GPU")


class OnCpu(GpuCuda):
    """The same steps on the CPU provider, which takes CUDA's options and ignores them."""

    provider = "CPUExecutionProvider"
    memory = "cpu"

    @classmethod
    def missing(cls) -> str | None:
        return None


def test_the_steps_of_loading_and_timing_keep_the_rules() -> None:
    check_profiler(OnCpu())
    check_profiler(OnCpu(batch=4, precision="tf32"))


@pytest.mark.parametrize("records", [True, False])
@pytest.mark.parametrize(("precision", "tf32"), [("float32", "0"), ("tf32", "1")])
def test_graphs_are_tried_and_tf32_is_set(
    records: bool, precision: str, tf32: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, str]] = []
    plain = OnnxRuntimeProfiler._session

    def session(self: OnCpu, data: bytes, options: Mapping[str, str] | None = None, **settings: Any) -> Any:
        asked.append(dict(options or {}))
        if not records and "enable_cuda_graph" in asked[-1]:
            raise ModelError("a node is on the CPU")
        return plain(self, data, options, **settings)

    monkeypatch.setattr(OnnxRuntimeProfiler, "_session", session)
    profiler = OnCpu(precision=precision)
    profiler.open(anchor_model())()
    assert asked == [{"use_tf32": tf32}, {"use_tf32": tf32, "enable_cuda_graph": "1"}]
    (result,) = profiler.outputs(anchor_model(), {"input": np.ones((1, 32, 28, 28), np.float32)})
    assert result.shape == (1, 32, 28, 28)
    assert asked[2:] == [{"use_tf32": tf32}]


def test_the_faster_way_is_kept() -> None:
    ways = (lambda: time.sleep(0.003), lambda: None)
    assert faster(*ways, seconds=0.0) is ways[1]
    assert faster(*reversed(ways), seconds=0.0) is ways[1]


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_session_that_fell_back_is_refused() -> None:
    class Hopeful(GpuCuda):
        @classmethod
        def missing(cls) -> str | None:
            return None

    with pytest.raises(DeviceUnavailable, match="gave up the CUDA provider for CPUExecutionProvider; install CUDA"):
        Hopeful().open(anchor_model())


@without_gpu
def test_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    state = next(info for info in list_profilers() if info.name == "gpu-cuda")
    assert not state.available
    if GpuCuda.provider not in onnxruntime.get_available_providers():
        assert "pip install 'onnxruntime-gpu[cuda,cudnn]'" in state.state
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [GpuCuda.provider])
    assert "no NVIDIA GPU, or its driver" in (GpuCuda.unavailable() or "")
    with pytest.raises(DeviceUnavailable, match="gpu-cuda is not available here"):
        get_profiler("gpu-cuda")


def test_keys() -> None:
    assert GpuCuda().key == "gpu-cuda"
    made: Profiler = GpuCuda.from_qualifiers(["b8", "tf32"])
    assert (made.key, made.file_precision) == ("gpu-cuda.tf32.b8", "float32")
    for wrong in ("t2", "int8"):
        with pytest.raises(ConfigError, match="gpu-cuda"):
            GpuCuda.from_qualifiers([wrong])
