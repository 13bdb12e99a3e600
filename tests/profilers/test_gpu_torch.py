"""``gpu-torch`` without an NVIDIA GPU: its logic with torch on the CPU, and stand-ins for CUDA's streams and events."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from hwnas.profilers import get_profiler, list_profilers
from hwnas.profilers.cpu_onnxruntime import CpuOnnxRuntime
from hwnas.profilers.gpu_cuda import cuda_device
from hwnas.profilers.gpu_torch import GpuTorch, _Timed
from hwnas.profilers.reference import anchor_model
from hwnas.profilers.testing import QUICK, check_profiler
from hwnas.profilers.timing import time_pass
from hwnas.spaces import ConfigError, DeviceUnavailable, ModelError, get_space
from hwnas.spaces import graph as kernels


class Event:
    """An event on a device that computes while it is told to."""

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: Event) -> float:
        return (end.at - self.at) * 1e3


class Stream:
    def wait_stream(self, other: Stream) -> None:
        assert other is not self


class Graph:
    """A graph whose replay does nothing but count."""

    made: ClassVar[list[Graph]] = []

    def __init__(self) -> None:
        self.replays = 0
        self.made.append(self)

    def replay(self) -> None:
        self.replays += 1


class OnCpu(GpuTorch):
    """The same steps, with torch on the CPU."""

    device = "cpu"

    @classmethod
    def unavailable(cls) -> str | None:
        return None


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> list[Graph]:
    """Stands in for CUDA; gives the graphs that were recorded."""

    @contextmanager
    def record(graph: Graph) -> Iterator[None]:
        assert graph.replays == 0
        yield

    default = Stream()
    stand_ins: dict[str, Any] = {
        "Event": Event,
        "Stream": Stream,
        "CUDAGraph": Graph,
        "current_stream": lambda: default,
        "stream": lambda _: nullcontext(),
        "graph": record,
        "synchronize": lambda: None,
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(Graph, "made", [])
    return Graph.made


def test_the_steps_of_loading_and_timing_keep_the_rules(cuda: list[Graph]) -> None:
    check_profiler(OnCpu(), [anchor_model(), get_space("nasbench201").catalog[-1].to_onnx()])
    assert sum(graph.replays for graph in cuda) > 100  # what does nothing is faster
    check_profiler(OnCpu(batch=2, precision="float16"))


def test_what_cannot_be_recorded_runs_without_a_graph(cuda: list[Graph], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Graph) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "graph", refuse)
    assert OnCpu().measure(anchor_model(), QUICK).median_ms > 0
    assert sum(graph.replays for graph in cuda) == 0


def test_torch_computes_what_onnxruntime_computes() -> None:
    space = get_space("shufflenet(resolution=32,width=0.25)")
    given = space.lower(space.sample(1, np.random.default_rng(0))[0].tolist())
    read = kernels.Graph.from_onnx(given.to_onnx())  # what the device builds in torch
    module, x = read.to_module().eval(), torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        got = module(x).numpy()
    model = read.to_onnx(module.state_dict())
    (expected,) = CpuOnnxRuntime().outputs(model, {model.graph.input[0].name: x.numpy()})
    assert np.abs(got - expected).max() <= 1e-4 * max(1.0, np.abs(expected).max())
    assert read.macs == given.macs


def test_events_count_the_milliseconds_of_one_call() -> None:
    class Scripted(Event):
        def elapsed_time(self, end: Event) -> float:
            return 12.0

    class Cuda:
        Event = Scripted

    calls: list[int] = []
    timed = _Timed(lambda: calls.append(1), Cuda)
    assert timed.device_ms(4) == 3.0
    assert len(calls) == 4


def test_a_runner_that_counts_for_itself_is_asked() -> None:
    class Counts:
        calls = 0

        def __call__(self) -> None:
            self.calls += 1

        def device_ms(self, calls: int) -> float:
            return 0.125

    result = time_pass(Counts(), QUICK, on_cpu=False)
    assert set(result.samples) == {0.125}
    assert result.value_ms == 0.125


@pytest.mark.usefixtures("cuda")
def test_models_that_it_cannot_run_are_refused() -> None:
    two = anchor_model()
    two.graph.output.append(two.graph.output[0].__class__(name="project", type=two.graph.output[0].type))
    with pytest.raises(ModelError, match="one output, not 2"):
        OnCpu().open(two)
    for wrong in ("t2", "int8"):
        with pytest.raises(ConfigError, match="gpu-torch"):
            GpuTorch.from_qualifiers([wrong])
    assert GpuTorch.from_qualifiers(["float16", "b8"]).key == "gpu-torch.float16.b8"


@pytest.mark.skipif(cuda_device() is not None, reason="there is an NVIDIA GPU")
def test_it_says_what_is_missing() -> None:
    state = next(info for info in list_profilers() if info.name == "gpu-torch")
    assert not state.available
    assert "CUDA" in state.state or "NVIDIA" in state.state
    with pytest.raises(DeviceUnavailable, match="gpu-torch is not available here"):
        get_profiler("gpu-torch")
