"""``dsp-qnn``: chips that Qualcomm's compiler makes programs for, and its emulator in place of a Snapdragon."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from hwnas.profilers import get_profiler, list_profilers, qnn_session
from hwnas.profilers.base import RuntimeProfiler
from hwnas.profilers.dsp_qnn import DspQnn, Snapdragon
from hwnas.profilers.qnn_chips import CHIPS, PHONES, find_chip
from hwnas.profilers.qnn_compile import compile_model, qnn_job, write_context
from hwnas.profilers.reference import anchor_model
from hwnas.profilers.testing import QUICK, check_profiler
from hwnas.quantize import quantize_for_timing
from hwnas.spaces import ConfigError, DeviceUnavailable, ModelError, get_space

installed = qnn_session.missing_package() is None
needs_package = pytest.mark.skipif(not installed, reason=str(qnn_session.missing_package()))
on_x86 = pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"), reason="the emulator is in the x86-64 package"
)


@pytest.fixture(scope="module")
def block() -> bytes:
    """The reference model, quantised."""
    return quantize_for_timing(anchor_model()).SerializeToString()


def output_scale(model: bytes) -> float:
    """The step of a quantised model's output."""
    stored = {tensor.name: tensor for tensor in onnx.load_model_from_string(model).graph.initializer}
    return float(onnx.numpy_helper.to_array(stored["output_scale"]))


class Emulated(Snapdragon):
    """The same class on Qualcomm's emulator."""

    @classmethod
    def unavailable(cls) -> str | None:
        return cls.missing()


def test_chips_and_phones() -> None:
    assert find_chip("galaxy-s24") is CHIPS[57]
    assert find_chip("57").hexagon == 75
    assert str(find_chip("57")) == "Snapdragon 8 Gen 3 (Hexagon v75, soc_model 57)"
    unknown = find_chip("999")
    assert (unknown.soc_model, unknown.rates, unknown.fitted) == (999, CHIPS[57].rates, False)
    assert CHIPS[57].fitted
    assert CHIPS[82].rates == CHIPS[57].rates  # of the same architecture
    assert not CHIPS[82].fitted
    assert set(PHONES.values()) <= set(CHIPS)
    for text in ("galaxy-s1", "", "-5", "57000000"):
        with pytest.raises(ConfigError, match=r"knows no chip .*galaxy-s24"):
            find_chip(text)


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qnn_session, "PACKAGE", "no-such-package")
    state = next(found for found in list_profilers() if found.name == "dsp-qnn")
    assert not state.available
    assert "hwnas[dsp]" in state.state
    assert "Qualcomm's own terms" in state.state


@needs_package
def test_old_onnxruntime_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qnn_session, "_LEAST", (9999, 0, 0))
    assert "9999.0.0 or newer" in str(qnn_session.missing_package())


@needs_package
def test_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("dsp-qnn:57", "dsp-qnn.57", "dsp-qnn.57.int8"):
        assert get_profiler(text).key == "dsp-qnn.57"
    assert get_profiler("dsp-qnn:galaxy-s24").key == "dsp-qnn.galaxy-s24"
    with pytest.raises(ConfigError, match="one chip, not 57 and 43"):
        get_profiler("dsp-qnn.57.43")
    with pytest.raises(ConfigError, match="measures int8, not float32"):
        DspQnn("57", precision="float32")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    with pytest.raises(DeviceUnavailable, match="no Snapdragon; name a chip to model, such as dsp-qnn:57"):
        get_profiler("dsp-qnn")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    here = get_profiler("dsp-qnn")
    assert isinstance(here, Snapdragon)
    assert (here.key, here.method) == ("dsp-qnn", "measured")


@needs_package
def test_it_keeps_the_rules_of_profilers(block: bytes) -> None:
    profiler = get_profiler("dsp-qnn:57")
    check_profiler(profiler, [onnx.load_model_from_string(block)])
    record = profiler.device_record()
    assert (record.method, record.precision) == ("modelled", "int8")
    assert record.name == "Snapdragon 8 Gen 3 (Hexagon v75, soc_model 57)"
    assert not record.host  # the machine that compiles has no part in the numbers
    shares = profiler.kernel_shares(block)
    assert shares is not None
    assert set(shares) >= {"expand", "depthwise", "project", "add"}


@needs_package
def test_compiling_again_gives_the_same(block: bytes) -> None:
    first, second = DspQnn("57"), DspQnn("57")
    assert first.measure(block) == second.measure(block)
    assert first.kernel_shares(block) == second.kernel_shares(block)


@needs_package
@pytest.mark.parametrize(
    ("device", "spec"),
    [
        ("dsp-qnn:57", "mobilenet(resolution=32,width=0.5,depth=0.5)"),
        ("dsp-qnn:87", "mobilenet(resolution=64,depth=0.5)"),
    ],
)
def test_larger_networks_take_longer(device: str, spec: str) -> None:
    space = get_space(spec)
    small, large = (tuple(len(d.choices) - 1 if big else 0 for d in space.decisions) for big in (False, True))
    models = [quantize_for_timing(space.lower(a).to_onnx()) for a in (small, large)]
    macs = [space.lower(a).macs for a in (small, large)]
    profiler = get_profiler(device)
    times = [profiler.measure(model).median_ms for model in models]
    assert (macs[0] < macs[1]) == (times[0] < times[1])


@needs_package
def test_float_models_are_refused() -> None:
    with pytest.raises(ModelError, match="quantise it to int8"):
        get_profiler("dsp-qnn:57").measure(anchor_model())


@needs_package
def test_unknown_chip_is_not_silently_the_cpu(block: bytes) -> None:
    """onnxruntime runs such a model on the CPU without a word."""
    with pytest.raises(ModelError, match="chip 9999"):
        compile_model(block, 9999)


@needs_package
def test_compiling_ends_at_its_limit(block: bytes) -> None:
    with pytest.raises(ModelError, match=r"within 0.01 s for chip 57"):
        compile_model(block, 57, limit_s=0.01)


@needs_package
def test_worker_that_dies_is_reported(block: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def died(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, -11, "", "some log\nSegmentation fault\n")

    monkeypatch.setattr(subprocess, "run", died)
    with pytest.raises(ModelError, match="code -11: Segmentation fault"):
        compile_model(block, 57)


@needs_package
def test_folders_of_workers_go(block: bytes) -> None:
    with qnn_job(block, 57) as (folder, result):
        assert result["compile_s"] > 0
    assert not folder.exists()


@needs_package
def test_context_binary_is_written(block: bytes, tmp_path: Path) -> None:
    wrapper, binary = write_context(block, 57, tmp_path / "net_57.onnx")
    assert (wrapper.name, binary.name) == ("net_57.onnx", "net_57.bin")
    (node,) = (n for n in onnx.load(wrapper).graph.node if n.op_type == "EPContext")
    named = {a.name: a for a in node.attribute}
    assert named["ep_cache_context"].s == b"net_57.bin"
    assert binary.stat().st_size > 10_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net_57.bin", "net_57.onnx"]


@needs_package
@on_x86
def test_context_binary_computes_what_the_model_does(block: bytes, tmp_path: Path) -> None:
    import onnxruntime

    wrapper, _ = write_context(block, 57, tmp_path / "net.onnx")
    feeds = {"input": np.random.default_rng(1).standard_normal((1, 32, 28, 28), dtype=np.float32)}
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = qnn_session.session_on_qnn(wrapper, options, qnn_session.qnn_options(None))
    # another chip's program: rounding may differ by a step
    off = np.abs(session.run(None, feeds)[0] - Emulated().outputs(block, feeds)[0]) / output_scale(block)
    assert off.max() <= 1.01


@needs_package
@on_x86
def test_the_snapdragons_class_keeps_the_rules_on_the_emulator() -> None:
    block = get_space("mobilenet(resolution=16,width=0.25)").catalog[2].to_onnx()
    check_profiler(Emulated(), [quantize_for_timing(block)])


@needs_package
@on_x86
def test_emulator_computes_what_onnxruntime_does(block: bytes) -> None:
    import onnxruntime

    feeds = {"input": np.random.default_rng(1).standard_normal((1, 32, 28, 28), dtype=np.float32)}
    options = onnxruntime.SessionOptions()
    # processors without 8-bit dot products else overflow: weights for timing have all their bits
    options.add_session_config_entry("session.x64quantprecision", "1")
    expected = onnxruntime.InferenceSession(block, options, providers=["CPUExecutionProvider"]).run(None, feeds)[0]
    (found,) = Emulated().outputs(block, feeds)
    off = np.abs(found - expected) / output_scale(block)
    assert off.max() <= 2.01
    assert off.mean() < 0.5


@needs_package
@on_x86
def test_snapdragon_refuses_what_it_would_leave_to_the_cpu(block: bytes) -> None:
    model = onnx.load_model_from_string(block)
    model.graph.node.append(onnx.helper.make_node("Det", ["output"], ["det"], name="det"))
    model.graph.output[0].name = "det"
    del model.graph.output[0].type.tensor_type.shape.dim[2:]
    with pytest.raises(ModelError, match="does not take Det"):
        Emulated().measure(model, QUICK)
    assert issubclass(Emulated, RuntimeProfiler)


def test_listing_devices_does_not_load_qualcomms_libraries() -> None:
    code = (
        "import sys; from hwnas.profilers import list_profilers; list_profilers(); "
        "assert 'onnxruntime_qnn' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
