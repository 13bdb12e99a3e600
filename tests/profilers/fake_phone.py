"""A phone that is not there: programs called ``adb``, ``qnn-net-run`` and ``qnn-profile-viewer`` that replay.

The phone's shell is this machine's, with the phone's folder for temporary files moved into a test's folder: command
lines really run, and the replaying ``qnn-net-run`` refuses those that lack a file, a library or an option.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

DATA = Path(__file__).parent / "data"
FACTS = {
    "ro.product.manufacturer": "samsung",
    "ro.product.model": "SM-S921B",
    "ro.soc.model": "SM8650",
    "ro.product.cpu.abi": "arm64-v8a",
    "ro.build.version.release": "14",
}
_SDK_FILES = (
    "lib/aarch64-android/libQnnHtp.so",
    "lib/aarch64-android/libQnnSystem.so",
    "lib/aarch64-android/libQnnHtpV75Stub.so",
    "lib/hexagon-v75/unsigned/libQnnHtpV75Skel.so",
)

ADB = """
import json, pathlib, re, shutil, subprocess, sys
home = pathlib.Path(__file__).parent
state = json.loads((home / "phone.json").read_text())
arguments = sys.argv[1:]
with (home / "adb.log").open("a") as log:
    log.write(json.dumps(arguments) + "\\n")
if arguments == ["devices"]:
    print("* daemon started successfully")
    print("List of devices attached")
    for serial, found in state["devices"].items():
        print(f"{serial}\\t{found}")
    print()
    sys.exit()
serial, verb, *rest = arguments[1:]
if arguments[0] != "-s" or state["devices"].get(serial) != "device" or state.get("unplugged"):
    sys.exit(f"adb: device '{serial}' not found")
there = lambda text: text.replace("/data/local/tmp", str(home / "tmp"))
if verb == "push":
    *files, folder = rest
    if state.get("full"):
        sys.exit("adb: error: failed to copy: remote couldn't create file: No space left on device")
    for file in files:
        shutil.copyfile(file, pathlib.Path(there(folder)) / pathlib.Path(file).name)
    print(f"{len(files)} files pushed")
elif verb == "pull":
    source, target = rest
    if not pathlib.Path(there(source)).is_file():
        sys.exit(f"adb: error: failed to stat remote object '{source}': No such file or directory")
    shutil.copyfile(there(source), target)
elif verb == "shell":
    (command,) = rest
    if match := re.fullmatch(r"getprop ([a-z.]+)", command):
        print(state["facts"].get(match[1], ""))
    else:
        sys.exit(subprocess.run(["sh", "-c", there(command)]).returncode)
else:
    sys.exit(f"adb: unknown command {verb}")
"""

RUN = """
import argparse, json, os, pathlib, sys, time
if sys.argv[1:] == ["--version"]:
    print("QNN SDK v2.51.0.260929181845")
    sys.exit()
parser = argparse.ArgumentParser(allow_abbrev=False)
for name in ("backend", "retrieve_context", "input_list", "output_dir", "log_level"):
    parser.add_argument("--" + name, required=True)
parser.add_argument("--num_inferences", type=int, required=True)
parser.add_argument("--keep_num_outputs", type=int, required=True)
parser.add_argument("--profiling_level", choices=["basic", "detailed"], required=True)
parser.add_argument("--perf_profile", choices=["burst"], required=True)
parser.add_argument("--use_native_input_files", action="store_true")
parser.add_argument("--use_native_output_files", action="store_true")
given = parser.parse_args()
libraries = pathlib.Path(os.environ["LD_LIBRARY_PATH"])
skeletons = pathlib.Path(os.environ["ADSP_LIBRARY_PATH"])
for file in (libraries / given.backend, libraries / "libQnnSystem.so", libraries / "libQnnHtpV75Stub.so",
             skeletons / "libQnnHtpV75Skel.so"):
    assert file.is_file(), file
assert pathlib.Path(given.retrieve_context).stat().st_size > 10000
assert given.use_native_input_files and given.use_native_output_files
for name in pathlib.Path(given.input_list).read_text().split():
    print(name, pathlib.Path(name).stat().st_size)
out = pathlib.Path(given.output_dir)
assert not out.exists(), "left from the run before"
refusal = pathlib.Path(os.environ["FAKE_PHONE"], "refusal")
if refusal.is_file():
    sys.exit(refusal.read_text())
if pathlib.Path(os.environ["FAKE_PHONE"], "hangs").is_file():
    time.sleep(60)
(out / "Result_0").mkdir(parents=True)
log = {"level": given.profiling_level, "inferences": given.num_inferences}
(out / "qnn-profiling-data_0.log").write_text(json.dumps(log))
"""

VIEWER = """
import argparse, json, os, pathlib, sys
parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("--input_log", required=True)
parser.add_argument("--output", required=True)
given = parser.parse_args()
assert os.environ["LD_LIBRARY_PATH"].split(":")[0].endswith("lib/x86_64-linux-clang")
log = json.loads(pathlib.Path(given.input_log).read_text())
recorded = pathlib.Path(os.environ["FAKE_DATA"], f"qnn_phone_{log['level']}.csv").read_text().splitlines()
last = "3000," if log["level"] == "basic" else "2000,"
group = [line for line in recorded if line.startswith(last)]
first = next(place for place, line in enumerate(recorded) if ",EXECUTE," in line)
lines = recorded[:first] + group * (log["inferences"] - int(os.environ.get("FAKE_LOST", "0"))) + recorded[-1:]
pathlib.Path(given.output).write_text("\\n".join(lines) + "\\n")
"""


class FakePhone:
    """The folder of the three programs, and what the phone is."""

    def __init__(self, home: Path, sdk: Path) -> None:
        self.home, self.sdk = home, sdk
        self.state: dict[str, Any] = {"devices": {"R5CX1": "device"}, "facts": dict(FACTS)}
        (home / "tmp").mkdir(parents=True)
        self.write()
        _program(home / "adb", ADB)
        _program(sdk / "bin/aarch64-android/qnn-net-run", RUN)
        _program(sdk / "bin/x86_64-linux-clang/qnn-profile-viewer", VIEWER)
        for name in _SDK_FILES:
            (sdk / name).parent.mkdir(parents=True, exist_ok=True)
            (sdk / name).write_text(name, encoding="ascii")

    def write(self, **changes: Any) -> None:
        """Make the phone another."""
        self.state |= changes
        (self.home / "phone.json").write_text(json.dumps(self.state), encoding="utf-8")

    def devices(self, states: Mapping[str, str]) -> None:
        """Which phones are connected, and their states."""
        self.write(devices=dict(states))

    def commands(self) -> list[list[str]]:
        """What adb was called with, one list a call."""
        return [json.loads(line) for line in (self.home / "adb.log").read_text(encoding="utf-8").splitlines()]

    def left(self) -> list[str]:
        """What lies in the phone's folder for temporary files."""
        return sorted(path.name for path in (self.home / "tmp").iterdir())


def _program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{sys.executable} -IS\n{text}", encoding="utf-8")
    path.chmod(0o755)


def plug_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> FakePhone:
    """Connect a Galaxy S24 that replays."""
    phone = FakePhone(folder / "phone", folder / "sdk")
    monkeypatch.setenv("PATH", f"{phone.home}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("QNN_SDK_ROOT", str(phone.sdk))
    monkeypatch.setenv("FAKE_PHONE", str(phone.home))
    monkeypatch.setenv("FAKE_DATA", str(DATA))
    monkeypatch.delenv("ANDROID_SERIAL", raising=False)
    return phone
