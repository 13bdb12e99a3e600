"""Prices of kernels that were never measured: bounded by what kernels that do run cost."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwnas.kernel_prices import KernelPrices
from hwnas.latency_tables import DeviceRecord, LatencyTable, Row
from hwnas.profilers.base import FLOOR_MS
from hwnas.spaces.graph import Graph
from hwnas.spaces.signature import kernel_graph

DEVICE = DeviceRecord("cpu-test", "a CPU", "cpu", "some", "1", "float32", 1, 1, "measured")
DATE = "2025-01-01T00:00:00+00:00"


def cost(kernel: Graph) -> float:
    """Milliseconds on the made device: 2 microseconds a kernel, and its work."""
    return 0.002 + 2e-8 * kernel.macs + 1e-8 * kernel.bytes


def test_kernels_that_were_fused_away_do_not_make_others_free(tmp_path: Path) -> None:
    table = LatencyTable.create(tmp_path / "cpu-test", DEVICE)
    convs = [kernel_graph(f"conv(o={o},k=1)@1x{c}x8x8:float32") for o in (4, 8, 16, 64) for c in (4, 16, 32)]
    adds = [kernel_graph(f"add@1x{c}x8x8+1x{c}x8x8:float32") for c in (4, 8, 16, 24, 32, 40, 48, 56, 64, 72)]
    rows = [(kernel.signature, cost(kernel)) for kernel in convs] + [(add.signature, FLOOR_MS) for add in adds]
    for signature, ms in rows:
        table.add(Row(signature, "network", ms, ms, ms, 9, True, "measured", DATE))
    prices = KernelPrices(table)
    tiny, large = kernel_graph("softmax@1x3x4:float32"), kernel_graph("matmul@1x64x64+1x64x64:float32")
    for kernel in (tiny, large):
        (found,) = prices.price(kernel)
        assert found.source == "roofline"
        assert found.ms == pytest.approx(cost(kernel), rel=0.2)
    # an addition is free where the runtime adds inside a convolution
    assert prices.price(kernel_graph("add@1x12x8x8+1x12x8x8:float32"))[0].ms < 1e-4
