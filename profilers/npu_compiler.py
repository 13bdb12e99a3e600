"""Intel's NPU compiler, run offline in a process of its own: a model in, the schedule that it plans out.

Two things can give the compiler: the installed OpenVINO if it carries it (its wheels for Windows do, those for Linux
do not), else the folder that ``npu_compiler_setup.sh`` fills, with the Windows wheel under Wine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from hwnas.profilers.npu_compile import NO_COMPILER, REFUSED
from hwnas.profilers.npu_trace import Schedule, read_trace
from hwnas.spaces.errors import DeviceUnavailable, ModelError

__all__ = ["FOLDER", "SETUP", "NpuCompiler", "compiler_missing", "find_compiler", "own_library"]

#: environment variable: the folder that the set-up script filled
FOLDER = "HWNAS_NPU_COMPILER"
SETUP = Path(__file__).parent / "npu_compiler_setup.sh"
#: seconds that one network may take; seen were up to 12 on a busy core
LIMIT_S = 300.0

_TRACE = "compileTimeScheduleTrace.json"
#: what the Linux and the Windows library are called that OpenVINO's plug-in loads the compiler by
_LIBRARIES = ("libopenvino_intel_npu_compiler_loader.so", "openvino_intel_npu_compiler_loader.dll")
_MAX_READY_BYTES = 64 * 1024
_ATTEMPTS = 2


@dataclass(frozen=True)
class NpuCompiler:
    """The compiler that is here.

    Attributes
    ----------
    version
        Version of the OpenVINO that it belongs to.
    command
        The program that takes a model's file and a platform.
    environment
        Variables that it needs.
    """

    version: str
    command: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)

    def schedule(self, model: bytes, platform: str, limit_s: float = LIMIT_S) -> Schedule:
        """Compile an ONNX model for a platform, such as ``NPU4000``.

        A compiler that crashes or hangs is tried twice: Wine does so now and then.

        Parameters
        ----------
        model
            The serialised model, with fixed shapes.
        platform
            What the compiler calls the NPU.
        limit_s
            Seconds until it is stopped.

        Raises
        ------
        ModelError
            If the compiler refuses the model, crashes, takes longer, or writes no trace that can be read.
        DeviceUnavailable
            If the compiler cannot be started.
        """
        failure = ""
        for _ in range(_ATTEMPTS):
            with tempfile.TemporaryDirectory(prefix="hwnas-npu-", ignore_cleanup_errors=True) as name:
                folder = Path(name)
                (folder / "model.onnx").write_bytes(model)
                code = self._run(folder, platform, limit_s)
                if code == 0 and (folder / _TRACE).is_file():
                    return read_trace((folder / _TRACE).read_bytes())
                reason = _reason(folder / "log")
            if code == NO_COMPILER:
                raise DeviceUnavailable(f"Intel's NPU compiler cannot be started: {reason}")
            if code == REFUSED:
                raise ModelError(f"Intel's NPU compiler refuses the model for {platform}: {reason}")
            failure = {
                None: f"did not end within {limit_s:g} s",
                0: "wrote no schedule trace; OpenVINO 2026.4.1 does",
            }.get(code, f"crashed with code {code} ({reason})")
        raise ModelError(f"Intel's NPU compiler for {platform} {failure}, {_ATTEMPTS} times")

    def _run(self, folder: Path, platform: str, limit_s: float) -> int | None:
        """The code that the program ends with, None if it had to be stopped; what it prints goes to ``log``."""
        # to a file: Wine's server inherits the output and would keep a pipe open
        with open(folder / "log", "wb") as log:
            try:
                process = subprocess.Popen(
                    [*self.command, "model.onnx", platform],
                    cwd=folder,
                    env={**os.environ, **self.environment},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                raise DeviceUnavailable(f"cannot start {self.command[0]}: {error.strerror}; set it up again") from error
            try:
                return process.wait(limit_s)
            except subprocess.TimeoutExpired:
                return None
            finally:
                process.kill()
                process.wait()


def find_compiler() -> NpuCompiler:
    """The compiler that can be used here: OpenVINO's own before the one under Wine.

    Raises
    ------
    DeviceUnavailable
        If there is none; the text says how to get it.
    """
    if own_library() is not None:
        return NpuCompiler(version("openvino"), (sys.executable, "-m", "hwnas.profilers.npu_compile"))
    folder = Path(os.environ.get(FOLDER) or Path.home() / ".cache" / "hwnas" / "npu-compiler")
    ready = folder / "ready.json"
    program = folder / "openvino" / "libs" / "npu_compile.exe"
    if not ready.is_file():
        raise DeviceUnavailable(_how_to_get_it(folder))
    try:
        if ready.stat().st_size > _MAX_READY_BYTES:
            raise ValueError("it is too large")
        content = json.loads(ready.read_bytes())
        found, wine = content["openvino"], content["wine"]
        if not isinstance(found, str) or not isinstance(wine, str):
            raise TypeError("it names no version and no Wine")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DeviceUnavailable(f"{ready} is damaged ({error}); delete it, and set the compiler up again") from error
    for file in (Path(wine), program):
        if not file.is_file():
            raise DeviceUnavailable(f"the NPU compiler in {folder} lacks {file}; {_how_to_get_it(folder)}")
    environment = {
        "WINEPREFIX": str(folder / "wine"),
        "WINEDEBUG": "-all",
        "WINEDLLOVERRIDES": "mscoree,mshtml=;winemenubuilder.exe=",
        "DISPLAY": "",
    }
    return NpuCompiler(found, (wine, str(program)), environment)


def compiler_missing() -> str | None:
    """None if `find_compiler` finds one, else what to do."""
    try:
        find_compiler()
    except DeviceUnavailable as error:
        return str(error)
    return None


def own_library() -> Path | None:
    """The compiler's library in the installed OpenVINO, found without loading that."""
    try:
        version("openvino")
    except PackageNotFoundError:
        return None
    spec = find_spec("openvino")
    places = [Path(place) / "libs" for place in (spec.submodule_search_locations or () if spec else ())]
    found = (place / name for place in places for name in _LIBRARIES)
    return next((library for library in found if library.is_file()), None)


def _how_to_get_it(folder: Path) -> str:
    if sys.platform == "win32":
        return "the installed OpenVINO has no NPU compiler; get one that has: pip install openvino==2026.4.1"
    if not sys.platform.startswith("linux") or os.uname().machine != "x86_64":
        return "Intel's NPU compiler runs on x86-64 Windows, or on x86-64 Linux under Wine"
    chosen = "" if os.environ.get(FOLDER) is None else f" '{folder}'"
    return f"there is no NPU compiler in {folder}; put it there (1 GB) with: bash '{SETUP}'{chosen}"


def _reason(log: Path) -> str:
    """What the program said last that is a reason, not a place in OpenVINO's sources."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    said = [line for line in lines if line and not line.startswith(("compiler ", "Exception from", "wine:"))]
    return said[-1][:300] if said else "it says nothing"
