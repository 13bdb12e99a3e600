"""Claim: millions of architectures a second are priced from a table, and any ONNX file of 200 nodes in milliseconds.

Three prices, each against its plain way in the same run, in turns: architectures of `mobilenet` from its table, one and
a million at once, against summing the rows of each architecture's blocks in Python; and an ONNX file (DenseNet-121, 246
kernels; MobileNetV2, 64) by `hwnas.predict`'s parts: reading, and pricing with a predictor of kernels, against one
inference by onnxruntime with the session's making, which is what measuring it at least takes.

    python benchmarks/latency_speed.py --tables DIR      # DIR: `latency_models.py --tables DIR` or any profiled device
"""

from __future__ import annotations

import argparse
import datetime
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from record import append_rows
from zoo import ZOO

import hwnas
from hwnas.kernel_predictor import KernelPredictor
from hwnas.latency_tables import DeviceRecord, LatencyTable, Row
from hwnas.pricing import LatencyModel
from hwnas.spaces.placement import place_kernels


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def in_turns(ours: Callable[[], object], theirs: Callable[[], object], times: int) -> tuple[float, float, np.ndarray]:
    """Median seconds of each, and the ratios of the pairs."""
    ours(), theirs()
    pairs = np.array([(seconds(ours), seconds(theirs)) for _ in range(times)])
    return *np.median(pairs, axis=0).tolist(), pairs[:, 1] / pairs[:, 0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, required=True, help="folder with the table of --device, profiled")
    parser.add_argument("--device", default="cpu-onnxruntime")
    parser.add_argument("--times", type=int, default=15)
    arguments = parser.parse_args()
    rows: list[dict[str, object]] = []

    def add(what: str, plain: str, result: tuple[float, float, np.ndarray], items: int) -> None:
        ours, _, ratios = result
        low, high = np.quantile(ratios, (0.05, 0.95)).tolist()
        rows.append(
            {
                "date": datetime.date.today().isoformat(),
                "what": what,
                "items": items,
                "seconds": f"{ours:.3g}",
                "items_per_second": f"{items / ours:.3g}",
                "against": plain,
                "ratio": f"{np.median(ratios):.3g}",
                "ratio_5_percent": f"{low:.3g}",
                "ratio_95_percent": f"{high:.3g}",
            }
        )
        print(*list(rows[-1].values())[1:], sep="  ", flush=True)

    space = hwnas.get_space("mobilenet")
    made = dict.fromkeys((block.signature for block in space.catalog), 0.1)
    model = LatencyModel.from_table(space, _table(arguments.tables / "made", made))
    million = space.sample(1_000_000, np.random.default_rng(0))

    def plain(architectures: np.ndarray) -> list[float]:
        return [sum(made[block.signature] for block in space.lower(a).blocks) for a in architectures.tolist()]

    few = million[:20]
    one = in_turns(lambda: model.predict(million[:1]), lambda: plain(million[:1]), arguments.times)
    add("one architecture", "blocks looked up one by one", one, 1)
    ours, theirs, ratios = in_turns(lambda: model.predict(million), lambda: plain(few), arguments.times)
    scale = len(million) / len(few)  # the plain way takes as long for each
    add(
        "a million architectures",
        "blocks looked up one by one (20, scaled)",
        (ours, theirs * scale, ratios * scale),
        10**6,
    )

    predictor, _ = KernelPredictor.load(arguments.tables / arguments.device / "kernels.json")
    for name in ("densenet121", "mobilenetv2"):
        file = arguments.tables / f"{name}.onnx"
        file.write_bytes(ZOO[name][1]().to_onnx().SerializeToString())

        def infer(file: Path = file) -> None:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
            session.run(None, {session.get_inputs()[0].name: np.zeros((1, 3, 224, 224), np.float32)})

        graph = hwnas.Graph.from_onnx(file)
        placed = place_kernels(graph)
        for what, run in (
            ("read", lambda file=file: hwnas.Graph.from_onnx(file)),
            ("price", lambda placed=placed: predictor.latency(placed)),
            ("predict", lambda file=file: hwnas.predict(file, arguments.device, tables=str(arguments.tables))),
        ):
            add(f"{what} {name}", "session and one inference", in_turns(run, infer, arguments.times), len(graph.nodes))
    append_rows("latency_speed", rows)


def _table(folder: Path, rows: dict[str, float]) -> LatencyTable:
    """A table with made-up rows: what they hold does not bear on how fast they are read."""
    record = DeviceRecord("cpu-made", "none", "cpu", "none", "1", "float32", 1, 1, "measured")
    table = LatencyTable.create(folder, record)
    for signature, ms in rows.items():
        if table.lookup(signature, "isolated") is None:
            table.add(Row(signature, "isolated", ms, ms, ms, 3, True, "measured", "2025-01-01T00:00:00+00:00"))
    return table


if __name__ == "__main__":
    main()
