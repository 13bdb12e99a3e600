"""Profilers: how the latency of an ONNX model on a device becomes a number, by one protocol for all devices."""

from __future__ import annotations

from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any

from hwnas.latency_tables.device import plain_key
from hwnas.profilers.protocol import Protocol
from hwnas.spaces.errors import ConfigError, HwnasError
from hwnas.spaces.registry import Registry

if TYPE_CHECKING:
    from hwnas.profilers.base import Measurement, Profiler, RuntimeProfiler
    from hwnas.profilers.campaign import Summary, missing_rows, profile_space

__all__ = [
    "Measurement",
    "Profiler",
    "ProfilerInfo",
    "Protocol",
    "RuntimeProfiler",
    "Summary",
    "get_profiler",
    "list_profilers",
    "missing_rows",
    "profile_space",
    "profilers",
    "try_profiler",
]

profilers = Registry(
    "device",
    "hwnas.profilers",
    {
        "cpu-onnxruntime": "hwnas.profilers.cpu_onnxruntime:CpuOnnxRuntime",
        "cpu-onnxruntime-ssh": "hwnas.profilers.cpu_onnxruntime_ssh:CpuOnnxRuntimeSsh",
        "cpu-openvino": "hwnas.profilers.cpu_openvino:CpuOpenVino",
        "cpu-tvm": "hwnas.profilers.cpu_tvm:CpuTvm",
        "cpu-tvm-rpc": "hwnas.profilers.cpu_tvm_rpc:CpuTvmRpc",
        "dsp-hexagon-sim": "hwnas.profilers.dsp_hexagon_sim:DspHexagonSim",
        "dsp-qnn": "hwnas.profilers.dsp_qnn:DspQnn",
        "dsp-qnn-adb": "hwnas.profilers.dsp_qnn_adb:DspQnnAdb",
        "dsp-qnn-hub": "hwnas.profilers.dsp_qnn_hub:DspQnnHub",
        "gpu-cuda": "hwnas.profilers.gpu_cuda:GpuCuda",
        "gpu-openvino": "hwnas.profilers.gpu_openvino:GpuOpenVino",
        "gpu-torch": "hwnas.profilers.gpu_torch:GpuTorch",
        "gpu-webgpu": "hwnas.profilers.gpu_webgpu:GpuWebGpu",
        "recorded": "hwnas.profilers.recorded:Recorded",
        "vpu-myriad": "hwnas.profilers.vpu_myriad:VpuMyriad",
        "vpu-npu3720": "hwnas.profilers.vpu_npu:VpuNpu3720",
        "vpu-npu4000": "hwnas.profilers.vpu_npu:VpuNpu4000",
        "vpu-npu5010": "hwnas.profilers.vpu_npu:VpuNpu5010",
        "vpu-openvino": "hwnas.profilers.vpu_openvino:VpuOpenVino",
        "vpu-vpunn": "hwnas.profilers.vpu_vpunn:VpuVpunn",
    },
)

_LAZY = {
    "Measurement": "hwnas.profilers.base",
    "Profiler": "hwnas.profilers.base",
    "RuntimeProfiler": "hwnas.profilers.base",
    "Summary": "hwnas.profilers.campaign",
    "missing_rows": "hwnas.profilers.campaign",
    "profile_space": "hwnas.profilers.campaign",
}


def __getattr__(name: str) -> Any:
    """Load the larger parts when they are first used, so that listing devices stays quick."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)


@dataclass(frozen=True)
class ProfilerInfo:
    """One registered profiler and whether it can be used here.

    Attributes
    ----------
    name
        Registered name.
    device_class
        ``cpu``, ``gpu``, ...; empty if the plug-in cannot be loaded.
    method
        How its numbers come to be; empty if the plug-in cannot be loaded.
    available
        Whether `get_profiler` will give one.
    state
        One sentence: what it measures, or what is missing.
    """

    name: str
    device_class: str
    method: str
    available: bool
    state: str


def get_profiler(key: str, *, tables: str | None = None, **options: Any) -> Profiler:
    """Make the profiler of a device key, such as ``cpu-onnxruntime.int8.t2`` or ``recorded.cpu-onnxruntime``.

    Parameters
    ----------
    key
        Registered name, then qualifiers separated by dots; ``dsp-qnn:57`` is the same as ``dsp-qnn.57``.
    tables
        Folder of tables, for a device that keeps something beside its own; others do not need it.
    options
        Passed to the profiler's constructor.

    Raises
    ------
    ConfigError
        If there is no such profiler or qualifier.
    DeviceUnavailable
        If something it needs is not here; the message says what to install or plug in.
    """
    from hwnas.spaces.errors import DeviceUnavailable

    name, _, rest = plain_key(key).partition(".")
    qualifiers = rest.split(".") if rest else []
    if not name or "" in qualifiers or plain_key(key).endswith("."):
        raise ConfigError(f"{key!r} is not a device; write a name such as cpu-onnxruntime or cpu-onnxruntime.int8")
    cls: type[Profiler] = profilers.get(name)
    for option in options:
        if option not in signature(cls).parameters:
            raise ConfigError(f"{name} has no option {option!r}; it takes {', '.join(signature(cls).parameters)}")
    if tables is not None and "tables" in signature(cls).parameters:
        options["tables"] = tables
    asked = signature(cls.unavailable).parameters  # some can be told where to look
    if reason := cls.unavailable(**{name: value for name, value in options.items() if name in asked}):
        raise DeviceUnavailable(f"{name} is not available here: {reason}")
    return cls.from_qualifiers(qualifiers, **options)


def list_profilers() -> list[ProfilerInfo]:
    """Every registered profiler with its state; a plug-in that cannot be loaded is listed with the reason."""
    found = []
    for name in profilers.names():
        try:
            cls: type[Profiler] = profilers.get(name)
            reason = cls.unavailable()
        except HwnasError as error:
            found.append(ProfilerInfo(name, "", "", False, str(error)))
        except Exception as error:  # whatever a plug-in raises must not hide the other devices
            state = f"the plug-in cannot be loaded ({type(error).__name__}: {error}); reinstall or remove it"
            found.append(ProfilerInfo(name, "", "", False, state))
        else:
            state = cls.summary if reason is None else reason
            found.append(ProfilerInfo(name, cls.device_class, cls.method, reason is None, state))
    return found


def try_profiler(key: str) -> ProfilerInfo:
    """The state of one device by its key: what it is if it can be used, else what it lacks.

    Raises
    ------
    ConfigError
        If there is no such profiler or qualifier.
    """
    from hwnas.spaces.errors import DeviceUnavailable

    try:
        profiler = get_profiler(key)
        record = profiler.device_record()
    except DeviceUnavailable as error:
        cls: type[Profiler] = profilers.get(plain_key(key).partition(".")[0])
        return ProfilerInfo(plain_key(key), cls.device_class, cls.method, False, str(error))
    threads = f", {record.threads} threads" if record.threads > 1 else ""
    state = f"ready: {record.name}, {record.runtime} {record.runtime_version}, {record.precision}{threads}"
    return ProfilerInfo(profiler.key, profiler.device_class, profiler.method, True, state)
