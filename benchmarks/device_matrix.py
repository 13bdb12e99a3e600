"""Claim: devices do not agree on which networks are fast, which is why a search needs the latency of its own device.

The same 200 random architectures of a space are priced on every device that has a table for it; Kendall's tau between
every two devices, and between each device and multiply-accumulates, says how far they agree. For ``nasbench201`` the
published measurements in ``HWNAS_DATA`` (phones' CPUs and GPUs, Hexagon DSPs, a Jetson, a Myriad VPU) join the
tables. Appends to ``benchmarks/results/device_matrix.csv`` and draws ``device-matrix-SPACE.svg``.

    python benchmarks/device_matrix.py mobilenet                 # tables that ship with hwnas, and your own
    HWNAS_DATA=DIR python benchmarks/device_matrix.py nasbench201
"""

from __future__ import annotations

import argparse
import datetime
import os
from pathlib import Path

import numpy as np
from record import RESULTS, append_rows

from hwnas.compare import distinct_architectures, kendall_matrix
from hwnas.latency_tables import LatencyTable, list_tables
from hwnas.pricing import LatencyModel
from hwnas.spaces import SearchSpace, get_space
from hwnas.spaces.errors import TableError

DATA = Path(os.environ.get("HWNAS_DATA", Path(__file__).parents[2] / "shared" / "data"))
EDGES = ("op_0to1", "op_0to2", "op_1to2", "op_0to3", "op_1to3", "op_2to3")
MACS = "multiply-accumulates"
PUBLISHED = ["latbench", "nnmeter", "hw360.cifar100.pi5_onnx.lat"]


def published(architectures: np.ndarray, sources: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Published latencies of NAS-Bench-201 architectures, by device; NaN where one was not measured."""
    import pyarrow.parquet as pq

    accuracy, table = (pq.read_table(DATA / "nb201" / f"{name}.parquet") for name in ("accuracy", "latency"))
    known = np.stack([accuracy[edge].to_numpy() for edge in EDGES], axis=1)
    place = {tuple(row): index for index, row in enumerate(known.tolist())}
    rows = [place[tuple(row)] for row in architectures.tolist()]
    columns = {name: table[name].to_numpy().astype(float)[rows] for name in table.column_names if name != "arch_idx"}
    return {name: np.where(ms > 0, ms, np.nan) for name, ms in columns.items() if name.startswith(sources)}


def priced(space: SearchSpace, architectures: np.ndarray, tables: Path | None) -> dict[str, np.ndarray]:
    """Milliseconds of the architectures by device, from every table that covers the space."""
    found = {}
    for info in list_tables(tables):
        if info.problem is not None:
            continue
        table = LatencyTable.load(info.path)
        try:
            model = LatencyModel.from_table(space, table)
        except TableError as error:
            print(f"left out: {error}")
            continue
        found[f"{table.device.key} ({table.device.name}, {model.method})"] = model.predict(architectures)
    return found


def picture(names: list[str], tau: np.ndarray, file: Path) -> None:
    """Draw the matrix with its numbers."""
    from matplotlib.figure import Figure

    size = 2.5 + 0.55 * len(names)
    figure = Figure(figsize=(size + 1.5, size), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(tau, cmap="viridis", vmin=min(0.0, float(tau.min())), vmax=1)
    axis.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=7)
    axis.set_yticks(range(len(names)), names, fontsize=7)
    for (row, column), value in np.ndenumerate(tau):
        axis.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=6, color="w" if value < 0.7 else "k")
    figure.colorbar(image, label="Kendall's tau", shrink=0.7)
    figure.savefig(file, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("space")
    parser.add_argument("--architectures", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tables", type=Path, help="folder of tables to take beside the shipped ones")
    parser.add_argument("--published", nargs="*", default=PUBLISHED, help="columns, by how their names begin")
    arguments = parser.parse_args()
    space = get_space(arguments.space)
    architectures = distinct_architectures(space, arguments.seed, 50 * arguments.architectures)
    measured: dict[str, np.ndarray] = {}
    if space.name == "nasbench201" and DATA.is_dir():
        measured = published(architectures, tuple(arguments.published))
    everywhere = np.flatnonzero(np.isfinite([np.zeros(len(architectures)), *measured.values()]).all(axis=0))
    kept = everywhere[: arguments.architectures]
    architectures = architectures[kept]
    latency = priced(space, architectures, arguments.tables)
    latency |= {f"{name} (published)": ms[kept] for name, ms in measured.items()}
    latency[MACS] = np.array([space.lower(row).macs for row in architectures.tolist()], dtype=float)
    names = list(latency)
    tau = kendall_matrix(np.column_stack([latency[name] for name in names]))
    rows = [
        {
            "date": datetime.date.today().isoformat(),
            "space": space.spec,
            "architectures": len(architectures),
            "seed": arguments.seed,
            "device": names[one],
            "other": names[other],
            "kendall_tau": round(float(tau[one, other]), 4),
        }
        for one in range(len(names))
        for other in range(one)
    ]
    append_rows("device_matrix", rows)
    picture(names, tau, RESULTS / f"device-matrix-{space.name}.svg")
    for index, name in enumerate(names):
        print(f"{name:60}", " ".join(f"{value:5.2f}" for value in tau[index]))


if __name__ == "__main__":
    main()
