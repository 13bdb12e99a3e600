"""The device that trains, and the arithmetic that is fastest there."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from hwnas import ranks
from hwnas.spaces.errors import ConfigError

__all__ = ["autocast", "choose_precision", "cpu_has_bfloat16", "pick_device"]

#: bfloat16 must be so much faster than float32 to be chosen: it rounds, and timings are noisy
ADVANTAGE = 0.85
TRIES = 3


def pick_device(name: str) -> torch.device:
    """Turn ``auto``, ``cpu``, ``cuda`` or ``cuda:1`` into a device; each rank of a machine has its own GPU.

    Raises
    ------
    ConfigError
        If the name is unknown, or the device is not here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"there is no training device called {name!r}; choose auto, cpu or cuda") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("torch finds no CUDA GPU here; choose the device cpu or auto")
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"hwnas trains on cpu or cuda, not on {name!r}")
    if device == torch.device("cuda") and ranks.size() > 1:
        device = torch.device("cuda", ranks.local_rank() % torch.cuda.device_count())
        torch.cuda.set_device(device)  # NCCL sends from the current one
    return device


def cpu_has_bfloat16() -> bool:
    """Whether this CPU computes with bfloat16 (AVX512-BF16 or AMX)."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, check, bool)()) for check in checks)


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Context in which a network computes with `precision`."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, precision))


def choose_precision(precision: str, device: torch.device, module: nn.Module, loss_of: Callable[[], Tensor]) -> str:
    """Settle ``auto``; leave the module as it was.

    Parameters
    ----------
    precision
        ``auto``, ``float32``, ``bfloat16`` or ``float16``.
    device
        Where it trains.
    module
        The network, whose BatchNorm statistics and gradients are restored after trial steps.
    loss_of
        Computes the loss of one typical batch, under the autocast that is in force.

    Raises
    ------
    ConfigError
        If the device does not compute with that precision.
    """
    if precision == "float16" and device.type != "cuda":
        raise ConfigError("float16 trains on CUDA only; choose bfloat16 or float32 on a CPU")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    if not cpu_has_bfloat16():
        return "float32"
    # Depthwise backward passes can be much slower in bfloat16 than in float32, so instructions alone do not
    # settle it: try.
    buffers = [buffer.clone() for buffer in module.buffers()]
    best = {"float32": float("inf"), "bfloat16": float("inf")}
    with torch.random.fork_rng(devices=[]):
        for attempt in range(TRIES + 1):
            for name in best:
                start = time.perf_counter()
                with autocast(name, device):
                    loss = loss_of()
                loss.backward()  # type: ignore[no-untyped-call]
                if attempt:  # the first is a warm-up
                    best[name] = min(best[name], time.perf_counter() - start)
                module.zero_grad(set_to_none=True)
    with torch.no_grad():
        for buffer, saved in zip(module.buffers(), buffers, strict=True):
            buffer.copy_(saved)
    return "bfloat16" if best["bfloat16"] < ADVANTAGE * best["float32"] else "float32"
