"""Pricing: table sums, the correction fitted on whole networks, and intervals that keep their word."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwnas.latency_tables import DeviceRecord, LatencyTable, NetworkRow, Row
from hwnas.pricing import LatencyModel
from hwnas.spaces import SearchSpace, TableError, get_space
from tests.hwnas.toy import ToySpace

DEVICE = DeviceRecord("cpu-test", "a CPU", "cpu", "some", "1", "float32", 1, 1, "measured")
DATE = "2025-01-01T00:00:00+00:00"


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return get_space("mobilenet(resolution=32,width=0.25)")


class Machine:
    """A made-up device: what blocks really cost inside networks, and what a whole network then takes."""

    def __init__(self, space: SearchSpace, change: float, noise: float, overhead: float = 0.05) -> None:
        self.space, self.noise, self.overhead = space, noise, overhead
        rng = np.random.default_rng(11)
        self.rows = 0.01 + 1e-8 * np.array([block.macs for block in space.catalog])
        self.true = 1.1 * self.rows * (1 + change * rng.standard_normal(len(self.rows)))
        self.rng = np.random.default_rng(12)

    def measure(self, architectures: np.ndarray) -> np.ndarray:
        exact = self.overhead + self.space.price(architectures, self.true)
        return np.asarray(exact * (1 + self.noise * self.rng.standard_normal(len(architectures))))

    def networks(self, count: int, seed: int = 0) -> list[NetworkRow]:
        rows = self.space.sample(count, np.random.default_rng(seed))
        return [
            NetworkRow(self.space.spec, tuple(row), ms, ms, ms, 9, True, "measured", DATE)
            for row, ms in zip(rows.tolist(), self.measure(rows).tolist(), strict=True)
        ]


def make_table(
    path: Path, machine: Machine, contexts: tuple[str, ...] = ("network",), leave_out: int = 0
) -> LatencyTable:
    table = LatencyTable.create(path / "cpu-test", DEVICE)
    for context in contexts:
        factor = 1.0 if context == "network" else 2.0
        for block, row in list(zip(machine.space.catalog, machine.rows.tolist(), strict=True))[leave_out:]:
            ms = row * factor
            table.add(Row(block.signature, context, ms, ms, ms, 9, True, "measured", DATE))
    return table


Setup = Callable[..., tuple[Machine, LatencyTable]]


@pytest.fixture
def table(tmp_path: Path, space: SearchSpace) -> Setup:
    def make(change: float = 0.0, noise: float = 0.0, **options: Any) -> tuple[Machine, LatencyTable]:
        machine = Machine(space, change, noise)
        return machine, make_table(tmp_path, machine, **options)

    return make


def error(model: LatencyModel, machine: Machine, count: int = 400) -> np.ndarray:
    rows = machine.space.sample(count, np.random.default_rng(99))
    return np.asarray(machine.measure(rows) / model.predict(rows) - 1)


def test_without_networks_the_rows_are_summed_and_the_interval_is_unknown(table: Setup) -> None:
    machine, rows = table()
    model = LatencyModel.from_table(machine.space, rows)
    some = machine.space.sample(50, np.random.default_rng(0))
    assert model.predict(some) == pytest.approx(machine.space.price(some, model.block_ms))
    assert model.block_ms == pytest.approx(machine.rows, rel=1e-5)
    assert (model.device, model.method, model.context, model.networks) == ("cpu-test", "measured", "network", 0)
    assert np.isnan(model.interval(some)).all()
    assert np.isnan(model.relative_error())


def test_a_line_is_recovered(table: Setup) -> None:
    machine, rows = table()
    model = LatencyModel.from_table(machine.space, rows, refine=False, networks=machine.networks(20))
    assert model.slope == pytest.approx(1.1, rel=1e-3)
    assert model.intercept_ms == pytest.approx(0.05, rel=1e-2)
    assert np.abs(error(model, machine)).max() < 1e-4


def test_few_networks_fit_a_slope_only(table: Setup) -> None:
    machine, rows = table()
    model = LatencyModel.from_table(machine.space, rows, networks=machine.networks(3))
    assert model.intercept_ms == 0
    assert np.abs(error(model, machine)).max() < 0.1
    assert np.isnan(model.relative_error(0.9))


def test_refined_rows_predict_unseen_networks_better(table: Setup) -> None:
    machine, rows = table(change=0.25, noise=0.005)
    networks = machine.networks(80)
    plain = LatencyModel.from_table(machine.space, rows, refine=False, networks=networks)
    refined = LatencyModel.from_table(machine.space, rows, refine=True, networks=networks)
    assert plain.strength == 0 < refined.strength
    assert np.std(error(refined, machine)) < 0.6 * np.std(error(plain, machine))
    # the promise about unseen networks comes from folds, so it matches what unseen networks show
    unseen = np.quantile(np.abs(error(refined, machine)), 0.9)
    assert 0.7 * unseen < refined.relative_error(0.9) < 1.6 * unseen


def test_refining_on_noise_alone_changes_nearly_nothing(table: Setup) -> None:
    machine, rows = table(change=0.0, noise=0.02)
    networks = machine.networks(60)
    plain = LatencyModel.from_table(machine.space, rows, refine=False, networks=networks)
    refined = LatencyModel.from_table(machine.space, rows, refine=True, networks=networks)
    assert np.std(error(refined, machine)) < 1.15 * np.std(error(plain, machine))


@pytest.mark.parametrize("refine", [False, True])
@pytest.mark.parametrize("count", [12, 60])
def test_the_interval_covers_new_measurements(table: Setup, refine: bool, count: int) -> None:
    machine, rows = table(change=0.1, noise=0.02)
    covered = []
    for seed in range(8):
        model = LatencyModel.from_table(machine.space, rows, refine=refine, networks=machine.networks(count, seed))
        some = machine.space.sample(200, np.random.default_rng(1000 + seed))
        low, high = model.interval(some, 0.8)
        measured = machine.measure(some)
        covered.append(np.mean((low <= measured) & (measured <= high)))
    assert 0.7 < np.mean(covered) < 0.95


def test_the_interval_holds_the_prediction_even_with_few_networks(table: Setup) -> None:
    machine, rows = table(change=0.1, noise=0.05)
    some = machine.space.sample(100, np.random.default_rng(5))
    for seed in range(10):
        model = LatencyModel.from_table(machine.space, rows, networks=machine.networks(6, seed))
        low, high = model.interval(some, 0.2)
        assert (low <= model.predict(some)).all()
        assert (model.predict(some) <= high).all()


def test_a_disturbed_network_hardly_moves_the_fit(table: Setup) -> None:
    machine, rows = table(noise=0.003)
    networks = machine.networks(20)
    spoiled = [
        *networks[:-1],
        NetworkRow(machine.space.spec, networks[-1].architecture, 9, 9, 9, 9, True, "measured", DATE),
    ]
    model = LatencyModel.from_table(machine.space, rows, refine=False, networks=spoiled)
    assert np.abs(np.median(error(model, machine))) < 0.01


def test_unstable_networks_are_left_out_while_enough_are_stable(table: Setup) -> None:
    machine, rows = table()
    networks = machine.networks(20)
    spoiled = [NetworkRow(n.space, n.architecture, 5, 5, 5, 9, False, n.method, DATE) for n in machine.networks(10, 1)]
    model = LatencyModel.from_table(machine.space, rows, networks=[*networks, *spoiled])
    assert model.networks == 20
    assert np.abs(error(model, machine)).max() < 1e-3
    # they are met all the same, and the interval knows
    assert len(model.residuals) == 30
    clean = LatencyModel.from_table(machine.space, rows, networks=networks)
    assert model.relative_error(0.9) > 10 * clean.relative_error(0.9)


def test_networks_in_the_table_count_if_they_are_of_this_very_space(table: Setup) -> None:
    machine, rows = table()
    for network in machine.networks(10):
        rows.add_network(network)
    rows.add_network(NetworkRow("mobilenet(width=9)", (0,) * 21, 1.0, 1.0, 1.0, 9, True, "measured", DATE))
    model = LatencyModel.from_table(machine.space, LatencyTable.load(rows.path))
    assert model.networks == 10
    assert np.abs(error(model, machine)).max() < 1e-3


def test_the_context_with_every_row_is_used(table: Setup) -> None:
    machine, rows = table(contexts=("isolated",))
    model = LatencyModel.from_table(machine.space, rows)
    assert model.context == "isolated"
    assert model.block_ms == pytest.approx(2 * machine.rows, rel=1e-5)
    with pytest.raises(TableError, match=f"{len(machine.space.catalog)} of the {len(machine.space.catalog)} blocks"):
        LatencyModel.from_table(machine.space, rows, "network")


def test_missing_rows_are_counted_and_the_command_named(table: Setup) -> None:
    machine, rows = table(leave_out=3)
    with pytest.raises(TableError) as caught:
        LatencyModel.from_table(machine.space, rows)
    text = str(caught.value)
    assert f"3 of the {len(machine.space.catalog)} blocks" in text
    assert f"hwnas profile --device cpu-test --space '{machine.space.spec}'" in text


def test_methods_are_never_mixed(table: Setup) -> None:
    machine, rows = table()
    modelled = [NetworkRow(n.space, n.architecture, 1, 1, 1, 9, True, "modelled", DATE) for n in machine.networks(5)]
    with pytest.raises(TableError, match="mixes the methods measured, modelled"):
        LatencyModel.from_table(machine.space, rows, networks=modelled)


@pytest.mark.parametrize("radices", [(3, 4, 2), (7,) * 9])
def test_the_model_is_additive_over_any_terms(tmp_path: Path, radices: tuple[int, ...]) -> None:
    toy = ToySpace(radices, scopes=[(0, 2), (1,), (2, 1)])
    machine = Machine(toy, 0.2, 0.01)
    model = LatencyModel.from_table(toy, make_table(tmp_path, machine), networks=machine.networks(30))
    rows = toy.sample(9000, np.random.default_rng(0))  # more than one chunk
    by_hand = model.intercept_ms + toy.counts(rows) @ model.block_ms
    assert model.predict(rows) == pytest.approx(by_hand)
    low, high = model.interval(rows)
    assert ((low < by_hand) & (by_hand < high)).mean() > 0.99
