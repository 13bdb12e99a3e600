"""``dsp-qnn-hub``: the Hexagon processor of a phone that Qualcomm hosts, through its client ``qai-hub``.

Never run against the service: what is tested is the calls of the client, and the reading of profiles of its form.

Device keys: ``dsp-qnn-hub:galaxy-s24``, the phone's name there in lower case with hyphens; its maker may be left out.
**Models leave this machine**: each one is sent to Qualcomm, compiled there and run on a phone there. The client must
be installed and have its token.

A latency is what the service counts as inference times, which includes the call from the phone's CPU.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar

from hwnas.latency_tables import DeviceRecord
from hwnas.profilers.base import FLOOR_MS, Measurement, Model, ModelSource, PassLog, Profiler, Progress, as_bytes
from hwnas.profilers.dsp_qnn import layer_shares
from hwnas.profilers.model_io import check_quantised, first_line, fixed_sizes, load_model, model_nodes
from hwnas.profilers.protocol import Protocol
from hwnas.profilers.self_timed import SelfTimedProfiler
from hwnas.spaces.errors import ConfigError, DeviceUnavailable, ModelError

__all__ = ["DspQnnHub", "connect"]

Key = TypeVar("Key", bound=Hashable)

PACKAGE = "qai-hub"
#: Inferences of a job; the service's own default.
INFERENCES = 100
#: Seconds that a job may wait and run; phones there are shared.
JOB_S = 3600
_COMPILE = "--target_runtime qnn_context_binary --quantize_io"
_MAX_LAYERS = 100_000


def connect() -> Any:
    """The client, with the token that it was configured with; asks the service for nothing.

    Raises
    ------
    DeviceUnavailable
        If the package is not installed or has no token.
    """
    try:
        version(PACKAGE)
    except PackageNotFoundError as error:
        raise DeviceUnavailable(
            "Qualcomm's client qai-hub is not installed; install it with: pip install qai-hub (models are sent to "
            "Qualcomm, under its terms)"
        ) from error
    import qai_hub

    client = qai_hub.Client()
    try:
        client.config  # noqa: B018 - reads the file with the token
        client.set_verbose(False)
    except Exception as error:  # a missing file, a broken one, or one without a token
        raise DeviceUnavailable(
            "qai-hub has no token; get one from Qualcomm AI Hub, then: qai-hub configure --api_token TOKEN"
        ) from error
    return client


class DspQnnHub(SelfTimedProfiler):
    """Measures on a phone that Qualcomm hosts. Not run against the service yet.

    Parameters
    ----------
    phone
        Its name there in lower case with hyphens, such as ``galaxy-s24`` or ``samsung-galaxy-s24``.
    precision
        ``int8``.
    """

    name = "dsp-qnn-hub"
    device_class = "dsp"
    summary = "a phone that Qualcomm hosts, as in dsp-qnn-hub:galaxy-s24 (models are sent there), measured; never run"
    precisions = ("int8",)

    def __init__(self, phone: str, *, precision: str | None = None) -> None:
        super().__init__(precision=precision)
        self.phone = phone

    @classmethod
    def unavailable(cls) -> str | None:
        try:
            connect()
        except DeviceUnavailable as error:
            return str(error)
        return None

    @classmethod
    def from_qualifiers(cls, qualifiers: Sequence[str], **options: Any) -> Profiler:
        """Make the profiler of a phone.

        Raises
        ------
        ConfigError
            Unless there is one qualifier beside the precision.
        """
        phones = [qualifier for qualifier in qualifiers if qualifier not in cls.precisions]
        if len(phones) != 1:
            raise ConfigError(f"{cls.name} needs one phone: write {cls.name}:galaxy-s24")
        return cls(phones[0], **options)

    @property
    def key(self) -> str:
        """The name and the phone, such as ``dsp-qnn-hub.galaxy-s24``."""
        return f"{self.name}.{self.phone}"

    # ------------------------------------------------------------------ what it is

    @cached_property
    def _client(self) -> Any:
        return connect()

    @cached_property
    def _device(self) -> Any:
        """The hosted phone with this name; the one with the newest system if there are several."""
        devices = _ask("lists no phones", lambda: self._client.get_devices(attributes="framework:qnn"))
        slugs = {_slug(device.name) for device in devices}
        named = [slug for slug in slugs if slug == self.phone or slug.endswith(f"-{self.phone}")]
        if len(named) != 1:
            near = sorted(named or slugs)
            shown = ", ".join(near[:12]) + (", ..." if len(near) > 12 else "")
            raise ConfigError(f"Qualcomm hosts {'several' if named else 'no'} phones {self.phone!r}; it has {shown}")
        return max(
            (device for device in devices if _slug(device.name) == named[0]), key=lambda found: _numbers(found.os)
        )

    @cached_property
    def _runtime(self) -> str:
        """Version of Qualcomm's runtime that the service takes, unless it is told otherwise."""
        frameworks = _ask("lists no runtimes", self._client.get_frameworks)
        found = [
            fw.full_version or fw.api_version for fw in frameworks if fw.name == "QAIRT" and "default" in fw.api_tags
        ]
        if not found:
            raise DeviceUnavailable("Qualcomm AI Hub names no default version of QAIRT; update hwnas")
        return str(found[0])

    def device_record(self, protocol: Protocol | None = None) -> DeviceRecord:
        """The hosted phone as the service describes it; nothing of this machine or its user."""
        device, protocol = self._device, protocol or Protocol()
        chips = [name.partition(":")[2] for name in device.attributes if name.startswith("chipset:")]
        return DeviceRecord(
            key=self.key,
            name=f"{device.name}, hosted by Qualcomm",
            device_class=self.device_class,
            runtime="qairt",
            runtime_version=self._runtime,
            precision=self.precision,
            threads=self.threads,
            batch=self.batch,
            method=self.method,
            host={"cpu": ", ".join(chips), "model": device.name, "os": device.os},
            protocol={
                "inferences": INFERENCES,
                "passes": protocol.passes,
                "percentile": protocol.percentile,
                "compile": _COMPILE,
                PACKAGE: version(PACKAGE),
            },
        )

    # ------------------------------------------------------------------ measuring

    def measure_many(
        self,
        models: Mapping[Key, ModelSource],
        protocol: Protocol | None = None,
        *,
        progress: Progress | None = None,
        log: PassLog[Key] | None = None,
        deadline: float | None = None,
    ) -> Iterator[tuple[Key, Measurement]]:
        """Latencies of many models, see `SelfTimedProfiler`; each pass is a job, and there are no further ones."""
        settings = protocol or Protocol()
        settings = replace(settings, max_passes=settings.passes)
        return super().measure_many(models, settings, progress=progress, log=log, deadline=deadline)

    def open(self, model: Model) -> Callable[[], Sequence[float]]:
        """Send the model, and let the service compile it for the phone; see `SelfTimedProfiler.open`.

        Raises
        ------
        ModelError
            If it is not quantised, or the service cannot compile or run it.
        DeviceUnavailable
            If the service does not answer.
        """
        program = self._compile(self._checked(model))

        def one_pass() -> Sequence[float]:
            profile = self._run(program)
            _on_accelerator(profile)
            return [max(FLOOR_MS, us / 1e3) for us in _times(profile)]

        return one_pass

    def kernel_shares(
        self, model: Model, nodes: Collection[str] | None = None, protocol: Protocol | None = None
    ) -> dict[str, float] | None:
        """Divide the time of one inference among the kernels by what the service counts of each layer.

        Raises
        ------
        ModelError
            As `open`, and if its layers cannot be traced back.
        """
        data = self._checked(model)
        return layer_shares(data, _layers(self._run(self._compile(data)), data), nodes)

    def _checked(self, model: Model) -> bytes:
        data = as_bytes(model)
        check_quantised(data, self.key)
        return fixed_sizes(data)

    def _compile(self, data: bytes) -> Any:
        model, device = load_model(data), self._device
        submit = self._client.submit_compile_job
        job = _ask("takes no model", lambda: submit(model, device, name="hwnas", options=_COMPILE))
        _finish(job, "compile")
        return _ask("has no program of the model", job.get_target_model)

    def _run(self, program: Any) -> Mapping[str, Any]:
        """Run the program over there on random input, and fetch its profile."""
        options, device = f"--max_profiler_iterations {INFERENCES}", self._device
        submit = self._client.submit_inference_job
        job = _ask("takes no job", lambda: submit(program, device, name="hwnas", options=options, profile=True))
        _finish(job, "run")
        profile = _ask("has no profile", job.download_profile)
        if not isinstance(profile, Mapping):
            raise ModelError(f"Qualcomm AI Hub gives no profile of the job {job.url}")
        return profile


def _ask(trouble: str, question: Callable[[], Any]) -> Any:
    """What the client answers; its errors, and those of the network beneath it, have no common base."""
    try:
        return question()
    except Exception as error:
        raise DeviceUnavailable(f"Qualcomm AI Hub {trouble}: {first_line(error)}") from error


def _finish(job: Any, verb: str) -> None:
    try:
        status = job.wait(JOB_S)
    except TimeoutError as error:
        raise DeviceUnavailable(f"Qualcomm AI Hub did not {verb} the model within {JOB_S} s; see {job.url}") from error
    except Exception as error:  # see `_ask`
        raise DeviceUnavailable(f"Qualcomm AI Hub does not answer: {first_line(error)}; see {job.url}") from error
    if not status.success:
        message = (str(status.message or "").strip().splitlines() or ["it does not say why"])[0][:300]
        raise ModelError(f"Qualcomm AI Hub cannot {verb} the model ({message}); see {job.url}")


def _times(profile: Mapping[str, Any]) -> list[float]:
    """Microseconds of each inference."""
    summary = profile.get("execution_summary")
    times = summary.get("all_inference_times") if isinstance(summary, Mapping) else None
    if not isinstance(times, Sequence) or not times or not all(_positive(us) for us in times):
        raise ModelError("the profile of Qualcomm AI Hub has no times of single inferences; update qai-hub")
    return [float(us) for us in times]


def _on_accelerator(profile: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The layers; raises `ModelError` if there are none, or some ran on another processor."""
    layers = profile.get("execution_detail")
    if not isinstance(layers, list) or not 0 < len(layers) <= _MAX_LAYERS:
        raise ModelError("the profile of Qualcomm AI Hub counts no layers")
    if not all(isinstance(layer, Mapping) for layer in layers):
        raise ModelError("the profile of Qualcomm AI Hub has a layer of unknown form; update hwnas")
    elsewhere = sorted({str(layer.get("compute_unit")) for layer in layers} - {"NPU"})
    if elsewhere:
        raise ModelError(f"Qualcomm AI Hub ran layers of the model on {', '.join(elsewhere)}, not on the NPU")
    return layers


def _layers(profile: Mapping[str, Any], data: bytes) -> dict[str, float]:
    """Cycles or microseconds of each layer, by its name in the model where it can be told.

    Qualcomm's converter writes an underscore for what is no letter, digit or underscore in a name, and sometimes puts
    one before it.
    """
    plain = {re.sub(r"\W", "_", node.name): node.name for node in model_nodes(load_model(data))}
    layers = _on_accelerator(profile)
    unit = "execution_cycles" if all("execution_cycles" in layer for layer in layers) else "execution_time"
    times: dict[str, float] = {}
    for layer in layers:
        value, name = layer.get(unit, 0), str(layer.get("name"))
        if value != 0 and not _positive(value):
            raise ModelError(f"the profile of Qualcomm AI Hub counts {value!r} for the layer {name[:80]!r}")
        name = plain.get(name) or plain.get(name.removeprefix("_")) or name
        times[name] = times.get(name, 0.0) + float(value)
    return times


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def _slug(name: str) -> str:
    """``Samsung Galaxy S24 (Family)`` as ``samsung-galaxy-s24-family``."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text)[:4])
