"""Timing one model for one pass: fixed cores, warm-up, an inner loop, and which samples were disturbed.

This module and `hwnas.profilers.protocol` keep to Python 3.8: they also run on boards, see `hwnas.profilers.ssh_agent`.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Callable  # noqa: UP035 - the other one cannot be subscripted in Python 3.8

from hwnas.profilers.protocol import Pass, Protocol
from hwnas.spaces.errors import ConfigError

__all__ = ["Runner", "choose_cores", "pinned", "time_pass"]

#: One inference per call; returns when its result is complete. If it has a method ``device_ms``, that is asked instead
#: of the clock: it runs so many inferences and returns the milliseconds that the device itself counted for each.
Runner = Callable[[], object]


def _read_int(path: str, default: int) -> int:
    try:
        return int(Path(path).read_text(encoding="ascii").strip())
    except (OSError, ValueError):
        return default


def choose_cores(count: int) -> tuple[int, ...] | None:
    """The `count` fastest cores that this process may use, on distinct physical cores while they last.

    Hybrid CPUs have slow cores; and of equally fast ones the last are chosen, because interrupts
    tend to the first. None where the system cannot pin threads or has too few cores.
    """
    if not hasattr(os, "sched_getaffinity"):
        return None
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < count:
        return None
    folder = "/sys/devices/system/cpu/cpu{}/"
    speed = {core: _read_int(folder.format(core) + "cpufreq/cpuinfo_max_freq", 0) for core in cores}
    twin: dict[tuple[int, int], int] = {}
    ranked = []
    for core in sorted(cores, key=lambda core: (-speed[core], -core)):
        place = folder.format(core) + "topology/"
        physical = (_read_int(place + "physical_package_id", 0), _read_int(place + "core_id", core))
        twin[physical] = twin.get(physical, -1) + 1
        ranked.append((twin[physical], -speed[core], -core, core))
    return tuple(sorted(core for *_, core in sorted(ranked)[:count]))


@contextmanager
def pinned(cores: tuple[int, ...] | None) -> Iterator[None]:
    """Keep the calling thread (and threads it starts) on `cores`; restored afterwards. None does nothing.

    Raises
    ------
    ConfigError
        If this process may not use one of the cores.
    """
    if cores is None or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, cores)
    except OSError as error:
        raise ConfigError(
            f"cannot pin to core {', '.join(map(str, cores))}: this process may use {sorted(before)}"
        ) from error
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _switch_counter(threads: int) -> Callable[[], int]:
    """Involuntary context switches so far: of this thread, or of the whole process if several threads work."""
    try:
        import resource
    except ImportError:
        return lambda: 0
    who = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF) if threads == 1 else resource.RUSAGE_SELF
    usage = resource.getrusage
    return lambda: usage(who).ru_nivcsw


def _sees_off_cpu(threads: int) -> bool:
    """Whether this thread's CPU time tells if it was interrupted.

    With several threads the calling one waits for the others as a matter of course, so there only
    the context switches count; nor does a coarse clock (Windows) tell anything.
    """
    return threads == 1 and time.get_clock_info("thread_time").resolution < 1e-5 and sys.platform != "win32"


def time_pass(
    runner: Runner,
    protocol: Protocol,
    *,
    threads: int = 1,
    on_cpu: bool = True,
    anchor_ms: float | None = None,
) -> Pass:
    """Warm up, then sample.

    Parameters
    ----------
    runner
        One inference per call.
    protocol
        Durations and the rule for disturbed samples.
    threads
        Threads that the runtime uses for one inference.
    on_cpu
        Whether the calling thread computes. If it waits for an accelerator, its CPU time tells nothing.
    anchor_ms
        Level of the reference model, kept with the pass.
    """
    clock, cpu_clock = time.perf_counter, time.thread_time
    switches = _switch_counter(threads)
    watch = on_cpu and _sees_off_cpu(threads)
    device_ms: Callable[[int], float] | None = getattr(runner, "device_ms", None)
    calls, shortest, start = 0, float("inf"), clock()
    while calls < 2 or clock() - start < protocol.warmup_s:
        before = clock()
        runner()
        shortest = min(shortest, clock() - before)
        calls += 1
    inner = max(1, round(protocol.sample_s / max(shortest, 1e-9)))
    clean: list[float] = []
    dropped: list[float] = []
    collecting = gc.isenabled()
    gc.disable()
    try:
        start = clock()
        while True:
            elapsed, count = clock() - start, len(clean) + len(dropped)
            if (elapsed >= protocol.pass_s and count >= protocol.min_samples) or (
                elapsed >= protocol.max_pass_s and count >= 3
            ):
                break
            if device_ms is not None:
                clean.append(device_ms(inner))
                continue
            switches_before, cpu_before, begin = switches(), cpu_clock(), clock()
            for _ in range(inner):
                runner()
            end, cpu_after, switches_after = clock(), cpu_clock(), switches()
            wall = end - begin
            off_cpu = watch and wall - (cpu_after - cpu_before) > protocol.max_off_cpu * wall
            disturbed = on_cpu and switches_after > switches_before
            (dropped if off_cpu or disturbed else clean).append(wall / inner * 1e3)
    finally:
        if collecting:
            gc.enable()
    return Pass.of(clean, dropped, inner, protocol.percentile, anchor_ms)
