"""Measuring many models in turns, so that drift of the machine hits all of them alike."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar
from typing import Protocol as Interface

import numpy as np

from hwnas.profilers.protocol import Pass, Protocol, interval, relative_width
from hwnas.profilers.reference import Anchor
from hwnas.profilers.timing import Runner, pinned

__all__ = ["FLOOR_MS", "Measurement", "PassLog", "Progress", "interleave"]

#: Key of a model among many.
Key = TypeVar("Key", bound=Hashable)
_LoggedKey = TypeVar("_LoggedKey", contravariant=True)
#: Called as ``progress(done, total, text)``; the total grows when passes have to be repeated.
Progress = Callable[[int, int, str], None]

#: One nanosecond: the least latency that is reported, for what costs nothing beside the call itself.
FLOOR_MS = 1e-6
#: Pause before trying again, doubled up to a second, when everything measured was disturbed.
_PAUSE_S = 0.1


@dataclass(frozen=True)
class Measurement:
    """Latency of one model.

    Attributes
    ----------
    median_ms
        Median over the passes, milliseconds an inference, call overhead subtracted.
    low_ms, high_ms
        Interval of that median, see `hwnas.profilers.protocol.interval`.
    repeats
        Number of passes behind it.
    stable
        Whether the interval became as narrow as the protocol asks.
    method
        ``measured``, ``modelled``, ``vendor-estimate`` or ``simulated``.
    samples
        Raw samples of all passes in milliseconds, overhead included; empty where there are none.
    drift
        The reference model's latency at the time, over its latency at the start.
    """

    median_ms: float
    low_ms: float
    high_ms: float
    repeats: int
    stable: bool
    method: str
    samples: tuple[float, ...] = ()
    drift: float = 1.0


class PassLog(Interface[_LoggedKey]):
    """Keeps finished passes, so that a run that was killed goes on where it stopped."""

    def earlier(self, key: _LoggedKey) -> list[Pass]:
        """Passes of `key` that earlier runs finished under the same protocol."""

    def add(self, key: _LoggedKey, result: Pass) -> None:
        """Keep one finished pass."""


@dataclass
class _State:
    passes: list[Pass] = field(default_factory=list)
    rejected: list[Pass] = field(default_factory=list)
    ready: bool = False

    def done(self) -> int:
        return len(self.passes) + len(self.rejected)

    def expected(self, protocol: Protocol) -> int:
        if self.ready:
            return self.done()
        return max(protocol.passes + len(self.rejected), self.done() + 1)


class _OpenModels(Generic[Key]):
    """Opens models when they are needed, and keeps the last few of them open."""

    def __init__(self, open_model: Callable[[Key], Runner], limit: int) -> None:
        self._open_model, self._limit = open_model, limit
        self._runners: OrderedDict[Key, Runner] = OrderedDict()

    def get(self, key: Key) -> Runner:
        if key in self._runners:
            self._runners.move_to_end(key)
            return self._runners[key]
        while len(self._runners) >= self._limit:
            self._runners.popitem(last=False)
        self._runners[key] = self._open_model(key)
        return self._runners[key]

    def drop(self, key: Key) -> None:
        self._runners.pop(key, None)


class _Judge:
    """Turns the passes of a model into latencies and decides when there are enough."""

    def __init__(self, protocol: Protocol, overhead_ms: float, reference_ms: float | None, method: str) -> None:
        self.protocol, self.overhead_ms, self.reference_ms, self.method = protocol, overhead_ms, reference_ms, method

    def _drift(self, result: Pass) -> float:
        if result.anchor_ms is None or self.reference_ms is None:
            return 1.0
        return result.anchor_ms / self.reference_ms

    def _latencies(self, passes: list[Pass]) -> list[float]:
        latencies = [max(FLOOR_MS, result.value_ms - self.overhead_ms) for result in passes]
        if self.protocol.correct_drift:
            latencies = [ms / self._drift(result) for ms, result in zip(latencies, passes, strict=True)]
        return latencies

    def gave_up(self, state: _State) -> bool:
        return state.done() >= self.protocol.passes and len(state.rejected) > self.protocol.retries

    def finished(self, state: _State) -> bool:
        count = len(state.passes)
        if count < self.protocol.passes:
            return self.gave_up(state)
        narrow = relative_width(self._latencies(state.passes)) <= self.protocol.repeat_until
        return narrow or count >= self.protocol.max_passes or self.gave_up(state)

    def measurement(self, state: _State) -> Measurement:
        enough = len(state.passes) >= self.protocol.passes
        passes = state.passes if enough else state.passes + state.rejected
        latencies = self._latencies(passes)
        low, median, high = interval(latencies)
        return Measurement(
            median_ms=median,
            low_ms=low,
            high_ms=high,
            repeats=len(passes),
            stable=enough and relative_width(latencies) <= self.protocol.repeat_until,
            method=self.method,
            samples=tuple(sample for result in passes for sample in (*result.samples, *result.dropped)),
            drift=float(np.median([self._drift(result) for result in passes])),
        )


def interleave(
    open_models: Mapping[Key, Callable[[], Runner]],
    time_one: Callable[[Runner, float | None], Pass],
    protocol: Protocol,
    *,
    method: str = "measured",
    anchor: Anchor | None = None,
    overhead_ms: float = 0.0,
    cores: tuple[int, ...] | None = None,
    progress: Progress | None = None,
    log: PassLog[Key] | None = None,
    deadline: float | None = None,
) -> Iterator[tuple[Key, Measurement]]:
    """Measure models in interleaved passes of random order.

    Parameters
    ----------
    open_models
        What opens each model; called again when a model was closed to save memory.
    time_one
        Times one pass of an open model; its second argument is the reference model's level.
    protocol
        The measuring protocol.
    method
        Method of the measurements.
    anchor
        The reference model; None measures without one.
    overhead_ms
        Subtracted from every pass.
    cores
        Where the calling thread stays while it opens and times models; None lets it wander.
    progress
        Called after every pass with passes done and expected.
    log
        Passes that are already there count; new ones are handed to it as soon as they are finished.
    deadline
        Value of `time.monotonic` after which no further pass begins. Models that have their passes by
        then are still yielded, others are not.

    Yields
    ------
    tuple
        Key and `Measurement`, in the order in which the models become ready.
    """
    rng = np.random.default_rng(protocol.seed)
    keys = list(open_models)
    states = {key: _State(log.earlier(key)[: protocol.max_passes] if log else []) for key in keys}
    runners = _OpenModels[Key](lambda key: open_models[key](), protocol.open_models)

    def report(key: Key) -> None:
        if progress is not None:
            known = states.values()
            progress(sum(s.done() for s in known), sum(s.expected(protocol) for s in known), str(key))

    def one_pass(key: Key) -> bool:
        with pinned(cores):
            runner, level = runners.get(key), anchor.level(protocol) if anchor else None
            quiet = anchor is None or anchor.wait_until_quiet(protocol)
            result = time_one(runner, level)
            clean = result.clean and quiet and not (anchor and anchor.slowed(protocol))
        state = states[key]
        (state.passes if clean else state.rejected).append(result)
        if clean and log is not None:
            log.add(key, result)
        report(key)
        return clean

    late = False
    order = [keys[index] for index in rng.permutation(len(keys))]
    for first in range(0, len(order), protocol.group_size):
        pending = order[first : first + protocol.group_size]
        pause = _PAUSE_S
        while True:
            judge = _Judge(protocol, overhead_ms, anchor.reference_ms if anchor else None, method)
            finished = [key for key in pending if judge.finished(states[key])]
            for key in finished:
                pending.remove(key)
                runners.drop(key)
                states[key].ready = True
                report(key)
                yield key, judge.measurement(states[key])
            if not pending or late:
                break
            clean = 0
            for index in rng.permutation(len(pending)):
                late = deadline is not None and time.monotonic() >= deadline
                if late:
                    break
                clean += one_pass(pending[index])
            if not clean and not late:
                time.sleep(pause)
                pause = min(1.0, 2 * pause)
