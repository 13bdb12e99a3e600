"""The facts about the machine that runs this.

It knows nothing of the rest of hwnas and keeps to Python 3.8: it also runs on boards, see `hwnas.profilers.ssh_agent`.
"""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

__all__ = ["host_facts"]

#: Instruction sets that decide which kernels a CPU runtime picks.
_FLAGS = (
    "sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512_vnni",
    "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8",
    "neon", "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2",
)  # fmt: skip


@lru_cache(maxsize=1)
def _host_facts() -> tuple[tuple[str, Any], ...]:
    facts: dict[str, Any] = {
        "cpu": platform.processor() or platform.machine(),
        "machine": platform.machine(),
        "cores": os.cpu_count() or 1,
        "flags": [],
        "os": platform.system(),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return tuple(facts.items())
    first: dict[str, str] = {}
    for line in text.splitlines():
        name, separator, value = line.partition(":")
        if separator:
            first.setdefault(name.strip(), value.strip())
    facts["cpu"] = first.get("model name") or first.get("Model") or first.get("CPU part") or facts["cpu"]
    # hypervisors shorten the model name; family and model number still tell generations apart
    family, model = first.get("cpu family"), first.get("model") or first.get("CPU part")
    facts.update((key, value) for key, value in (("family", family), ("model", model)) if value)
    flags = set((first.get("flags") or first.get("Features") or "").split())
    facts["flags"] = [flag for flag in _FLAGS if flag in flags]
    clock = Path("/sys/devices/system/cpu/cpu0/cpufreq")
    for fact, name in (("governor", "scaling_governor"), ("max_khz", "cpuinfo_max_freq")):
        with suppress(OSError):  # virtual machines have no clock to read
            facts[fact] = (clock / name).read_text(encoding="ascii", errors="replace").strip()
    return tuple(facts.items())


def host_facts() -> dict[str, Any]:
    """CPU model, cores, instruction sets, clock governor, operating system, kernel and Python of this machine.

    Nothing that names the machine or its user is collected: tables are made to be shared.
    """
    return dict(_host_facts())
