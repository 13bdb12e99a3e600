"""How Intel's NPU compiler is found and run; programs that hang, crash or refuse stand in for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hwnas.profilers.npu_compiler import FOLDER, SETUP, NpuCompiler, find_compiler, own_library
from hwnas.profilers.npu_trace import read_trace
from hwnas.spaces import DeviceUnavailable, ModelError

RECORDED = Path(__file__).parent / "data" / "npu4000-trace.json"
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the set-up script is for Linux")
no_own = pytest.mark.skipif(own_library() is not None, reason="the installed OpenVINO has the compiler")


def compiler(tmp_path: Path, code: str) -> NpuCompiler:
    """A program in place of the compiler; it counts its runs in a file."""
    program = tmp_path / "program.py"
    count = f"import sys\nopen({str(tmp_path / 'runs')!r}, 'a').write('x')\n"
    program.write_text(count + code, encoding="utf-8")
    return NpuCompiler("1", (sys.executable, str(program)), {"GREETING": "hello"})


def runs(tmp_path: Path) -> int:
    return len((tmp_path / "runs").read_text(encoding="utf-8"))


def test_a_model_goes_in_and_its_schedule_comes_out(tmp_path: Path) -> None:
    code = f"""
import os, shutil
assert open(sys.argv[1], "rb").read() == b"the model" and sys.argv[2] == "NPU4000", sys.argv
assert sorted(os.listdir()) == ["log", "model.onnx"] and os.environ["GREETING"] == "hello"
shutil.copy({str(RECORDED)!r}, "compileTimeScheduleTrace.json")
"""
    assert compiler(tmp_path, code).schedule(b"the model", "NPU4000") == read_trace(RECORDED.read_bytes())
    assert runs(tmp_path) == 1


@pytest.mark.parametrize(
    ("code", "message", "times"),
    [
        ("import time; time.sleep(60)", r"NPU4000 did not end within 0\.5 s, 2 times", 2),
        ("print('wine: page fault'); print('it broke'); sys.exit(5)", r"crashed with code 5 \(it broke\), 2 times", 2),
        ("", "wrote no schedule trace", 2),
        (
            "print('compiler 1\\nException from x.cpp:7\\nno such operator\\n'); sys.exit(4)",
            "refuses .*: no such op",
            1,
        ),
        ("sys.exit(4)", "refuses the model for NPU4000: it says nothing", 1),
        ("open('compileTimeScheduleTrace.json', 'w').write('{')", "schedule trace is damaged", 1),
    ],
)
def test_what_goes_wrong_is_said(tmp_path: Path, code: str, message: str, times: int) -> None:
    with pytest.raises(ModelError, match=message):
        compiler(tmp_path, code).schedule(b"", "NPU4000", limit_s=0.5 if "sleep" in code else 60)
    assert runs(tmp_path) == times


def test_a_compiler_that_does_not_start_is_no_fault_of_the_model(tmp_path: Path) -> None:
    with pytest.raises(DeviceUnavailable, match="cannot be started: no library"):
        compiler(tmp_path, "print('no library'); sys.exit(3)").schedule(b"", "NPU4000")
    with pytest.raises(DeviceUnavailable, match=r"cannot start .*nowhere: No such file"):
        NpuCompiler("1", (str(tmp_path / "nowhere"),)).schedule(b"", "NPU4000")


# ---------------------------------------------------------------------- finding it


@linux
@no_own
def test_without_one_the_set_up_script_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    with pytest.raises(DeviceUnavailable, match="there is no NPU compiler in") as caught:
        find_compiler()
    assert f"bash '{SETUP}' '{tmp_path}'" in str(caught.value)
    assert SETUP.is_file()
    monkeypatch.delenv(FOLDER)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(DeviceUnavailable, match=r"\.cache/hwnas/npu-compiler"):
        find_compiler()


def set_up(folder: Path) -> Path:
    """A folder as the set-up script leaves it, of empty files."""
    program = folder / "openvino" / "libs" / "npu_compile.exe"
    program.parent.mkdir(parents=True)
    program.touch()
    (folder / "wine64").touch()
    (folder / "ready.json").write_text(json.dumps({"openvino": "9.9", "wine": str(folder / "wine64")}))
    return program


@linux
@no_own
def test_one_that_was_set_up_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    program = set_up(tmp_path)
    found = find_compiler()
    assert (found.version, found.command) == ("9.9", (str(tmp_path / "wine64"), str(program)))
    assert found.environment["WINEPREFIX"] == str(tmp_path / "wine")
    program.unlink()
    with pytest.raises(DeviceUnavailable, match=r"lacks .*npu_compile\.exe"):
        find_compiler()
    for damaged in ("", "[]", '{"openvino": 7, "wine": ""}', "{" * 70_000):
        (tmp_path / "ready.json").write_text(damaged)
        with pytest.raises(DeviceUnavailable, match=r"ready\.json is damaged .* delete it"):
            find_compiler()


@linux
def test_an_openvino_that_has_the_compiler_goes_first(tmp_path: Path) -> None:
    package = tmp_path / "openvino"
    (package / "libs").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "libs" / "libopenvino_intel_npu_compiler_loader.so").touch()
    (tmp_path / "openvino-9.8.dist-info").mkdir()
    (tmp_path / "openvino-9.8.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: openvino\nVersion: 9.8\n"
    )
    code = (
        "from hwnas.profilers.npu_compiler import find_compiler; f = find_compiler(); print(f.version, *f.command[1:])"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["9.8", "-m", "hwnas.profilers.npu_compile"]


@no_own
def test_the_linux_wheel_of_openvino_has_no_compiler() -> None:
    pytest.importorskip("openvino")
    native = NpuCompiler("1", (sys.executable, "-m", "hwnas.profilers.npu_compile"))
    with pytest.raises(DeviceUnavailable, match=r"cannot be started: .*libopenvino_intel_npu_compiler_loader"):
        native.schedule(b"", "NPU4000")


# ---------------------------------------------------------------------- the set-up script


@linux
def test_the_set_up_script_says_what_it_lacks(tmp_path: Path) -> None:
    subprocess.run(["bash", "-n", str(SETUP)], check=True)
    without_pip = {**os.environ, "PYTHON": "/bin/false"}
    done = subprocess.run(
        ["bash", str(SETUP), str(tmp_path)], env=without_pip, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "/bin/false has no pip; set PYTHON" in done.stderr


@linux
def test_setting_up_again_changes_nothing() -> None:
    try:
        find_compiler()
    except DeviceUnavailable as error:
        pytest.skip(str(error))
    if own_library() is not None:
        pytest.skip("the installed OpenVINO has the compiler")
    done = subprocess.run(["bash", str(SETUP)], capture_output=True, text=True, check=True)
    assert "is ready in" in done.stdout
    assert "downloading" not in done.stdout
    assert "building" not in done.stdout
