"""Claim: writing the ONNX of a block takes milliseconds, where an exporter that traces takes a second.

Every block of a space is written by `Graph.to_onnx` and, for a sample of them, by ``torch.onnx.export``
(dynamo), in turns in the same run. Appends to ``benchmarks/results/onnx_writer.csv``.

    python benchmarks/onnx_writer.py --spaces mobilenet shufflenet nasbench201
"""

from __future__ import annotations

import argparse
import datetime
import logging
import time
import warnings

import numpy as np
import torch
from record import append_rows

from hwnas.spaces import Graph, get_space
from hwnas.spaces.module import GraphModule


def by_torch(block: Graph) -> float:
    """Seconds of torch's exporter for one block."""
    module = GraphModule(block).eval()
    x = torch.randn(next(iter(block.inputs.values())))
    start = time.perf_counter()
    torch.onnx.export(module, (x,), dynamo=True, verbose=False)
    return time.perf_counter() - start


def by_hwnas(block: Graph) -> float:
    """Seconds of hwnas's writer for one block, random weights included."""
    start = time.perf_counter()
    block.to_onnx().SerializeToString()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spaces", nargs="+", default=["mobilenet", "shufflenet", "nasbench201"])
    parser.add_argument("--sample", type=int, default=10, help="blocks of each space that torch exports, too")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    rows = []
    for name in arguments.spaces:
        space = get_space(name)
        single = [block for block in space.catalog if len(block.inputs) == len(block.outputs) == 1]
        chosen = np.random.default_rng(0).choice(len(single), min(arguments.sample, len(single)), replace=False)
        by_torch(single[0])  # the first call of either pays for imports
        by_hwnas(single[0])
        pairs = [(by_torch(single[i]), min(by_hwnas(single[i]) for _ in range(arguments.repeats))) for i in chosen]
        whole = [min(by_hwnas(block) for _ in range(arguments.repeats)) for block in space.catalog]
        ratios = [theirs / ours for theirs, ours in pairs]
        rows.append(
            {
                "date": datetime.date.today().isoformat(),
                "space": space.spec,
                "blocks": len(whole),
                "hwnas_ms_median": round(1e3 * float(np.median(whole)), 2),
                "hwnas_ms_worst": round(1e3 * max(whole), 2),
                "torch_blocks": len(pairs),
                "torch_ms_median": round(1e3 * float(np.median([theirs for theirs, _ in pairs])), 1),
                "ratio_median": round(float(np.median(ratios))),
                "ratio_least": round(min(ratios)),
            }
        )
        print(rows[-1])
    append_rows("onnx_writer", rows)


if __name__ == "__main__":
    main()
