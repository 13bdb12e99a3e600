"""Where tables are found, and the device record."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from hwnas.latency_tables import DeviceRecord, LatencyTable, find_table, host_facts, list_tables, store, table_root
from hwnas.spaces.errors import TableError


def device(key: str = "cpu-test") -> DeviceRecord:
    return DeviceRecord(key, "a CPU", "cpu", "testrun", "1.0", "float32", 1, 1, "measured", host_facts(), {})


@pytest.fixture
def roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """An empty user root (in HWNAS_TABLES) and an empty shipped one."""
    mine, shipped = tmp_path / "mine", tmp_path / "shipped"
    shipped.mkdir()
    monkeypatch.setenv("HWNAS_TABLES", str(mine))
    monkeypatch.setattr(store, "shipped_root", lambda: shipped)
    return mine, shipped


def test_the_root_is_looked_up_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HWNAS_TABLES", raising=False)
    monkeypatch.delenv("HWNAS_HOME", raising=False)
    assert table_root() == tmp_path / "home" / ".local" / "share" / "hwnas" / "latency_tables"
    monkeypatch.setenv("HWNAS_HOME", str(tmp_path / "place"))
    assert table_root() == tmp_path / "place" / "latency_tables"
    monkeypatch.setenv("HWNAS_TABLES", str(tmp_path / "tables"))
    assert table_root() == tmp_path / "tables"
    assert table_root(tmp_path / "given") == tmp_path / "given"


def test_the_own_table_comes_before_the_shipped_one(roots: tuple[Path, Path]) -> None:
    mine, shipped = roots
    with pytest.raises(TableError, match="hwnas profile --device cpu-test"):
        find_table("cpu-test")
    assert list_tables() == []
    LatencyTable.create(shipped / "cpu-test", device())
    LatencyTable.create(shipped / "cpu-other", device("cpu-other"))
    assert find_table("cpu-test").path == shipped / "cpu-test"
    LatencyTable.create(mine / "cpu-test", device())
    assert find_table("cpu-test").path == mine / "cpu-test"
    assert find_table("cpu-test", root=shipped).path == shipped / "cpu-test"
    assert [(info.key, info.shipped, info.problem) for info in list_tables()] == [
        ("cpu-other", True, None),
        ("cpu-test", False, None),
    ]


def test_a_damaged_table_is_listed_with_its_problem(roots: tuple[Path, Path]) -> None:
    mine, _ = roots
    LatencyTable.create(mine / "cpu-test", device())
    LatencyTable.create(mine / "cpu-good", device("cpu-good"))
    (mine / "cpu-test" / "device.json").write_text("{")
    good, bad = list_tables()
    assert (good.key, good.problem) == ("cpu-good", None)
    assert bad.device is None
    assert bad.problem is not None
    assert "not readable JSON" in bad.problem


@pytest.mark.parametrize("key", ["", "..", "../x", "a/b", ".hidden", "A", "a..b", "x" * 300, "a\n"])
def test_keys_cannot_leave_the_root(key: str) -> None:
    with pytest.raises(TableError, match="not a device key"):
        find_table(key)


def test_the_record_survives_json() -> None:
    record = device("cpu-test.int8.t2")
    assert DeviceRecord.from_json(record.to_json()) == record


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("format", 2, "format 2"),
        ("method", "felt", "'felt' is not a measuring method"),
        ("threads", 0, "threads"),
        ("threads", True, "threads"),
        ("batch", "1", "batch"),
        ("host", [], "host"),
        ("name", 3, "name"),
        ("key", "../x", "not a device key"),
        ("key", None, "key"),
        ("runtime", None, "lacks runtime"),
    ],
)
def test_bad_records_are_refused(field: str, value: object, says: str) -> None:
    data = json.loads(device().to_json())
    data[field] = value
    if says.startswith("lacks"):
        del data[field]
    with pytest.raises(TableError, match=re.escape(says)):
        DeviceRecord.from_json(json.dumps(data))


@pytest.mark.parametrize("text", ["", "[]", "nonsense", '{"format": NaN}', "[" * 100_000])
def test_what_is_no_record_is_refused(text: str) -> None:
    with pytest.raises(TableError, match=r"device\.json"):
        DeviceRecord.from_json(text)


def test_hardware_is_told_apart() -> None:
    here = device()
    assert here.is_this_machine()
    assert here.same_hardware(replace(here, runtime_version="2.0", protocol={"passes": 9}))
    assert here.same_hardware(replace(here, host={**here.host, "kernel": "7", "python": "4"}))
    other = replace(here, host={**here.host, "model": "unheard of"})
    assert not here.same_hardware(other)
    assert not other.is_this_machine()
    assert here.differences(other) == ["another model"]
    assert here.differences(replace(here, name="another CPU")) == ["name a CPU against another CPU"]
    assert not here.differences(here)


def test_host_facts_name_no_person_or_machine() -> None:
    facts = host_facts()
    assert {"cpu", "machine", "cores", "flags", "os", "kernel", "python"} <= facts.keys()
    assert json.loads(json.dumps(facts)) == facts
    assert not {"hostname", "node", "user"} & facts.keys()
