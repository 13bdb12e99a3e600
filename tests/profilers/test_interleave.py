"""Interleaving on models whose timings are made up: order, repeats, disturbed passes, drift, resuming, memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from threading import Timer

import numpy as np
import pytest

from hwnas.profilers.interleave import FLOOR_MS, Measurement, interleave
from hwnas.profilers.protocol import Pass, Protocol
from hwnas.profilers.reference import Anchor
from hwnas.profilers.timing import Runner

PROTOCOL = Protocol(passes=3, max_passes=6, repeat_until=0.02, retries=2, max_slowdown=0.0)


class Bench:
    """Times models by a rule; a runner returns its model's name."""

    def __init__(self, rule: Callable[[str, int], float], disturbed: Callable[[str, int], bool] = lambda *_: False):
        self.rule, self.disturbed = rule, disturbed
        self.timed: list[str] = []
        self.opened: list[str] = []

    def opener(self, name: str) -> Callable[[], Runner]:
        def open_model() -> Runner:
            self.opened.append(name)
            return lambda: name

        return open_model

    def time_one(self, runner: Runner, anchor_ms: float | None) -> Pass:
        name = str(runner())
        number = self.timed.count(name)
        self.timed.append(name)
        value = self.rule(name, number)
        if self.disturbed(name, number):
            return Pass((), (value,), 1, value, anchor_ms)
        return Pass((value,), (), 1, value, anchor_ms)

    def run(self, names: list[str], protocol: Protocol = PROTOCOL, **options: object) -> dict[str, Measurement]:
        models = {name: self.opener(name) for name in names}
        return dict(interleave(models, self.time_one, protocol, **options))  # type: ignore[arg-type]


def test_passes_are_interleaved_in_random_order() -> None:
    names = [f"m{index}" for index in range(20)]
    bench = Bench(lambda name, _: float(name[1:]) + 1)
    results = bench.run(names)
    rounds = [bench.timed[start : start + 20] for start in range(0, 60, 20)]
    assert all(sorted(order) == sorted(names) for order in rounds)
    assert len({tuple(order) for order in [*rounds, names]}) == 4
    assert {name: result.median_ms for name, result in results.items()} == {n: float(n[1:]) + 1 for n in names}
    assert all(result.stable and result.repeats == 3 for result in results.values())
    again = Bench(bench.rule)
    again.run(names)
    assert again.timed == bench.timed


def test_the_latency_is_the_median_over_passes_less_the_overhead() -> None:
    result = Bench(lambda _, number: [3.0, 1.0, 1.01][number]).run(
        ["m"], replace(PROTOCOL, max_passes=3), overhead_ms=0.5
    )
    assert result["m"].median_ms == pytest.approx(0.51)
    assert [result["m"].low_ms, result["m"].high_ms] == pytest.approx([0.5, 2.5])
    assert not result["m"].stable
    assert result["m"].samples == (3.0, 1.0, 1.01)
    free = Bench(lambda *_: 0.4).run(["m"], overhead_ms=0.5)["m"]
    assert (free.median_ms, free.stable) == (FLOOR_MS, True)


def test_wide_intervals_get_more_passes() -> None:
    settling = Bench(lambda name, number: 1.0 if name == "calm" or number > 0 else 1.5)
    results = settling.run(["calm", "wild"])
    assert results["calm"].repeats == 3
    assert results["wild"].repeats == 6  # the sixth pass lets the interval leave out the first
    assert results["wild"].stable
    restless = Bench(lambda _, number: 1.0 + number).run(["m"])["m"]
    assert (restless.repeats, restless.stable) == (6, False)


def test_disturbed_passes_are_repeated_later() -> None:
    bench = Bench(
        lambda _, number: 9.0 if number < 2 else 1.0, disturbed=lambda name, number: name == "a" and number < 2
    )
    results = bench.run(["a", "b"], replace(PROTOCOL, max_passes=3))
    assert bench.timed.count("a") == 5
    assert (results["a"].median_ms, results["a"].repeats, results["a"].stable) == (1.0, 3, True)


def test_a_machine_that_is_never_quiet_ends_in_an_unstable_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    result = Bench(lambda *_: 2.0, disturbed=lambda *_: True).run(["m"])["m"]
    assert (result.median_ms, result.repeats, result.stable) == (2.0, 3, False)
    assert waits == sorted(waits)
    assert waits


def test_few_models_are_open_at_a_time() -> None:
    bench = Bench(lambda *_: 1.0)
    open_now: set[int] = set()
    most = 0

    class Handle:
        def __init__(self, name: str) -> None:
            self.name = name
            open_now.add(id(self))
            nonlocal most
            most = max(most, len(open_now))

        def __call__(self) -> str:
            return self.name

        def __del__(self) -> None:
            open_now.discard(id(self))

    def opener(name: str) -> Callable[[], Runner]:
        return lambda: Handle(name)

    models = {f"m{index}": opener(f"m{index}") for index in range(30)}
    assert len(list(interleave(models, bench.time_one, replace(PROTOCOL, open_models=4)))) == 30
    assert most <= 5  # the one being opened replaces the oldest
    assert not open_now


def test_groups_bound_the_time_until_the_first_result() -> None:
    protocol = replace(PROTOCOL, interleave_s=4 * 3 * (PROTOCOL.warmup_s + PROTOCOL.pass_s) + 0.01)
    assert protocol.group_size == 4
    bench = Bench(lambda *_: 1.0)
    models = {f"m{index}": bench.opener(f"m{index}") for index in range(10)}
    next(interleave(models, bench.time_one, protocol))
    assert len(bench.timed) == 12


def drifting_anchor(levels: list[float]) -> Anchor:
    """A reference model whose timings follow `levels`, the first for as long as the anchor settles."""
    timings = iter([levels[0]] * 4 + levels)
    return Anchor(lambda _: Pass((1.0,), (), 1, next(timings)))


def test_drift_is_recorded_and_can_be_divided_out() -> None:
    levels = [1.0, 1.1, 1.2]
    protocol = replace(PROTOCOL, anchor_every_s=0.0, anchor_window_s=0.0, max_passes=3)
    rule = [2.0, 2.2, 2.4]
    raw = Bench(lambda _, number: rule[number]).run(["m"], protocol, anchor=drifting_anchor(levels))["m"]
    assert raw.drift == pytest.approx(1.1)
    assert raw.median_ms == pytest.approx(2.2)
    assert not raw.stable
    corrected = Bench(lambda _, number: rule[number]).run(
        ["m"], replace(protocol, correct_drift=True), anchor=drifting_anchor(levels)
    )["m"]
    assert corrected.median_ms == pytest.approx(2.0)
    assert corrected.stable


class BusyMachine:
    """A machine that something else slows down while `busy`; its reference model takes 1 ms, then 1.5 ms."""

    def __init__(self) -> None:
        self.busy = False
        self.anchor = Anchor(lambda _: Pass((1.0,), (), 1, 1.5 if self.busy else 1.0))


def test_passes_on_a_slowed_machine_do_not_count() -> None:
    machine = BusyMachine()
    protocol = replace(PROTOCOL, max_slowdown=0.15, quiet_wait_s=0.0)

    def rule(_: str, number: int) -> float:
        machine.busy = number == 1  # begins in the second pass, and is over when the third one is
        return 3.0 if number in (1, 2) else 2.0

    result = Bench(rule).run(["m"], protocol, anchor=machine.anchor)["m"]
    assert (result.median_ms, result.repeats, result.stable) == (2.0, 3, True)
    taken = Bench(rule).run(["m"], replace(protocol, max_slowdown=0.0), anchor=BusyMachine().anchor)["m"]
    assert taken.high_ms == 3.0
    assert not taken.stable


def test_a_pass_waits_for_the_machine_to_be_quiet() -> None:
    machine = BusyMachine()
    protocol = replace(PROTOCOL, max_slowdown=0.15, quiet_wait_s=5.0)
    for _ in range(3):
        assert machine.anchor.wait_until_quiet(protocol)
    machine.busy = True
    assert machine.anchor.slowed(protocol)
    other = Timer(0.3, lambda: setattr(machine, "busy", False))
    other.start()
    assert machine.anchor.wait_until_quiet(protocol)
    assert not machine.busy
    other.join()
    machine.busy = True
    assert machine.anchor.slowed(protocol)
    assert not machine.anchor.wait_until_quiet(replace(protocol, quiet_wait_s=0.0))


def test_a_lasting_slowdown_becomes_normal() -> None:
    machine = BusyMachine()
    protocol = replace(PROTOCOL, max_slowdown=0.15, quiet_wait_s=0.0)
    machine.anchor.wait_until_quiet(protocol)
    machine.busy = True
    seen = [machine.anchor.slowed(protocol) for _ in range(50)]
    assert seen[0]
    assert not seen[-1]


def test_the_anchor_is_timed_again_only_when_it_is_old() -> None:
    count = 0

    def measure(_: Protocol) -> Pass:
        nonlocal count
        count += 1
        return Pass((1.0,), (), 1, 1.0)

    anchor = Anchor(measure)
    protocol = replace(PROTOCOL, anchor_every_s=1000.0)
    assert [anchor.level(protocol) for _ in range(10)] == [1.0] * 10
    assert count == 5
    assert anchor.reference_ms == 1.0
    assert Anchor(measure, 2.0).reference_ms == 2.0


class Log:
    def __init__(self, earlier: dict[str, list[Pass]]) -> None:
        self.passes = earlier

    def earlier(self, key: str) -> list[Pass]:
        return list(self.passes.get(key, []))

    def add(self, key: str, result: Pass) -> None:
        self.passes.setdefault(key, []).append(result)


def test_earlier_passes_count() -> None:
    done = [Pass((value,), (), 1, value) for value in (1.0, 1.0, 1.01)]
    log = Log({"whole": list(done), "half": done[:1]})
    bench = Bench(lambda *_: 1.0)
    results = bench.run(["whole", "half", "new"], log=log)
    assert sorted(bench.timed) == ["half", "half", "new", "new", "new"]
    assert bench.opened.count("whole") == 0
    assert results["whole"].median_ms == 1.0
    assert {key: len(passes) for key, passes in log.passes.items()} == {"whole": 3, "half": 3, "new": 3}


def test_nothing_begins_after_the_deadline_but_what_is_ready_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)

    def rule(_: str, __: int) -> float:
        nonlocal now
        now += 1.0
        return 1.0

    names = ["a", "b", "c"]
    log = Log({})
    results = Bench(rule).run(names, deadline=8.0, log=log)
    assert len(results) == 2
    assert sum(map(len, log.passes.values())) == 8
    assert set(Bench(rule).run(names, log=log)) == set(names)


def test_progress_counts_up_to_the_end() -> None:
    seen: list[tuple[int, int, str]] = []
    bench = Bench(lambda name, number: 1.0 + (0.5 if name == "b" and number == 0 else 0.0))
    bench.run(["a", "b", "c"], progress=lambda *report: seen.append(report))
    assert np.all(np.diff([done for done, _, _ in seen]) >= 0)
    assert all(done <= total for done, total, _ in seen)
    assert seen[0][1] == 9
    assert seen[-1][:2] == (12, 12)
    assert {text for *_, text in seen} == {"a", "b", "c"}
