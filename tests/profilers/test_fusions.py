"""Fusions by timing pairs: on a made device that fuses what it is told to, and on a real one."""

from __future__ import annotations

from typing import ClassVar

import pytest

from hwnas.latency_tables import DeviceRecord
from hwnas.profilers import Profiler, Protocol, get_profiler
from hwnas.profilers.base import Measurement, Model, as_bytes
from hwnas.profilers.fusions import FIRST, SECOND, find_fusions
from hwnas.profilers.testing import QUICK
from hwnas.spaces import ConfigError
from hwnas.spaces.graph import Graph


class Made(Profiler):
    """Every operator takes a millisecond; activations after a convolution, and sums after a 1x1 one, take none."""

    name: ClassVar[str] = "cpu-made"
    device_class: ClassVar[str] = "cpu"
    summary: ClassVar[str] = "a formula"
    noise: ClassVar[float] = 0.01

    def device_record(self, protocol: Protocol | None = None) -> DeviceRecord:
        return DeviceRecord(self.key, "a formula", "cpu", "none", "1", "float32", 1, 1, "measured")

    def measure(self, model: Model, protocol: Protocol | None = None) -> Measurement:
        ms = 0.0
        graph = Graph.from_onnx(as_bytes(model))
        before = {node.name: node.kernel for node in graph.nodes}
        for node in graph.nodes:
            kernel = node.kernel
            ms += 1.0
            if getattr(kernel, "act", None) and kernel.op != "act":
                ms += kernel.op not in ("conv", "dwconv")  # read as one kernel with what comes before it
            elif kernel.op == "add":
                ms -= any(getattr(before.get(name), "k", 0) == 1 for name in node.inputs)
        return Measurement(ms, ms - self.noise, ms + self.noise, 3, True, "measured", 1.0)


def test_what_a_runtime_fuses_is_found() -> None:
    found = {(pair.first, pair.second): pair for pair in find_fusions(Made(), second=("relu", "add"))}
    assert found.keys() == {(first, second) for first in FIRST for second in ("relu", "add")}
    fused = {key for key, pair in found.items() if pair.fused}
    assert fused == {("conv", "relu"), ("conv 1x1", "relu"), ("dwconv", "relu"), ("conv 1x1", "add")}
    assert all(pair.fused is not None for pair in found.values())


def test_wide_intervals_leave_it_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Made, "noise", 2.0)
    assert all(pair.fused is None for pair in find_fusions(Made(), first=("conv",), second=("relu",)))


def test_real_pairs_have_times() -> None:
    found = find_fusions(get_profiler("cpu-onnxruntime"), first=("conv 1x1",), second=("relu", "gelu"), protocol=QUICK)
    assert [(pair.first, pair.second) for pair in found] == [("conv 1x1", "relu"), ("conv 1x1", "gelu")]
    gelu = found[1]
    assert gelu.adds_ms > 0
    assert gelu.elsewhere_ms > 0


def test_every_pair_is_a_network() -> None:
    from hwnas.profilers.fusions import _network

    for first in FIRST:
        for second in (None, *SECOND):
            assert _network(first, second).to_onnx().graph.node


def test_mistakes() -> None:
    with pytest.raises(ConfigError, match="no operator 'magic' to test"):
        find_fusions(Made(), second=("magic",))
