"""Features of graphs: sums that the graphs' own counts confirm, and longest paths."""

from __future__ import annotations

import numpy as np
import pytest

from hwnas.features import architecture_features, choice_features, graph_features, kernel_kinds
from hwnas.spaces import ConfigError, GraphBuilder, ModelError, get_space
from hwnas.spaces.kernels import Add, Conv


def test_totals_are_those_of_the_graphs() -> None:
    for spec in ("mobilenet(resolution=16,width=0.25)", "nasbench201(resolution=8,depth=0.2)"):
        space = get_space(spec)
        rows = space.sample(6, np.random.default_rng(0))
        features = architecture_features(space, rows)
        graphs = [space.lower(row) for row in rows.tolist()]
        assert features["totals"][:, 1].tolist() == [graph.macs for graph in graphs]
        assert features["totals"][:, 2].tolist() == [graph.bytes for graph in graphs]
        assert features["totals"][:, 0].tolist() == [len(graph.nodes) for graph in graphs]
        kinds = features["kernels"].reshape(6, -1, 3)
        assert np.allclose(kinds.sum(axis=1), features["totals"])
        assert features["choices"].shape == (6, space.radices.sum())


def test_operators_count_where_they_run() -> None:
    mobile = get_space("mobilenet(resolution=16,width=0.25)")
    rows = mobile.sample(5, np.random.default_rng(0))
    assert (architecture_features(mobile, rows)["operators"].sum(axis=1) == len(mobile.decisions)).all()
    cells = get_space("nasbench201(resolution=8,depth=0.2)")
    # the second edge ends where nothing leaves again: its convolution does not run
    architecture = [[0, 3, 0, 4, 0, 0], [3, 3, 3, 3, 3, 3]]
    live = cells.live(np.array(architecture))
    assert live.tolist() == [[False, False, False, True, False, False], [True] * 6]
    names = sorted(cells.decisions[0].choices)
    counts = architecture_features(cells, architecture)["operators"]
    pool, conv = (names.index(cells.decisions[0].choices[choice]) for choice in (4, 3))
    assert counts[0].sum() == counts[0, pool] == 1
    assert counts[1].sum() == counts[1, conv] == 6


def test_the_longest_path_is_found() -> None:
    builder = GraphBuilder((1, 4, 8, 8))
    long = builder.add("a", Conv(o=4, k=1), "input")
    long = builder.add("b", Conv(o=4, k=1), long)
    heavy = builder.add("c", Conv(o=4, k=5), "input")
    graph = builder.graph(builder.add("sum", Add(), long, heavy))
    features = graph_features([graph])
    kernels, macs = features["path"][0, :2]
    assert kernels == 3
    assert macs == 8 * 8 * 4 * 4 * 25
    by_kind = features["path"][0, 3:]  # add, conv1, conv5
    assert by_kind.tolist() == [1, 2, 1]
    assert features["totals"][0, 1] == 8 * 8 * 4 * 4 * 27


def test_features_of_two_calls_compare() -> None:
    space = get_space("nasbench201(resolution=8,depth=0.2)")
    rows = np.array([[0, 0, 0, 1, 0, 0], [3, 2, 4, 1, 3, 2]])
    both = architecture_features(space, rows)
    for index in (0, 1):
        alone = architecture_features(space, rows[index : index + 1])
        assert all((alone[name][0] == both[name][index]).all() for name in both)
    graph = space.lower(rows[1].tolist())
    with pytest.raises(ModelError, match="no column"):
        graph_features([graph], kernel_kinds([space.lower(rows[0].tolist())]))


def test_choices_are_told_apart_in_twos_and_threes() -> None:
    space = get_space("nasbench201")
    rows = np.array([[3, 0, 0, 1, 2, 0], [3, 4, 0, 1, 2, 0], [3, 0, 0, 1, 2, 3], [2, 3, 1, 4, 1, 3]])
    found = choice_features(space, rows)
    assert {name: values.shape[1] for name, values in found.items()} == {
        "operators": 6,
        "live": 6 * 5,
        "pairs": 15 * 25,
        "triples": 20 * 125,
    }
    for values in found.values():
        assert (values[0] == values[1]).all()  # they differ in an edge that leads nowhere
        assert (values[0] == values[2]).all()  # and in one that nothing reaches
    # by name: avg_pool_3x3, none, nor_conv_1x1, nor_conv_3x3, skip_connect; then sums
    assert found["operators"].tolist()[::3] == [[0, 0, 1, 1, 1, 1], [1, 0, 1, 2, 2, 3]]
    for name, count in (("live", 6), ("pairs", 15), ("triples", 20)):
        assert (found[name].sum(axis=1) == count).all()
    with pytest.raises(ConfigError, match="choices are told apart up to 20,000"):
        choice_features(get_space("mobilenet"), np.zeros((1, 21), dtype=int))
