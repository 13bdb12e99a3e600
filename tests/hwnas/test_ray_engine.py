"""The engine `ray` on a real cluster of several nodes, of which workers and nodes are killed in the middle."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hwnas
from hwnas.evaluators import Evaluation
from hwnas.plan import SearchSettings
from hwnas.run import Run
from hwnas.spaces.errors import ConfigError, DeviceUnavailable, ModelError

ray = pytest.importorskip("ray", reason="needs Ray: pip install 'hwnas[ray]'")

from hwnas.ray_engine import RayCluster, RayEngine, TaskLost  # noqa: E402

# Ray's own: notices of coming changes, and streams of processes that were killed
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SPACE = "epnas(width=0.25,depth=0.5)"
LIMITS = ("params <= 200k",)
ARCHITECTURES = [(width, *[0] * 11) for width in range(4)]
DEVICE = "cpu-onnxruntime"
STORE = 80 << 20


def quick() -> dict[str, int]:
    """Settings of a node: with the ports of its agent named it does not wait for that, 15 s at most, to choose them."""
    ports = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
    sockets = [socket.create_server(("", 0)) for _ in ports]
    found = {name: one.getsockname()[1] for name, one in zip(ports, sockets, strict=True)}
    for one in sockets:
        one.close()
    return {**found, "object_store_memory": STORE}


@pytest.fixture(scope="module")
def machines() -> Iterator[Any]:
    """A head that computes nothing, and two nodes, one of which owns a device."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    for name, value in (("agent_register_timeout_ms", "300000"), ("worker_register_timeout_seconds", "300")):
        os.environ[f"RAY_{name}"] = value  # a busy machine starts processes slowly
    from ray.cluster_utils import Cluster

    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **quick()})
    started.add_node(num_cpus=2, resources={f"hwnas:{DEVICE}": 1, "hwnas:cpu-tvm": 1}, **quick())
    added(started)
    ray.init(started.address, logging_level="error", log_to_driver=False)
    yield started
    ray.shutdown()
    started.shutdown()


def added(machines: Any) -> Any:
    """A node with one CPU."""
    return machines.add_node(num_cpus=1, **quick())


@pytest.fixture
def cluster(machines: Any) -> Iterator[RayCluster]:
    with RayCluster(machines.address, patience_s=30) as found:
        yield found
    assert ray.is_initialized()  # it was not connected by hwnas


def settings(**others: Any) -> SearchSettings:
    given = {"space": SPACE, "data": "digits", "constraints": LIMITS, "evaluator": "scratch", "limit": 200, "epochs": 1}
    return SearchSettings(**{**given, "engine": "ray", **others})


def engine_of(cluster: RayCluster, folder: Path, **others: Any) -> RayEngine:
    asked = settings(**others)
    with Run.create(folder, asked.to_json()):
        return cluster.engine(folder, asked)


def workers() -> dict[int, int]:
    """Processes that are at a candidate, which Ray names after the task, and what started each: its node."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cmdline").read_bytes().startswith(b"ray::evaluate"):
                found[int(process.name)] = int((process / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    return found


def all_of(engine: RayEngine) -> list[Evaluation]:
    found = []
    while engine.busy:
        found += engine.wait()
    return found


def until(condition: Any, seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_candidates_outlive_a_node_and_a_worker(machines: Any, cluster: RayCluster, tmp_path: Path) -> None:
    doomed = added(machines)
    node = doomed.all_processes["raylet"][0].process.pid
    run = tmp_path / "run"
    with engine_of(cluster, run, epochs=150) as engine:
        assert engine.room == 4
        for architecture in ARCHITECTURES:
            engine.submit(architecture)
        assert (engine.busy, engine.room) == (4, 0)
        until(lambda: len(set(workers().values())) > 1 and node in workers().values())
        until(lambda: list(run.glob("checkpoints/candidate-*")))
        machines.remove_node(doomed, allow_graceful=False)
        os.kill(next(worker for worker, parent in workers().items() if parent != node), signal.SIGKILL)
        found = all_of(engine)
    assert sorted(evaluation.architecture for evaluation in found) == ARCHITECTURES
    assert not any(evaluation.failed for evaluation in found)
    assert not (run / "trials.jsonl").exists()  # the nodes write checkpoints, and nothing else
    assert not (run / "state.json").exists()


def test_a_candidate_that_kills_every_worker_has_failed(cluster: RayCluster, tmp_path: Path) -> None:
    stop = threading.Event()

    def kill() -> None:
        while not stop.is_set():
            for process in workers():
                os.kill(process, signal.SIGKILL)
            time.sleep(0.02)

    killer = threading.Thread(target=kill)
    with engine_of(cluster, tmp_path / "run", epochs=100, retries=1) as engine:
        engine.submit(ARCHITECTURES[1])
        killer.start()
        try:
            (evaluation,) = all_of(engine)
        finally:
            stop.set()
            killer.join()
    assert evaluation.failed
    assert f"2 workers were lost over the architecture {list(ARCHITECTURES[1])}" in evaluation.info["error"]


def test_errors_of_the_evaluator_arrive(cluster: RayCluster, tmp_path: Path) -> None:
    with engine_of(cluster, tmp_path / "run") as engine:
        engine.submit((99,))
        with pytest.raises(ModelError, match="12 decisions"):
            all_of(engine)


def test_a_node_that_does_not_see_the_run_keeps_checkpoints_of_its_own(cluster: RayCluster, tmp_path: Path) -> None:
    engine = engine_of(cluster, tmp_path / "run")
    (tmp_path / "run" / "run.toml").write_text("another run\n")
    own = Path.home() / ".cache" / "hwnas" / "ray" / engine._mark[:32]
    with engine:
        engine.submit(ARCHITECTURES[0])
        (evaluation,) = engine.wait()
        assert evaluation.score > 0
        assert list(own.glob("candidate-*"))
    assert not own.exists()
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_timing_has_its_node_for_itself(cluster: RayCluster) -> None:
    def stamped(seconds: str) -> str:
        start = time.time()
        time.sleep(float(seconds))
        return f"{ray.get_runtime_context().get_node_id()} {start} {time.time()}"

    def timing(device: str) -> None:
        spans.append(cluster.on_owner(device, stamped, "0.4").split())

    owner = cluster.owner(DEVICE)["NodeID"]
    spans: list[list[str]] = []
    # trainings that the cluster has no room for while the timings, of two devices of one node, go on
    others = [cluster.start(stamped, "0.3", num_cpus=1) for _ in range(12)]
    threads = [threading.Thread(target=timing, args=(device,)) for device in (DEVICE, "cpu-tvm", f"{DEVICE}.int8")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(spans) == 3
    assert {node for node, _, _ in spans} == {owner}
    busy = [span for span in (cluster.result(other).split() for other in others) if span[0] == owner]
    for number, (_, start, end) in enumerate(spans):
        for _, other_start, other_end in [*spans[:number], *busy]:
            assert float(end) <= float(other_start) or float(other_end) <= float(start)


def test_measuring_at_the_owner(cluster: RayCluster) -> None:
    from hwnas.profilers import Protocol, get_profiler

    profiler = cluster.profiler(DEVICE)
    here = get_profiler(DEVICE)
    assert profiler.key == DEVICE
    assert not profiler.device_record().differences(here.device_record())
    space = hwnas.get_space(SPACE, resolution=8, channels=1, classes=10)
    result = profiler.measure(space.lower(ARCHITECTURES[0]).to_onnx(), Protocol.quick())
    assert result.method == "measured"
    assert result.low_ms <= result.median_ms <= result.high_ms
    with pytest.raises(DeviceUnavailable, match="hwnas:vpu-myriad"):
        cluster.profiler("vpu-myriad")
    with pytest.raises(ModelError):
        profiler.measure(b"no model", Protocol.quick())


def test_a_measurement_that_is_always_lost_names_its_device(cluster: RayCluster) -> None:
    def dies() -> None:
        os._exit(1)

    with pytest.raises(DeviceUnavailable, match=f"5 attempts to measure on {DEVICE} were lost"):
        cluster.on_owner(DEVICE, dies)


def test_profiling_at_the_owner_in_stretches(cluster: RayCluster, tmp_path: Path) -> None:
    from hwnas.latency_tables import LatencyTable
    from hwnas.ray_profiling import profile_on_cluster

    assert cluster.owner(DEVICE)
    options = {"space": "mobilenet(width=0.25,depth=0.5,resolution=8)", "quick": True, "networks": 2}
    options |= {"context": "isolated"}
    tables = str(tmp_path)
    first = profile_on_cluster(DEVICE, options, None, 2.0, tables, stretch_s=1.0)
    table = LatencyTable.load(tmp_path / DEVICE)
    assert first.table == str(table.path)
    kept = dict.fromkeys((tmp_path / DEVICE / "latencies.csv").read_text().splitlines())
    again = profile_on_cluster(DEVICE, options, None, 2.0, tables, stretch_s=1.0)
    lines = (tmp_path / DEVICE / "latencies.csv").read_text().splitlines()
    assert list(kept) == lines[: len(kept)]
    assert len(set(lines)) == len(lines)
    assert len(lines) - 1 >= first.measured + again.measured > 0


def test_a_driver_that_is_killed_goes_on(machines: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "hwnas", "search", "--space", SPACE, "--data", "digits", "--strategy", "random"]
    command += ["--constraint", LIMITS[0], "--evaluator", "scratch", "--evaluations", "6", "--epochs", "4"]
    command += ["--limit", "200", "--engine", "ray", "--address", machines.address, "--run", str(run)]
    trials = run / "trials.jsonl"
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: driver.poll() is not None or (trials.exists() and len(trials.read_text().splitlines()) >= 2))
    driver.kill()
    driver.wait()
    before = trials.read_text().splitlines()
    done = subprocess.run(
        [sys.executable, "-m", "hwnas", "search", "--resume", str(run), "--address", machines.address, "--json"],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = trials.read_text().splitlines()
    assert lines[: len(before)] == before
    assert len({trial.architecture for trial in Run.open(run, write=False).trials()}) == len(lines) == 6


def test_a_search_with_a_device_of_the_cluster(cluster: RayCluster, tmp_path: Path) -> None:
    """Its finalist is measured by the owner; the table says what blocks cost there."""
    assert cluster.owner(DEVICE)
    space = "mobilenet(width=0.25,depth=0.5)"
    hwnas.profile(
        DEVICE, space, data="digits", quick=True, context="isolated", networks=12, tables=str(tmp_path / "tables")
    )
    result = hwnas.search(
        space,
        "digits",
        [f"latency@{DEVICE} <= 5ms"],
        strategy="random",
        evaluator="scratch",
        evaluations=3,
        epochs=1,
        limit=200,
        tables=str(tmp_path / "tables"),
        engine="ray",
        run=tmp_path / "run",
    )
    (cost,) = result.costs.values()
    assert cost["method"] == "measured"
    assert np.isfinite(cost["measured"])


def test_what_cannot_be_used_is_said(machines: Any) -> None:
    with pytest.raises(ConfigError, match="no engine 'spark'"):
        settings(engine="spark")
    with pytest.raises(ConfigError, match="use the engine ray"):
        settings(engine="local", address="127.0.0.1:6379")
    with pytest.raises(TaskLost):
        RayCluster(machines.address).result(RayCluster(machines.address).start(_broken, num_cpus=1))


def _broken() -> None:
    raise RuntimeError("broken")
