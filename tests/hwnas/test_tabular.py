"""The tabular evaluator, on the published NAS-Bench-201 tables and on small made-up ones."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from hwnas.constraints import ConstraintSet
from hwnas.evaluators import evaluators
from hwnas.evaluators.tabular import TabularEvaluator, TabularLatency, data_folder, nasbench201_columns
from hwnas.spaces import ConfigError, DataError, InfeasibleError, ModelError, get_space
from hwnas.strategies import make_strategy
from tests.hwnas.toy import ToySpace
from tests.paths import shared_data

PIXEL3, DSP = "hwnb.c10.pixel3_latency", "latbench.mobile-dsp-snapdragon-675-hexagon-685-int8"


@pytest.fixture(scope="module")
def table() -> TabularEvaluator:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    return TabularEvaluator.nasbench201([PIXEL3, DSP, "hwnb.c10.eyeriss_energy"], folder=shared_data())


def test_rows_are_those_of_the_published_strings(table: TabularEvaluator) -> None:
    import pyarrow.parquet as parquet

    names = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
    accuracy = parquet.read_table(shared_data() / "nb201" / "accuracy.parquet")
    latency = parquet.read_table(shared_data() / "nb201" / "latency.parquet")
    place = {index: row for row, index in enumerate(latency.column("arch_idx").to_pylist())}
    for row in range(0, 15625, 977):
        text = accuracy.column("arch_str")[row].as_py()  # |op~0|+|op~0|op~1|+|op~0|op~1|op~2|
        ops = [piece.split("~")[0] for piece in text.replace("+", "").split("|") if piece]
        architecture = tuple(names.index(op) for op in ops)
        (found,) = table.evaluate([architecture])
        assert found.score == accuracy.column("c10_val_12ep")[row].as_py()
        assert found.info["test"] == accuracy.column("c10_test_200ep")[row].as_py()
        where = place[accuracy.column("arch_idx")[row].as_py()]
        assert found.costs[f"latency@{PIXEL3}"] == latency.column(PIXEL3)[where].as_py()


def test_latency_constraints_select_by_the_column(table: TabularEvaluator) -> None:
    rows = table.space.all()
    column = table.models[DSP].values
    assert 300 < np.isnan(column).sum() < 400
    bound = float(np.nanquantile(column, 0.25))
    limits = ConstraintSet([f"latency@{DSP} <= {bound}ms", "params <= 1M"], table.space, table.models)
    small = np.array(
        [graph_params <= 1e6 for graph_params in ConstraintSet("params >= 0", table.space).values(rows)[:, 0]]
    )
    wanted = (column <= bound) & small
    assert (limits.feasible(rows) == wanted).all()
    assert limits.sampler().count() == (wanted.sum(), wanted.sum())
    everything = ConstraintSet(f"latency@{DSP} >= 0ms", table.space, table.models)
    assert everything.sampler().exact_count == (~np.isnan(column)).sum(), "without a latency nothing is feasible"
    energy = ConstraintSet("energy@hwnb.c10.eyeriss_energy <= 1mJ", table.space, table.models)
    assert energy.sampler().exact_count == (table.models["energy@hwnb.c10.eyeriss_energy"].values <= 1).sum()
    assert table.models["energy@hwnb.c10.eyeriss_energy"].method == "modelled"
    assert table.models[PIXEL3].method == "measured"
    with pytest.raises(InfeasibleError, match=r"alone: at least 1.005 ms"):
        ConstraintSet(f"latency@{DSP} <= 1ms", table.space, table.models).sampler()


def test_a_search_on_the_table_finds_a_good_feasible_architecture(table: TabularEvaluator) -> None:
    column = table.models[PIXEL3].values
    limits = ConstraintSet(f"latency@{PIXEL3} <= {np.quantile(column, 0.25)}ms", table.space, table.models)
    sampler = limits.sampler()
    strategy = make_strategy("evolution", table.space, sampler, seed=0)
    for _ in range(8):
        strategy.tell(table.evaluate(strategy.ask(50)))
    assert strategy.best is not None
    inside = sampler.contains(table.space.all())
    assert strategy.best.score >= np.quantile(table.scores[inside], 0.995)
    assert strategy.best.costs[f"latency@{PIXEL3}"] <= np.quantile(column, 0.25)


def test_what_is_wrong_with_the_tables_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    published = shared_data()
    with pytest.raises(DataError, match="set HWNAS_DATA"):
        TabularEvaluator.nasbench201(folder=tmp_path)
    monkeypatch.setenv("HWNAS_DATA", str(tmp_path))
    assert data_folder() == tmp_path
    (tmp_path / "nb201").mkdir()
    for name in ("accuracy", "latency"):
        (tmp_path / "nb201" / f"{name}.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(DataError, match="cannot be read"):
        nasbench201_columns(["c10_val_12ep"])
    with pytest.raises(DataError, match=r"no column 'pixel9'; devices are help\."):
        nasbench201_columns(["pixel9"], published)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ConfigError, match=r"pip install 'hwnas\[data\]'"):
        nasbench201_columns(["c10_val_12ep"])


def test_any_small_space_can_have_a_table() -> None:
    space = ToySpace((2, 3))
    scores = np.array([1.0, 2.0, np.nan, 4.0, 5.0, 6.0])
    phone = TabularLatency(space, "phone", np.arange(6.0))
    table = TabularEvaluator(space, scores, {"phone": phone}, {"test": scores * 2})
    first, second = table.evaluate([(0, 2), (1, 1)])
    assert first.failed
    assert (second.score, second.costs, second.info) == (5.0, {"latency@phone": 4.0}, {"test": 10.0})
    assert table.evaluate([]) == []
    assert phone.predict(space.all()).tolist() == list(range(6))
    assert np.isnan(phone.interval(space.all())).all()
    with pytest.raises(ModelError, match="choices 0 to 2"):
        table.evaluate([(0, 3)])
    with pytest.raises(DataError, match="scores"):
        TabularEvaluator(space, scores[:3])
    assert evaluators.get("tabular") is TabularEvaluator
    assert get_space("nasbench201").size == 15625
