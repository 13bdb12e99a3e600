"""Hostile files are refused in one sentence, and nothing that a file says leads out of its folder."""

from __future__ import annotations

import contextlib
import resource
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hwnas.latency_tables import DeviceRecord, LatencyTable, Row, find_table
from hwnas.latency_tables.device import check_key
from hwnas.run import Run, default_run_path
from hwnas.spaces import ConfigError, Graph, HwnasError, ModelError, TableError, get_space
from tests.hostile import TARGETS, _doubling, _growing, _onnx_seeds, _subgraphs, nested


@contextlib.contextmanager
def limited_memory(size: int) -> Iterator[None]:
    """Let this process take so many bytes more than it has."""
    has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (has + size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


COUNTS = {"onnx": 60, "predictor": 60}
HOSTILE = ["..", "../x", "/etc/x", "a/../b", "a/b", "x\x00y", "~", "", ".", "C:x\\y", "a\nb", ".hidden", "x" * 300]


@pytest.mark.parametrize("kind", TARGETS)
def test_only_errors_of_ours(kind: str, tmp_path: Path) -> None:
    target = TARGETS[kind]
    folder = tmp_path / "valid"
    folder.mkdir()
    seeds = target.seeds(folder)
    accepted, sentences = 0, []
    for _, name, data in target.cases(seeds, range(COUNTS.get(kind, 200))):
        (folder / name).write_bytes(data)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # numpy's and Pillow's
                target.read(folder, name)
            accepted += 1
        except HwnasError as error:
            sentences.append(str(error))
        (folder / name).write_bytes(seeds[name])
    assert not [text for text in sentences if "\n" in text.strip() or len(text) > 2000]
    assert len(sentences) > 0.2 * accepted > 0  # what is spoiled is noticed, and not everything is refused


def test_models_that_would_grow() -> None:
    import onnx

    small = onnx.load_model_from_string(_onnx_seeds(Path())["small.onnx"])
    for seed in range(12):
        for blow in (_growing, _doubling, _subgraphs):
            model = onnx.ModelProto()
            model.CopyFrom(small)
            blow(model, np.random.default_rng(seed))
            with contextlib.suppress(HwnasError):
                Graph.from_onnx(model.SerializeToString())


def test_a_list_of_sizes_that_is_said_to_be_huge() -> None:
    """The ends of a slice, two billion of them by the file: they are not carried along one by one."""
    space = get_space("shufflenet(resolution=16,width=0.25,depth=0.25)")
    model = space.lower([0] * len(space.decisions)).to_onnx()
    ends = [tensor for tensor in model.graph.initializer if tensor.name.endswith("/stop")]
    assert ends
    for tensor in ends:
        tensor.dims[:] = [2**31 - 1]
    with limited_memory(1 << 30), pytest.raises(ModelError) as refused:
        Graph.from_onnx(model.SerializeToString())
    assert "bad_alloc" not in str(refused.value)


def test_data_outside_of_a_model_is_not_read(tmp_path: Path) -> None:
    import onnx

    secret = tmp_path / "secret"
    secret.write_bytes(bytes(4 * 80))
    (tmp_path / "inner").mkdir()
    model = onnx.load_model_from_string(_onnx_seeds(tmp_path)["small.onnx"])
    (weights,) = (tensor for tensor in model.graph.initializer if tensor.name == "m")
    weights.ClearField("raw_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    for place in ("../secret", str(secret), "/dev/zero"):
        del weights.external_data[:]
        weights.external_data.add(key="location", value=place)
        file = tmp_path / "inner" / "model.onnx"
        file.write_bytes(model.SerializeToString())
        with pytest.raises(ModelError, match=r"'m' of the model cannot be read|not a valid ONNX model"):
            Graph.from_onnx(file)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_device_cannot_lead_out_of_the_folder_of_tables(name: str, tmp_path: Path) -> None:
    with pytest.raises(TableError):
        check_key(name)
    with pytest.raises(TableError):
        find_table(name, tmp_path)
    with pytest.raises(TableError):
        DeviceRecord(name, "a CPU", "cpu", "run", "1", "float32", 1, 1, "measured")


@pytest.mark.parametrize("name", HOSTILE)
def test_spaces_and_data_cannot_lead_out_of_the_folder_of_runs(name: str, tmp_path: Path) -> None:
    made = default_run_path(name, name, tmp_path / "runs")
    assert made.parent.resolve() == (tmp_path / "runs").resolve()
    assert made.name not in ("", ".", "..")


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/b", "..", ".", "", "x\x00y"])
def test_a_checkpoint_stays_in_its_run(name: str, tmp_path: Path) -> None:
    with Run.create(tmp_path / "run", {"space": "s"}) as run, pytest.raises(ConfigError, match="cannot name"):
        run.checkpoint(name)


def test_signatures_are_no_paths(tmp_path: Path) -> None:
    device = DeviceRecord("cpu-x", "a CPU", "cpu", "run", "1", "float32", 1, 1, "measured")
    table = LatencyTable.create(tmp_path / "tables" / "cpu-x", device)
    before = sorted(path for path in tmp_path.rglob("*"))
    table.add(Row("../../../outside", "isolated", 1.0, 1.0, 1.0, 3, True, "measured", "now"), [1.0])
    table.record("pass", model="../../x")
    after = {path.name for path in tmp_path.rglob("*")} - {path.name for path in before}
    assert after <= {"samples.jsonl"}
    assert ("../../../outside", "isolated") in LatencyTable.load(table.path).rows


def test_a_link_in_place_of_a_file_is_replaced_and_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("mine")
    with Run.create(tmp_path / "run", {"space": "s"}) as run:
        for name in ("best.json", "state.json", "best.onnx"):
            (run.path / name).symlink_to(outside)
        run.save_state({"a": 1})
        run.save_best({"architecture": [0]}, b"model")
        for log in ("trials.jsonl", "finalists.jsonl"):
            (run.path / log).symlink_to(outside)
        with pytest.raises(ConfigError, match="is a link"):
            run.add_finalist({"architecture": [0]})
    assert outside.read_text() == "mine"
    with pytest.raises(ConfigError, match="is a link"):
        Run.open(run.path)  # which would cut off a torn last line
    assert outside.read_text() == "mine"
    (run.path / ".lock").unlink()
    (run.path / ".lock").symlink_to(outside)
    with pytest.raises(ConfigError, match="is a link"):
        Run.open(run.path)
    assert outside.read_text() == "mine"


def test_deep_nesting_is_damage(tmp_path: Path) -> None:
    with Run.create(tmp_path / "run", {"space": "s"}) as run:
        for name, text in (("best.json", nested(200_000)), ("trials.jsonl", nested(200_000) + "\n")):
            (run.path / name).write_text(text)
        with pytest.raises(ConfigError, match="damaged"):
            _ = run.best
        with pytest.raises(ConfigError, match="line 1"):
            run.trials()
        (run.path / "run.toml").write_text("a = " + nested(100_000))
    with pytest.raises(ConfigError, match="damaged"):
        Run.open(run.path)
