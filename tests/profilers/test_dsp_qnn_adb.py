"""``dsp-qnn-adb``: command lines for a phone, and what comes back from it, on a phone that replays.

The form of the profiles is that of what people published of QAIRT's ``qnn-profile-viewer``: its help, the CSV of a
OnePlus 12 with its heading (names with spaces after the commas, below lines on versions), rows of ``EXECUTE`` by source
and level, layers named ``NAME:OpId_N (cycles)``; and the names of events in Qualcomm's header ``QnnHtpProfile.h``. The
two recordings were written by hand in that form. How the lines above the heading are worded was not taken from
anything; the layers' names are those of onnxruntime-qnn 2.7 for the same model on its emulator. No phone made them.
"""

from __future__ import annotations

import gc
import subprocess
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest

from hwnas.profilers import adb, dsp_qnn_adb, get_profiler, qnn_session
from hwnas.profilers.adb import Phone, connected_phone
from hwnas.profilers.dsp_qnn_adb import INFERENCES, WARM_UP, DspQnnAdb
from hwnas.profilers.qnn_profile import read_profile
from hwnas.profilers.reference import anchor_model
from hwnas.profilers.testing import QUICK, check_profiler
from hwnas.quantize import quantize_for_timing
from hwnas.spaces import ConfigError, DeviceUnavailable, ModelError
from tests.profilers.fake_phone import DATA, FakePhone, plug_in

needs_package = pytest.mark.skipif(qnn_session.missing_package() is not None, reason=str(qnn_session.missing_package()))


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePhone:
    return plug_in(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def block() -> bytes:
    """The reference model, quantised."""
    return quantize_for_timing(anchor_model()).SerializeToString()


@pytest.fixture(scope="module", autouse=True)
def _compiled_once() -> Iterator[None]:
    """Compile a model for a chip once: most of these tests take the same."""
    real, known = dsp_qnn_adb.write_context, {}

    def write(data: bytes, soc_model: int, path: Path, *, limit_s: float) -> tuple[Path, Path]:
        if (data, soc_model) not in known:
            known[data, soc_model] = [file.read_bytes() for file in real(data, soc_model, path, limit_s=limit_s)]
        wrapper, binary = known[data, soc_model]
        path.write_bytes(wrapper)
        path.with_suffix(".bin").write_bytes(binary)
        return path, path.with_suffix(".bin")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dsp_qnn_adb, "write_context", write)
        yield


# ---------------------------------------------------------------- profiles


def test_times_and_cycles_are_read() -> None:
    basic = read_profile(DATA / "qnn_phone_basic.csv")
    assert basic.execute_us == (402.0, 201.0)
    assert not basic.cycles
    detailed = read_profile(DATA / "qnn_phone_detailed.csv")
    assert not detailed.execute_us
    assert detailed.cycles["depthwise_token_7"] == [60000]
    assert detailed.cycles["Input"] == [2900]
    assert "Accelerator (execute) time" not in detailed.cycles


@pytest.mark.parametrize(
    ("old", "new", "trouble"),
    [
        ("Event Identifier", "Event", "has no line with Message, Time"),
        ("EXECUTE,201,", "EXECUTE,-201,", r"'-201' as 'Accelerator \(execute\) time', which is no count"),
        ("EXECUTE,201,", "EXECUTE,99999999999999999,", "which is no count"),
        ("EXECUTE,201,", "EXECUTE,nan,", "which is no count"),
    ],
)
def test_what_is_no_profile_is_refused(tmp_path: Path, old: str, new: str, trouble: str) -> None:
    text = (DATA / "qnn_phone_basic.csv").read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "profile.csv").write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(ModelError, match=trouble):
        read_profile(tmp_path / "profile.csv")


def test_huge_profiles_are_refused(tmp_path: Path) -> None:
    with (tmp_path / "profile.csv").open("wb") as file:
        file.truncate(65_000_000)
    with pytest.raises(ModelError, match="65 MB; at most 64"):
        read_profile(tmp_path / "profile.csv")


# ---------------------------------------------------------------- phones


@pytest.mark.parametrize(
    ("states", "serial", "trouble"),
    [
        ({}, None, "no phone is connected; plug one in"),
        ({"A": "unauthorized"}, None, "the phone A does not trust this computer yet; unlock it"),
        ({"A": "offline"}, None, "the phone A is offline"),
        ({"A": "no permissions (user in plugdev group); see [http://x]"}, None, "udev rules"),
        ({"A": "recovery"}, None, "in the state 'recovery'; start Android"),
        (
            {"A": "device", "B": "device"},
            None,
            "several phones are connected .A, B.; say which: export ANDROID_SERIAL=A",
        ),
        ({"A": "device"}, "B", "ANDROID_SERIAL is B, but no such phone is connected; connected: A"),
        ({"A": "device", "B": "offline"}, "B", "the phone B is offline"),
    ],
)
def test_states_of_phones(
    phone: FakePhone, monkeypatch: pytest.MonkeyPatch, states: dict[str, str], serial: str | None, trouble: str
) -> None:
    phone.devices(states)
    if serial:
        monkeypatch.setenv("ANDROID_SERIAL", serial)
    with pytest.raises(DeviceUnavailable, match=trouble):
        connected_phone()


def test_the_ready_or_the_named_phone_is_taken(phone: FakePhone, monkeypatch: pytest.MonkeyPatch) -> None:
    phone.devices({"A": "device", "B": "offline", "C": "unauthorized"})
    assert connected_phone() == Phone("A")
    phone.devices({"A": "device", "192.168.1.9:5555": "device"})
    monkeypatch.setenv("ANDROID_SERIAL", "192.168.1.9:5555")
    assert connected_phone() == Phone("192.168.1.9:5555")


def test_no_adb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceUnavailable, match="adb is not installed; install Android's platform tools"):
        connected_phone()


def test_a_phone_that_hangs_or_goes(phone: FakePhone, tmp_path: Path) -> None:
    found = connected_phone()
    with pytest.raises(DeviceUnavailable, match=r"did not answer within 0.3 s"):
        found.shell("sleep 3", limit_s=0.3)
    assert found.shell("exit 3").returncode == 3
    phone.write(full=True)
    with pytest.raises(DeviceUnavailable, match=r"cannot copy to the phone R5CX1: .*No space left"):
        found.push([DATA / "qnn_phone_basic.csv"], "/data/local/tmp/x")
    with pytest.raises(DeviceUnavailable, match=r"cannot copy /data/local/tmp/none from .*No such file"):
        found.pull("/data/local/tmp/none", tmp_path / "none")
    phone.write(unplugged=True)
    with pytest.raises(DeviceUnavailable, match="the phone R5CX1 is gone: adb: device 'R5CX1' not found"):
        found.fact("ro.soc.model")


# ---------------------------------------------------------------- the device


@needs_package
def test_it_says_what_is_missing(phone: FakePhone, monkeypatch: pytest.MonkeyPatch) -> None:
    assert DspQnnAdb.unavailable() is None
    phone.devices({})
    assert "no phone is connected" in str(DspQnnAdb.unavailable())
    (phone.sdk / "bin/x86_64-linux-clang/qnn-profile-viewer").unlink()
    assert "there is no bin/x86_64-linux-clang/qnn-profile-viewer" in str(DspQnnAdb.unavailable())
    monkeypatch.delenv("QNN_SDK_ROOT")
    assert str(DspQnnAdb.unavailable()).startswith("QNN_SDK_ROOT is not set; set it to the folder of Qualcomm's")
    assert DspQnnAdb.summary.endswith("measured; never run on a phone")


@needs_package
@pytest.mark.usefixtures("phone")
def test_keys() -> None:
    assert get_profiler("dsp-qnn-adb:galaxy-s24").key == "dsp-qnn-adb.galaxy-s24"
    assert get_profiler("dsp-qnn-adb.57.int8").key == "dsp-qnn-adb.57"
    with pytest.raises(ConfigError, match="needs a chip or a phone: write dsp-qnn-adb:57 or"):
        get_profiler("dsp-qnn-adb")
    with pytest.raises(ConfigError, match="one chip, not 57 and 43"):
        get_profiler("dsp-qnn-adb.57.43")
    with pytest.raises(ConfigError, match=r"dsp-qnn-adb knows no chip 'nokia'; .*dsp-qnn-adb:57"):
        get_profiler("dsp-qnn-adb:nokia")
    with pytest.raises(ConfigError, match="the Hexagon version of chip 999 is not known"):
        get_profiler("dsp-qnn-adb:999")


@needs_package
@pytest.mark.usefixtures("phone")
def test_it_keeps_the_rules_of_profilers_on_a_phone_that_replays(block: bytes) -> None:
    profiler = get_profiler("dsp-qnn-adb:galaxy-s24")
    check_profiler(profiler, [onnx.load_model_from_string(block)])
    record = profiler.device_record()
    assert record.name == "samsung SM-S921B, Snapdragon 8 Gen 3 (Hexagon v75, soc_model 57)"
    assert (record.method, record.runtime, record.runtime_version) == ("measured", "qairt", "2.51.0.260929181845")
    assert record.host == {"cpu": "SM8650", "model": "SM-S921B", "machine": "arm64-v8a", "os": "Android 14"}
    assert "R5CX1" not in record.to_json()


@needs_package
@pytest.mark.usefixtures("phone")
def test_a_measurement_is_the_accelerators_time(block: bytes) -> None:
    result = DspQnnAdb("57").measure(block, QUICK)
    assert result.median_ms == pytest.approx(0.201)
    assert result.repeats == QUICK.passes
    assert len(result.samples) == QUICK.passes * INFERENCES
    shares = DspQnnAdb("57").kernel_shares(block)
    assert shares is not None
    assert shares["depthwise"] == pytest.approx(60000 / 140100, rel=0.05)
    assert set(shares) == {"expand", "depthwise", "project", "add"}


@needs_package
def test_command_lines(phone: FakePhone, block: bytes) -> None:
    DspQnnAdb("57").measure(block, QUICK)
    calls = phone.commands()
    assert all(call == ["devices"] or call[:2] == ["-s", "R5CX1"] for call in calls)
    pushed = [[Path(file).name for file in call[3:-1]] for call in calls if "push" in call]
    assert pushed == [
        ["qnn-net-run", "libQnnHtp.so", "libQnnSystem.so", "libQnnHtpV75Stub.so", "libQnnHtpV75Skel.so"],
        ["net.bin", "inputs.txt", "input_0.raw"],
    ]
    folder = next(call[-1] for call in calls if "push" in call).rstrip("/")
    wanted = (
        f"cd {folder}/model-0 && rm -rf out && LD_LIBRARY_PATH={folder} ADSP_LIBRARY_PATH={folder} "
        f"timeout 300 {folder}/qnn-net-run --backend libQnnHtp.so --retrieve_context net.bin "
        "--input_list inputs.txt --output_dir out --use_native_input_files --use_native_output_files "
        f"--num_inferences {WARM_UP + INFERENCES} --keep_num_outputs 1 "
        "--profiling_level basic --perf_profile burst --log_level error"
    )
    assert folder.startswith("/data/local/tmp/hwnas-")
    assert [call[3] for call in calls if "qnn-net-run --backend" in call[-1]] == [wanted] * QUICK.passes


@needs_package
def test_the_phone_is_left_as_it_was(phone: FakePhone, block: bytes) -> None:
    profiler = DspQnnAdb("57")
    profiler.measure(block, QUICK)
    (folder,) = phone.left()
    gc.collect()
    assert not list((phone.home / "tmp" / folder).glob("model-*"))
    del profiler
    gc.collect()
    assert not phone.left()


@needs_package
def test_input_has_the_size_of_the_binarys(phone: FakePhone, block: bytes) -> None:
    profiler = DspQnnAdb("57")
    profiler.open(block)
    loaded = profiler._load(block)
    (raw,) = (phone.home / "tmp").glob("*/model-1/input_*.raw")
    assert raw.stat().st_size == 32 * 28 * 28  # the quantised image, one byte a number
    del loaded


@needs_package
def test_another_chip_is_refused(phone: FakePhone, block: bytes) -> None:
    with pytest.raises(DeviceUnavailable, match=r"has the chip Snapdragon 8 Gen 3 .*; name it dsp-qnn-adb:57"):
        DspQnnAdb("43").measure(block, QUICK)
    phone.write(facts={"ro.soc.model": "SM8650-AC"})
    assert DspQnnAdb("57").measure(block, QUICK).median_ms > 0


@needs_package
def test_what_goes_wrong_on_the_phone_is_said(phone: FakePhone, block: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    profiler = DspQnnAdb("57")
    (phone.home / "refusal").write_text("Could not create context from binary", encoding="ascii")
    with pytest.raises(
        ModelError, match=r"\(Could not create context from binary\); the SDK there is 2.51.0.*not be older"
    ):
        profiler.measure(block, QUICK)
    (phone.home / "refusal").unlink()
    monkeypatch.setenv("FAKE_LOST", "7")
    with pytest.raises(ModelError, match=r"has 103 times .* for 110 inferences"):
        profiler.measure(block, QUICK)
    monkeypatch.setattr(dsp_qnn_adb, "RUN_S", 1)
    (phone.home / "hangs").touch()
    with pytest.raises(ModelError, match="did not finish 110 inferences within 1 s"):
        profiler.measure(block, QUICK)
    with pytest.raises(ModelError, match="quantise it to int8"):
        profiler.measure(anchor_model(), QUICK)


@needs_package
def test_a_program_that_does_not_run_there(phone: FakePhone, block: bytes) -> None:
    (phone.sdk / "bin/aarch64-android/qnn-net-run").write_text("#!/bin/sh\nexit 126\n", encoding="ascii")
    with pytest.raises(DeviceUnavailable, match="qnn-net-run does not run on the phone R5CX1: it ended with 126"):
        DspQnnAdb("57").measure(block, QUICK)
    gc.collect()
    assert not phone.left()


@pytest.mark.usefixtures("phone")
def test_adb_never_reads_our_input(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = subprocess.run
    monkeypatch.setattr(adb.subprocess, "run", lambda *a, **k: (seen.append(k["stdin"]), real(*a, **k))[1])
    connected_phone().fact("ro.soc.model")
    assert set(seen) == {subprocess.DEVNULL}
