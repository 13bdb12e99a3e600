"""Timing one pass: cores, samples, and which samples count as disturbed."""

from __future__ import annotations

import gc
import os
import time
from dataclasses import replace

import pytest

from hwnas.profilers.protocol import Protocol
from hwnas.profilers.timing import choose_cores, pinned, time_pass
from hwnas.spaces.errors import ConfigError

QUICK = Protocol(warmup_s=0.002, sample_s=2e-4, min_samples=8, pass_s=0.004)
needs_affinity = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot pin threads")


def work() -> int:
    return sum(range(1000))


@needs_affinity
def test_pinning_is_undone() -> None:
    before = os.sched_getaffinity(0)
    cores = choose_cores(1)
    assert cores is not None
    inside: set[int] = set()

    def fail() -> None:
        inside.update(os.sched_getaffinity(0))
        raise RuntimeError

    with pytest.raises(RuntimeError), pinned(cores):
        fail()
    assert inside == set(cores)
    assert os.sched_getaffinity(0) == before
    with pinned(None):
        assert os.sched_getaffinity(0) == before
    with pytest.raises(ConfigError, match="cannot pin"), pinned((4095,)):
        pass


@needs_affinity
def test_chosen_cores_are_distinct_and_allowed() -> None:
    allowed = os.sched_getaffinity(0)
    everything = choose_cores(len(allowed))
    assert everything is not None
    assert set(everything) == allowed
    assert choose_cores(len(allowed) + 1) is None
    one = choose_cores(1)
    assert one is not None
    assert set(one) <= allowed


def test_systems_without_pinning_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    assert choose_cores(1) is None
    with pinned((0,)):
        assert time_pass(work, QUICK).value_ms > 0


def test_a_pass_has_enough_samples() -> None:
    calls = 0

    def runner() -> None:
        nonlocal calls
        calls += 1
        work()

    result = time_pass(runner, QUICK, anchor_ms=0.5)
    samples = (*result.samples, *result.dropped)
    assert len(samples) >= QUICK.min_samples
    assert calls >= 2 + result.inner * len(samples)
    assert result.inner > 1
    assert result.anchor_ms == 0.5
    assert min(samples) <= result.value_ms <= max(samples)


def test_the_garbage_collector_is_stopped_while_sampling() -> None:
    states: list[bool] = []
    time_pass(lambda: states.append(gc.isenabled()), replace(QUICK, warmup_s=0.0, sample_s=1e-9))
    assert states[:2] == [True, True]
    assert not any(states[2:])
    assert gc.isenabled()


def test_a_slow_model_ends_its_pass_early() -> None:
    protocol = replace(QUICK, min_samples=1000, max_pass_s=0.01)
    result = time_pass(lambda: time.sleep(0.004), protocol)
    assert 3 <= len(result.samples) + len(result.dropped) < 1000


def test_time_off_the_cpu_is_a_disturbance_only_where_it_means_one() -> None:
    def waits() -> None:
        time.sleep(0.001)

    assert not time_pass(waits, QUICK).samples
    assert not time_pass(waits, QUICK).clean
    # with several threads the calling one waits for the others, with an accelerator for the device
    assert time_pass(waits, QUICK, threads=2).samples
    assert time_pass(waits, QUICK, on_cpu=False).clean
