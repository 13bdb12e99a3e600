"""``cpu-tvm`` on real models: what it computes is right, and it keeps the rules."""

from __future__ import annotations

import numpy as np
import pytest

from hwnas.profilers import get_profiler, list_profilers
from hwnas.profilers.reference import anchor_model, null_model
from hwnas.profilers.testing import QUICK, check_profiler
from hwnas.spaces import ConfigError, ModelError, get_space
from hwnas.spaces.families import NetworkBuilder

pytest.importorskip("tvm")


def test_it_keeps_the_rules_of_profilers() -> None:
    block = get_space("mobilenet(resolution=8,width=0.25)").catalog[2].to_onnx()
    profiler = get_profiler("cpu-tvm")
    assert profiler.device_record().runtime == "tvm"
    check_profiler(profiler, [block])
    assert profiler.kernel_shares(block) is None


def test_batches_and_free_sizes() -> None:
    net = NetworkBuilder((1, 3, 16, 16))
    graph = net.classifier(net.conv("input", 16, 3, 2, "relu"), 10)
    one = get_profiler("cpu-tvm").measure(graph.to_onnx(batch="N"), QUICK).median_ms
    many = get_profiler("cpu-tvm.b8").measure(graph.to_onnx(batch="N"), QUICK).median_ms
    assert many > 3 * one


def test_compiled_models_are_kept() -> None:
    from hwnas.profilers.cpu_tvm import CpuTvm

    profiler = get_profiler("cpu-tvm")
    assert isinstance(profiler, CpuTvm)
    data = anchor_model().SerializeToString()
    profiler.open(data)
    assert profiler._compile(data) is profiler._compile(data)


def test_mistakes() -> None:
    profiler = get_profiler("cpu-tvm")
    unknown = null_model()
    unknown.graph.node[0].op_type = "Unheard"
    with pytest.raises(ModelError, match="TVM cannot compile the model"):
        profiler.measure(unknown, QUICK)
    with pytest.raises(ConfigError, match="no qualifier 'int8'"):
        get_profiler("cpu-tvm.int8")
    state = next(found for found in list_profilers() if found.name == "cpu-tvm")
    assert state.available
    assert np.isfinite(profiler.measure(null_model(), QUICK).median_ms)
