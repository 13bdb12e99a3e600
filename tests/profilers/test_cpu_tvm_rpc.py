"""``cpu-tvm-rpc`` over loopback: this machine plays the board."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import pytest

from hwnas.profilers import get_profiler, list_profilers
from hwnas.profilers.cpu_tvm import inputs_of
from hwnas.profilers.testing import check_profiler
from hwnas.spaces import DeviceUnavailable, get_space

pytest.importorskip("tvm")

TARGET = '{"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "x86-64-v2"}'


@pytest.fixture(scope="module")
def board() -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tvm.exec.rpc_server", "--host", "127.0.0.1", "--silent"]
    server = subprocess.Popen(
        [*command, "--port", str(port), "--port-end", str(port + 1)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TVM_NUM_THREADS": "1", "TVM_FFI_DISABLE_TORCH_C_DLPACK": "1"},
        start_new_session=True,
    )
    try:
        for _ in range(600):
            assert server.poll() is None, "the RPC server ended"
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the loopback target is of x86-64")
def test_a_board_keeps_the_rules_and_computes_the_same(board: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    monkeypatch.setenv("HWNAS_TVM_RPC", board)
    monkeypatch.setenv("HWNAS_TVM_TARGET", TARGET)
    monkeypatch.setenv("HWNAS_TVM_CC", "g++")
    profiler = get_profiler("cpu-tvm-rpc")
    block = get_space("mobilenet(resolution=8,width=0.25)").catalog[2].to_onnx()
    check_profiler(profiler, [block])
    record = profiler.device_record()
    assert record.name.endswith("(x86_64)")
    assert record.method == "measured"
    assert "127.0.0.1" not in record.to_json()

    data = block.SerializeToString()
    runner = profiler.open(block)  # type: ignore[attr-defined]
    assert 0 < runner.device_ms(3) < 1e4
    found = runner.machine["main"](*runner.inputs).numpy()
    (given,) = inputs_of(data)
    expected = onnxruntime.InferenceSession(data).run(None, {block.graph.input[0].name: given})[0]
    assert np.abs(found - expected).max() < 1e-4


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def reason() -> str:
        with pytest.raises(DeviceUnavailable) as caught:
            get_profiler("cpu-tvm-rpc")
        return str(caught.value)

    for name in ("HWNAS_TVM_RPC", "HWNAS_TVM_TARGET", "HWNAS_TVM_CC"):
        monkeypatch.delenv(name, raising=False)
    assert "HWNAS_TVM_RPC is not set" in reason()
    monkeypatch.setenv("HWNAS_TVM_RPC", "board")
    assert "HWNAS_TVM_RPC is 'board'" in reason()
    monkeypatch.setenv("HWNAS_TVM_RPC", "127.0.0.1:1/key")
    assert "HWNAS_TVM_TARGET is not set" in reason()
    monkeypatch.setenv("HWNAS_TVM_TARGET", TARGET)
    monkeypatch.setenv("HWNAS_TVM_CC", "nothing-g++")
    assert "no linker 'nothing-g++'" in reason()
    monkeypatch.setenv("HWNAS_TVM_CC", "true")
    assert "start on the board: python -m tvm.exec.rpc_server" in reason()
    assert not next(found for found in list_profilers() if found.name == "cpu-tvm-rpc").available
