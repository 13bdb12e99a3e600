"""``dsp-qnn-hub``: the calls of Qualcomm's client and the profiles that it gives, at a client that is not there.

Signatures and the profile's form are those of ``qai-hub`` 0.56: ``execution_summary`` with ``all_inference_times`` in
microseconds, ``execution_detail`` with ``name``, ``type``, ``compute_unit`` and ``execution_time`` or
``execution_cycles``. Where that package is installed, the calls are checked against its signatures. No job was ever
run.
"""

from __future__ import annotations

import inspect
import sys
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace
from typing import Any

import onnx
import pytest

from hwnas.profilers import dsp_qnn_hub, get_profiler
from hwnas.profilers.dsp_qnn_hub import DspQnnHub, connect
from hwnas.profilers.reference import anchor_model
from hwnas.profilers.testing import QUICK, check_profiler
from hwnas.quantize import quantize_for_timing
from hwnas.spaces import ConfigError, DeviceUnavailable, ModelError


def profile() -> dict[str, Any]:
    """A profile in the client's form, of the reference model."""

    def layer(name: str, kind: str, cycles: int) -> dict[str, Any]:
        return {"name": name, "type": kind, "compute_unit": "NPU", "execution_time": 0, "execution_cycles": cycles}

    return {
        "execution_summary": {
            "estimated_inference_time": 301,
            "first_load_time": 98000,
            "all_inference_times": [900, *([310, 305, 301, 320] * 25)],
        },
        "execution_detail": [
            layer("input", "Input", 0),
            layer("_expand", "Conv2d", 3000),
            layer("depthwise", "DepthWiseConv2d", 5000),
            layer("project", "Conv2d", 1500),
            layer("add", "Eltwise_Binary", 500),
        ],
    }


class Job:
    """A job of the service, over when it is asked for."""

    url = "https://hub/jobs/j1"

    def __init__(self, result: Any, failure: str | None = None, slow: bool = False) -> None:
        self._result, self._failure, self._slow = result, failure, slow

    def wait(self, timeout: int | None = None) -> Any:
        if self._slow:
            raise TimeoutError(f"timed out after {timeout} seconds")
        return SimpleNamespace(success=self._failure is None, message=self._failure)

    def get_target_model(self) -> Any:
        return self._result

    def download_profile(self) -> Any:
        return self._result


class Client:
    """What this device uses of the client; keeps what it is called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.compiled, self.ran = Job("program"), Job(profile())
        self.broken: str | None = None

    def _called(self, call: str, /, *args: Any, **named: Any) -> None:
        if self.broken == call:
            raise RuntimeError("503 Service Unavailable\nlater lines")
        self.calls.append((call, args, named))

    def get_devices(self, **named: Any) -> list[Any]:
        self._called("get_devices", **named)
        chip = ["framework:qnn", "chipset:qualcomm-snapdragon-8gen3", "os:android"]
        names = [("Samsung Galaxy S24", "14"), ("Samsung Galaxy S24", "9"), ("Samsung Galaxy S24 (Family)", "14")]
        return [SimpleNamespace(name=name, os=system, attributes=chip) for name, system in names]

    def get_frameworks(self) -> list[Any]:
        self._called("get_frameworks")
        return [
            SimpleNamespace(name="QAIRT", api_version="2.50", api_tags=["latest"], full_version="2.50.0"),
            SimpleNamespace(name="QAIRT", api_version="2.45", api_tags=["default"], full_version="2.45.0.260326"),
        ]

    def submit_compile_job(self, *args: Any, **named: Any) -> Job:
        self._called("submit_compile_job", *args, **named)
        return self.compiled

    def submit_inference_job(self, *args: Any, **named: Any) -> Job:
        self._called("submit_inference_job", *args, **named)
        return self.ran


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    made = Client()
    monkeypatch.setattr(dsp_qnn_hub, "connect", lambda: made)
    monkeypatch.setattr(dsp_qnn_hub, "version", lambda _: "0.56.0")
    return made


@pytest.fixture(scope="module")
def block() -> bytes:
    """The reference model, quantised."""
    return quantize_for_timing(anchor_model()).SerializeToString()


@pytest.mark.usefixtures("client")
def test_it_keeps_the_rules_of_profilers_on_a_client_that_replays(block: bytes) -> None:
    profiler = get_profiler("dsp-qnn-hub:galaxy-s24")
    assert profiler.key == "dsp-qnn-hub.galaxy-s24"
    check_profiler(profiler, [onnx.load_model_from_string(block)])
    record = profiler.device_record()
    assert (record.method, record.name) == ("measured", "Samsung Galaxy S24, hosted by Qualcomm")
    assert record.runtime_version == "2.45.0.260326"
    assert record.host == {"cpu": "qualcomm-snapdragon-8gen3", "model": "Samsung Galaxy S24", "os": "14"}


def test_a_measurement_is_a_job_a_pass(client: Client, block: bytes) -> None:
    result = DspQnnHub("galaxy-s24").measure(block, QUICK)
    assert result.median_ms == pytest.approx(0.301)
    assert result.repeats == QUICK.passes
    sent = [call for call in client.calls if call[0].startswith("submit")]
    assert [name for name, _, _ in sent] == ["submit_compile_job"] + ["submit_inference_job"] * QUICK.passes
    _, (model, device), named = sent[0]
    assert onnx.checker.check_model(model) is None
    assert (device.name, device.os) == ("Samsung Galaxy S24", "14")
    assert named == {"name": "hwnas", "options": "--target_runtime qnn_context_binary --quantize_io"}
    _, (program, device), named = sent[1]
    assert (program, device.os) == ("program", "14")
    assert named == {"name": "hwnas", "options": "--max_profiler_iterations 100", "profile": True}


@pytest.mark.usefixtures("client")
def test_shares_are_of_layers(block: bytes) -> None:
    shares = DspQnnHub("samsung-galaxy-s24").kernel_shares(block)
    assert shares == pytest.approx({"expand": 0.3, "depthwise": 0.5, "project": 0.15, "add": 0.05})


@pytest.mark.usefixtures("client")
def test_phones(block: bytes) -> None:
    assert DspQnnHub("galaxy-s24-family").device_record().host["model"] == "Samsung Galaxy S24 (Family)"
    with pytest.raises(
        ConfigError, match=r"hosts no phones 'nokia'; it has samsung-galaxy-s24, samsung-galaxy-s24-fam"
    ):
        DspQnnHub("nokia").measure(block, QUICK)
    with pytest.raises(ConfigError, match="needs one phone: write dsp-qnn-hub:galaxy-s24"):
        get_profiler("dsp-qnn-hub")
    with pytest.raises(ModelError, match="quantise it to int8"):
        DspQnnHub("galaxy-s24").measure(anchor_model(), QUICK)


def test_what_the_service_refuses_is_said(client: Client, block: bytes) -> None:
    profiler = DspQnnHub("galaxy-s24")
    client.compiled = Job(None, failure="unsupported operator\nand more")
    with pytest.raises(ModelError, match=r"cannot compile the model \(unsupported operator\); see https://hub/jobs/j1"):
        profiler.measure(block, QUICK)
    client.compiled, client.ran = Job("program"), Job(None, failure="")
    with pytest.raises(ModelError, match=r"cannot run the model \(it does not say why\)"):
        profiler.measure(block, QUICK)
    client.ran = Job(None, slow=True)
    with pytest.raises(DeviceUnavailable, match="did not run the model within 3600 s; see https"):
        profiler.measure(block, QUICK)
    client.broken = "submit_compile_job"
    with pytest.raises(DeviceUnavailable, match=r"takes no model: 503 Service Unavailable$"):
        profiler.measure(block, QUICK)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("execution_summary", {}),
        ("execution_summary", {"all_inference_times": []}),
        ("execution_summary", {"all_inference_times": [301, -1]}),
        ("execution_summary", {"all_inference_times": [301, float("nan")]}),
        ("execution_summary", None),
    ],
)
def test_broken_profiles_are_refused(client: Client, block: bytes, part: str, value: Any) -> None:
    client.ran = Job({**profile(), part: value})
    with pytest.raises(ModelError, match="no times of single inferences"):
        DspQnnHub("galaxy-s24").measure(block, QUICK)


def test_layers_off_the_accelerator_are_refused(client: Client, block: bytes) -> None:
    found = profile()
    found["execution_detail"][4]["compute_unit"] = "CPU"
    client.ran = Job(found)
    with pytest.raises(ModelError, match="layers of the model on CPU, not on the NPU"):
        DspQnnHub("galaxy-s24").measure(block, QUICK)
    client.ran = Job({**profile(), "execution_detail": []})
    with pytest.raises(ModelError, match="counts no layers"):
        DspQnnHub("galaxy-s24").kernel_shares(block)


def test_without_the_package_or_its_token(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(dsp_qnn_hub, "version", missing)
    assert "pip install qai-hub (models are sent to Qualcomm" in str(DspQnnHub.unavailable())

    class Tokenless:
        @property
        def config(self) -> Any:
            raise ValueError("Failed to load client configuration file.\n~/.qai_hub/client.ini not found")

    monkeypatch.setattr(dsp_qnn_hub, "version", lambda _: "0.56.0")
    monkeypatch.setitem(sys.modules, "qai_hub", SimpleNamespace(Client=Tokenless))
    with pytest.raises(DeviceUnavailable, match=r"has no token; .*qai-hub configure --api_token TOKEN"):
        connect()


def test_the_calls_fit_the_real_client(client: Client, block: bytes) -> None:
    """Every call that this device makes binds to the signature of the installed client."""
    real = pytest.importorskip("qai_hub", reason="qai-hub is not installed")
    profiler = DspQnnHub("galaxy-s24")
    profiler.measure(block, QUICK)
    profiler.device_record()
    for name, args, named in client.calls:
        inspect.signature(getattr(real.Client, name)).bind(None, *args, **named)
    jobs = sys.modules["qai_hub.client"]
    inspect.signature(jobs.CompileJob.get_target_model).bind(None)
    inspect.signature(jobs.InferenceJob.download_profile).bind(None)
    inspect.signature(jobs.Job.wait).bind(None, 3600)
