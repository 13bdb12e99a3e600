"""The published NAS-Bench-201 table: parameters and FLOPs of all architectures come out equal."""

from __future__ import annotations

import numpy as np
import pytest

from hwnas.spaces.nasbench201 import NASBench201
from tests.paths import shared_data

parquet = pytest.importorskip("pyarrow.parquet")


def published_table() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Columns of the table by name, and the choices of its architectures, shape ``(15625, 6)``."""
    table = parquet.read_table(shared_data() / "nb201" / "accuracy.parquet")
    columns = {name: table.column(name).to_numpy() for name in table.column_names}
    return columns, np.stack([values for name, values in columns.items() if name.startswith("op_")], axis=1)


def test_published_counts_of_all_architectures() -> None:
    table, choices = published_table()
    published = np.stack([(table[name] * 1e6).round() for name in ("params_M", "flops_M")], axis=1).astype(int)
    space = NASBench201()
    # with dead edges kept the counts are a sum over edges, so few networks give every architecture's
    base = np.array(space.published_counts((0,) * 6))
    per_edge = np.array(
        [
            [np.array(space.published_counts(tuple(op * (i == edge) for i in range(6)))) - base for op in range(5)]
            for edge in range(6)
        ]
    )
    counted = base + sum(per_edge[edge, choices[:, edge]] for edge in range(6))
    assert len(choices) == 15_625
    assert (counted == published).all()
    for index in np.random.default_rng(0).choice(len(choices), 200, replace=False):
        assert space.published_counts(tuple(choices[index].tolist())) == tuple(published[index])


def test_liveness_agrees_with_the_published_one() -> None:
    table, choices = published_table()
    space = NASBench201(resolution=8, classes=2, width=0.25, depth=0.2)
    for index in np.random.default_rng(1).choice(len(choices), 100, replace=False):
        graph = space.lower(choices[index])
        assert any(node.kernel.op == "zero" for node in graph.nodes) != bool(table["connected"][index])
