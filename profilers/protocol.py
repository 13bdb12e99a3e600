"""The measuring protocol that every device shares: its settings, and the statistics that turn samples into a latency.

A **sample** is the mean over an inner loop of calls that lasts about a millisecond: short enough to
slip between the scheduler's slices, long enough for the timer. A **pass** is a warm-up and a few
hundred samples in a row; its value is a low percentile of the clean ones, because noise only ever
adds. A **measurement** is the median over passes, which lie apart in time because the passes of many
models are interleaved in random order: that is what keeps slow drift of the machine out of the
differences between models.

This module keeps to Python 3.8, see `hwnas.profilers.timing`.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from hwnas.spaces.errors import ConfigError

__all__ = ["Pass", "Protocol", "interval", "relative_width"]

#: Coverage that the interval of a median must reach; three passes cannot give more (1 - 2 / 2**3).
LEVEL = 0.75


@dataclass(frozen=True)
class Protocol:
    """Settings of the measuring protocol; recorded with every table.

    Attributes
    ----------
    warmup_s, network_warmup_s
        Seconds of warm-up before a pass: of a block, of a whole network (see `for_networks`).
    sample_s
        Aimed duration of one sample, seconds.
    min_samples, pass_s, max_pass_s
        A pass takes at least this many samples and seconds; it ends after `max_pass_s` in any case.
    passes, max_passes, repeat_until
        At least `passes` passes (three or more); further ones, up to `max_passes`, until half of the
        interval of the median is within `repeat_until` of it (0.02 is ±2 %). If that is not reached,
        the measurement is marked as not stable.
    retries
        How many disturbed passes (fewer than half of the samples clean, or see `max_slowdown`) are repeated before
        the model is given up as not stable.
    counter_s
        Seconds of counting kernel times inside a whole network.
    percentile
        Percentile of the clean samples that is the value of a pass.
    max_off_cpu
        A sample is dropped if its thread was off the CPU for a larger share of its time.
    pin, cores
        Whether to keep the measuring thread on fixed cores, and which; None chooses the fastest.
    anchor_every_s, anchor_window_s
        The reference model is timed again when its last timing is older than this; its level is the
        median over the window.
    max_slowdown, quiet_wait_s
        A pass is disturbed, and repeated like one with few clean samples, if the reference model just before or just
        after it is slower by a larger share than it lately was when the machine was quiet: another process on the
        same physical core slows every sample alike. So many seconds are waited before a pass for quiet. A share of
        0 takes every pass.
    correct_drift
        Whether to divide each pass by the drift of the reference model at its time.
    interleave_s
        Models whose passes take together about this long are measured in turns; it is the stretch of
        time over which drift is averaged out.
    open_models
        At most this many models are kept open at a time.
    seed
        Seed of the random order.
    """

    warmup_s: float = 0.1
    network_warmup_s: float = 0.3
    sample_s: float = 1e-3
    min_samples: int = 15
    pass_s: float = 0.25
    max_pass_s: float = 5.0
    passes: int = 3
    max_passes: int = 9
    repeat_until: float = 0.02
    retries: int = 6
    counter_s: float = 0.5
    percentile: float = 10.0
    max_off_cpu: float = 0.02
    pin: bool = True
    cores: tuple[int, ...] | None = None
    anchor_every_s: float = 1.0
    anchor_window_s: float = 5.0
    max_slowdown: float = 0.15
    quiet_wait_s: float = 2.0
    correct_drift: bool = False
    interleave_s: float = 300.0
    open_models: int = 40
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if isinstance(value, (float, int)) and (not math.isfinite(value) or value < 0):
                raise ConfigError(f"{name} of the measuring protocol is {value}, but must not be negative")
        positive = ("sample_s", "min_samples", "max_pass_s", "repeat_until", "interleave_s", "open_models")
        for name in positive:
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} of the measuring protocol is {getattr(self, name)}, but must be above zero")
        if self.passes < 3:
            raise ConfigError(f"the measuring protocol needs at least 3 passes for an interval, not {self.passes}")
        if self.max_passes < self.passes:
            raise ConfigError(f"max_passes is {self.max_passes}, but must be at least passes ({self.passes})")
        if not self.percentile <= 50:
            raise ConfigError(f"the percentile of a pass is {self.percentile:g}, but must be at most 50")

    @classmethod
    def quick(cls) -> Protocol:
        """Settings for trying things out: about a fifth of the time, with visibly wider intervals."""
        return cls(
            warmup_s=0.02,
            network_warmup_s=0.05,
            sample_s=5e-4,
            pass_s=0.05,
            max_passes=5,
            counter_s=0.1,
            max_slowdown=0.0,
        )

    def for_networks(self) -> Protocol:
        """The same protocol with the warm-up of whole networks."""
        return replace(self, warmup_s=self.network_warmup_s)

    @property
    def fingerprint(self) -> str:
        """Equal for protocols whose single passes can be mixed; kept with each pass."""
        shaping = (self.warmup_s, self.sample_s, self.min_samples, self.pass_s, self.percentile, self.pin)
        return f"{zlib.crc32(json.dumps(shaping).encode()):08x}"

    @property
    def group_size(self) -> int:
        """Number of models whose passes are interleaved, from `interleave_s`."""
        return max(1, int(self.interleave_s / (self.passes * max(1e-3, self.warmup_s + self.pass_s))))


@dataclass(frozen=True)
class Pass:
    """One pass over one model.

    Attributes
    ----------
    samples
        Clean samples: milliseconds an inference, call overhead included.
    dropped
        Samples that were disturbed (see `Protocol.max_off_cpu`).
    inner
        Calls a sample.
    value_ms
        The pass's latency: the percentile of the clean samples.
    anchor_ms
        Level of the reference model beside it; None if there is no reference model.
    """

    samples: tuple[float, ...]
    dropped: tuple[float, ...]
    inner: int
    value_ms: float
    anchor_ms: float | None = None

    @classmethod
    def of(
        cls, clean: Sequence[float], dropped: Sequence[float], inner: int, percentile: float, anchor_ms: float | None
    ) -> Pass:
        """Make a pass of its samples; without clean ones the disturbed ones have to do."""
        value = float(np.percentile(np.asarray(clean or dropped), percentile))
        return cls(tuple(clean), tuple(dropped), inner, value, anchor_ms)

    @property
    def clean(self) -> bool:
        """Whether at least half of the samples were undisturbed."""
        return len(self.samples) >= len(self.dropped)

    def to_json(self) -> dict[str, Any]:
        """Plain data for the raw record; four digits a sample."""

        def short(values: Sequence[float]) -> list[float]:
            return [float(f"{value:.4g}") for value in values]

        entry: dict[str, Any] = {"ms": short(self.samples), "inner": self.inner, "value_ms": self.value_ms}
        if self.dropped:
            entry["dropped_ms"] = short(self.dropped)
        if self.anchor_ms is not None:
            entry["anchor_ms"] = self.anchor_ms
        return entry

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> Pass | None:
        """Read what `to_json` wrote; None if it is no usable pass."""
        value, anchor = entry.get("value_ms"), entry.get("anchor_ms")
        samples, dropped, inner = entry.get("ms"), entry.get("dropped_ms", []), entry.get("inner")
        numbers = [value, *(() if anchor is None else (anchor,))]
        if not isinstance(samples, list) or not isinstance(dropped, list) or not isinstance(inner, int):
            return None
        numbers += [*samples, *dropped]
        if not all(isinstance(n, (float, int)) and math.isfinite(n) and n > 0 for n in numbers):
            return None
        return cls(tuple(samples), tuple(dropped), inner, float(value), anchor)  # type: ignore[arg-type]


@lru_cache(maxsize=256)
def _rank(count: int) -> int:
    """Largest k such that the k-th smallest and k-th largest of `count` values bracket the median at `LEVEL`."""
    below, rank = 1.0, 0
    while 1 - 2 * below / 2**count >= LEVEL:
        rank += 1
        below += math.comb(count, rank)
    return rank


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Low end, median and high end of the median's interval, free of assumptions on the distribution.

    The ends are order statistics whose binomial coverage is at least 75 %: all of three values, the
    second and second to last of six. With fewer than three values, the range.
    """
    ordered = sorted(values)
    rank = max(1, _rank(len(ordered)))
    return ordered[rank - 1], float(np.median(ordered)), ordered[-rank]


def relative_width(values: Sequence[float]) -> float:
    """Half of the width of `interval`, as a share of the median: 0.02 is ±2 %."""
    low, median, high = interval(values)
    return (high - low) / (2 * median)
