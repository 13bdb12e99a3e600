"""Operator pools: rules, reading a table, the restricted space, and how devices agree."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import hwnas
from hwnas.cli import main
from hwnas.latency_tables import DeviceRecord, LatencyTable, Row
from hwnas.operator_pool import Layer, OperatorPool, PoolRule, pool_rules, rank_agreement, read_layers
from hwnas.spaces import ConfigError, DeviceUnavailable, get_space

SPACE = "hurricane(resolution=8,channels=1,classes=10,width=0.15,depth=0.25)"
DATE = "2025-01-01T00:00:00+00:00"


def add_device(root: Path, key: str, price: Callable[[int], float]) -> None:
    """A table in which a block costs ``price(its MACs)`` milliseconds."""
    table = LatencyTable.create(root / key, DeviceRecord(key, "a CPU", "cpu", "some", "1", "float32", 1, 1, "measured"))
    for block in get_space(SPACE).catalog:
        ms = price(block.macs)
        table.add(Row(block.signature, "isolated", ms, ms, ms, 9, True, "measured", DATE))


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("tables")
    add_device(root, "cpu-one", lambda macs: 0.01 + 1e-6 * macs)
    add_device(root, "cpu-two", lambda macs: 1.0 / (1e3 + macs))
    return str(root)


class Fastest(PoolRule):
    name, summary = "fastest", "the lowest latency"

    def score(self, layer: Layer) -> np.ndarray:
        return -layer.latency_ms


def layer(latency: list[float], macs: list[float]) -> Layer:
    names = tuple(f"op{index}" for index in range(len(macs)))
    return Layer("stage1/0", names, np.array(latency), np.array(macs), np.array(macs))


def test_efficiency_keeps_the_most_capacity_for_its_time() -> None:
    rule = pool_rules.get("efficiency")()
    found = rule.score(layer([1.0, 2.0, 4.0], [1.0, 4.0, 4.0]))
    assert found == pytest.approx([2.0, 4.0, 2.0])
    assert rule.keep(layer([1.0, 2.0, 4.0], [1.0, 4.0, 4.0]), 2) == [0, 1]


def test_bands_keep_cheap_operators_beside_dear_ones() -> None:
    operators = layer([1.0, 1.1, 1.2, 7.0, 7.5, 8.0], [1.0, 1.5, 1.2, 90.0, 99.0, 95.0])
    assert pool_rules.get("efficiency")().keep(operators, 2) == [3, 4]
    assert pool_rules.get("bands")().keep(operators, 2) == [1, 4]
    assert pool_rules.get("bands")().keep(operators, 6) == list(range(6))


def test_bands_of_equal_operators_still_keep_as_many_as_asked() -> None:
    assert len(pool_rules.get("bands")().keep(layer([1.0] * 5, [1.0] * 5), 3)) == 3


def test_a_pool_is_a_space_to_search_in(tables: str) -> None:
    pool = hwnas.select_pool(SPACE, "cpu-one", size=3, tables=tables)
    restricted = hwnas.get_space(pool.space)
    assert set(restricted.radices.tolist()) == {3}
    full = {block.signature for block in get_space(SPACE).catalog}
    assert {block.signature for block in restricted.catalog} < full
    kept = [row for row in pool.rows() if row["kept"]]
    assert len(kept) == 3 * len(restricted.decisions)
    for decision in restricted.decisions:
        assert decision.choices == tuple(row["operator"] for row in kept if row["layer"] == decision.name)


def mean_network_ms(pool: OperatorPool) -> float:
    """Mean of the sums of rows of many networks of a pool, whose rows cost what `add_device` says for cpu-one."""
    space = get_space(pool.space)
    blocks = 0.01 + 1e-6 * np.array([block.macs for block in space.catalog])
    return float((space.counts(space.sample(500, np.random.default_rng(0))) @ blocks).mean())


@pytest.mark.parametrize("rule", ["bands", "efficiency"])
def test_a_pool_within_a_latency(tables: str, rule: str) -> None:
    free = hwnas.select_pool(SPACE, "cpu-one", size=3, rule=rule, tables=tables)
    least = mean_network_ms(hwnas.select_pool(SPACE, "cpu-one", size=1, rule=Fastest(), tables=tables))
    for share in (0.3, 0.6):
        budget = least + share * (mean_network_ms(free) - least)
        text = f"latency@cpu-one <= {budget}ms"
        pool = hwnas.select_pool(SPACE, "cpu-one", size=3, rule=rule, constraint=text, tables=tables)
        assert {len(kept) for kept in pool.kept} == {3}
        assert 0.8 * budget < mean_network_ms(pool) < 1.02 * budget
    wide = hwnas.select_pool(SPACE, "cpu-one", size=3, rule=rule, constraint="latency@cpu-one <= 1s", tables=tables)
    assert wide.kept == free.kept


def test_a_latency_that_no_pool_is_within(tables: str) -> None:
    for text, words in (
        ("latency@cpu-one <= 0.001ms", "the cheapest takes"),
        ("latency@cpu-two <= 1ms", "the pool is for cpu-one"),
        ("params <= 1M", "within a latency"),
        ("latency@cpu-one >= 1ms", "within a latency"),
    ):
        with pytest.raises(ConfigError, match=words):
            hwnas.select_pool(SPACE, "cpu-one", constraint=text, tables=tables)


def test_latencies_are_those_of_the_table(tables: str) -> None:
    for found in read_layers(get_space(SPACE), "cpu-one", tables):
        assert found.latency_ms == pytest.approx(0.01 + 1e-6 * found.macs, rel=1e-4)


def test_a_rule_of_ones_own(tables: str) -> None:
    class Smallest(PoolRule):
        name, summary = "smallest", "the fewest parameters"

        def score(self, layer: Layer) -> np.ndarray:
            return -layer.params

    pool = hwnas.select_pool(SPACE, "cpu-one", size=1, rule=Smallest(), tables=tables)
    assert pool.rule == "smallest"
    assert all(params.params.argmin() == kept[0] for params, kept in zip(pool.layers, pool.kept, strict=True))


def test_agreement_of_devices(tables: str) -> None:
    layers = {key: read_layers(get_space(SPACE), key, tables) for key in ("cpu-one", "cpu-two")}
    agreement = rank_agreement({**layers, "again": layers["cpu-one"]})
    assert agreement["cpu-one", "again"] == pytest.approx(1.0)
    assert agreement["cpu-one", "cpu-two"] == pytest.approx(-1.0)
    assert len(agreement) == 3


def test_mistakes(tables: str) -> None:
    with pytest.raises(ConfigError, match="no pool of operators"):
        hwnas.select_pool("mobilenet", "cpu-one", tables=tables)
    with pytest.raises(ConfigError, match="1 to 32 operators"):
        hwnas.select_pool(SPACE, "cpu-one", size=33, tables=tables)
    with pytest.raises(ConfigError, match="no pool rule"):
        hwnas.select_pool(SPACE, "cpu-one", rule="luck", tables=tables)
    with pytest.raises((ConfigError, DeviceUnavailable)):
        hwnas.select_pool(SPACE, "gpu-of-my-dreams", tables=tables)


def test_what_the_table_lacks_is_measured(tmp_path: Path) -> None:
    small = "hurricane(resolution=4,channels=1,classes=2,width=0.12,depth=0.01,pool=sep3+mb3e1)"
    pool = hwnas.select_pool(small, "cpu-onnxruntime", size=1, tables=tmp_path)
    assert all(layer.latency_ms.min() > 0 for layer in pool.layers)


def test_command(tables: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "pools.svg"
    command = ["pool", "--space", SPACE, "--device", "cpu-one", "--device", "cpu-two", "--size", "2"]
    assert main([*command, "--tables", tables, "--plot", str(picture)]) == 0
    printed = capsys.readouterr().out
    assert "tau = -1.00" in printed
    assert picture.read_text().startswith("<?xml")
    assert main([*command, "--tables", tables, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [pool["device"] for pool in found["pools"]] == ["cpu-one", "cpu-two"]
    assert found["kendall_tau"] == [{"devices": ["cpu-one", "cpu-two"], "tau": -1.0}]
    assert f"space: {found['pools'][0]['space']}" in printed
    within = ["--constraint", "latency@cpu-one <= 1s"]
    assert main([*command, *within, "--tables", tables, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [pool["constraint"] for pool in found["pools"]] == ["latency@cpu-one <= 1s", None]
    assert main([*command, "--constraint", "latency@cpu-onnxruntime <= 1s", "--tables", tables]) == 2
    assert "limits no device of this command" in capsys.readouterr().err
