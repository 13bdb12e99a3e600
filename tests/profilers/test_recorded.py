"""``recorded`` replays a table without any hardware."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from hwnas.latency_tables import DeviceRecord, LatencyTable, NetworkRow, Row, host_facts
from hwnas.profilers import get_profiler
from hwnas.profilers.campaign import network_model
from hwnas.profilers.recorded import Recorded
from hwnas.profilers.testing import check_profiler
from hwnas.spaces import ConfigError, ModelError, SearchSpace, TableError, get_space

WHEN = "2026-01-02T03:04:05+00:00"


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return get_space("mobilenet(resolution=8,channels=1,classes=10,width=0.25)")


@pytest.fixture
def root(tmp_path: Path, space: SearchSpace) -> Path:
    """A root with one table: every block isolated, the first also in context, one network."""
    device = DeviceRecord("vpu-x.int8", "a VPU", "vpu", "sim", "1", "int8", 1, 1, "simulated", host_facts(), {})
    table = LatencyTable.create(tmp_path / device.key, device)
    for index, block in enumerate(space.catalog):
        ms = 1.0 + index
        table.add(Row(block.signature, "isolated", ms, 0.5 * ms, 2 * ms, 3 + index, True, "simulated", WHEN))
    table.add(Row(space.catalog[0].signature, "network", 9.0, 9.0, 9.0, 3, True, "simulated", WHEN))
    architecture = tuple(0 for _ in space.decisions)
    table.add_network(NetworkRow(space.spec, architecture, 50.0, 49.0, 51.0, 3, True, "simulated", WHEN))
    return tmp_path


def test_it_keeps_the_rules_of_profilers(root: Path, space: SearchSpace) -> None:
    profiler = get_profiler("recorded.vpu-x.int8", root=root)
    models = [space.catalog[1].to_onnx(), network_model(space, tuple(0 for _ in space.decisions))]
    check_profiler(profiler, models)
    assert (profiler.key, profiler.method, profiler.precision) == ("recorded.vpu-x.int8", "simulated", "int8")
    assert profiler.kernel_shares(models[0]) is None


def test_blocks_and_networks_are_replayed(root: Path, space: SearchSpace) -> None:
    profiler = Recorded("vpu-x.int8", root=root)
    assert profiler.measure(space.catalog[0].to_onnx()).median_ms == 9.0
    assert Recorded("vpu-x.int8", root=root, context="isolated").measure(space.catalog[0].to_onnx()).median_ms == 1.0
    block = profiler.measure(space.catalog[3].to_onnx())
    assert (block.median_ms, block.low_ms, block.high_ms, block.repeats, block.samples) == (4.0, 2.0, 8.0, 6, ())
    known = profiler.measure(network_model(space, tuple(0 for _ in space.decisions)))
    assert (known.median_ms, known.method) == (50.0, "simulated")


def test_other_networks_are_sums_of_blocks_of_one_context(root: Path, space: SearchSpace) -> None:
    architecture = tuple(1 for _ in space.decisions)
    price = {block.signature: 1.0 + index for index, block in enumerate(space.catalog)}
    expected = sum(price[block.signature] for block in space.lower(architecture).blocks)
    result = Recorded("vpu-x.int8", root=root).measure(network_model(space, architecture))
    assert result.median_ms == pytest.approx(expected)
    assert [result.low_ms, result.high_ms] == pytest.approx([expected / 2, 2 * expected])


def test_what_the_table_lacks_is_refused(root: Path, space: SearchSpace) -> None:
    profiler = Recorded("vpu-x.int8", root=root)
    other = get_space("mobilenet(resolution=16,channels=1,classes=10,width=0.25)")
    with pytest.raises(TableError, match=r"no row for .*hwnas profile --device vpu-x.int8"):
        profiler.measure(other.catalog[1].to_onnx())
    with pytest.raises(TableError, match=r"lacks \d+ of the \d+ blocks"):
        profiler.measure(network_model(other, tuple(0 for _ in other.decisions)))
    with pytest.raises(TableError, match="no network row"):
        Recorded("vpu-x.int8", root=root, context="network").measure(space.catalog[1].to_onnx())
    with pytest.raises(TableError, match="no latency table for 'nothing'"):
        get_profiler("recorded.nothing", root=root)
    with pytest.raises(ConfigError, match=r"recorded\.vpu-x\.int8"):
        get_profiler("recorded", root=root)


@pytest.mark.parametrize("text", ["", "{", '"a"', "[1.5]", "[true]", "[" * 50_000])
def test_models_that_do_not_say_what_they_are_are_refused(root: Path, space: SearchSpace, text: str) -> None:
    profiler = Recorded("vpu-x.int8", root=root)
    plain = space.lower([0] * len(space.decisions)).to_onnx()
    with pytest.raises(ModelError, match="only knows models written by hwnas"):
        profiler.measure(plain)
    onnx.helper.set_model_props(plain, {"hwnas.space": space.spec, "hwnas.architecture": text})
    with pytest.raises(ModelError, match=r"hwnas\.architecture"):
        profiler.measure(plain)
