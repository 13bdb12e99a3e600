"""The conformance suite of profilers: what every device must do, built in or from a plug-in.

Run it over your own profiler in a test::

    from hwnas.profilers.testing import check_profiler

    def test_mine():
        check_profiler(MyProfiler())
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING

from hwnas.latency_tables import METHODS, DeviceRecord
from hwnas.profilers.base import Measurement, Profiler, RuntimeProfiler
from hwnas.profilers.protocol import Protocol
from hwnas.profilers.reference import anchor_model, null_model
from hwnas.spaces.errors import HwnasError, ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx import ModelProto

__all__ = ["QUICK", "check_profiler"]

#: A protocol that only proves that measuring works.
QUICK = Protocol(
    warmup_s=0.002,
    network_warmup_s=0.002,
    sample_s=2e-4,
    min_samples=5,
    pass_s=0.005,
    max_passes=3,
    repeat_until=1.0,
    retries=1,
    counter_s=0.02,
    max_slowdown=0.0,
)


def check_profiler(profiler: Profiler, models: Sequence[ModelProto] = ()) -> None:
    """Raise `AssertionError` if `profiler` breaks the rules of its kind.

    Parameters
    ----------
    profiler
        An instance that can be used here.
    models
        Models that it can take; empty uses the reference model, which any device that runs float32
        models can take.

    Raises
    ------
    AssertionError
        With a sentence saying which rule is broken.
    """
    given = [model.SerializeToString() for model in models] or [anchor_model().SerializeToString()]
    _check_identity(profiler)
    for data in given:
        _check_measurement(profiler, profiler.measure(data, QUICK))
    _check_many(profiler, given)
    _check_refusal(profiler)
    for data in given:
        _check_shares(profiler, data)
    if isinstance(profiler, RuntimeProfiler):
        _check_runtime(profiler, given[0])


def _require(condition: bool, rule: str) -> None:
    if not condition:
        raise AssertionError(rule)


def _check_identity(profiler: Profiler) -> None:
    cls = type(profiler)
    _require(cls.unavailable() is None, "unavailable() must be None where an instance was made")
    _require("." not in cls.name and profiler.key.split(".")[0] == cls.name, "the key must begin with the name")
    _require(bool(cls.device_class) and bool(cls.summary), "device_class and summary must be set")
    _require(profiler.method in METHODS, f"the method must be one of {METHODS}")
    record = profiler.device_record(QUICK)
    _require(record.key == profiler.key, "the device record must carry the profiler's key")
    _require(record.method == profiler.method, "the device record must carry the profiler's method")
    _require(record.precision == profiler.precision, "the device record must carry the precision")
    _require(record.threads == profiler.threads, "the device record must carry the threads")
    _require(record.batch == profiler.batch, "the device record must carry the batch")
    _require(DeviceRecord.from_json(record.to_json()) == record, "the device record must survive JSON")
    _require(not record.differences(profiler.device_record(QUICK)), "two records of one device must agree")
    qualifiers = profiler.key.split(".")[1:]
    if isinstance(profiler, RuntimeProfiler):
        _require(cls.from_qualifiers(qualifiers).key == profiler.key, "the key must make the same profiler again")


def _check_measurement(profiler: Profiler, result: Measurement) -> None:
    values = (result.low_ms, result.median_ms, result.high_ms)
    _require(all(math.isfinite(value) and value > 0 for value in values), "latencies must be positive")
    _require(result.low_ms <= result.median_ms <= result.high_ms, "the median must lie in its interval")
    _require(result.repeats >= 1, "there must be at least one repeat")
    _require(result.method == profiler.method, "a measurement must carry the profiler's method")
    _require(math.isfinite(result.drift) and result.drift > 0, "the drift must be positive")
    _require(all(math.isfinite(sample) and sample > 0 for sample in result.samples), "samples must be positive")


def _check_many(profiler: Profiler, given: list[bytes]) -> None:
    models = {f"model{index}": (lambda data=data: data) for index, data in enumerate(given * 2)}
    seen: list[tuple[int, int, str]] = []
    results = dict(profiler.measure_many(models, QUICK, progress=lambda *report: seen.append(report)))
    _require(set(results) == set(models), "measure_many must yield every model once")
    for result in results.values():
        _check_measurement(profiler, result)
    _require(bool(seen) and all(0 < done <= total for done, total, _ in seen), "progress must count up to its total")
    _require(seen[-1][0] == seen[-1][1], "progress must end at its total")
    _require(not list(profiler.measure_many(models, QUICK, deadline=-1.0)), "nothing may begin after the deadline")


def _check_refusal(profiler: Profiler) -> None:
    for rubbish in (b"", b"this is no ONNX model"):
        try:
            profiler.measure(rubbish, QUICK)
        except ModelError as error:
            _require(len(str(error)) > 10 and "\n" not in str(error), "an error must be one clear sentence")
        except Exception as error:
            raise AssertionError(f"rubbish must raise ModelError, not {type(error).__name__}") from error
        else:
            raise AssertionError("a broken model must raise ModelError")


def _check_shares(profiler: Profiler, data: bytes) -> None:
    try:
        shares = profiler.kernel_shares(data, protocol=QUICK)
    except HwnasError as error:
        raise AssertionError(f"kernel_shares must work on a good model, but: {error}") from error
    if shares is None:
        return
    _require(json.loads(json.dumps(shares)) == shares, "shares must be plain data")
    _require(all(0 <= share <= 1 for share in shares.values()), "shares must lie between 0 and 1")
    _require(abs(sum(shares.values()) - 1) < 1e-6, "shares must sum to 1")


def _check_runtime(profiler: RuntimeProfiler, data: bytes) -> None:
    runner = profiler.open(data)
    for _ in range(2):
        runner()
    profiler.open_reference(null_model())()
    overhead = profiler.overhead_ms(QUICK)
    _require(math.isfinite(overhead) and overhead >= 0, "the overhead must not be negative")
    result = profiler.measure(data, replace(QUICK, passes=4, max_passes=4))
    _require(len(result.samples) >= result.repeats, "raw samples must stay in the measurement")
    level = profiler.anchor.reference_ms
    _require(level is not None and level > 0, "the reference model must have been measured")
