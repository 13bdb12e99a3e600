"""Sessions of onnxruntime on Qualcomm's provider, a plug-in that comes as the package ``onnxruntime-qnn``."""

from __future__ import annotations

import os
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.spaces.errors import DeviceUnavailable

__all__ = ["KINDS", "PACKAGE", "PROVIDER", "missing_package", "qnn_options", "session_on_qnn"]

PACKAGE = "onnxruntime-qnn"
PROVIDER = "QNNExecutionProvider"
#: the plug-in needs this version of onnxruntime
_LEAST = (1, 24, 2)
#: numpy's kinds of the tensors that a quantised image model takes
KINDS = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8, "tensor(int8)": np.int8}


def missing_package() -> str | None:
    """None if the plug-in is installed, and onnxruntime takes it; else one sentence saying what to install."""
    try:
        version(PACKAGE)
    except PackageNotFoundError:
        return (
            "Qualcomm's provider is not installed; install it with: pip install 'hwnas[dsp]' (its binaries come "
            "under Qualcomm's own terms)"
        )
    try:
        found = version("onnxruntime")
    except PackageNotFoundError:
        return "the plug-in onnxruntime-qnn needs plain onnxruntime; install it with: pip install onnxruntime"
    if tuple(int(part) for part in found.split(".")[:3] if part.isdigit()) < _LEAST:
        least = ".".join(map(str, _LEAST))
        return f"the plug-in onnxruntime-qnn needs onnxruntime {least} or newer, not {found}; update onnxruntime"
    return None


def qnn_options(soc_model: int | None, **extra: str) -> dict[str, str]:
    """Options of the provider: which library, for which chip, at full speed.

    Parameters
    ----------
    soc_model
        Qualcomm's id of the chip to compile for; None takes the chip of this machine.
    extra
        Further options of the provider.
    """
    import onnxruntime_qnn

    options = {
        "backend_path": onnxruntime_qnn.get_qnn_htp_path(),
        "htp_performance_mode": "burst",
        "htp_graph_finalization_optimization_mode": "3",
        **extra,
    }
    return options if soc_model is None else {**options, "soc_model": str(soc_model)}


@lru_cache(maxsize=1)
def _devices() -> list[Any]:
    """What the plug-in finds; registered once a process, or onnxruntime refuses."""
    import onnxruntime
    import onnxruntime_qnn

    onnxruntime.register_execution_provider_library(PROVIDER, onnxruntime_qnn.get_library_path())
    return [device for device in onnxruntime.get_ep_devices() if device.ep_name == PROVIDER]


def session_on_qnn(model: bytes | str | os.PathLike[str], options: Any, provider_options: dict[str, str]) -> Any:
    """A session of onnxruntime whose nodes run on Qualcomm's provider where it takes them.

    Parameters
    ----------
    model
        The serialised model or its file.
    options
        ``onnxruntime.SessionOptions``; the provider is added to it.
    provider_options
        See `qnn_options`.

    Raises
    ------
    DeviceUnavailable
        If the plug-in is missing, or finds no device.
    """
    if reason := missing_package():
        raise DeviceUnavailable(reason)
    import onnxruntime

    found = _devices()
    if not found:
        raise DeviceUnavailable("onnxruntime-qnn finds no Hexagon processor and no emulator here; reinstall it")
    options.add_provider_for_devices(found[:1], provider_options)
    return onnxruntime.InferenceSession(model if isinstance(model, bytes) else str(Path(model)), options)
