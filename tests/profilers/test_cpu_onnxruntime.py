"""``cpu-onnxruntime`` on real models, and the registry of devices."""

from __future__ import annotations

import os
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from hwnas.profilers import RuntimeProfiler, get_profiler, list_profilers, profilers
from hwnas.profilers.cpu_onnxruntime import CpuOnnxRuntime
from hwnas.profilers.reference import anchor_model, null_model
from hwnas.profilers.testing import QUICK, check_profiler
from hwnas.spaces import ConfigError, DeviceUnavailable, ModelError, get_space

needs_two_cores = pytest.mark.skipif(
    len(getattr(os, "sched_getaffinity", lambda _: [0])(0)) < 2, reason="needs two cores"
)


def conv_model(channels: int, *, kind: int = TensorProto.FLOAT, batch: int | str = 1) -> onnx.ModelProto:
    weights = np.random.default_rng(0).standard_normal((channels, channels, 3, 3), dtype=np.float32)
    shape = [batch, channels, 16, 16]
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["input"], ["x"], name="cast", to=TensorProto.FLOAT),
            helper.make_node("Conv", ["x", "w"], ["output"], name="conv", pads=[1, 1, 1, 1]),
        ],
        "conv",
        [helper.make_tensor_value_info("input", kind, shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = 2

        def get_next(self) -> dict[str, np.ndarray] | None:
            if self.left == 0:
                return None
            self.left -= 1
            return {"input": np.random.default_rng(self.left).standard_normal((1, 32, 28, 28), dtype=np.float32)}

    folder = tmp_path_factory.mktemp("int8")
    onnx.save(anchor_model(), folder / "float.onnx")
    quantize_static(folder / "float.onnx", folder / "int8.onnx", Reader(), per_channel=True)
    return onnx.load(folder / "int8.onnx")


def test_it_keeps_the_rules_of_profilers() -> None:
    block = get_space("mobilenet(resolution=16,width=0.25)").catalog[2].to_onnx()
    check_profiler(get_profiler("cpu-onnxruntime"), [anchor_model(), block])


@needs_two_cores
def test_two_threads_keep_the_rules_of_profilers() -> None:
    profiler = get_profiler("cpu-onnxruntime.t2")
    assert (profiler.key, profiler.threads) == ("cpu-onnxruntime.t2", 2)
    check_profiler(profiler)


def test_several_images_at_once() -> None:
    profiler = get_profiler("cpu-onnxruntime.int8.b16")
    assert (profiler.key, profiler.batch, profiler.device_record().batch) == ("cpu-onnxruntime.int8.b16", 16, 16)
    check_profiler(get_profiler("cpu-onnxruntime.b4"))
    model, protocol = conv_model(32), replace(QUICK, pass_s=0.02)
    one = get_profiler("cpu-onnxruntime").measure(model, protocol).median_ms
    for given in (model, conv_model(32, batch="N"), conv_model(32, batch=2)):  # the device says how many, not the file
        assert get_profiler("cpu-onnxruntime.b16").measure(given, protocol).median_ms > 4 * one
    space = get_space("shufflenet(resolution=32,width=0.25)")
    reshaped = space.lower(space.sample(1, np.random.default_rng(0))[0].tolist()).to_onnx()
    assert get_profiler("cpu-onnxruntime.b4").kernel_shares(reshaped, protocol=protocol)
    with pytest.raises(ConfigError, match="1 to 1024 images at once, not 2000"):
        get_profiler("cpu-onnxruntime.b2000")
    with pytest.raises(ConfigError, match="b2, b4"):
        get_profiler("cpu-onnxruntime.b0")


def test_int8_keeps_the_rules_of_profilers(quantised: onnx.ModelProto) -> None:
    profiler = get_profiler("cpu-onnxruntime.int8")
    assert profiler.device_record().precision == "int8"
    check_profiler(profiler, [quantised])
    shares = profiler.kernel_shares(quantised, ["expand", "depthwise", "project", "add"], QUICK)
    assert shares is not None
    assert all(shares[name] > 0 for name in ("expand", "depthwise", "project"))
    with pytest.raises(ModelError, match="quantise it"):
        profiler.measure(anchor_model(), QUICK)


def test_more_work_takes_longer() -> None:
    models = {channels: conv_model(channels).SerializeToString() for channels in (8, 32, 128)}
    results = dict(get_profiler("cpu-onnxruntime").measure_many(models, replace(QUICK, pass_s=0.02)))
    # 16 times the multiplications between neighbours: the order holds on any machine
    assert results[8].median_ms < results[32].median_ms < results[128].median_ms


def test_shares_follow_the_work() -> None:
    profiler = get_profiler("cpu-onnxruntime")
    shares = profiler.kernel_shares(conv_model(64, kind=TensorProto.FLOAT16), protocol=QUICK)
    assert shares is not None
    assert shares["conv"] > shares["cast"] > 0
    grouped = profiler.kernel_shares(anchor_model(), ["expand", "depthwise", "project", "add"], QUICK)
    assert grouped is not None
    assert set(grouped) == {"expand", "depthwise", "project", "add"}
    assert all(grouped[name] > 0 for name in ("expand", "depthwise", "project"))


@pytest.mark.parametrize(
    "kind", [TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT8, TensorProto.UINT8, TensorProto.INT64]
)
def test_any_input_type_and_a_free_batch_are_filled_in(kind: int) -> None:
    assert get_profiler("cpu-onnxruntime").measure(conv_model(4, kind=kind, batch="N"), QUICK).median_ms > 0


def test_models_that_cannot_run_are_refused() -> None:
    profiler = get_profiler("cpu-onnxruntime")
    assert isinstance(profiler, RuntimeProfiler)
    text = helper.make_model(
        helper.make_graph(
            [helper.make_node("Identity", ["input"], ["output"])],
            "text",
            [helper.make_tensor_value_info("input", TensorProto.STRING, [1])],
            [helper.make_tensor_value_info("output", TensorProto.STRING, [1])],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    with pytest.raises(ModelError, match="cannot be filled in"):
        profiler.open(text)
    unknown = null_model()
    unknown.graph.node[0].op_type = "Unheard"
    with pytest.raises(ModelError, match="cannot load"):
        profiler.open(unknown)
    shapes = conv_model(4)
    shapes.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "C"
    with pytest.raises(ModelError, match="cannot run"):
        profiler.open(shapes)
    with pytest.raises(ModelError, match="cannot serialise"):
        profiler.open("model.onnx")  # type: ignore[arg-type]
    for call in (profiler.kernel_shares, get_profiler("cpu-onnxruntime.int8").measure):
        with pytest.raises(ModelError, match="not readable ONNX"):
            call(b"\xff\xff rubbish")


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("", "is not a device"),
        (".int8", "is not a device"),
        ("cpu-onnxruntime.", "is not a device"),
        ("cpu-onnxruntime..int8", "is not a device"),
        ("cpu-onxruntime", "did you mean 'cpu-onnxruntime'"),
        ("cpu-onnxruntime.fp7", "no qualifier 'fp7'"),
        ("cpu-onnxruntime.t0", "no qualifier 't0'"),
        ("cpu-onnxruntime.t2.t2", "threads of cpu-onnxruntime is given twice"),
        ("cpu-onnxruntime.int8.float32", "precision of cpu-onnxruntime is given twice"),
        ("cpu-onnxruntime.t9999", "threads, not 9999"),
        ("recorded", "needs the name of a table"),
    ],
)
def test_keys_are_read_or_refused(key: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        get_profiler(key)


def test_keys_are_canonical() -> None:
    assert get_profiler("cpu-onnxruntime.float32").key == "cpu-onnxruntime"
    if CpuOnnxRuntime.max_threads >= 2:
        assert get_profiler("cpu-onnxruntime.t2.int8").key == "cpu-onnxruntime.int8.t2"
    with pytest.raises(ConfigError, match="recorded has no option 'threads'"):
        get_profiler("recorded.cpu-onnxruntime", threads=2)
    with pytest.raises(ConfigError, match="float32 and int8, not int4"):
        CpuOnnxRuntime(precision="int4")


def test_the_record_says_what_was_measured_on() -> None:
    record = get_profiler("cpu-onnxruntime").device_record(QUICK)
    assert record.is_this_machine()
    assert (record.runtime, record.batch, record.protocol["passes"]) == ("onnxruntime", 1, 3)
    assert record.runtime_version[0].isdigit()


def test_a_missing_runtime_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "install it with: pip install onnxruntime"
    monkeypatch.setattr(CpuOnnxRuntime, "unavailable", classmethod(lambda _: reason))
    with pytest.raises(DeviceUnavailable, match=f"not available here: {reason}"):
        get_profiler("cpu-onnxruntime")
    state = {info.name: info for info in list_profilers()}["cpu-onnxruntime"]
    assert (state.available, state.state) == (False, reason)


def test_plug_ins_are_listed_even_if_they_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "brokenplug.py").write_text("raise RuntimeError('no licence')\n")
    (tmp_path / "goodplug.py").write_text(
        "from hwnas.profilers.cpu_onnxruntime import CpuOnnxRuntime\n"
        "class Mine(CpuOnnxRuntime):\n    name = 'cpu-mine'\n    summary = 'mine'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    points = {
        "npu-broken": EntryPoint("npu-broken", "brokenplug:Npu", "hwnas.profilers"),
        "cpu-mine": EntryPoint("cpu-mine", "goodplug:Mine", "hwnas.profilers"),
    }
    monkeypatch.setattr(profilers, "_plugins", lambda: points)
    listed = {info.name: info for info in list_profilers()}
    builtin = [name for name in listed if name not in points]
    assert list(listed)[: len(builtin)] == sorted(builtin)
    assert {"cpu-onnxruntime", "gpu-cuda", "recorded"} <= set(builtin)
    assert listed["cpu-mine"].available
    assert "no licence" in listed["npu-broken"].state
    assert get_profiler("cpu-mine.int8").key == "cpu-mine.int8"
