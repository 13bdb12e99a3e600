"""The command line: help with examples, JSON for machines, one sentence and exit code 2 for mistakes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import pytest

from hwnas.cli import main
from hwnas.cli.common import duration, fraction
from hwnas.latency_tables import find_table
from hwnas.profilers.campaign import network_model
from hwnas.run import Run
from hwnas.spaces import ConfigError, get_space

COMMANDS = (
    *("devices", "spaces", "strategies", "tables", "profile", "tune", "search", "export", "predict", "report"),
    "compare",
)
SPACE = "mobilenet(width=0.25,depth=0.25)"
DEVICE = "cpu-onnxruntime"


class Output(NamedTuple):
    """What a command ended with."""

    code: int
    out: str
    err: str


Hwnas = Callable[..., Output]


@pytest.fixture
def hwnas(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hwnas:
    """Runs a command in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HWNAS_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HWNAS_TABLES", raising=False)

    def run(*words: object) -> Output:
        capsys.readouterr()
        code = main([str(word) for word in words])
        return Output(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables with a small space on this machine's CPU, measured by the command line itself."""
    root = tmp_path_factory.mktemp("tables")
    words = ["profile", "--device", DEVICE, "--space", SPACE, "--data", "digits", "--quick", "--context", "isolated"]
    assert main([*words, "--networks", "6", "--repeat-until", "20%", "--tables", str(root)]) == 0
    return root


# ---------------------------------------------------------------------- help


def test_help_names_every_command(hwnas: Hwnas) -> None:
    result = hwnas("--help")
    assert result.code == 0
    assert all(f"\n  {command} " in result.out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_examples(hwnas: Hwnas, command: str) -> None:
    result = hwnas(command, "--help")
    assert result.code == 0
    assert f"Examples:\n    hwnas {command}" in result.out


def test_version(hwnas: Hwnas) -> None:
    from importlib.metadata import version

    assert hwnas("--version") == Output(0, version("hwnas") + "\n", "")


def test_the_module_runs_as_the_command_does(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hwnas", "report", "absent"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (
        2,
        "",
        "hwnas: there is no run folder absent; check the name\n",
    )


# ---------------------------------------------------------------------- listings


@pytest.mark.parametrize(
    ("listing", "name"),
    [("devices", DEVICE), ("spaces", "mobilenet"), ("strategies", "evolution"), ("tables", DEVICE)],
)
def test_listings_are_lists_of_named_objects(hwnas: Hwnas, tables: Path, listing: str, name: str) -> None:
    options = ["--tables", tables] if listing == "tables" else []
    result = hwnas(listing, "--json", *options)
    assert (result.code, result.err) == (0, "")
    assert name in {entry["name"] for entry in json.loads(result.out)}
    assert name in hwnas(listing, *options).out


def test_a_damaged_table_is_listed_with_its_problem(hwnas: Hwnas, tmp_path: Path) -> None:
    (tmp_path / "t" / "cpu-broken").mkdir(parents=True)
    (tmp_path / "t" / "cpu-broken" / "device.json").write_text("{")
    found = {entry["name"]: entry for entry in json.loads(hwnas("tables", "--tables", "t", "--json").out)}
    assert "not readable JSON" in found["cpu-broken"]["problem"]


# ---------------------------------------------------------------------- profile and predict


def test_profile_goes_on_where_it_was(hwnas: Hwnas, tables: Path) -> None:
    words = ["profile", "--device", DEVICE, "--space", SPACE, "--data", "digits", "--quick", "--context", "isolated"]
    result = hwnas(*words, "--networks", 6, "--tables", tables, "--resume", "--json")
    summary = json.loads(result.out)
    space = get_space(SPACE, resolution=8, channels=1, classes=10)
    assert (result.code, result.err) == (0, "")
    assert (summary["measured"], summary["networks"], summary["missing"]) == (0, 0, 0)
    assert (summary["skipped"], summary["space"]) == (len(space.catalog), space.spec)
    assert len(find_table(DEVICE, tables).networks) == 6


def test_predict_prices_a_file(hwnas: Hwnas, tables: Path, tmp_path: Path) -> None:
    space = get_space(SPACE, resolution=8, channels=1, classes=10)
    onnx.save(network_model(space, (1,) * len(space.decisions)), tmp_path / "model.onnx")
    result = hwnas("predict", "model.onnx", "--device", DEVICE, "--tables", tables, "--level", 0.6, "--json")
    assert (result.code, result.err) == (0, "")
    price = json.loads(result.out)
    low, high = price["interval_ms"]
    assert 0 <= low <= price["latency_ms"] <= high
    assert 0 <= price["coverage"] <= 1
    assert sum(price["sources"].values()) == pytest.approx(1)
    assert price["method"] == "measured"
    words = hwnas("predict", "model.onnx", "--device", DEVICE, "--tables", tables, "--level", 0.6)
    assert f"{price['latency_ms']:.4g} ms, 60% interval {low:.4g} to {high:.4g} ms" in words.out


def test_an_unknown_interval_is_null(hwnas: Hwnas, tables: Path, tmp_path: Path) -> None:
    space = get_space(SPACE, resolution=8, channels=1, classes=10)
    onnx.save(network_model(space, (0,) * len(space.decisions)), tmp_path / "model.onnx")
    words = ("predict", "model.onnx", "--device", DEVICE, "--tables", tables, "--level", 0.99)  # of six networks
    price = json.loads(hwnas(*words, "--json").out, parse_constant=lambda name: pytest.fail(name))
    assert price["interval_ms"] == [None, None]
    assert "interval unknown" in hwnas(*words).out


# ---------------------------------------------------------------------- search, export, report


@pytest.fixture(scope="module")
def run_folder(tables: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, as small as can be."""
    folder = tmp_path_factory.mktemp("runs") / "one"
    words = ["search", "--space", SPACE, "--data", "digits", "--tables", str(tables), "--run", str(folder)]
    words += ["--constraint", f"latency@{DEVICE} <= 5ms", "--constraint", "params <= 100K", "--limit", "200"]
    assert main([*words, "--supernet-epochs", "1", "--epochs", "1", "--evaluations", "8", "--strategy", "random"]) == 0
    return folder


def test_search_answers_with_a_measured_file(hwnas: Hwnas, run_folder: Path) -> None:
    result = hwnas("search", "--resume", run_folder, "--json")  # a finished run gives its result again
    assert (result.code, result.err) == (0, "")
    answer = json.loads(result.out)
    assert set(answer) == {"architecture", "onnx", "accuracy", "costs", "run"}
    onnx.checker.check_model(onnx.load(answer["onnx"]))
    assert 0 <= answer["accuracy"] <= 1
    latency, params = answer["costs"].values()
    assert (latency["bound"], latency["method"]) == (5.0, "measured")
    assert 0 < latency["measured"] <= 5
    assert latency["predicted"] > 0
    assert params["measured"] <= 100_000
    words = hwnas("search", "--resume", run_folder).out
    assert "measured" in words
    assert str(run_folder) in words


def test_a_run_is_not_overwritten(hwnas: Hwnas, run_folder: Path) -> None:
    words = ("search", "--space", SPACE, "--data", "digits", "--constraint", "flops <= 1G", "--run", run_folder)
    result = hwnas(*words)
    assert result.code == 2
    assert f"--resume {run_folder}" in result.err


def test_export_writes_and_measures_int8(hwnas: Hwnas, run_folder: Path, tmp_path: Path) -> None:
    result = hwnas("export", run_folder, "--precision", "int8", "--output", "small.onnx", "--json")
    assert (result.code, result.err) == (0, "")
    export = json.loads(result.out)
    assert export["onnx"] == "small.onnx"
    assert export["precision"] == "int8"
    assert export["latency_ms"][f"{DEVICE}.int8"] > 0
    assert export["bytes"] == (tmp_path / "small.onnx").stat().st_size
    assert "QuantizeLinear" in {node.op_type for node in onnx.load(tmp_path / "small.onnx").graph.node}
    assert hwnas("export", run_folder, "--no-measure", "--precision", "float16").code == 2


def test_report_is_text_and_one_self_contained_page(hwnas: Hwnas, run_folder: Path) -> None:
    result = hwnas("report", run_folder)
    assert (result.code, result.err) == (0, "")
    assert "8 evaluations" in result.out
    page = (run_folder / "report.html").read_text(encoding="utf-8")
    assert "<svg" in page
    assert "default-src 'none'" in page  # it loads nothing, whatever is in it
    words = page[: page.index('<script type="application/json"')]
    assert "http" not in words.replace("http-equiv", "")
    assert words.count("<tr") > 8
    summary = json.loads(hwnas("report", run_folder, "--json", "--output", "page.html").out)
    assert summary["finished"]
    assert summary["evaluations"] == 8
    assert Path("page.html").read_text(encoding="utf-8") == page


def test_a_run_without_an_end_is_reported_as_such(hwnas: Hwnas, tmp_path: Path) -> None:
    Run.create(tmp_path / "begun", {"space": SPACE, "data": "<digits>"}).close()
    result = hwnas("report", "begun")
    assert result.code == 0
    assert "not finished" in result.out
    page = (tmp_path / "begun" / "report.html").read_text(encoding="utf-8")
    assert "&lt;digits&gt;" in page
    assert "<digits>" not in page


# ---------------------------------------------------------------------- interruption


@pytest.mark.parametrize(
    ("target", "words", "hint"),
    [
        ("hwnas.profiling.profile", ["profile", "--device", DEVICE, "--space", SPACE], "the same command goes on"),
        ("hwnas.run.Run.open", ["report", "runs/one"], "interrupted"),
    ],
)
def test_ctrl_c_says_how_to_go_on(
    hwnas: Hwnas, monkeypatch: pytest.MonkeyPatch, target: str, words: list[str], hint: str
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(target, interrupt)
    result = hwnas(*words)
    assert (result.code, result.out) == (130, "")
    assert hint in result.err
    assert result.err.count("\n") == 1


# ---------------------------------------------------------------------- mistakes (malformed input: test_malformed.py)

SEARCH = ("search", "--space", SPACE, "--data", "digits")
PROFILE = ("profile", "--device", DEVICE, "--space", SPACE)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("profile", "--device", "cpu-onnxruntim", "--space", SPACE), "did you mean 'cpu-onnxruntime'"),
        (("profile", "--device", DEVICE, "--space", "mobilnet"), "did you mean 'mobilenet'"),
        (("profile", "--device", DEVICE, "--space", "mobilenet(size=3)"), "has no parameter 'size'"),
        (("profile", "--device", "recorded", "--space", SPACE), "name of a table"),
        ((*PROFILE, "--context", "vacuum"), "vacuum"),
        ((*SEARCH, "--constraint", "latencee <= 2ms"), "did you mean 'latency'"),
        ((*SEARCH, "--constraint", "latency@cpu-onnxruntime.t2 <= 2ms"), "there is no latency table"),
        ((*SEARCH, "--constraint", "flops <= 100M", "--strategy", "evolutoin"), "did you mean 'evolution'"),
        (SEARCH, "--constraint is missing"),
        (("search", "--space", SPACE), "--data is missing"),
        (("search", "--data", "digits"), "--space is missing"),
        (("search", "--resume", "absent", "--seed", "1"), "--seed cannot be changed"),
        (("search", "--resume", "absent", "--data-root", "x"), "--data-root cannot be changed"),
        (("report", "damaged"), "line 1 of damaged/trials.jsonl is damaged"),
    ],
)
def test_a_mistake_gets_one_sentence(hwnas: Hwnas, tmp_path: Path, words: tuple[str, ...], says: str) -> None:
    Run.create(tmp_path / "damaged", {}).close()
    (tmp_path / "damaged" / "trials.jsonl").write_text("nonsense\n")
    result = hwnas(*words)
    assert (result.code, result.out) == (2, "")
    assert says in result.err
    assert result.err.startswith("hwnas: ")
    assert result.err.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [("serch",), ("search", "--sede", "3"), ("search", "--seed", "three"), ("predict", "model.onnx"), ("profile",)],
)
def test_a_wrong_word_gets_the_usage(hwnas: Hwnas, words: tuple[str, ...]) -> None:
    result = hwnas(*words)
    assert (result.code, result.out) == (2, "")
    assert "Error: " in result.err
    assert "Traceback" not in result.err


def test_percentages_and_durations() -> None:
    assert [fraction(text, "-") for text in ("2%", "0.02", " 50 % ")] == pytest.approx([0.02, 0.02, 0.5])
    assert [duration(text, "-") for text in ("90", "90s", "1.5m", "20 min", "2h")] == [90, 90, 90, 1200, 7200]
    for text in ("", "2", "-1%", "0%", "100%", "two"):
        with pytest.raises(ConfigError):
            fraction(text, "-")
    for text in ("", "0s", "-1m", "3 weeks", "m"):
        with pytest.raises(ConfigError):
            duration(text, "-")
