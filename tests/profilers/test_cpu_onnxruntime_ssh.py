"""``cpu-onnxruntime-ssh`` through a real SSH server on the loopback: this machine plays the board."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from hwnas.constraints import ConstraintSet
from hwnas.latency_tables import LatencyTable, host_facts
from hwnas.profilers import get_profiler, list_profilers, profile_space, try_profiler
from hwnas.profilers.cpu_onnxruntime import CpuOnnxRuntime
from hwnas.profilers.cpu_onnxruntime_ssh import CpuOnnxRuntimeSsh
from hwnas.profilers.frames import MAX_JSON_BYTES, FrameError, pack, read_frame
from hwnas.profilers.reference import anchor_model
from hwnas.profilers.ssh_connection import AGENT_MODULES, Connection, agent_file, check_host
from hwnas.profilers.testing import QUICK, check_profiler
from hwnas.spaces import ConfigError, DeviceUnavailable, ModelError, get_space
from tests.profilers.sshd import PROGRAM, Board, serve

KEY = "cpu-onnxruntime-ssh:board"
SPACE = "mobilenet(resolution=8,width=0.15,depth=0.25)"
needs_server = pytest.mark.skipif(
    PROGRAM is None or not Path("/proc").is_dir(), reason="needs sshd; on Debian: apt-get install openssh-server"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    with serve(tmp_path_factory.mktemp("ssh")) as board:
        yield board


@pytest.fixture
def board(server: Board, monkeypatch: pytest.MonkeyPatch) -> Board:
    monkeypatch.setenv("HWNAS_SSH_CONFIG", str(server.config))
    monkeypatch.setenv("HWNAS_SSH_PYTHON", sys.executable)
    return server


def profiler_of(key: str) -> CpuOnnxRuntimeSsh:
    found = get_profiler(key)
    assert isinstance(found, CpuOnnxRuntimeSsh)
    return found


def until(holds: Callable[[], bool]) -> None:
    for _ in range(200):
        if holds():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come to hold in 10 s")


@needs_server
def test_a_board_keeps_the_rules_and_computes_the_same(board: Board) -> None:
    profiler = profiler_of(KEY)
    block = get_space(SPACE).catalog[2].to_onnx()
    check_profiler(profiler, [anchor_model(), block])
    assert profiler.key == "cpu-onnxruntime-ssh.board"
    record = profiler.device_record()
    assert (record.method, record.host, record.name) == ("measured", host_facts(), host_facts()["cpu"])
    assert record.protocol["pinned_to"] == CpuOnnxRuntime().device_record().protocol["pinned_to"]
    assert "127.0.0.1" not in record.to_json()
    assert str(board.folder) not in record.to_json()

    data = anchor_model()
    feeds = {"input": np.random.default_rng(1).standard_normal((1, 32, 28, 28), dtype=np.float32)}
    (there,), (here,) = profiler.outputs(data, feeds), CpuOnnxRuntime().outputs(data, feeds)
    assert np.array_equal(there, here)
    shares, at_home = profiler.kernel_shares(data, protocol=QUICK), CpuOnnxRuntime().kernel_shares(data, protocol=QUICK)
    assert shares is not None
    assert at_home is not None
    assert shares.keys() == at_home.keys()
    assert {path.suffix for path in (board.folder / "cache" / "hwnas" / "models").iterdir()} == {".onnx"}


@needs_server
@pytest.mark.usefixtures("board")
def test_keys_and_connections() -> None:
    one, other = profiler_of(KEY), profiler_of("cpu-onnxruntime-ssh.board.b4")
    assert one._board() is other._board()  # a board has one agent, whatever number of devices are on it
    assert other.key == "cpu-onnxruntime-ssh.board.b4"
    check_profiler(other)
    # a precision may come to stand before the host, when another part of hwnas chooses it
    assert profiler_of("cpu-onnxruntime-ssh.int8.board").key == "cpu-onnxruntime-ssh.board.int8"
    with pytest.raises(ModelError, match="this one is float"):
        profiler_of("cpu-onnxruntime-ssh:board.int8").measure(anchor_model(), QUICK)
    with pytest.raises(ConfigError, match=r"board has \d+ cores?, too few for 1000 threads"):
        get_profiler("cpu-onnxruntime-ssh:board.t1000")
    state = try_profiler(KEY)
    assert (state.name, state.available, state.state[:6]) == (one.key, True, "ready:")


@needs_server
@pytest.mark.usefixtures("board")
def test_errors_of_the_board_are_sentences() -> None:
    profiler = profiler_of(KEY)
    runner, sha = profiler.open(anchor_model()), sha256(anchor_model().SerializeToString()).hexdigest()
    with pytest.raises(ModelError, match=r"^board: the agent failed over it: '?999"):
        profiler._board().ask({"do": "run", "handle": 999, "calls": 1})
    with pytest.raises(ModelError, match="cannot pin to cores"):
        profiler._board().ask({"do": "open", "sha": sha, "threads": 1, "cores": [4095]})
    with pytest.raises(ModelError, match="the agent failed over it"):
        profiler._board().ask({"do": "format the disk"})
    runner()


@needs_server
def test_profiling_goes_on_after_a_lost_connection(board: Board, tmp_path: Path) -> None:
    space, profiler = get_space(SPACE), profiler_of(KEY)
    table = LatencyTable.create(tmp_path / profiler.key, profiler.device_record(QUICK))

    def lose(done: float, *_: object) -> None:
        if done == 5:
            assert board.cut() >= 2  # a new connection is made, and nobody notices
        if done == 20:
            board.stop()

    with pytest.raises(DeviceUnavailable, match=r"^cpu-onnxruntime-ssh.board was lost .*refused.*--resume$"):
        profile_space(space, profiler, table, contexts=["isolated"], protocol=QUICK, progress=lose)
    board.start()
    kept = len(list(table.records("pass")))
    assert kept >= 15
    table = LatencyTable.create(table.path, profiler.device_record(QUICK))  # by a new connection
    summary = profile_space(space, profiler, table, contexts=["isolated"], protocol=QUICK)
    assert summary.complete
    assert summary.added["isolated"] == len(space.catalog)
    passes = Counter(entry["model"] for entry in table.records("pass") if entry["model"].endswith(" isolated"))
    assert set(passes.values()) == {QUICK.max_passes}  # those from before count
    limits = ConstraintSet([f"latency@{KEY} <= 100ms"], space, str(tmp_path))
    assert limits.values(np.zeros((1, len(space.decisions)), dtype=np.int64)).min() > 0


@needs_server
def test_an_open_model_outlives_its_connection(board: Board) -> None:
    profiler = profiler_of(KEY)
    runner = profiler.open(anchor_model())
    runner()
    board.cut()
    until(lambda: not (profiler._connection and profiler._connection.alive))
    runner()  # opened anew
    assert profiler.measure(anchor_model(), QUICK).median_ms > 0


@needs_server
def test_the_agent_ends_with_the_connection_in_the_middle_of_its_work(board: Board) -> None:
    board.cut()
    until(lambda: not board.agents())
    profiler = profiler_of(KEY)
    runner = profiler.open(anchor_model())
    connection = profiler._board()
    (agent,) = board.agents()
    failed: list[Exception] = []

    def work() -> None:
        try:
            runner.device_ms(10_000_000)  # type: ignore[attr-defined]
        except DeviceUnavailable as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.3)
    assert board.agents() == [agent]
    connection.close()
    until(lambda: agent not in board.agents())
    until(lambda: board.agents())  # what was asked is begun once more, by a new connection
    board.cut()
    thread.join(30)
    until(lambda: not board.agents())
    assert "the connection to board" in str(failed[0])


@needs_server
@pytest.mark.usefixtures("board")
def test_a_board_that_does_not_answer_is_given_up() -> None:
    connection = Connection("board")
    with pytest.raises(DeviceUnavailable, match=r"gave no answer in 1e-06 s"):
        connection.ask({"do": "cores", "threads": 1, "drop": list(range(1000))}, b"0" * 5_000_000, limit_s=1e-6)
    assert not connection.alive


def test_an_agent_that_hears_nothing_ends() -> None:
    code = "import hwnas.profilers.ssh_agent as agent; agent.SILENCE_S = 0.2; agent.main()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        assert process.wait(30) == 0  # its input is open all the while


@needs_server
@pytest.mark.usefixtures("board")
def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def reason(key: str = KEY) -> str:
        state = try_profiler(key)
        assert not state.available
        return state.state

    with pytest.raises(DeviceUnavailable, match="closed cannot be reached"):
        get_profiler("cpu-onnxruntime-ssh:closed")
    assert "refused; try: ssh closed true" in reason("cpu-onnxruntime-ssh:closed")
    assert "Host key verification failed" in reason("cpu-onnxruntime-ssh:unknown")
    assert "Permission denied" in reason("cpu-onnxruntime-ssh:stranger")
    assert "closed cannot be reached" in str(CpuOnnxRuntimeSsh.unavailable("closed"))
    assert CpuOnnxRuntimeSsh.unavailable("board") is None

    monkeypatch.setenv("HWNAS_SSH_PYTHON", "no-python")
    assert reason().startswith("board has no no-python")
    bare = tmp_path / "bare-python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    bare.chmod(0o755)
    monkeypatch.setenv("HWNAS_SSH_PYTHON", str(bare))
    assert "onnxruntime cannot be imported there" in reason()
    bare.write_text('#!/bin/sh\nhead -c 100 /dev/zero; sleep 1; echo "no room left" >&2; exit 3\n')
    assert reason() == "board cannot run the agent: no room left"
    for bad in ("python3 -m x", "$(reboot)", "-c", "a;b", "~/python"):
        monkeypatch.setenv("HWNAS_SSH_PYTHON", bad)
        with pytest.raises(ConfigError, match="cannot be the path of a board's Python"):
            get_profiler(KEY)

    monkeypatch.setenv("PATH", str(tmp_path))
    assert "no ssh client" in reason()
    assert not next(found for found in list_profilers() if found.name == "cpu-onnxruntime-ssh").available


@pytest.mark.parametrize(
    "host",
    ["", "-oProxyCommand=touch x", "a b", "a;b", "a/../b", "..", "A", "pi@board", "board:22", "a\n", "é", "a" * 200],
)
def test_a_host_cannot_be_a_command(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", never)
    with pytest.raises(ConfigError, match="cannot name a board"):
        check_host(host)
    with pytest.raises(ConfigError):
        CpuOnnxRuntimeSsh(host=host)
    with pytest.raises(ConfigError):
        get_profiler(f"cpu-onnxruntime-ssh:{host}")


def test_keys_without_a_clear_host_are_refused() -> None:
    with pytest.raises(ConfigError, match="needs a board"):
        get_profiler("cpu-onnxruntime-ssh.int8")
    with pytest.raises(ConfigError, match="no host with qualifiers"):
        get_profiler("cpu-onnxruntime-ssh:pi.t2.local")
    assert CpuOnnxRuntimeSsh(host="10.0.0.7", threads=2).key == "cpu-onnxruntime-ssh.10.0.0.7.t2"


def test_messages_are_limited() -> None:
    def read(data: bytes, most: int = 100) -> object:
        left = [data]

        def take(size: int) -> bytes:
            part, left[0] = left[0][:size], left[0][size:]
            return part

        return read_frame(take, most)

    assert read(pack({"a": 1}, b"xyz")) == ({"a": 1}, b"xyz")
    whole = pack({"a": 1}, b"xyz")
    assert all(read(whole[:length]) is None for length in range(len(whole)))
    with pytest.raises(FrameError, match="too long"):
        read(pack({}, b"0" * 101))
    with pytest.raises(FrameError, match="too long"):
        read((MAX_JSON_BYTES + 1).to_bytes(4, "big") + bytes(4))
    for text in (b"[1]", b"{", b"[" * 90, b"\xff\xff"):
        with pytest.raises(FrameError):
            read(len(text).to_bytes(4, "big") + bytes(4) + text)


# ---------------------------------------------------------------------- the file that is sent


@pytest.mark.parametrize("name", AGENT_MODULES)
def test_the_agent_is_python_3_8_and_stands_alone(name: str) -> None:
    spec = find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"), feature_version=(3, 8))
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module != "__future__":
            top = str(node.module).split(".")[0]
            assert node.module in AGENT_MODULES if top == "hwnas" else top in {*sys.stdlib_module_names, "numpy"}
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= {*sys.stdlib_module_names, "numpy"}


def test_the_agent_is_one_small_file_that_says_what_lacks(tmp_path: Path) -> None:
    file = tmp_path / "agent.pyz"
    file.write_bytes(agent_file())
    assert len(agent_file()) < 64_000
    done = subprocess.run([sys.executable, "-I", "-S", file], capture_output=True, text=True)
    assert (done.returncode, "onnxruntime cannot be imported there" in done.stderr) == (1, True)
    assert not file.exists()  # it leaves nothing behind


def _old_pythons() -> list[str]:
    """Pythons that are older than ours and have onnxruntime: the one that HWNAS_OLD_PYTHON names, and what is found."""
    named = os.environ.get("HWNAS_OLD_PYTHON")
    found = [named] if named else [path for minor in (8, 9, 10) if (path := shutil.which(f"python3.{minor}"))]
    return [p for p in found if subprocess.run([p, "-c", "import onnxruntime"], capture_output=True).returncode == 0]


@needs_server
@pytest.mark.usefixtures("board")
def test_an_older_python_on_the_board(monkeypatch: pytest.MonkeyPatch) -> None:
    if not (pythons := _old_pythons()):
        pytest.skip("needs a Python from 3.8 to 3.10 with onnxruntime; name one in HWNAS_OLD_PYTHON")
    monkeypatch.setenv("HWNAS_SSH_PYTHON", pythons[0])
    profiler = profiler_of(KEY)
    check_profiler(profiler, [get_space(SPACE).catalog[1].to_onnx()])
    version = subprocess.run([pythons[0], "--version"], capture_output=True, text=True).stdout.split()[1]
    assert profiler.device_record().host["python"] == version
