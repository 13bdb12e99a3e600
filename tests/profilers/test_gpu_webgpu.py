"""``gpu-webgpu`` on whatever adapter there is, a software one in CI: right results, and no latency that means nothing.

Runs in the tox environment ``webgpu``: the package that has the provider replaces onnxruntime.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from hwnas.cli import main
from hwnas.profilers import get_profiler, list_profilers
from hwnas.profilers.cpu_onnxruntime import CpuOnnxRuntime
from hwnas.profilers.gpu_webgpu import GpuWebGpu
from hwnas.profilers.reference import anchor_model, null_model
from hwnas.profilers.testing import QUICK, check_profiler
from hwnas.profilers.vulkan import Adapter, adapters
from hwnas.spaces import DeviceUnavailable, ModelError, get_space
from hwnas.spaces.graph import Graph

if GpuWebGpu.provider not in onnxruntime.get_available_providers():
    pytest.skip("onnxruntime has no WebGPU provider; run: tox -e webgpu", allow_module_level=True)

SPACES = ("mobilenet(resolution=32,width=0.25)", "shufflenet(resolution=32,width=0.25)")
on_software = pytest.mark.skipif(
    not any(adapter.software for adapter in adapters()), reason="the adapter is a GPU, whose latencies are taken"
)


class Anywhere(GpuWebGpu):
    """Lets the logic of measuring run on a software adapter; only here, and never called measured."""

    method = "simulated"

    @classmethod
    def refusal(cls) -> str | None:
        return None


def families() -> list[Graph]:
    """The first block of every sequence of kernel types in the spaces."""
    found: dict[tuple[str, ...], Graph] = {}
    for space in map(get_space, SPACES):
        for block in space.catalog:
            found.setdefault(tuple(type(node.kernel).__name__ for node in block.nodes), block)
    return list(found.values())


def check_outputs(graph: Graph) -> None:
    model, rng = graph.to_onnx(), np.random.default_rng(0)
    feeds = {
        port.name: rng.standard_normal([size.dim_value for size in port.type.tensor_type.shape.dim], dtype=np.float32)
        for port in model.graph.input
    }
    for got, expected in zip(GpuWebGpu().outputs(model, feeds), CpuOnnxRuntime().outputs(model, feeds), strict=True):
        assert np.abs(got - expected).max() <= 1e-4 * max(1.0, np.abs(expected).max())


def test_an_adapter_is_here() -> None:
    # without one the other tests would fail one by one, and less clearly
    assert GpuWebGpu.missing() is None
    assert GpuWebGpu().hardware()


@pytest.mark.parametrize("graph", families(), ids=lambda graph: "-".join(type(n.kernel).__name__ for n in graph.nodes))
def test_blocks_compute_what_the_cpu_computes(graph: Graph) -> None:
    check_outputs(graph)


@pytest.mark.parametrize("spec", SPACES)
def test_a_network_computes_what_the_cpu_computes(spec: str) -> None:
    space = get_space(spec)
    check_outputs(space.lower(space.sample(1, np.random.default_rng(0))[0].tolist()))


def test_it_keeps_the_rules_of_profilers() -> None:
    check_profiler(Anywhere(), [get_space("mobilenet(resolution=8,width=0.25)").catalog[2].to_onnx()])
    assert Anywhere(batch=2).key == "gpu-webgpu.b2"


def test_time_is_traced_back_to_the_kernels_that_run() -> None:
    names = ["expand", "depthwise", "project", "add"]
    shares = Anywhere().kernel_shares(anchor_model(), names, QUICK)
    assert shares is not None
    assert list(shares) == names
    assert all(share > 0 for share in shares.values())
    assert sum(shares.values()) == pytest.approx(1.0)
    with pytest.raises(ModelError, match="counted no kernel"):  # no program of the GPU is needed for it
        Anywhere().kernel_shares(null_model(), protocol=QUICK)


@on_software
def test_no_latency_comes_from_a_software_adapter() -> None:
    profiler = GpuWebGpu()
    calls = (
        lambda: profiler.measure(null_model(), QUICK),
        lambda: profiler.measure_many({"null": null_model()}, QUICK),
        lambda: profiler.overhead_ms(QUICK),
        lambda: profiler.kernel_shares(anchor_model(), protocol=QUICK),
        lambda: get_profiler("gpu-webgpu"),
    )
    for call in calls:
        with pytest.raises(DeviceUnavailable, match="a program on the CPU"):
            call()
    state = next(info for info in list_profilers() if info.name == "gpu-webgpu")
    assert not state.available
    assert adapters()[0].name in state.state


@on_software
@pytest.mark.parametrize("command", [["--space", SPACES[0]], ["--budget", "1m"]])
def test_profiling_a_software_adapter_ends_with_a_sentence(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["profile", "--device", "gpu-webgpu", *command, "--tables", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert "whose latencies mean nothing" in said.err
    assert "Traceback" not in said.err + said.out
    assert not list(tmp_path.iterdir())


def test_a_gpu_beside_a_software_adapter_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    both = (Adapter("Some GPU", software=False), Adapter("llvmpipe", software=True))
    monkeypatch.setattr("hwnas.profilers.gpu_webgpu.adapters", lambda: both)
    assert "set VK_DRIVER_FILES" in (GpuWebGpu.unavailable() or "")
    monkeypatch.setattr("hwnas.profilers.gpu_webgpu.adapters", lambda: both[:1])
    assert GpuWebGpu.unavailable() is None
    assert GpuWebGpu().hardware() == "Some GPU"


def run_without_an_adapter(code: str, tmp_path: Path) -> str:
    """What a process prints that finds no driver of Vulkan."""
    nowhere = dict.fromkeys(("VK_ICD_FILENAMES", "VK_DRIVER_FILES"), str(tmp_path / "none.json"))
    environment = {**os.environ, **nowhere}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_without_an_adapter_it_says_what_to_install(tmp_path: Path) -> None:
    code = "from hwnas.profilers.gpu_webgpu import GpuWebGpu; print(GpuWebGpu.unavailable())"
    assert "install libvulkan1 and the Vulkan driver" in run_without_an_adapter(code, tmp_path)


def test_a_session_that_falls_back_is_refused(tmp_path: Path) -> None:
    code = """
from hwnas.profilers.gpu_webgpu import GpuWebGpu
from hwnas.profilers.reference import anchor_model
from hwnas.spaces import DeviceUnavailable
GpuWebGpu.missing = classmethod(lambda cls: None)  # as if Vulkan had an adapter that onnxruntime does not take
try:
    GpuWebGpu().open(anchor_model())
except DeviceUnavailable as error:
    print(error)
"""
    assert run_without_an_adapter(code, tmp_path).startswith("the WebGPU provider finds no device; install")
