"""``vpu-myriad`` without a stick: what it says then, and its worker on the CPU of the same old OpenVINO.

The worker needs a Python of its own, see docs/devices/vpu-myriad.md; without ``HWNAS_MYRIAD_PYTHON`` most is skipped.
"""

from __future__ import annotations

import ast
import os
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from hwnas.profilers import get_profiler, list_profilers, vpu_myriad
from hwnas.profilers.cpu_onnxruntime import CpuOnnxRuntime
from hwnas.profilers.reference import anchor_model
from hwnas.profilers.testing import QUICK, check_profiler
from hwnas.profilers.vpu_myriad import PYTHON, VpuMyriad
from hwnas.spaces import DeviceUnavailable, ModelError, get_space
from hwnas.spaces.graph import Graph

OLD = os.environ.get(PYTHON, "")
with_worker = pytest.mark.skipif(not OLD, reason=f"{PYTHON} names no Python that has openvino==2021.4.2")
SPACES = ("nasbench201", "mobilenet(resolution=32,width=0.25)", "shufflenet(resolution=32,width=0.25)")


class OnTheCpu(VpuMyriad):
    """The same class on the CPU plug-in of that OpenVINO; only here, and never called measured."""

    plugin = "CPU"
    method = "simulated"
    settings: ClassVar[dict[str, str]] = {"ENFORCE_BF16": "NO", "CPU_THREADS_NUM": "1"}


def network(spec: str) -> Graph:
    space = get_space(spec)
    return space.lower(space.sample(1, np.random.default_rng(0))[0].tolist())


# ---------------------------------------------------------------------- without anything


def test_the_worker_keeps_to_an_old_python() -> None:
    source = Path(vpu_myriad.__file__).with_name("myriad_worker.py").read_text(encoding="utf-8")
    tree = ast.parse(source, feature_version=(3, 7))
    imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in imported} - sys.stdlib_module_names == {"numpy", "openvino"}


def test_without_a_python_it_says_how_to_make_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PYTHON, raising=False)
    state = next(found for found in list_profilers() if found.name == "vpu-myriad")
    assert not state.available
    for word in ("HWNAS_MYRIAD_PYTHON is not set", "uv venv --python 3.8", "openvino==2021.4.2", "plug in the stick"):
        assert word in state.state
    with pytest.raises(DeviceUnavailable, match="vpu-myriad is not available here"):
        get_profiler("vpu-myriad")


def test_a_python_that_cannot_serve_is_named(tmp_path: Path) -> None:
    with pytest.raises(DeviceUnavailable, match=r"cannot start .*none"):
        get_profiler("vpu-myriad", python=str(tmp_path / "none"))
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho it is broken >&2\n")
    script.chmod(0o755)
    with pytest.raises(DeviceUnavailable, match=r"does not run the worker .*it is broken.*uv venv"):
        get_profiler("vpu-myriad", python=str(script))
    script.write_text('#!/bin/sh\nread line\necho \'{"error": "ModuleNotFoundError: openvino"}\'\n')
    with pytest.raises(DeviceUnavailable, match=r"has no OpenVINO 2021.4 .ModuleNotFoundError: openvino.; make"):
        get_profiler("vpu-myriad", python=str(script))
    script.write_text('#!/bin/sh\nread line\necho \'{"openvino": "2022.3.0", "devices": [], "name": ""}\'\n')
    with pytest.raises(DeviceUnavailable, match=r"has OpenVINO 2022.3.0, which drives no Myriad X"):
        get_profiler("vpu-myriad", python=str(script))


# ---------------------------------------------------------------------- with the worker


@with_worker
def test_without_a_stick_it_says_to_plug_it_in() -> None:
    state = next(found for found in list_profilers() if found.name == "vpu-myriad")
    if state.available:
        pytest.skip("there is a Myriad X")
    assert "OpenVINO finds no Myriad X (it finds CPU); plug in the stick" in state.state
    with pytest.raises(DeviceUnavailable, match="plug in the stick"):
        get_profiler("vpu-myriad")
    with pytest.raises(ModelError, match=r"cannot take the model: Can not init Myriad device: NC_ERROR"):
        VpuMyriad().measure(anchor_model(), QUICK)


@pytest.fixture(scope="module")
def cpu() -> OnTheCpu:
    return OnTheCpu(python=OLD)


@with_worker
@pytest.mark.parametrize("qualifiers", [[], ["b4"]])
def test_it_keeps_the_rules_of_profilers(qualifiers: list[str]) -> None:
    profiler = OnTheCpu.from_qualifiers(qualifiers)
    check_profiler(profiler, [anchor_model(), get_space(SPACES[1]).catalog[2].to_onnx()])
    record = profiler.device_record()
    assert (record.key, record.runtime_version) == (".".join(["vpu-myriad", *qualifiers]), "2021.4.2")
    assert record.name  # of the CPU
    assert record.method == "simulated"
    assert not record.protocol["pinned_to"]


@with_worker
@pytest.mark.parametrize("spec", SPACES)
def test_networks_compute_what_onnxruntime_computes(cpu: OnTheCpu, spec: str) -> None:
    model = network(spec).to_onnx()
    (port,) = model.graph.input
    shape = [size.dim_value for size in port.type.tensor_type.shape.dim]
    feeds = {port.name: np.random.default_rng(0).standard_normal(shape, dtype=np.float32)}
    (got,), (expected,) = cpu.outputs(model, feeds), CpuOnnxRuntime().outputs(model, feeds)
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= 1e-4 * max(1.0, np.abs(expected).max())


@with_worker
def test_time_is_divided_among_the_kernels_that_run(cpu: OnTheCpu) -> None:
    graph = network(SPACES[1])
    names = [node.name for node in graph.nodes]
    shares = cpu.kernel_shares(graph.to_onnx(), names, QUICK)
    assert shares is not None
    assert list(shares) == names
    assert sum(shares.values()) == pytest.approx(1.0)
    products = {node.name for node in graph.nodes if node.kernel.op in ("conv", "dwconv")}
    assert products
    assert sum(shares[name] for name in products) > 0.5


@with_worker
def test_a_dynamic_batch_is_taken_as_one(cpu: OnTheCpu) -> None:
    assert cpu.measure(network(SPACES[1]).to_onnx(batch="N"), QUICK).median_ms > 0


@with_worker
def test_models_that_it_would_misread_are_refused(cpu: OnTheCpu) -> None:
    model = anchor_model()
    model.opset_import[0].version = 18
    with pytest.raises(ModelError, match="up to operator set 17, not 18; export the model with that"):
        cpu.measure(model, QUICK)
    model = anchor_model()
    model.graph.node[0].op_type = "Nonsense"
    with pytest.raises(ModelError, match=r"OpenVINO 2021.4 cannot take the model: .*Nonsense"):
        cpu.measure(model, QUICK)


@with_worker
def test_a_worker_that_ended_or_hangs_is_replaced(cpu: OnTheCpu) -> None:
    runner = cpu.open(anchor_model())
    first = cpu._running()
    first._process.kill()
    first._process.wait()
    runner()
    second = cpu._running()
    assert second is not first
    second.limit_s = 0.0
    with pytest.raises(ModelError, match="the worker gave no answer in 0 s and was ended"):
        runner()
    assert not second.alive
    runner()


@with_worker
def test_models_that_are_gone_are_closed(cpu: OnTheCpu) -> None:
    runner = cpu.open(anchor_model())
    worker, handle = cpu._running(), runner._handle  # type: ignore[attr-defined]
    del runner
    assert list(worker.dropped) == [handle]
    cpu.open(anchor_model())()
    assert worker.ask({"do": "time", "handle": handle, "calls": 1}) == {"error": str(handle)}
