"""Devices that time themselves: a pass is one run over there, which comes back with the device's own samples."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from hwnas.profilers.base import Measurement, Model, ModelSource, PassLog, Profiler, Progress, as_bytes
from hwnas.profilers.interleave import interleave
from hwnas.profilers.protocol import Pass, Protocol

__all__ = ["SelfTimedProfiler"]

Key = TypeVar("Key", bound=Hashable)

#: Models that are kept over there, and measured in turns.
_TOGETHER = 20


class SelfTimedProfiler(Profiler):
    """A profiler whose device counts the time itself; a subclass implements `open`.

    The shared protocol decides on the passes, their order and what their value is. It has no part in how long a pass
    is, and there is no reference model: the device is not this machine.
    """

    @abstractmethod
    def open(self, model: Model) -> Callable[[], Sequence[float]]:
        """Bring a model to the device; each call of the result is one pass.

        Returns
        -------
        callable
            Gives the milliseconds of every inference of the pass, warmed up.

        Raises
        ------
        ModelError
            If the device does not take the model.
        """

    def measure(self, model: Model, protocol: Protocol | None = None) -> Measurement:
        """Latency of one model by the shared protocol's passes."""
        return next(result for _, result in self.measure_many({"model": model}, protocol))

    def measure_many(
        self,
        models: Mapping[Key, ModelSource],
        protocol: Protocol | None = None,
        *,
        progress: Progress | None = None,
        log: PassLog[Key] | None = None,
        deadline: float | None = None,
    ) -> Iterator[tuple[Key, Measurement]]:
        """Latencies of many models in interleaved passes, see `hwnas.profilers.interleave.interleave`."""
        settings = protocol or Protocol()
        pass_s = max(1e-3, settings.warmup_s + settings.pass_s)
        settings = replace(settings, open_models=_TOGETHER, interleave_s=(_TOGETHER + 0.5) * settings.passes * pass_s)

        def opener(source: ModelSource) -> Callable[[], Callable[[], Sequence[float]]]:
            return lambda: self.open(as_bytes(source))

        def one_pass(run: Callable[[], Any], _: float | None) -> Pass:
            return Pass.of(run(), (), 1, settings.percentile, None)

        return interleave(
            {key: opener(source) for key, source in models.items()},
            one_pass,
            settings,
            method=self.method,
            progress=progress,
            log=log,
            deadline=deadline,
        )
