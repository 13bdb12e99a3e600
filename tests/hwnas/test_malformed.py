"""Thirty malformed inputs, as a user would give them: each ends in one sentence and exit code 2."""

from __future__ import annotations

import gzip
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hwnas.latency_tables import LatencyTable, NetworkRow, Row
from hwnas.profilers import Protocol, get_profiler
from hwnas.profilers.campaign import network_model
from hwnas.run import Run
from hwnas.spaces import get_space

DEVICE = "cpu-onnxruntime"
SPACE = get_space("mobilenet(resolution=8,channels=1,classes=10,width=0.15,depth=0.25)")
WHEN = "2026-11-24T10:00:00+00:00"
Shell = Callable[..., tuple[int, str, str]]


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    from hwnas.cli import main

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """A table with made-up latencies: only its format matters here."""
    root = tmp_path / "tables"
    table = LatencyTable.create(root / DEVICE, get_profiler(DEVICE).device_record(Protocol()))
    for block in SPACE.catalog:
        for part in (block, *block.kernels):
            table.add(Row(part.signature, "network", 0.01, 0.009, 0.011, 3, True, "measured", WHEN), None)
    for index in range(12):
        architecture = (index % 6,) * len(SPACE.decisions)
        table.add_network(NetworkRow(SPACE.spec, architecture, 0.06, 0.05, 0.07, 3, True, "measured", WHEN), None)
    return root


def search(tables: Path, tmp_path: Path, **changes: Any) -> list[str]:
    options = {"space": SPACE.spec, "data": "digits", "constraint": f"latency@{DEVICE} <= 5ms", "run": tmp_path / "run"}
    options = {**options, "tables": tables, "evaluations": 1, "supernet-epochs": 1, "epochs": 1, **changes}
    return ["search", *(str(part) for key, value in options.items() for part in (f"--{key}", value))]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"space": "resnet"}, "no space called 'resnet'"),
        ({"space": "mobilenet(width=huge)"}, "width=huge"),
        ({"space": "mobilenet(resolution=-3)"}, "resolution between"),
        ({"data": "imagenet"}, "imagenet"),
        ({"data": "./no/such/folder"}, "no folder"),
        ({"constraint": f"latency@{DEVICE} <= 5 parsecs"}, "not a unit of latency"),
        ({"constraint": f"latency@{DEVICE} <= 5"}, "no unit"),
        ({"constraint": "speed <= 5ms"}, "no metric 'speed'"),
        ({"constraint": f"latency@{DEVICE}"}, "<="),
        ({"constraint": "latency <= 5ms"}, "needs a device"),
        ({"constraint": "latency@abacus <= 5ms"}, "no device called 'abacus'"),
        ({"constraint": f"latency@{DEVICE} <= 1us"}, "latency"),
        ({"constraint": "params >= 1G"}, "params"),
        ({"strategy": "magic"}, "no strategy called 'magic'"),
        ({"evaluator": "oracle"}, "oracle"),
        ({"precision": "float3"}, "float3"),
        ({"limit": 3}, "limit=3"),
    ],
)
def test_wrong_words(shell: Shell, tables: Path, tmp_path: Path, change: dict[str, Any], words: str) -> None:
    one_sentence(shell(*search(tables, tmp_path, **change)), words)
    assert not (tmp_path / "run").exists()


def one_sentence(result: tuple[int, str, str], *words: str) -> None:
    code, out, err = result
    assert code == 2, err
    assert out == ""
    assert "Traceback" not in err
    assert err.count("\n") == 1, err
    for word in words:
        assert word in err


def test_a_table_with_nan(shell: Shell, tables: Path, tmp_path: Path) -> None:
    file = tables / DEVICE / "latencies.csv"
    file.write_text(file.read_text().replace("0.01,", "nan,", 1))
    one_sentence(shell(*search(tables, tmp_path)), "line 2", "latencies.csv")


def test_a_table_with_a_negative_latency(shell: Shell, tables: Path, tmp_path: Path) -> None:
    file = tables / DEVICE / "networks.csv"
    file.write_text(file.read_text().replace("0.06,", "-0.06,", 1))
    one_sentence(shell(*search(tables, tmp_path)), "networks.csv")


def test_a_truncated_table(shell: Shell, tables: Path, tmp_path: Path) -> None:
    file = tables / DEVICE / "latencies.csv"
    lines = file.read_text().splitlines()
    lines[2] = lines[2][: len(lines[2]) // 2]
    file.write_text("\n".join(lines) + "\n")
    one_sentence(shell(*search(tables, tmp_path)), "line 3")


def test_a_table_that_lacks_rows(shell: Shell, tables: Path, tmp_path: Path) -> None:
    file = tables / DEVICE / "latencies.csv"
    file.write_text("\n".join(file.read_text().splitlines()[:4]) + "\n")
    one_sentence(shell(*search(tables, tmp_path)), "hwnas profile")


def test_a_device_record_that_is_no_json(shell: Shell, tables: Path, tmp_path: Path) -> None:
    (tables / DEVICE / "device.json").write_text("{")
    one_sentence(shell(*search(tables, tmp_path)), "device.json")


def test_a_table_of_another_machine(shell: Shell, tables: Path, tmp_path: Path) -> None:
    file = tables / DEVICE / "device.json"
    file.write_text(file.read_text().replace('"runtime_version": "', '"runtime_version": "0.'))
    one_sentence(shell(*search(tables, tmp_path)), "does not hold for this machine", "recorded.")


@pytest.mark.parametrize("content", [b"", b"\x00\x01\x02", b"PK\x03\x04", pickle.dumps({"a": 1})])
def test_files_that_are_no_onnx(shell: Shell, tables: Path, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(content)
    one_sentence(shell("predict", file, "--device", DEVICE, "--tables", tables), "ONNX")


def test_half_an_onnx_file(shell: Shell, tables: Path, tmp_path: Path) -> None:
    data = network_model(SPACE, (0,) * len(SPACE.decisions)).SerializeToString()
    file = tmp_path / "model.onnx"
    file.write_bytes(data[: len(data) // 2])
    one_sentence(shell("predict", file, "--device", DEVICE, "--tables", tables), "ONNX")


def test_no_table_and_no_model(shell: Shell, tables: Path, tmp_path: Path) -> None:
    one_sentence(shell("predict", tmp_path / "absent.onnx", "--device", DEVICE, "--tables", tables), "absent.onnx")
    file = tmp_path / "model.onnx"
    file.write_bytes(network_model(SPACE, (0,) * len(SPACE.decisions)).SerializeToString())
    one_sentence(shell("predict", file, "--device", "npu-dream", "--tables", tables), "npu-dream")


def test_devices_and_profiles(shell: Shell, tmp_path: Path) -> None:
    tables = ("--tables", tmp_path / "t")
    one_sentence(shell("profile", "--device", "gpu-abacus", "--space", "mobilenet", *tables), "gpu-abacus")
    one_sentence(shell("profile", "--device", f"{DEVICE}.t0", "--space", "mobilenet", *tables), "t0")
    one_sentence(
        shell("profile", "--device", DEVICE, "--space", "mobilenet", "--repeat-until", "200%", *tables), "200%"
    )
    one_sentence(shell("profile", "--device", DEVICE, "--space", "mobilenet", "--budget", "soon", *tables), "soon")


def test_an_unwritable_folder(shell: Shell, tables: Path, tmp_path: Path) -> None:
    blocker = tmp_path / "blocker"
    blocker.write_text("a file where a folder should be")
    one_sentence(shell(*search(tables, tmp_path, run=blocker / "run")), "blocker")
    one_sentence(shell("profile", "--device", DEVICE, "--space", SPACE.spec, "--tables", blocker / "tables"), "blocker")


def test_run_folders(shell: Shell, tables: Path, tmp_path: Path) -> None:
    one_sentence(shell("search", "--resume", tmp_path / "absent"), "no run folder")
    one_sentence(shell("search", "--resume", tmp_path), "not a run folder")
    one_sentence(shell("report", tmp_path), "run")
    one_sentence(shell("export", tmp_path), "run")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "run.toml").write_text("space = ")
    one_sentence(shell("search", "--resume", broken), "damaged")
    one_sentence(shell(*search(tables, tmp_path, run=broken)), "holds a run already")


def test_a_pickle_in_place_of_a_checkpoint(shell: Shell, tables: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = {"space": SPACE.spec, "data": "digits", "constraints": [f"latency@{DEVICE} <= 5ms"]}
    with Run.create(run, {**settings, "tables": str(tables), "supernet_epochs": 1, "evaluations": 1}) as opened:
        opened.checkpoint("supernet").write_bytes(pickle.dumps({"weights": [1, 2, 3]}))
    one_sentence(shell("search", "--resume", run), "supernet.safetensors", "pickle")


def test_damaged_trials(shell: Shell, tables: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = {"space": SPACE.spec, "data": "digits", "constraints": [f"latency@{DEVICE} <= 5ms"]}
    with Run.create(run, {**settings, "tables": str(tables), "evaluator": "scratch", "evaluations": 1}):
        (run / "trials.jsonl").write_text('{"architecture": [0], "score": "good"}\n')
    one_sentence(shell("search", "--resume", run), "line 1", "trials.jsonl")


def test_images_that_are_none(shell: Shell, tables: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    for name in ("cats", "dogs"):
        (folder / name).mkdir(parents=True)
        for number in range(8):
            (folder / name / f"{number}.jpg").write_bytes(b"no image")
    one_sentence(shell(*search(tables, tmp_path, data=folder, space="mobilenet")), ".jpg")


def test_a_truncated_fashion_mnist(shell: Shell, tables: Path, tmp_path: Path) -> None:
    root = tmp_path / "fashion"
    root.mkdir()
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (root / f"{name}-ubyte.gz").write_bytes(gzip.compress(b"\x00\x00\x08\x03" + b"\x00" * 20))
    arguments = search(tables, tmp_path, data="fashion-mnist")
    one_sentence(shell(*arguments, "--data-root", root), "idx")
    shutil.rmtree(root)
    one_sentence(shell(*arguments, "--data-root", root), str(root))
