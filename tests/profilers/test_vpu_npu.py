"""The NPUs that Intel's compiler estimates; with the compiler if it is set up, else on a schedule that it once gave."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwnas.profilers import get_profiler, list_profilers
from hwnas.profilers.npu_compiler import FOLDER, NpuCompiler, compiler_missing, own_library
from hwnas.profilers.npu_trace import read_trace
from hwnas.profilers.testing import check_profiler
from hwnas.profilers.vpu_npu import VpuNpu, VpuNpu3720, VpuNpu4000, VpuNpu5010
from hwnas.quantize import quantize_for_timing
from hwnas.spaces import ConfigError, DeviceUnavailable, ModelError, get_space
from hwnas.spaces.graph import Graph

RECORDED = read_trace((Path(__file__).parent / "data" / "npu4000-trace.json").read_bytes())
NPUS = (VpuNpu3720, VpuNpu4000, VpuNpu5010)
missing = compiler_missing()
with_compiler = pytest.mark.skipif(missing is not None, reason=str(missing))


def recorded_block() -> Graph:
    """The block that the recorded schedule is of."""
    return get_space("fbnetv2(resolution=32)").catalog[600]


@pytest.fixture
def replayed(monkeypatch: pytest.MonkeyPatch) -> VpuNpu4000:
    """The profiler with a compiler that gives the recorded schedule for every model."""
    monkeypatch.setattr("hwnas.profilers.vpu_npu.find_compiler", lambda: NpuCompiler("2026.4.1", ("none",)))
    monkeypatch.setattr(NpuCompiler, "schedule", lambda *_: RECORDED)
    return VpuNpu4000()


@pytest.mark.skipif(own_library() is not None, reason="the installed OpenVINO has the compiler")
def test_without_the_compiler_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    state = next(found for found in list_profilers() if found.name == "vpu-npu4000")
    assert (state.available, state.method) == (False, "vendor-estimate")
    assert "there is no NPU compiler" in state.state
    with pytest.raises(DeviceUnavailable, match="vpu-npu4000 is not available here: there is no NPU compiler"):
        get_profiler("vpu-npu4000")


def test_a_latency_is_the_length_of_the_plan(replayed: VpuNpu) -> None:
    model = recorded_block().to_onnx()
    found = replayed.measure(model)
    assert found.median_ms == found.low_ms == found.high_ms == RECORDED.makespan_us / 1e3
    assert (found.method, found.repeats, found.stable) == ("vendor-estimate", 1, True)


def test_the_plan_is_divided_among_the_nodes_of_the_model(replayed: VpuNpu) -> None:
    block = recorded_block()
    names = [node.name for node in block.nodes]
    shares = replayed.kernel_shares(block.to_onnx(), names)
    assert shares is not None
    assert set(shares) == set(names)
    assert sum(shares.values()) == pytest.approx(1)
    exposed = RECORDED.exposed_us()
    depthwise = exposed["stage2/1/mix/depthwise0"] / sum(exposed.values())
    assert shares["stage2/1/mix/depthwise0"] >= depthwise > 0.1


def test_the_record_names_the_npu_and_nothing_of_this_machine(replayed: VpuNpu) -> None:
    record = replayed.device_record()
    assert record.name == "Intel NPU4000 (Lunar Lake) at 1850 MHz"
    assert record.host == {"cpu": "Intel NPU", "machine": "NPU4000"}
    assert record.protocol == {"clock_mhz": 1850.0, "tiles": 4}
    assert (record.precision, record.device_class, record.runtime_version) == ("float16", "vpu", "2026.4.1")


def test_qualifiers(replayed: VpuNpu) -> None:
    small = VpuNpu4000.from_qualifiers(["int8"])
    assert (small.key, small.precision, small.file_precision) == ("vpu-npu4000.int8", "int8", "int8")
    assert replayed.file_precision == "float32"
    with pytest.raises(ModelError, match="quantise it to int8"):
        small.measure(recorded_block().to_onnx())
    for qualifier, message in (("t2", "takes one thread"), ("b2", "takes one image"), ("bf16", "no qualifier 'bf16'")):
        with pytest.raises(ConfigError, match=message):
            VpuNpu4000.from_qualifiers([qualifier])
    with pytest.raises(ConfigError, match="more than 0 seconds"):
        VpuNpu4000(limit_s=0)


# ---------------------------------------------------------------------- with the compiler


@with_compiler
@pytest.mark.parametrize("cls", NPUS)
def test_it_keeps_the_rules_of_profilers(cls: type[VpuNpu]) -> None:
    profiler = get_profiler(cls.name)
    assert isinstance(profiler, cls)
    check_profiler(profiler, [get_space("mobilenet(resolution=16,width=0.25)").catalog[2].to_onnx()])
    assert profiler.device_record().name.startswith(f"Intel {cls.platform} ({cls.processors}) at ")


@with_compiler
def test_the_compiler_still_gives_the_recorded_schedule() -> None:
    profiler = VpuNpu4000()
    if profiler.device_record().runtime_version != "2026.4.1":
        pytest.skip("the recorded schedule is of OpenVINO 2026.4.1")
    assert profiler.schedule(recorded_block().to_onnx()) == RECORDED


@with_compiler
def test_newer_npus_are_faster_and_int8_is_faster_than_float16() -> None:
    network = get_space("mobilenet(resolution=64,width=0.25,depth=0.25)")
    graph = network.lower(tuple(0 for _ in network.decisions))
    model = graph.to_onnx()
    first, second, third = (cls().measure(model).median_ms for cls in NPUS)
    assert first > second > third
    assert VpuNpu4000(precision="int8").measure(quantize_for_timing(model)).median_ms < second
    shares = VpuNpu4000().kernel_shares(model, [node.name for node in graph.nodes])
    assert shares is not None
    assert sum(share > 0 for share in shares.values()) > 0.8 * len(graph.nodes)


@with_compiler
def test_what_the_compiler_cannot_do_is_said_in_its_words() -> None:
    import onnx
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])
    node = helper.make_node("NoSuchOperator", ["x"], ["y"], domain="nowhere")
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("nowhere", 1)]
    model = helper.make_model(helper.make_graph([node], "g", [value], [result]), opset_imports=opsets)
    assert isinstance(model, onnx.ModelProto)
    with pytest.raises(ModelError, match=r"refuses the model for NPU4000: .*NoSuchOperator"):
        VpuNpu4000().measure(model)


@with_compiler
def test_the_compiler_is_stopped_when_its_time_is_up() -> None:
    profiler = VpuNpu4000(limit_s=0.05)
    with pytest.raises(ModelError, match=r"did not end within 0\.05 s, 2 times"):
        profiler.measure(recorded_block().to_onnx())
