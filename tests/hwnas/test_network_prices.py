"""A small space priced from whole networks that somebody else measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import hwnas
from hwnas.cli import main
from hwnas.constraints import ConstraintSet
from hwnas.evaluators.tabular import data_folder
from hwnas.network_prices import FEWEST, NetworkPrices, price_model
from hwnas.spaces import DataError, SearchSpace, TableError, get_space

COST = np.array([0.0, 0.02, 0.10, 0.25, 0.30])  # of an operator on a live edge


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return get_space("nasbench201")


def latency(space: SearchSpace, rows: np.ndarray) -> np.ndarray:
    """A device that runs live edges only, and waits where two convolutions meet."""
    live = space.live(rows)
    meets = live[:, 3] & live[:, 4] & (rows[:, 3] == 3) & (rows[:, 4] == 3)
    return 2.0 + np.where(live, COST[rows], 0.0).sum(axis=1) + 0.2 * meets


def write(path: Path, rows: np.ndarray, ms: np.ndarray) -> Path:
    lines = [f"{' '.join(map(str, row))},{value:.6f}" for row, value in zip(rows.tolist(), ms.tolist(), strict=True)]
    path.write_text("architecture,ms\n" + "\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def tables(space: SearchSpace, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tables")
    rows = space.sample(120, np.random.default_rng(0))
    file = write(folder / "measured.csv", rows, latency(space, rows))
    table = hwnas.import_networks(
        file, "vpu-board", hardware="a board", runtime="its SDK", precision="float16", tables=str(folder)
    )
    assert table.device.device_class == "vpu"
    return str(folder)


@pytest.fixture(scope="module")
def limits(space: SearchSpace, tables: str) -> ConstraintSet:
    return ConstraintSet(["latency@recorded.vpu-board <= 2.6ms"], space, tables)


def test_cells_that_were_not_measured_are_priced(space: SearchSpace, limits: ConstraintSet) -> None:
    model = limits.models["recorded.vpu-board"]
    assert isinstance(model, NetworkPrices)
    assert (model.device, model.method) == ("vpu-board", "measured")
    others = space.sample(400, np.random.default_rng(1))
    truth, found = latency(space, others), model.predict(others)
    assert np.abs(found / truth - 1).mean() < 0.02
    low, high = model.interval(others)
    assert (low <= found).all()
    assert (found <= high).all()
    assert np.mean((truth >= low) & (truth <= high)) > 0.8
    drawn = limits.sampler().sample(50, np.random.default_rng(2))
    assert latency(space, drawn).max() < 2.6 * 1.1


def test_edges_without_effect_do_not_change_a_price(limits: ConstraintSet) -> None:
    model = limits.models["recorded.vpu-board"]
    dead = np.array([[3, 0, 0, 1, 2, 0], [3, 1, 0, 1, 2, 0], [3, 4, 0, 1, 2, 0]])  # node 2 leads nowhere
    assert len(set(model.predict(dead).tolist())) == 1


def test_a_file_of_the_space_is_priced(space: SearchSpace, tables: str) -> None:
    row = (3, 1, 2, 3, 0, 3)
    notes = {"hwnas.space": space.spec, "hwnas.architecture": str(list(row))}
    price = hwnas.predict(space.lower(row).to_onnx(metadata=notes), "vpu-board", tables=tables)
    assert price.sources == {"learned": 1.0}
    assert price.coverage == 0.0
    assert price.method == "measured"
    assert price.latency_ms == pytest.approx(float(latency(space, np.array([row]))[0]), rel=0.05)


def test_few_networks_are_not_enough(space: SearchSpace, tmp_path: Path) -> None:
    rows = space.sample(FEWEST - 1, np.random.default_rng(0))
    file = write(tmp_path / "few.csv", rows, latency(space, rows))
    table = hwnas.import_networks(file, "vpu-few", hardware="a board", runtime="its SDK", tables=str(tmp_path))
    with pytest.raises(TableError, match=r"blocks of .* have no latency for vpu-few"):
        price_model(space, table)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("architecture,latency\n1 1 1 1 1 1,2\n", "has no column 'ms'; it needs the columns architecture and ms"),
        ("architecture,ms\n1 1 1 1 1 1,2\n1 1 1 1 1 1,-2\n", r"line 3: '-2' is not a positive number of milliseconds"),
        ("architecture,ms\n1 1 1 1 1,2\n", r"line 2: .*6"),
        ("architecture,ms\n1 1 1 1 1 9,2\n", r"line 2: "),
        ("architecture,ms\n1 1 1 x 1 1,2\n", r"line 2: invalid literal"),
        ("architecture,ms\n1 1 1 1 1 1\n", r"line 2: None|line 2: could not convert"),
        ('architecture,ms\n"1 1,2\n', "is no CSV file"),
    ],
)
def test_damaged_files_are_refused(text: str, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.csv"
    file.write_text(text)
    with pytest.raises(DataError, match=reason):
        hwnas.import_networks(file, "vpu-bad", hardware="a board", runtime="its SDK", tables=str(tmp_path))
    assert not (tmp_path / "vpu-bad").exists()


def test_what_is_neither_a_file_nor_a_column(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no file none; give a CSV file, or a column such as"):
        hwnas.import_networks("none", "vpu-x", hardware="a", runtime="b", tables=str(tmp_path))
    with pytest.raises(DataError, match=r"there is no file a.b, and the published tables are of nasbench201"):
        hwnas.import_networks("a.b", "vpu-x", space="mobilenet", hardware="a", runtime="b", tables=str(tmp_path))


def test_the_command(space: SearchSpace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = space.sample(12, np.random.default_rng(0))
    file = write(tmp_path / "measured.csv", rows, latency(space, rows))
    told = ["--device", "dsp-x", "--hardware", "a board", "--runtime", "its SDK", "--tables", str(tmp_path)]
    assert main(["import", str(file), *told]) == 0
    assert "search with: latency@recorded.dsp-x" in capsys.readouterr().out
    assert main(["import", str(file), *told, "--method", "guessed"]) == 2
    assert "'guessed' is not a measuring method" in capsys.readouterr().err


@pytest.mark.skipif(not (data_folder() / "nb201" / "latency.parquet").is_file(), reason="HWNAS_DATA has no nb201")
def test_published_cells_of_the_myriad(space: SearchSpace, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    name = "nnmeter.myriad_vpu_ncs2"
    table = hwnas.import_networks(name, "vpu-ncs2", hardware="NCS2", runtime="OpenVINO", tables=str(tmp_path))
    networks = table.networks
    assert len(networks) == 1999
    rows, ms = np.array([row.architecture for row in networks]), np.array([row.median_ms for row in networks])
    alive = np.where(space.live(rows), rows, 0)
    test = alive[:, 0] * 7 + alive[:, 3] * 3 + alive[:, 5] == 22  # by what they compute, so that no copy is learned
    model = NetworkPrices.learn(space, table, [row for row, held in zip(networks, test, strict=True) if not held])
    error = np.abs(model.predict(rows[test]) / ms[test] - 1)
    assert test.sum() > 30
    assert np.mean(error <= 0.1) > 0.9
