"""``vpu-vpunn``: what it says without Intel's files, keys and settings, and the rules of profilers."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwnas.predict import predict
from hwnas.profilers import get_profiler, list_profilers
from hwnas.profilers.testing import QUICK, check_profiler
from hwnas.profilers.vpu_vpunn import FOLDER, VpuVpunn
from hwnas.profilers.vpunn import PLATFORMS
from hwnas.profilers.vpunn.workload import DESCRIPTORS
from hwnas.quantize import quantize_for_timing
from hwnas.spaces import ConfigError, DeviceUnavailable, ModelError, get_space
from tests.paths import shared_data
from tests.profilers.vpunn.models import random_layers, write_network

SPACE = "mobilenet(resolution=16,width=0.25)"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a random network for each platform."""
    for platform in PLATFORMS.values():
        version = platform.descriptors[-1]
        layers = random_layers(DESCRIPTORS[version][0], 8, 1)
        write_network(tmp_path / platform.files[0], layers, f"VPUNN-{version}-02")
    monkeypatch.setenv(FOLDER, str(tmp_path))
    return tmp_path


def state() -> str:
    found = next(found for found in list_profilers() if found.name == "vpu-vpunn")
    return "" if found.available else found.state


def test_without_files_it_says_what_to_point_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FOLDER, raising=False)
    assert "set HWNAS_VPUNN to the folder with Intel's cost networks, vpu_2_0.vpunn (Keem Bay)" in state()
    assert "intel/npu-nn-cost-model" in state()
    with pytest.raises(DeviceUnavailable, match="set HWNAS_VPUNN"):
        get_profiler("vpu-vpunn")
    monkeypatch.setenv(FOLDER, str(tmp_path))
    assert f"HWNAS_VPUNN is {tmp_path}, where there is none" in state()
    write_network(tmp_path / "vpu_2_7.vpunn", random_layers(93, 1))
    assert state() == ""
    assert get_profiler("vpu-vpunn.npu3720").key == "vpu-vpunn.npu3720"
    with pytest.raises(DeviceUnavailable, match=r"Lunar Lake \(npu4000\) needs vpu_4_0.vpunn or vpu_4_1.vpunn, which"):
        get_profiler("vpu-vpunn")


def test_a_file_may_be_given_instead_of_a_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER, str(folder / "vpu_4_0.vpunn"))
    assert state() == ""
    assert VpuVpunn().device_record().runtime_version.startswith("VPUNN-4111-02")
    assert VpuVpunn(platform="npu3720", models=folder).file == folder / "vpu_2_7.vpunn"
    # the default platform's file for another platform
    with pytest.raises(ModelError, match="takes descriptors of version 4111, but that of Meteor Lake"):
        VpuVpunn(platform="npu3720").device_record()


def test_a_damaged_file_is_one_clear_error(folder: Path) -> None:
    block = get_space(SPACE).catalog[2].to_onnx()
    (folder / "vpu_4_0.vpunn").write_bytes((folder / "vpu_4_0.vpunn").read_bytes()[:200])
    with pytest.raises(ModelError, match=r"vpu_4_0.vpunn is damaged"):
        VpuVpunn().measure(block)
    write_network(folder / "vpu_4_0.vpunn", random_layers(92, 1), "VPUNN-4111-02")
    with pytest.raises(ModelError, match="takes 92 numbers, not 93: it is damaged"):
        VpuVpunn().measure(block)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("given", "key", "tiles", "mhz"),
    [
        ("vpu-vpunn", "vpu-vpunn", 6, 1700),
        ("vpu-vpunn.npu4000.float16.6tiles.1700mhz", "vpu-vpunn", 6, 1700),
        ("vpu-vpunn.1850mhz.2tiles.int8", "vpu-vpunn.int8.2tiles.1850mhz", 2, 1850),
        ("vpu-vpunn.npu3720.1tile", "vpu-vpunn.npu3720.1tiles", 1, 1300),
    ],
)
def test_keys(given: str, key: str, tiles: int, mhz: int) -> None:
    profiler = get_profiler(given)
    assert isinstance(profiler, VpuVpunn)
    assert profiler.key == key
    assert (profiler.platform.tiles, profiler.platform.dpu_mhz) == (tiles, mhz)
    assert get_profiler(key).key == key


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("vpu-vpunn.npu9000", "no qualifier 'npu9000'; it takes npu3700, npu3720, npu4000, npu5010, float16, int8"),
        ("vpu-vpunn.npu3720.npu4000", "the platform of vpu-vpunn is given twice: npu3720.npu4000"),
        ("vpu-vpunn.npu3720.3tiles", r"Meteor Lake \(npu3720\) has 1 to 2 tiles, not 3"),
        ("vpu-vpunn.0mhz", "no qualifier '0mhz'"),
        ("vpu-vpunn.t2", "no qualifier 't2'"),
    ],
)
def test_wrong_keys(key: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        get_profiler(key)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("key", ["", ".npu3700", ".npu3720", ".npu5010", ".int8.2tiles.1850mhz"])
def test_it_keeps_the_rules_of_profilers(key: str) -> None:
    profiler = get_profiler(f"vpu-vpunn{key}")
    block = get_space(SPACE).catalog[2].to_onnx()
    models = [quantize_for_timing(block)] if profiler.precision == "int8" else [block]
    check_profiler(profiler, models)
    record = profiler.device_record()
    assert (record.method, record.device_class, record.protocol) == ("modelled", "vpu", {})
    assert len(record.runtime_version.split()[1]) == 12


@pytest.mark.usefixtures("folder")
def test_int8_takes_quantised_models_only() -> None:
    profiler = get_profiler("vpu-vpunn.int8")
    with pytest.raises(ModelError, match="int8"):
        profiler.measure(get_space(SPACE).catalog[2].to_onnx())


@pytest.mark.usefixtures("folder")
def test_shares_are_those_of_the_layers() -> None:
    profiler = VpuVpunn()
    block = get_space(SPACE).catalog[2]
    cost, shares = profiler.network_cost(block), profiler.kernel_shares(block.to_onnx())
    assert shares is not None
    assert list(shares) == [layer.name for layer in cost.layers]
    first, *middle, last = cost.layers
    assert shares[first.name] == pytest.approx((first.us + first.wait_us + cost.input_us) / cost.total_us)
    assert shares[last.name] == pytest.approx((last.us + last.wait_us + cost.output_us) / cost.total_us)
    for layer in middle:
        assert shares[layer.name] == pytest.approx((layer.us + layer.wait_us) / cost.total_us)
    found = profiler.measure(block.to_onnx())
    assert found.median_ms == found.low_ms == found.high_ms == pytest.approx(cost.total_us / 1e3)
    assert found.method == "modelled"


@pytest.mark.usefixtures("folder")
def test_files_are_predicted_without_a_table() -> None:
    model = get_space(SPACE).catalog[2].to_onnx()
    found = predict(model, "vpu-vpunn.npu3720")
    ms = get_profiler("vpu-vpunn.npu3720").measure(model).median_ms
    assert (found.latency_ms, found.interval_ms, found.coverage) == (ms, (ms, ms), 1.0)
    assert (found.method, found.sources, found.device) == ("modelled", {"modelled": 1.0}, "vpu-vpunn.npu3720")
    assert found.hardware == "Intel Meteor Lake (npu3720), 2 tiles at 1300 MHz"


def test_other_networks_give_other_numbers() -> None:
    models = shared_data() / "vpunn"
    block = get_space("mobilenet").catalog[10].to_onnx()
    found = {key: VpuVpunn(platform=key, models=models).measure(block, QUICK).median_ms for key in PLATFORMS}
    # from generation to generation less
    assert list(found.values()) == sorted(found.values(), reverse=True)
    fewer = VpuVpunn(tiles=2, models=models).measure(block).median_ms
    faster = VpuVpunn(mhz=1900, models=models).measure(block).median_ms
    assert faster < found["npu4000"] < fewer
