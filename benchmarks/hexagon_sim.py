"""Simulated Hexagon kernels: do counts repeat, do they grow with the work, and how many MACs does a packet hold?

Every kernel kind runs at a few sizes, 20 times each, beside the same operator in plain C (``hexagon_scalar.c``),
compiled by the same compiler with the same options, and once more with the compiler's own vectoriser on. All three must
give the same bytes. One ``vrmpy`` a packet would be 128 MACs a packet.

``generated``: operators of small networks, by their kernel and by the code that TVM generates for operators that have
none (``dsp-hexagon-sim.tvm``).

    python benchmarks/hexagon_sim.py kernels
    python benchmarks/hexagon_sim.py linear
    python benchmarks/hexagon_sim.py generated
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from record import append_rows

from hwnas.profilers import hexagon_kernels as hexagon
from hwnas.profilers.dsp_hexagon_sim import DspHexagonSim
from hwnas.profilers.hexagon_fusion import all_arrays, fused
from hwnas.profilers.hexagon_generated import GeneratedCall, generator_version
from hwnas.profilers.hexagon_kernels import Call, Quantised, Window
from hwnas.profilers.hexagon_part import find_part
from hwnas.profilers.hexagon_program import SOURCES, Program, kernels, versions
from hwnas.quantize import quantize_for_timing
from hwnas.spaces import Graph
from hwnas.spaces.families import NetworkBuilder
from hwnas.spaces.kernel import Kernel
from hwnas.spaces.kernels import Add, Conv, DepthwiseConv, Pool

RUNS = 20
VRMPY = 128
RNG = np.random.default_rng(0)


def drawn(channels: int, size: int) -> Quantised:
    return Quantised(RNG.integers(0, 256, (1, channels, size, size), dtype=np.uint8), 0.02, 128)


def conv(channels: int, outputs: int, size: int, k: int = 1, s: int = 1, *, depthwise: bool = False) -> Call:
    weights = RNG.integers(-127, 128, (outputs, 1 if depthwise else channels, k, k)).astype(np.int8)
    factors = np.full(outputs, 0.01 / np.sqrt(weights[0].size))
    window = Window(k, k, s, 1, (k // 2,) * 4)
    return hexagon.convolution(drawn(channels, size), weights, None, factors, 128, window, depthwise=depthwise)


def calls() -> dict[str, Call]:
    """Operators of image networks, by name."""
    around = Window(3, 3, 1, 1, (1, 1, 1, 1))
    return {
        "conv 3→32, k3 s2, 64": conv(3, 32, 64, 3, 2),
        "conv 32→96, k1, 28": conv(32, 96, 28),
        "conv 128→128, k1, 14": conv(128, 128, 14),
        "conv 480→80, k1, 7": conv(480, 80, 7),
        "conv 64→64, k3, 14": conv(64, 64, 14, 3),
        "conv 32→32, k3, 28": conv(32, 32, 28, 3),
        "conv 32→32, k5, 14": conv(32, 32, 14, 5),
        "depthwise 96, k3, 28": conv(96, 96, 28, 3, depthwise=True),
        "depthwise 96, k3 s2, 28": conv(96, 96, 28, 3, 2, depthwise=True),
        "depthwise 96, k5, 14": conv(96, 96, 14, 5, depthwise=True),
        "depthwise 96, k7, 14": conv(96, 96, 14, 7, depthwise=True),
        "linear 960→320": conv(960, 320, 1),
        "max-pool 64, k3, 14": hexagon.max_pool(drawn(64, 14), around),
        "average-pool 64, k3, 14": hexagon.average_pool(drawn(64, 14), around, 0.0193, 100),
        "global-pool 960, 7": hexagon.global_pool(drawn(960, 7), 0.0107, 128),
        "add 64, 28": hexagon.add(drawn(64, 28), drawn(64, 28), 0.031, 120),
        "multiply 64, 28, by one pixel": hexagon.multiply(drawn(64, 28), drawn(64, 1), 0.031, 120),
        "scale 64, 28": hexagon.scale_channels(drawn(64, 28), np.full(64, 0.71), np.full(64, 9.1)),
        "lookup 64, 28": hexagon.look_up(drawn(64, 28), RNG.permutation(256)),
        "channels 128, 28, shuffled": hexagon.choose_channels(
            [drawn(128, 28)], np.arange(128).reshape(2, 64).T.ravel().tolist()
        ),
    }


def measure_kernels(rows: list[dict[str, object]]) -> None:
    scalar = [SOURCES / "main.c", Path(__file__).parent / "hexagon_scalar.c"]
    plain, automatic = Program(scalar), Program(scalar, ["-fvectorize", "-funroll-loops"])
    print(f"{'operator':32} {'packets':>9} {'runs':>5} {'MAC/pkt':>8} {'of 128':>7} {'scalar':>7} {'compiler':>9}")
    for name, call in calls().items():
        runs = [call.run(kernels()) for _ in range(RUNS)]
        counts, made = runs[0]
        same = len({(one.packets, one.instructions, one.hvx) for one, _ in runs})
        others = [call.run(program) for program in (plain, automatic)]
        if not all(np.array_equal(made, other) for _, other in (*runs, *others)):
            raise SystemExit(f"{name}: the programs disagree")
        ratio = call.macs / counts.packets
        slower = [other.packets / counts.packets for other, _ in others]
        print(
            f"{name:32} {counts.packets:9d} {same:5d} {ratio:8.1f} {ratio / VRMPY:7.0%} "
            f"{slower[0]:6.1f}× {slower[1]:8.1f}×",
            flush=True,
        )
        rows.append(
            {
                "kind": call.kind,
                "operator": name,
                "macs": call.macs,
                "packets": counts.packets,
                "instructions": counts.instructions,
                "hvx": counts.hvx,
                "runs": RUNS,
                "different_counts": same,
                "mac_per_packet": round(ratio, 2),
                "scalar_packets": others[0][0].packets,
                "autovectorised_packets": others[1][0].packets,
            }
        )


def measure_linear(rows: list[dict[str, object]]) -> None:
    """The same operator with 1 to 8 times the output channels, or the rows of pixels: how far off a line it is."""
    series = {
        "conv 64→n, k1, 28": [conv(64, 32 * n, 28) for n in range(1, 9)],
        "conv 32→n, k3, 28": [conv(32, 32 * n, 28, 3) for n in range(1, 9)],
        "depthwise n, k3, 28": [conv(32 * n, 32 * n, 28, 3, depthwise=True) for n in range(1, 9)],
        "linear n→1024": [conv(160 * n, 1024, 1) for n in range(1, 9)],
        "add n, 28": [hexagon.add(drawn(32 * n, 28), drawn(32 * n, 28), 0.031, 120) for n in range(1, 9)],
    }
    print(f"{'operator':24} {'first':>8} {'last':>9} {'worst off the line':>19}")
    for name, made in series.items():
        packets = np.array([call.run(kernels())[0].packets for call in made], float)
        work = np.arange(1, 9)
        line = np.polyval(np.polyfit(work, packets, 1), work)
        worst = float(np.abs(packets / line - 1).max())
        print(f"{name:24} {packets[0]:8.0f} {packets[-1]:9.0f} {worst:19.3%}", flush=True)
        rows.append(
            {
                "operator": name,
                "steps": len(work),
                "first": int(packets[0]),
                "last": int(packets[-1]),
                "off": f"{worst:.6f}",
            }
        )


def networks() -> dict[str, tuple[Graph, str, int]]:
    """Small networks, and the fused operator of each that is looked at: which of its kind."""

    def image(kernel: Kernel, channels: int = 32, size: int = 14) -> Graph:
        net = NetworkBuilder((1, channels, size, size))
        return net.graph(net.add(kernel, net.conv("input", channels)))

    def of_two(kernel: Kernel) -> Graph:
        net = NetworkBuilder((1, 32, 14, 14))
        return net.graph(net.add(kernel, net.conv("input", 32), net.conv("input", 32)))

    tokens = NetworkBuilder((1, 3, 32, 32))
    transformer = tokens.token_classifier(tokens.transformer(tokens.tokens("input", 4, 64), 2), 10)
    return {
        "conv 32→32, k1, 14": (image(Conv(o=32, k=1)), "QLinearConv", -1),
        "conv 32→32, k3, 14": (image(Conv(o=32, k=3)), "QLinearConv", -1),
        "depthwise 32, k3, 14": (image(DepthwiseConv(k=3)), "QLinearConv", -1),
        "max-pool 32, k3, 14": (image(Pool("max", 3, 1, 1)), "MaxPool", -1),
        "average-pool 32, k3, 14": (image(Pool("avg", 3, 1, 1)), "QLinearAveragePool", -1),
        "add 32, 14": (of_two(Add()), "QLinearAdd", -1),
        "64 tokens of 64 → 192": (transformer, "QGemm", 0),
        "attention: 2 × 64 × 32 by 32 × 64": (transformer, "QLinearMatMul", 0),
        "softmax of 2 × 64 × 64": (transformer, "QLinearSoftmax", 0),
        "LayerNorm of 64 × 64": (transformer, "LayerNormalization", 0),
        "transpose of 64 × 64": (transformer, "Transpose", 0),
    }


def measure_generated(rows: list[dict[str, object]]) -> None:
    """Packets of generated code over those of the kernel, and how many of its bytes are one off onnxruntime's."""
    print(f"{'operator':36} {'kernel':>8} {'generated':>10} {'ratio':>7} {'one off':>8}")
    profiler = DspHexagonSim(tvm=True)
    for name, (graph, op, which) in networks().items():
        data = quantize_for_timing(graph.to_onnx()).SerializeToString()
        model = fused(data)
        number = [number for number, node in enumerate(model.graph.node) if node.op_type == op][which]
        wanted = model.graph.node[number].output[0]
        found = next((one for one in profiler.simulate(data) if wanted in one.node.outputs), None)
        packets = found.packets if found and found.kernels != ("generated",) else None
        part = find_part(model, number, all_arrays(model))
        if part is None:
            raise SystemExit(f"{name}: nothing is computed")
        call = GeneratedCall(part)
        counts, made = call.run(kernels())
        away = np.abs(made.astype(int) - call.expected)
        if away.max() > 1:
            raise SystemExit(f"{name}: the generated code is wrong by {away.max()}")
        ratio = f"{counts.packets / packets:.1f}" if packets else ""
        off = float((away == 1).mean())
        print(f"{name:36} {packets or '':>8} {counts.packets:10d} {ratio:>7} {off:8.2%}", flush=True)
        rows.append(
            {
                "operator": name,
                "op": op,
                "macs": call.macs,
                "kernel_packets": packets or "",
                "generated_packets": counts.packets,
                "ratio": ratio,
                "one_off": round(off, 5),
            }
        )


MEASURES = {"kernels": measure_kernels, "linear": measure_linear, "generated": measure_generated}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=list(MEASURES))
    what = parser.parse_args().what
    rows: list[dict[str, object]] = []
    MEASURES[what](rows)
    source = f"{versions()}, {generator_version()}" if what == "generated" else versions()
    stamp = {"date": datetime.now(UTC).date().isoformat(), "versions": source}
    append_rows(f"hexagon_{what}", [{**stamp, **row} for row in rows])


if __name__ == "__main__":
    main()
