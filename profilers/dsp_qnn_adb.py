"""``dsp-qnn-adb``: the Hexagon processor of a phone that is connected by ``adb``, with Qualcomm's SDK (QAIRT).

Never run on a phone: what is tested is the command lines, and the reading of output in the published form.

Device keys: ``dsp-qnn-adb:57`` or ``dsp-qnn-adb:galaxy-s24``; the phone's own chip must be that one. ``QNN_SDK_ROOT``
names the SDK, ``ANDROID_SERIAL`` the phone if several are connected. Models are int8 in QDQ form; Qualcomm's compiler
makes the chip's binary here, ``qnn-net-run`` runs it there, and ``qnn-profile-viewer`` reads here what it wrote.

A latency is the accelerator's own time (``Accelerator (execute) time``), without the call from the phone's CPU: there
is no overhead to subtract.
"""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import tempfile
import weakref
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import count
from pathlib import Path

import numpy as np

from hwnas.latency_tables import DeviceRecord
from hwnas.profilers.adb import Phone, connected_phone
from hwnas.profilers.base import FLOOR_MS, Model, as_bytes
from hwnas.profilers.dsp_qnn import OfChip, layer_shares
from hwnas.profilers.model_io import check_quantised, random_input
from hwnas.profilers.protocol import Protocol
from hwnas.profilers.qnn_chips import CHIPS, PARTS, Chip
from hwnas.profilers.qnn_compile import write_context
from hwnas.profilers.qnn_profile import TIME, Profile, read_profile
from hwnas.profilers.self_timed import SelfTimedProfiler
from hwnas.spaces.errors import ConfigError, DeviceUnavailable, ModelError

__all__ = ["SDK", "DspQnnAdb"]

#: The environment variable of Qualcomm's SDK, as its own set-up script sets it.
SDK = "QNN_SDK_ROOT"
#: Inferences of a pass, after so many that warm up, and those of which each layer's cycles are counted.
INFERENCES, WARM_UP, COUNTED = 100, 10, 20
#: Seconds that one run may take on the phone.
RUN_S = 300
_FOLDER = "/data/local/tmp"
_VIEWER = "bin/x86_64-linux-clang/qnn-profile-viewer"
_VIEWER_LIBRARIES = "lib/x86_64-linux-clang"
_RUNNER = "bin/aarch64-android/qnn-net-run"
_LIBRARIES = ("lib/aarch64-android/libQnnHtp.so", "lib/aarch64-android/libQnnSystem.so")
#: of the chip's Hexagon version: what talks to the accelerator on the phone's CPU, and what runs on it
_OF_VERSION = ("lib/aarch64-android/libQnnHtpV{0}Stub.so", "lib/hexagon-v{0}/unsigned/libQnnHtpV{0}Skel.so")
_VERSION = re.compile(r"\bv(\d+\.\d+\.\d+(?:\.\d+)*)")


class DspQnnAdb(OfChip, SelfTimedProfiler):
    """Measures on a connected phone; see `OfChip` for the parameters. Not run on one yet.

    Raises
    ------
    ConfigError
        If there is no such chip, or its Hexagon version is not known.
    """

    name = "dsp-qnn-adb"
    summary = "the Hexagon processor of a phone over adb, as in dsp-qnn-adb:galaxy-s24, measured; never run on a phone"

    def __init__(self, chip: str, *, precision: str | None = None, limit_s: float = 120.0) -> None:
        super().__init__(chip, precision=precision, limit_s=limit_s)
        if not self.chip.hexagon:
            raise ConfigError(
                f"the Hexagon version of {self.chip.name} is not known, so its libraries cannot be chosen; take one "
                f"of the chips {', '.join(map(str, CHIPS))}"
            )

    @classmethod
    def unavailable(cls) -> str | None:
        if reason := super().unavailable():
            return reason
        try:
            _sdk_file(_RUNNER)
            _sdk_file(_VIEWER)
            connected_phone()
        except DeviceUnavailable as error:
            return str(error)
        return None

    @cached_property
    def _runtime(self) -> _Runtime:
        return _Runtime(_phone_with(self.chip), self.chip)

    def device_record(self, protocol: Protocol | None = None) -> DeviceRecord:
        """The phone's model, chip and Android; not its serial number, nor the machine that it is connected to."""
        phone, protocol = self._runtime.phone, protocol or Protocol()
        maker, model = phone.fact("ro.product.manufacturer"), phone.fact("ro.product.model")
        return DeviceRecord(
            key=self.key,
            name=f"{maker} {model}, {self.chip}".strip(),
            device_class=self.device_class,
            runtime="qairt",
            runtime_version=self._runtime.version,
            precision=self.precision,
            threads=self.threads,
            batch=self.batch,
            method=self.method,
            host={
                "cpu": phone.fact("ro.soc.model"),
                "model": model,
                "machine": phone.fact("ro.product.cpu.abi"),
                "os": f"Android {phone.fact('ro.build.version.release')}",
            },
            protocol={
                "inferences": INFERENCES,
                "warm_up": WARM_UP,
                "passes": protocol.passes,
                "max_passes": protocol.max_passes,
                "percentile": protocol.percentile,
                "time": TIME,
                "perf_profile": "burst",
            },
        )

    def open(self, model: Model) -> Callable[[], Sequence[float]]:
        """Compile the model for the phone's chip and copy it there; see `SelfTimedProfiler.open`.

        Raises
        ------
        ModelError
            If it is not quantised, Qualcomm's compiler does not make one program of it, or the phone refuses that.
        DeviceUnavailable
            If the phone is gone, or has another chip.
        """
        loaded = self._load(as_bytes(model))

        def one_pass() -> Sequence[float]:
            times = loaded.run("basic", WARM_UP + INFERENCES).execute_us
            if len(times) != WARM_UP + INFERENCES:
                raise ModelError(
                    f"the phone's profile has {len(times)} times of {TIME!r} for {WARM_UP + INFERENCES} inferences; "
                    f"look at what {_VIEWER} says"
                )
            return [max(FLOOR_MS, us / 1e3) for us in times[WARM_UP:]]

        return one_pass

    def _load(self, data: bytes) -> _Loaded:
        check_quantised(data, self.key)
        with tempfile.TemporaryDirectory(prefix="hwnas-") as folder:
            wrapper, binary = write_context(data, self.chip.soc_model, Path(folder) / "net.onnx", limit_s=self.limit_s)
            return _Loaded(self._runtime, wrapper, binary)

    def kernel_shares(
        self, model: Model, nodes: Collection[str] | None = None, protocol: Protocol | None = None
    ) -> dict[str, float] | None:
        """Divide the time of one inference among the kernels by the chip's own cycle counters.

        Raises
        ------
        ModelError
            As `open`, and if the counters cannot be traced back.
        """
        data = as_bytes(model)
        cycles = self._load(data).run("detailed", COUNTED).cycles
        if not cycles:
            raise ModelError("the phone's profile counts no layer's cycles; it may come from another SDK")
        return layer_shares(data, {name: float(np.median(runs)) for name, runs in cycles.items()}, nodes)


class _Runtime:
    """Qualcomm's runtime in a folder of the phone, which goes when this object does, and when this process ends."""

    def __init__(self, phone: Phone, chip: Chip) -> None:
        self.phone = phone
        self.folder = f"{_FOLDER}/hwnas-{secrets.token_hex(4)}"
        self.numbers = count()
        files = [_sdk_file(name.format(chip.hexagon)) for name in (_RUNNER, *_LIBRARIES, *_OF_VERSION)]
        self._gone = weakref.finalize(self, _remove, phone, self.folder)
        phone.push(files, self.folder)
        phone.shell(f"chmod 755 {self.folder}/qnn-net-run")
        self.version = self._version()

    def run(self, arguments: str, folder: str, limit_s: int) -> subprocess.CompletedProcess[str]:
        """Run ``qnn-net-run`` in a folder of the phone; it is stopped there when it takes too long."""
        paths = f"LD_LIBRARY_PATH={self.folder} ADSP_LIBRARY_PATH={self.folder}"
        command = f"cd {folder} && rm -rf out && {paths} timeout {limit_s} {self.folder}/qnn-net-run {arguments}"
        return self.phone.shell(command, limit_s + 30)

    def _version(self) -> str:
        done = self.run("--version", self.folder, 20)
        if found := _VERSION.search(done.stdout + done.stderr):
            return found[1]
        raise DeviceUnavailable(
            f"qnn-net-run does not run on the phone {self.phone.serial}: it ended with {done.returncode} and said "
            f"{_line(done.stdout + done.stderr)!r}"
        )


class _Loaded:
    """One model in a folder of its own on the phone, with input for it."""

    def __init__(self, runtime: _Runtime, wrapper: Path, binary: Path) -> None:
        self._runtime = runtime
        self._folder = f"{runtime.folder}/model-{next(runtime.numbers)}"
        self._gone = weakref.finalize(self, _remove, runtime.phone, self._folder)
        inputs = _write_inputs(wrapper)
        listed = wrapper.with_name("inputs.txt")
        listed.write_text(" ".join(path.name for path in inputs) + "\n", encoding="ascii")
        self._binary, self._list = binary.name, listed.name
        runtime.phone.push([binary, listed, *inputs], self._folder)

    def run(self, level: str, inferences: int) -> Profile:
        """Run so many inferences, and read what the accelerator counted at a profiling level."""
        done = self._runtime.run(
            f"--backend libQnnHtp.so --retrieve_context {self._binary} --input_list {self._list} --output_dir out "
            f"--use_native_input_files --use_native_output_files --num_inferences {inferences} --keep_num_outputs 1 "
            f"--profiling_level {level} --perf_profile burst --log_level error",
            self._folder,
            RUN_S,
        )
        if done.returncode == 124:
            raise ModelError(f"the phone did not finish {inferences} inferences within {RUN_S} s")
        if done.returncode:
            raise ModelError(
                f"qnn-net-run refuses the model on the phone ({_line(done.stderr or done.stdout)}); the SDK there is "
                f"{self._runtime.version}, and must not be older than the compiler in onnxruntime-qnn"
            )
        with tempfile.TemporaryDirectory(prefix="hwnas-") as folder:
            log, table = Path(folder) / "profile.log", Path(folder) / "profile.csv"
            self._runtime.phone.pull(f"{self._folder}/out/qnn-profiling-data_0.log", log)
            _view(log, table)
            return read_profile(table)


def _remove(phone: Phone, folder: str) -> None:
    with suppress(DeviceUnavailable):  # unplugged: what is left lies in a folder for temporary files
        phone.shell(f"rm -rf {folder}")


def _view(log: Path, table: Path) -> None:
    """Let the SDK turn a profile into CSV."""
    viewer = _sdk_file(_VIEWER)
    libraries = os.pathsep.join(filter(None, [str(_sdk() / _VIEWER_LIBRARIES), os.environ.get("LD_LIBRARY_PATH")]))
    try:
        done = subprocess.run(
            [str(viewer), "--input_log", str(log), "--output", str(table)],
            env={**os.environ, "LD_LIBRARY_PATH": libraries},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=120,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ModelError(f"{viewer.name} of the SDK cannot be run: {error}") from error
    if done.returncode or not table.is_file():
        raise ModelError(f"{viewer.name} cannot read the phone's profile: {_line(done.stderr or done.stdout)}")


def _write_inputs(wrapper: Path) -> list[Path]:
    """Write a file of raw numbers for each input of the binary, in the order in which the wrapper names them."""
    import onnx

    graph = onnx.load(wrapper).graph
    values = {value.name: value.type.tensor_type for value in (*graph.value_info, *graph.input)}
    (node,) = (node for node in graph.node if node.op_type == "EPContext")
    rng, files = np.random.default_rng(0), []
    for number, name in enumerate(node.input):
        kind = values.get(name)
        sizes = [dim.dim_value for dim in kind.shape.dim] if kind is not None else [0]
        if kind is None or not all(size > 0 for size in sizes):
            raise ModelError(f"the size of the input {name!r} is not known; give the model fixed sizes")
        files.append(wrapper.with_name(f"input_{number}.raw"))
        files[-1].write_bytes(random_input(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type), sizes, rng).tobytes())
    return files


def _phone_with(chip: Chip) -> Phone:
    """The connected phone; a binary is of one chip, and phones refuse those of others with a number."""
    phone = connected_phone()
    part = phone.fact("ro.soc.model")
    known = PARTS.get(part.partition("-")[0].upper())
    if known is not None and known != chip.soc_model:
        raise DeviceUnavailable(
            f"the phone {phone.serial} has the chip {CHIPS[known]}, not {chip}; name it dsp-qnn-adb:{known}"
        )
    return phone


def _sdk() -> Path:
    text = os.environ.get(SDK)
    if not text:
        raise DeviceUnavailable(
            f"{SDK} is not set; set it to the folder of Qualcomm's AI Runtime SDK (QAIRT), which Qualcomm's site has"
        )
    return Path(text)


def _sdk_file(name: str) -> Path:
    path = _sdk() / name
    if not path.is_file():
        raise DeviceUnavailable(f"{SDK} is {_sdk()}, but there is no {name}; set it to the folder of a QAIRT SDK")
    return path


def _line(text: str) -> str:
    """The last line of what a program said."""
    lines = text.strip().splitlines()
    return lines[-1].strip()[:300] if lines else "it said nothing"
