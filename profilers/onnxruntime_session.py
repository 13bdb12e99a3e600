"""What the devices of onnxruntime share: a session on one provider, inputs bound to it, and its profile."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from hwnas.profilers.attribution import ExecutedNode, attribute, divide
from hwnas.profilers.base import Model, RuntimeProfiler
from hwnas.profilers.model_io import first_line, load_model, model_nodes
from hwnas.profilers.onnxruntime_model import bind, count_kernels, make_runner, open_session
from hwnas.profilers.protocol import Protocol
from hwnas.profilers.timing import Runner, pinned
from hwnas.spaces.errors import DeviceUnavailable, ModelError

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["OnnxRuntimeProfiler"]

_DISTRIBUTIONS = ("onnxruntime", "onnxruntime-openvino", "onnxruntime-gpu", "onnxruntime-webgpu")


class OnnxRuntimeProfiler(RuntimeProfiler):
    """Runs models through one provider of onnxruntime; a session that fell back to another one is refused.

    A subclass names the provider, and adds what else can be missing to `missing`.
    """

    runtime = "onnxruntime"
    #: The provider that must compute, as onnxruntime calls it.
    provider: ClassVar[str]
    #: The same in words.
    provider_words: ClassVar[str]
    #: What to do if the installed onnxruntime does not have it.
    install: ClassVar[str]
    #: What to do if it is there but finds no device, and what onnxruntime's error says then.
    no_device: ClassVar[tuple[str, str]] = ("", "")
    #: Where inputs and outputs lie, as onnxruntime calls it; None for arrays of numpy.
    memory: ClassVar[str | None] = None

    @classmethod
    def missing(cls) -> str | None:
        """None if models can be run here; else one sentence saying what to install or plug in."""
        try:
            import onnxruntime
        except ImportError as error:
            return f"onnxruntime cannot be imported ({error}); {cls.install}"
        if cls.provider not in onnxruntime.get_available_providers():
            return f"this build of onnxruntime has no {cls.provider_words} provider; {cls.install}"
        return None

    @classmethod
    def unavailable(cls) -> str | None:
        return cls.missing()

    def runtime_version(self) -> str:
        """The installed version, with the distribution's name if it is another build than plain onnxruntime."""
        import onnxruntime

        for distribution in _DISTRIBUTIONS:
            try:
                found = version(distribution)
            except PackageNotFoundError:
                continue
            if found == onnxruntime.__version__:
                return found if distribution == "onnxruntime" else f"{found} ({distribution})"
        return str(onnxruntime.__version__)

    # ------------------------------------------------------------------ running

    def load(self, data: bytes) -> Runner:
        session = self._session(data)
        return self._runner(session, *self._bound(session))

    def outputs(self, model: Model, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """What the model computes on this device, in the order of its outputs.

        Parameters
        ----------
        model
            The model; it gets this device's batch.
        feeds
            Arrays by name of the input.

        Raises
        ------
        ModelError
            If onnxruntime refuses the model or the arrays.
        """
        session = self._session(self.prepared(model))
        try:
            return list(session.run(None, dict(feeds)))
        except Exception as error:  # onnxruntime's errors have no common base
            raise ModelError(f"onnxruntime cannot run the model: {first_line(error)}") from error

    def _session(self, data: bytes, provider_options: Mapping[str, str] | None = None, **settings: Any) -> Any:
        if reason := self.missing():
            raise DeviceUnavailable(reason)
        mend, sign = self.no_device
        try:
            session = open_session(
                data, self.provider, threads=self.threads, provider_options=provider_options, settings=settings
            )
        except Exception as error:  # onnxruntime's errors have no common base
            if sign and sign in str(error):
                raise DeviceUnavailable(f"the {self.provider_words} provider finds no device; {mend}") from error
            raise ModelError(f"onnxruntime cannot load the model: {first_line(error)}") from error
        # not every provider that cannot be used is an error: some are silently left out
        if (used := session.get_providers()[0]) != self.provider:
            raise DeviceUnavailable(f"onnxruntime gave up the {self.provider_words} provider for {used}; {mend}")
        return session

    def _bound(self, session: Any, outputs: Sequence[Any] | None = None) -> tuple[Any, list[Any]]:
        return bind(session, self.memory, outputs)

    def _runner(self, session: Any, binding: Any, kept: list[Any]) -> Runner:
        return make_runner(session, binding, kept)

    # ------------------------------------------------------------------ counters

    def _divided(
        self,
        model: Model,
        nodes: Collection[str] | None,
        protocol: Protocol | None,
        times: Callable[[list[dict[str, Any]], int, int], dict[str, float]],
        executed: Callable[[ModelProto, ModelProto], Iterable[ExecutedNode]],
    ) -> dict[str, float]:
        """Divide the time of one inference among the kernels by onnxruntime's profile.

        Parameters
        ----------
        model, nodes, protocol
            See `Profiler.kernel_shares`; at least 20 inferences are counted and at most 400.
        times
            From the events of a profile, the number of runs in it and of those before counting: the time of each
            executed node.
        executed
            The executed nodes, from the model as optimised and as given.

        Raises
        ------
        ModelError
            If onnxruntime refuses the model or its counters cannot be read.
        """
        import onnx

        protocol = protocol or Protocol()
        data = self.prepared(model)
        given = load_model(data)
        with tempfile.TemporaryDirectory(prefix="hwnas-") as folder, pinned(self.cores(protocol)):
            optimised = Path(folder) / "optimised.onnx"
            session = self._session(
                data,
                enable_profiling=True,
                profile_file_prefix=str(Path(folder) / "profile"),
                optimized_model_filepath=str(optimised),
            )
            run = self._runner(session, *self._bound(session))
            counted = times(*count_kernels(session, run, protocol.counter_s))
            nodes_run = list(executed(onnx.load_model(optimised, load_external_data=False), given))
        if not counted:
            raise ModelError("onnxruntime counted no kernel of the model; it may be empty after optimisation")
        return divide(counted, attribute(model_nodes(given), nodes_run, nodes), nodes)
