"""``dsp-hexagon-sim``: every kernel computes what numpy and onnxruntime do, and its packets repeat exactly."""

from __future__ import annotations

import math
import shutil
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from hwnas.profilers import get_profiler, list_profilers
from hwnas.profilers import hexagon_kernels as hexagon
from hwnas.profilers.dsp_hexagon_sim import DspHexagonSim
from hwnas.profilers.hexagon_kernels import Quantised, Window
from hwnas.profilers.hexagon_program import SOURCES, Counts, kernels, missing, versions
from hwnas.profilers.reference import anchor_model
from hwnas.profilers.testing import check_profiler
from hwnas.quantize import quantize_for_timing
from hwnas.spaces import ConfigError, DeviceUnavailable, ModelError
from hwnas.spaces.families import NetworkBuilder
from hwnas.spaces.kernel import Kernel
from hwnas.spaces.kernels import Activation, Add, BatchNorm, Pool
from hwnas.spaces.layout_kernels import ChannelShuffle, Concat
from hwnas.spaces.math_kernels import Softmax

simulated = pytest.mark.skipif(missing() is not None, reason=str(missing()))


def drawn(channels: int, height: int, width: int, seed: int = 0, scale: float = 0.02) -> Quantised:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 256, (1, channels, height, width), dtype=np.uint8)
    return Quantised(values, scale, int(rng.integers(0, 256)))


def real(x: Quantised) -> np.ndarray:
    return (x.values.astype(np.float64) - x.zero) * x.scale


def quantised(values: np.ndarray, scale: float, zero: int) -> np.ndarray:
    return np.clip(np.rint(values / scale) + zero, 0, 255)


def windows(x: np.ndarray, window: Window, outside: float) -> np.ndarray:
    """What a window sees of a map ``(channels, height, width)``: ``(channels, taps, height, width)``."""
    top, left, bottom, right = window.pads
    height, width = window.output(*x.shape[1:])
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right)), constant_values=outside)
    taps = [
        padded[:, down : down + (height - 1) * window.stride + 1, right : right + (width - 1) * window.stride + 1]
        for down in range(0, window.height * window.dilation, window.dilation)
        for right in range(0, window.width * window.dilation, window.dilation)
    ]
    return np.stack([tap[:, :: window.stride, :: window.stride] for tap in taps], axis=1)


@lru_cache(maxsize=1)
def small_network() -> bytes:
    """A quantised network with every operator that has a kernel."""
    net = NetworkBuilder((1, 3, 20, 20))
    x = net.add(BatchNorm(), net.conv("input", 16, 3, 2, "relu"))
    y = net.squeeze_excite(net.depthwise(net.conv(x, 24, act="hswish"), 5, act="relu6"), 4, gate="hsigmoid")
    x = net.add(Add(), net.conv(y, 16), x)
    z = net.conv(net.pool(x, "avg", 3, 1), 16, g=2)
    x = net.add(ChannelShuffle(2), net.add(Concat(), net.pool(x, "max", 3, 1), z))
    x = net.add(Activation("sigmoid"), x)
    return quantize_for_timing(net.classifier(x, 10).to_onnx()).SerializeToString()


# ------------------------------------------------------------------ kernels against numpy


@simulated
@pytest.mark.parametrize(
    ("channels", "outputs", "size", "window"),
    [
        (3, 16, (17, 20), Window(3, 3, 2, 1, (1, 1, 1, 1))),
        (8, 20, (9, 9), Window()),
        (6, 9, (7, 33), Window(3, 3, 1, 1, (1, 1, 1, 1))),
        (16, 12, (16, 16), Window(1, 1, 2)),
        (5, 8, (11, 10), Window(3, 3, 1, 2, (2, 2, 2, 2))),
        (4, 4, (8, 12), Window(1, 7, 1, 1, (0, 3, 0, 3))),
        (3, 8, (16, 16), Window(4, 4, 4)),
        (8, 8, (10, 10), Window(3, 3, 2, 1, (0, 0, 1, 1))),
        (40, 10, (1, 1), Window()),
        (24, 140, (1, 1), Window()),
    ],
    ids=str,
)
@pytest.mark.parametrize("depthwise", [False, True])
def test_convolutions(channels: int, outputs: int, size: tuple[int, int], window: Window, depthwise: bool) -> None:
    if depthwise:
        outputs = channels
    x, rng = drawn(channels, *size), np.random.default_rng(1)
    shape = (outputs, 1 if depthwise else channels, window.height, window.width)
    weights = rng.integers(-127, 128, shape).astype(np.int8)
    bias = rng.integers(-3000, 3000, outputs).astype(np.int32)
    factors = rng.uniform(0.5, 1, outputs) / (60 * math.sqrt(weights[0].size))
    counts, made = hexagon.convolution(x, weights, bias, factors, 7, window, depthwise=depthwise).run(kernels())
    seen = windows(x.values[0].astype(np.int64) - x.zero, window, 0)
    flat = weights.reshape(outputs, shape[1], -1).astype(np.int64)
    sums = np.einsum("cthw,ct->chw", seen, flat[:, 0]) if depthwise else np.einsum("cthw,oct->ohw", seen, flat)
    wanted = np.clip(np.rint((sums + bias[:, None, None]) * factors[:, None, None]) + 7, 0, 255)
    assert len(np.unique(wanted)) > 3
    assert np.array_equal(made[0], wanted)
    assert counts.packets > 0
    assert counts.hvx > 0


@simulated
@pytest.mark.parametrize("size", [(9, 9), (12, 40)])
@pytest.mark.parametrize(
    "window", [Window(3, 3, 1, 1, (1, 1, 1, 1)), Window(2, 2, 2), Window(3, 3, 2, 1, (1, 1, 1, 1))], ids=str
)
def test_pools(size: tuple[int, int], window: Window) -> None:
    x = drawn(10, *size)
    _, made = hexagon.max_pool(x, window).run(kernels())
    assert np.array_equal(made[0], windows(x.values[0], window, 0).max(axis=1))
    inside = windows(np.ones((1, *size)), window, 0).sum(axis=1)
    for counted, divisor in ((False, inside), (True, np.full_like(inside, window.height * window.width))):
        _, made = hexagon.average_pool(x, window, 0.013, 9, count_padding=counted).run(kernels())
        wanted = quantised(windows(real(x)[0], window, 0).sum(axis=1) / divisor, 0.013, 9)
        assert np.array_equal(made[0], wanted)
    _, made = hexagon.global_pool(x, 0.004, 100).run(kernels())
    assert np.array_equal(made, quantised(real(x).mean(axis=(2, 3), keepdims=True), 0.004, 100))


@simulated
@pytest.mark.parametrize("scales", [(0.0201, 0.0307, 0.0503), (0.503, 0.0109, 0.0211)])
def test_elementwise(scales: tuple[float, float, float]) -> None:
    # no halves: of those the kernels and numpy make different bytes
    a, b = drawn(6, 9, 11, 0, scales[0]), drawn(6, 9, 11, 1, scales[1])
    one = drawn(6, 1, 1, 2, scales[1])
    for other in (b, one):
        _, made = hexagon.add(other, a, scales[2], 77).run(kernels())
        assert np.array_equal(made, quantised(real(a) + real(other), scales[2], 77))
        _, made = hexagon.multiply(a, other, scales[2] * 4, 77).run(kernels())
        assert np.array_equal(made, quantised(real(a) * real(other), scales[2] * 4, 77))
    rng = np.random.default_rng(3)
    factors, offsets = rng.uniform(-2, 2, 6), rng.uniform(-100, 300, 6)
    _, made = hexagon.scale_channels(a, factors, offsets).run(kernels())
    wanted = np.clip(np.rint(a.values * factors[:, None, None] + offsets[:, None, None]), 0, 255)
    assert np.array_equal(made, wanted)
    table = rng.integers(0, 256, 256).astype(np.uint8)
    _, made = hexagon.look_up(a, table).run(kernels())
    assert np.array_equal(made, table[a.values])
    chosen = [3, 4, 5, 6, 0, 11, 2, 7, 7]
    _, made = hexagon.choose_channels([a, b], chosen).run(kernels())
    assert np.array_equal(made, np.concatenate([a.values, b.values], axis=1)[:, chosen])


# ------------------------------------------------------------------ counts


def counted(outputs: int = 32, seed: int = 0, zero: int = 3) -> Counts:
    rng = np.random.default_rng(seed)
    weights = rng.integers(-127, 128, (outputs, 32, 3, 3)).astype(np.int8)
    call = hexagon.convolution(
        drawn(32, 16, 16, seed),
        weights,
        None,
        np.array([1e-4 * (seed + 1)]),
        zero,
        Window(3, 3, 1, 1, (1, 1, 1, 1)),
    )
    return call.run(kernels())[0]


@simulated
def test_counts_repeat_and_do_not_depend_on_numbers() -> None:
    assert counted() == counted() == counted(seed=5, zero=200)


@simulated
def test_counts_grow_with_the_work() -> None:
    few, more, most = (counted(outputs=outputs).packets for outputs in (16, 48, 80))
    assert most - more == more - few > few / 2


@simulated
def test_counts_of_the_pinned_versions() -> None:
    if not versions().startswith("zig 0.17.1, qemu 7.2."):
        pytest.skip(f"the counts are those of zig 0.17.1 and QEMU 7.2, and here is {versions()}")
    assert counted() == PINNED


PINNED = Counts(packets=19133, instructions=54469, hvx=29202)


# ------------------------------------------------------------------ the device


@simulated
def test_it_keeps_the_rules_of_profilers() -> None:
    profiler = get_profiler("dsp-hexagon-sim")
    assert profiler.method == "simulated"
    assert profiler.file_precision == "int8"
    check_profiler(profiler, [quantize_for_timing(anchor_model())])
    record = profiler.device_record()
    assert "zig" in record.runtime_version
    assert "qemu" in record.runtime_version
    assert get_profiler("dsp-hexagon-sim", clock_mhz=500.0).device_record().differences(record)


@simulated
def test_a_network_is_what_onnxruntime_computes() -> None:
    profiler = DspHexagonSim()
    found = profiler.simulate(small_network())
    assert {kind for operator in found for kind in operator.kernels} == set(hexagon.KINDS)
    outputs, off = (sum(getattr(one, name) for one in found) for name in ("outputs", "off"))
    assert outputs > 20_000
    assert off < 0.02 * outputs
    assert sum(operator.macs for operator in found) > 0
    again = profiler.simulate(small_network())
    assert [one.packets for one in again] == [one.packets for one in found]
    assert sum(one.outputs for one in again) == 0
    ms = profiler.measure(small_network()).median_ms
    assert ms == pytest.approx(sum(one.packets for one in found) / 1e6)
    assert get_profiler("dsp-hexagon-sim", clock_mhz=500.0).measure(small_network()).median_ms == pytest.approx(2 * ms)
    shares = profiler.kernel_shares(small_network())
    assert shares is not None
    assert len([share for share in shares.values() if share > 0]) > 8


@simulated
def test_a_modelled_cache_counts_misses() -> None:
    net = NetworkBuilder((1, 32, 32, 32))
    block = quantize_for_timing(net.graph(net.add(Activation("relu"), "input")).to_onnx()).SerializeToString()
    profiler = DspHexagonSim(cache_kb=1024, miss_packets=30)
    (lookup,) = profiler.simulate(block)
    # every line of 64 bytes of the input, of the output and of the table of 256 bytes comes once; the stack, a few
    assert 0 <= lookup.misses - (2 * 32 * 32 * 32 + 256) / 64 <= 16
    (plain,) = DspHexagonSim().simulate(block)
    assert (plain.packets, plain.misses) == (lookup.packets, 0)
    assert profiler.measure(block).median_ms == pytest.approx((lookup.packets + 30 * lookup.misses) / 1e6)
    assert "30 more a miss of 1024 KB" in profiler.device_record().name
    assert profiler.device_record().differences(DspHexagonSim().device_record())


@simulated
def test_a_smaller_cache_misses_more() -> None:
    net = NetworkBuilder((1, 64, 24, 24))
    block = quantize_for_timing(net.graph(net.conv("input", 64, 3)).to_onnx()).SerializeToString()
    small, large, again = (DspHexagonSim(cache_kb=size).simulate(block)[0].misses for size in (16, 1024, 1024))
    assert small > large == again


@simulated
@pytest.mark.parametrize(
    ("kernel", "expected"), [(Activation("relu"), "lookup"), (Pool("avg", 3, 1, 1), "average-pool")]
)
def test_blocks_without_a_convolution(kernel: Kernel, expected: str) -> None:
    net = NetworkBuilder((1, 8, 12, 12))
    block = quantize_for_timing(net.graph(net.add(kernel, "input")).to_onnx())
    assert [operator.kernels for operator in DspHexagonSim().simulate(block)] == [(expected,)]


@simulated
def test_mistakes() -> None:
    profiler = get_profiler("dsp-hexagon-sim")
    with pytest.raises(ModelError, match="this one is float"):
        profiler.measure(anchor_model())
    net = NetworkBuilder((1, 8, 4, 4))
    softmax = quantize_for_timing(net.graph(net.add(Softmax(), net.conv("input", 8))).to_onnx())
    with pytest.raises(ModelError, match=r"no Hexagon kernel for .*Softmax"):
        profiler.measure(softmax)
    with pytest.raises(ConfigError, match="between 1 and 100000 MHz"):
        DspHexagonSim(clock_mhz=0)
    with pytest.raises(ConfigError, match="packets a miss"):
        DspHexagonSim(miss_packets=30)
    with pytest.raises(ConfigError, match="one image"):
        get_profiler("dsp-hexagon-sim.b2")
    with pytest.raises(ModelError, match="below 0"):
        hexagon.convolution(drawn(4, 4, 4), np.ones((4, 4, 1, 1), np.int8), None, np.array([2.0]), 0, Window())
    with pytest.raises(ModelError, match="has no such kernel"):
        kernels().run([99] + [1] * 20, [], 128)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    state = next(found for found in list_profilers() if found.name == "dsp-hexagon-sim")
    assert not state.available
    assert "install" in state.state
    with pytest.raises(DeviceUnavailable, match="install"):
        get_profiler("dsp-hexagon-sim")


def test_the_kernels_are_installed() -> None:
    assert {"main.c", "kernels.c", "runtime.h"} <= {file.name for file in Path(SOURCES).iterdir()}
