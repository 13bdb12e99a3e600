"""The table format: what is written is read back, what is damaged is refused with its line, what is torn is mended."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwnas.latency_tables import DeviceRecord, LatencyTable, NetworkRow, Row, host_facts
from hwnas.latency_tables import table as table_module
from hwnas.spaces.errors import HwnasError, TableError

WHEN = "2026-01-02T03:04:05+00:00"


def device(**changes: object) -> DeviceRecord:
    values: dict[str, object] = {
        "key": "cpu-test",
        "name": "a CPU",
        "device_class": "cpu",
        "runtime": "testrun",
        "runtime_version": "1.0",
        "precision": "float32",
        "threads": 1,
        "batch": 1,
        "method": "measured",
        "host": host_facts(),
        "protocol": {"passes": 3},
    }
    return DeviceRecord(**{**values, **changes})  # type: ignore[arg-type]


def row(signature: str = "conv(k=3)@1x3x8x8:float32", context: str = "isolated", ms: float = 0.5) -> Row:
    return Row(signature, context, ms, 0.9 * ms, 1.1 * ms, 3, True, "measured", WHEN)


def network(ms: float = 2.0) -> NetworkRow:
    return NetworkRow("mobilenet(resolution=32,width=0.5)", (0, 3, 6), ms, ms, ms, 3, False, "measured", WHEN)


latencies = st.floats(1e-6, 1e6)
signatures = st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1, max_size=40)


@st.composite
def rows(draw: st.DrawFn) -> Row:
    low, median, high = sorted(draw(st.tuples(latencies, latencies, latencies)))
    context, stable = draw(st.sampled_from(["isolated", "network"])), draw(st.booleans())
    return Row(draw(signatures), context, median, low, high, draw(st.integers(1, 99)), stable, "measured", WHEN)


@settings(max_examples=40, deadline=None)
@given(st.lists(rows(), max_size=8))
def test_rows_survive_the_file(tmp_path_factory: pytest.TempPathFactory, given_rows: list[Row]) -> None:
    path = tmp_path_factory.mktemp("table")
    table = LatencyTable.create(path, device())
    for entry in given_rows:
        table.add(entry, [entry.median_ms])
    read = LatencyTable.load(path)
    assert read.rows == table.rows
    for entry in given_rows:
        kept = read.lookup(entry.signature, entry.context)
        assert kept is not None
    last = {(entry.signature, entry.context): entry for entry in given_rows}
    for key, entry in last.items():
        assert read.rows[key].median_ms == pytest.approx(entry.median_ms, rel=1e-5)
        assert read.rows[key].stable is entry.stable
    assert len(list(read.records("samples"))) == len(given_rows)


def test_networks_survive_the_file(tmp_path: Path) -> None:
    table = LatencyTable.create(tmp_path, device())
    table.add_network(network(2.0), [2.0, 2.1])
    table.add_network(network(3.0))
    read = LatencyTable.load(tmp_path)
    assert read.networks == table.networks == [network(3.0)]
    assert read.network(network().space, [0, 3, 6]) == network(3.0)
    assert read.network(network().space, [0, 3, 5]) is None


def test_lookup_and_vector(tmp_path: Path) -> None:
    table = LatencyTable.create(tmp_path, device())
    table.add(row("a", "isolated", 1.0))
    table.add(row("b", "isolated", 2.0))
    table.add(row("b", "network", 3.0))
    assert [table.lookup(name) for name in "abc"] == [
        table.rows["a", "isolated"],
        table.rows["b", "network"],
        None,
    ]
    np.testing.assert_array_equal(table.vector(["a", "b", "c"], "isolated"), [1.0, 2.0, math.nan])
    np.testing.assert_array_equal(table.vector(["a", "b"]), [1.0, 3.0])
    assert table.vector([]).shape == (0,)


@pytest.mark.parametrize("name", ["latencies.csv", "networks.csv", "samples.jsonl"])
def test_a_torn_last_line_is_ignored_then_mended(tmp_path: Path, name: str) -> None:
    table = LatencyTable.create(tmp_path, device())
    table.add(row(), [0.5])
    table.add_network(network(), [2.0])
    whole = (tmp_path / name).read_bytes()
    with open(tmp_path / name, "ab") as stream:
        stream.write(whole.splitlines(keepends=True)[-1][:-7])
    read = LatencyTable.load(tmp_path)
    assert (len(read.rows), len(read.networks), len(list(read.records()))) == (1, 1, 2)
    again = LatencyTable.create(tmp_path, device())
    assert (tmp_path / name).read_bytes() == whole
    again.add(row("another"))
    assert len(LatencyTable.load(tmp_path).rows) == 2


def test_every_cut_of_the_file_is_read_or_refused_and_can_be_continued(tmp_path: Path) -> None:
    table = LatencyTable.create(tmp_path, device())
    for number in range(3):
        table.add(row(f"block{number}(k=3,s=1)@1x8x8x8:float32"))
    file = tmp_path / "latencies.csv"
    whole = file.read_bytes()
    ends = [index + 1 for index, byte in enumerate(whole) if byte == 10]
    for cut in range(len(whole)):
        file.write_bytes(whole[:cut])
        complete = sum(end <= cut for end in ends)
        assert len(LatencyTable.load(tmp_path).rows) == max(0, complete - 1)
        LatencyTable.create(tmp_path, device()).add(row("later"))
        assert LatencyTable.load(tmp_path).lookup("later") is not None


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("0.5,", "nan,", "not a number"),
        ("0.5,", "-0.5,", "not a positive number"),
        ("0.5,", "0,", "not a positive number"),
        ("0.5,", "inf,", "not a number"),
        ("0.5,", "1e999,", "not a positive number"),
        ("0.5,", "1_0,", "not a number"),
        ("0.5,", "2,", "outside of its interval"),
        (",3,yes", ",3", "8 columns instead of 9"),
        (",3,yes", ",3,yes,yes", "10 columns instead of 9"),
        (",3,yes", ",3.5,yes", "not a whole number"),
        (",3,yes", ",0,yes", "repeats"),
        (",3,yes", ",3,True", "neither yes nor no"),
        ("isolated", "alone", "context"),
        ("measured,", "guessed,", "method"),
        ("measured,", "simulated,", "cannot join"),
        ('"conv', '"co"nv', "not a CSV line"),
        ("conv", "c\x00nv", "cannot key a row"),
        ('"conv(k=3,s=1)@1x8x8x8:float32"', "", "cannot key a row"),
        ("0.5,", "\udcff,", "not UTF-8"),
        ("signature,context", "signature,place", "must begin with the columns"),
        ("signature,context,", "", "must begin with the columns"),
        ("yes", "yes" * 30000, "bytes long"),
    ],
)
def test_damage_is_refused_in_one_sentence(tmp_path: Path, old: str, new: str, says: str) -> None:
    table = LatencyTable.create(tmp_path, device())
    table.add(row("conv(k=3,s=1)@1x8x8x8:float32"))
    file = tmp_path / "latencies.csv"
    text = file.read_text()
    assert old in text
    file.write_bytes(text.replace(old, new).encode(errors="surrogateescape"))
    with pytest.raises(TableError, match=says) as caught:
        LatencyTable.load(tmp_path)
    assert "latencies.csv" in str(caught.value)
    assert "\n" not in str(caught.value)
    if old not in ("signature,context", "signature,context,"):
        assert "line 2" in str(caught.value)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_corruption_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "table"
    table = LatencyTable.create(path, device())
    if not table.rows:
        table.add(row("conv(k=3,s=1)@1x8x8x8:float32"), [0.5, 0.6])
        table.add_network(network(), [2.0])
    name = data.draw(st.sampled_from(["device.json", "latencies.csv", "networks.csv", "samples.jsonl"]))
    whole = (path / name).read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    length = data.draw(st.integers(0, 6))
    (path / name).write_bytes(whole[:at] + data.draw(st.binary(max_size=6)) + whole[at + length :])
    refusal = ""
    try:
        read = LatencyTable.load(path)
        for entry in read.rows.values():
            assert 0 < entry.low_ms <= entry.median_ms <= entry.high_ms < math.inf
        list(read.records())
    except HwnasError as error:
        refusal = str(error)
    finally:
        (path / name).write_bytes(whole)
    assert "\n" not in refusal


def test_the_raw_record_refuses_damage(tmp_path: Path) -> None:
    table = LatencyTable.create(tmp_path, device())
    table.record("pass", ms=[1.0])
    for line in ("nonsense", '{"kind": 3}', "[1]", '{"kind":"pass","ms":[NaN]}', "[" * 100_000):
        (tmp_path / "samples.jsonl").write_text('{"kind":"pass"}\n' + line + "\n")
        with pytest.raises(TableError, match="line 2"):
            list(table.records())
    with pytest.raises(ValueError, match="JSON"):
        table.record("pass", ms=[math.nan])


def test_size_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    LatencyTable.create(tmp_path, device()).add(row())
    monkeypatch.setattr(table_module, "_MAX_FILE_BYTES", 50)
    with pytest.raises(TableError, match="larger than"):
        LatencyTable.load(tmp_path)


def test_methods_never_mix(tmp_path: Path) -> None:
    table = LatencyTable.create(tmp_path, device())
    with pytest.raises(TableError, match="cannot join"):
        table.add(replace(row(), method="simulated"))
    with pytest.raises(TableError, match="cannot join"):
        table.add_network(replace(network(), method="modelled"))
    assert LatencyTable.load(tmp_path).rows == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"runtime_version": "2.0"},
        {"precision": "int8"},
        {"threads": 2},
        {"name": "another CPU"},
        {"method": "modelled"},
    ],
)
def test_a_table_belongs_to_one_device(tmp_path: Path, changes: dict[str, object]) -> None:
    LatencyTable.create(tmp_path, device())
    with pytest.raises(TableError, match="not made by this device"):
        LatencyTable.create(tmp_path, device(**changes))
    LatencyTable.create(tmp_path, device(protocol={"passes": 5}, host={**host_facts(), "kernel": "another"}))


def test_reading_and_writing_are_kept_apart(tmp_path: Path) -> None:
    table = LatencyTable.create(tmp_path, device())
    with (
        table.writing(),
        pytest.raises(TableError, match="another run"),
        LatencyTable.create(tmp_path, device()).writing(),
    ):
        pass
    with table.writing():  # released
        pass
    read = LatencyTable.load(tmp_path)
    with pytest.raises(TableError, match="open for reading"):
        read.add(row())
    with pytest.raises(TableError, match="open for reading"):
        read.add_network(network())
    with pytest.raises(TableError, match="open for reading"):
        read.record("pass")


def test_what_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"device\.json is missing"):
        LatencyTable.load(tmp_path)
    (tmp_path / "latencies.csv").write_text("mine\n")
    with pytest.raises(TableError, match=r"no device\.json"):
        LatencyTable.create(tmp_path, device())


def test_rows_are_checked_when_made() -> None:
    for changes in ({"median_ms": math.nan}, {"low_ms": -1.0}, {"high_ms": 0.1}, {"repeats": 0}, {"signature": "a\nb"}):
        with pytest.raises(TableError):
            replace(row(), **changes)
    with pytest.raises(TableError, match="architecture"):
        replace(network(), architecture=())


def test_the_files_are_readable_by_people(tmp_path: Path) -> None:
    table = LatencyTable.create(tmp_path, device())
    table.add(row("conv(k=3,s=1)@1x8x8x8:float32", ms=0.123456789))
    table.add_network(network())
    assert (tmp_path / "latencies.csv").read_text().splitlines() == [
        "signature,context,median_ms,low_ms,high_ms,repeats,stable,method,measured_at",
        f'"conv(k=3,s=1)@1x8x8x8:float32",isolated,0.123457,0.111111,0.135802,3,yes,measured,{WHEN}',
    ]
    assert (tmp_path / "networks.csv").read_text().splitlines()[1].split('"')[2] == f",0 3 6,2,2,2,3,no,measured,{WHEN}"
    assert json.loads((tmp_path / "device.json").read_text())["format"] == 1
