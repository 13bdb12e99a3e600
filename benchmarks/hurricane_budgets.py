"""Claim: what `hwnas search --strategy hurricane` delivers fits its budget as measured, at tight and wide budgets.

The main job on Fashion-MNIST and the operators that the device's pool keeps: two stages, training from scratch, export,
and measurement on the device, at budgets of 25, 50 and 75 % of the space's range of latency.

    python benchmarks/hurricane_budgets.py --tables DIR --runs DIR                    # scaled: about half an hour
    python benchmarks/hurricane_budgets.py --tables DIR --runs DIR --resolution 28 --width 1 --depth 1 \\
        --limit 55000 --supernet-epochs 120 --epochs 100 --evaluations 2000           # full scale

Searches that were stopped go on when the command is repeated.
"""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path

from record import append_rows

import hwnas
from hwnas.latency_tables import find_table
from hwnas.pricing import LatencyModel

SHARES = (0.25, 0.50, 0.75)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--device", default="cpu-onnxruntime")
    parser.add_argument("--resolution", type=int, default=16)
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--depth", type=float, default=0.5)
    parser.add_argument("--size", type=int, default=4, help="operators in a layer's pool")
    parser.add_argument("--limit", type=int, default=2000, help="training images")
    parser.add_argument("--supernet-epochs", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--evaluations", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    tables, size = str(arguments.tables), f"resolution={arguments.resolution},channels=1,classes=10"
    source = f"hurricane({size},width={arguments.width},depth={arguments.depth})"
    spec = hwnas.select_pool(source, arguments.device, size=arguments.size, tables=tables).space
    hwnas.profile(arguments.device, spec, context="isolated", networks=40, tables=tables)
    model = LatencyModel.from_table(hwnas.get_space(spec), find_table(arguments.device, tables))
    low, high = model.additive.range()
    rows = []
    for share in SHARES:
        text = f"latency@{arguments.device} <= {low + share * (high - low):.5f}ms"
        folder = arguments.runs / f"hurricane-{round(100 * share)}"
        if (folder / "run.toml").exists():
            result = hwnas.resume(folder)
        else:
            result = hwnas.search(
                spec,
                "fashion-mnist",
                text,
                strategy="hurricane",
                run=folder,
                tables=tables,
                evaluations=arguments.evaluations,
                supernet_epochs=arguments.supernet_epochs,
                epochs=arguments.epochs,
                limit=arguments.limit,
                batch_size=64,
                threads=arguments.threads,
            )
        ((constraint, cost),) = result.costs.items()
        rows.append(
            {
                "date": datetime.date.today().isoformat(),
                "space": source,
                "budget_share": share,
                "constraint": constraint,
                "predicted_ms": round(cost["predicted"], 5),
                "measured_ms": round(cost["measured"], 5),
                "bound_ms": round(cost["bound"], 5),
                "fits": cost["measured"] <= cost["bound"],
                "test_accuracy": round(100 * result.accuracy, 2),
                "evaluations": result.trials,
            }
        )
        print(rows[-1], flush=True)
    append_rows("hurricane_budgets", rows)


if __name__ == "__main__":
    main()
