"""Profiling a space: everything is measured once, nothing finished is lost, wherever it is killed."""

from __future__ import annotations

import itertools
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto

from hwnas.latency_tables import LatencyTable
from hwnas.profilers import Profiler, Protocol, get_profiler, missing_rows, profile_space
from hwnas.profilers.base import Measurement, Model
from hwnas.profilers.campaign import network_model
from hwnas.profilers.coverage import covering_networks
from hwnas.profilers.cpu_onnxruntime import CpuOnnxRuntime
from hwnas.profilers.testing import QUICK
from hwnas.spaces import ConfigError, SearchSpace, TableError, get_space

SPEC = "shufflenet(resolution=8,channels=1,classes=10,width=0.25,depth=0.1)"


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return get_space(SPEC)


@pytest.fixture(scope="module")
def profiler() -> Profiler:
    return get_profiler("cpu-onnxruntime")


def new_table(path: Path, profiler: Profiler) -> LatencyTable:
    return LatencyTable.create(path / profiler.key, profiler.device_record(QUICK))


@pytest.fixture(scope="module")
def profiled(space: SearchSpace, profiler: Profiler, tmp_path_factory: pytest.TempPathFactory) -> LatencyTable:
    table = new_table(tmp_path_factory.mktemp("profiled"), profiler)
    summary = profile_space(space, profiler, table, networks=4, cover=2, protocol=QUICK)
    assert summary.complete
    assert summary.missing == {"isolated": 0, "network": 0, "networks": 0}
    assert (summary.added["isolated"], summary.added["networks"]) == (len(space.catalog), 4)
    assert set(summary.seconds) == {"isolated", "network", "networks"}
    return table


def test_every_block_has_a_row_in_both_contexts(space: SearchSpace, profiled: LatencyTable) -> None:
    assert missing_rows(space, profiled) == {"network": (), "isolated": ()}
    read = LatencyTable.load(profiled.path)
    assert read.rows == profiled.rows
    signatures = [block.signature for block in space.catalog]
    for context in ("isolated", "network"):
        assert (read.vector(signatures, context) > 0).all()
    kernels = {kernel.signature for row in read.networks for kernel in space.lower(row.architecture).kernels}
    assert all(read.lookup(kernel, "network") for kernel in kernels)


def test_networks_in_context_add_up(space: SearchSpace, profiled: LatencyTable) -> None:
    """The shares of a network's blocks, times its latency, are its latency."""
    entries = list(profiled.records("shares"))
    assert entries
    for entry in entries:
        assert entry["space"] == space.spec
        blocks = space.lower(entry["architecture"]).blocks
        shares = [entry["shares"].get(node.name, 0.0) for block in blocks for node in block.nodes]
        assert sum(shares) == pytest.approx(1, abs=1e-2)


def test_the_raw_samples_are_kept(space: SearchSpace, profiled: LatencyTable) -> None:
    passes = list(profiled.records("pass"))
    assert len(passes) >= 3 * (len(space.catalog) + 4)
    assert all(entry["ms"] and entry["anchor_ms"] > 0 for entry in passes)
    (reference,) = profiled.records("reference")
    assert reference["anchor_ms"] > 0


def test_what_is_there_is_not_measured_again(space: SearchSpace, profiler: Profiler, profiled: LatencyTable) -> None:
    before = {file.name: file.read_bytes() for file in profiled.path.iterdir()}
    seen: list[object] = []
    summary = profile_space(
        space, profiler, profiled, networks=4, cover=2, protocol=QUICK, progress=lambda *report: seen.append(report)
    )
    assert summary.added == {}
    assert not seen
    assert {file.name: file.read_bytes() for file in profiled.path.iterdir()} == before


def test_only_what_is_missing_is_measured(space: SearchSpace, profiler: Profiler, tmp_path: Path) -> None:
    table = new_table(tmp_path, profiler)
    profile_space(space, profiler, table, contexts=["isolated"], protocol=QUICK)
    file = table.path / "latencies.csv"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:-2]))
    (table.path / "samples.jsonl").write_text("")
    again = LatencyTable.create(table.path, profiler.device_record(QUICK))
    missing = missing_rows(space, again, ["isolated"])["isolated"]
    assert len(missing) == 2
    summary = profile_space(space, profiler, again, contexts=["isolated"], protocol=QUICK)
    assert summary.added == {"isolated": 2}
    assert {entry["model"] for entry in again.records("pass")} == {f"{signature} isolated" for signature in missing}


def test_progress_counts_passes_over_all_jobs(space: SearchSpace, profiler: Profiler, tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    profile_space(
        space,
        profiler,
        new_table(tmp_path, profiler),
        networks=2,
        cover=1,
        protocol=QUICK,
        progress=lambda *report: seen.append(report),
    )
    done = np.array([entry[0] for entry in seen])
    total = np.array([entry[1] for entry in seen])
    assert (np.diff(done) >= 0).all()
    assert (done <= total).all()
    assert done[-1] == total[-1]
    assert total[0] <= total[-1]


def test_a_budget_stops_it_and_the_next_call_goes_on(
    space: SearchSpace, profiler: Profiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = new_table(tmp_path, profiler)
    seconds = itertools.count()
    with monkeypatch.context() as patch:  # a second passes whenever somebody looks at the clock
        patch.setattr(time, "monotonic", lambda: float(next(seconds)))
        summary = profile_space(space, profiler, table, networks=2, cover=1, protocol=QUICK, budget_s=60.0)
    assert not summary.complete
    assert sum(summary.missing.values()) > 0
    passes = len(list(table.records("pass")))
    assert passes > 0
    assert profile_space(space, profiler, table, networks=2, cover=1, protocol=QUICK).complete
    models = [entry["model"] for entry in table.records("pass")]
    assert max(models.count(model) for model in models) <= QUICK.max_passes


def test_wrong_uses_are_refused(space: SearchSpace, profiler: Profiler, tmp_path: Path) -> None:
    table = new_table(tmp_path, profiler)
    for options, says in (
        ({"contexts": ["alone"]}, "no context 'alone'"),
        ({"networks": -1}, "networks >= 0"),
        ({"budget_s": 0.0}, "budget above zero"),
        ({"budget_s": float("nan")}, "budget above zero"),
    ):
        with pytest.raises(ConfigError, match=says):
            profile_space(space, profiler, table, protocol=QUICK, **options)
    with pytest.raises(TableError, match="another device"):
        profile_space(space, get_profiler("cpu-onnxruntime.int8"), table, protocol=QUICK)
    with pytest.raises(TableError, match="open for reading"):
        profile_space(space, profiler, LatencyTable.load(table.path), protocol=QUICK)
    with table.writing(), pytest.raises(TableError, match="another run is adding"):
        profile_space(space, profiler, table, protocol=QUICK)


class Estimator(Profiler):
    """A device that is only modelled: a made-up cost of one microsecond a byte of the model."""

    name = "dsp-estimate"
    device_class = "dsp"
    summary = "made up"
    method = "modelled"

    def device_record(self, protocol: Protocol | None = None):  # type: ignore[no-untyped-def]
        return replace(CpuOnnxRuntime().device_record(protocol), key=self.key, method=self.method, device_class="dsp")

    def measure(self, model: Model, protocol: Protocol | None = None) -> Measurement:
        assert isinstance(model, bytes)
        ms = len(model) / 1000
        return Measurement(ms, ms, ms, 1, True, self.method)


def test_estimators_without_counters_give_isolated_rows(space: SearchSpace, tmp_path: Path) -> None:
    estimator = Estimator()
    table = new_table(tmp_path, estimator)
    with pytest.raises(ConfigError, match="no kernel counters"):
        profile_space(space, estimator, table, contexts=["network"])
    prepared: list[ModelProto] = []

    def prepare(model: ModelProto) -> ModelProto:
        prepared.append(model)
        model.doc_string = "x" * 5000
        return model

    summary = profile_space(space, estimator, table, networks=3, prepare=prepare)
    assert summary.complete
    assert summary.added == {"isolated": len(space.catalog), "networks": 3}
    assert len(prepared) == len(space.catalog) + 3
    assert all(row.method == "modelled" and row.median_ms > 5 for row in table.rows.values())
    assert all(row.architecture in {n.architecture for n in table.networks} for row in table.networks)


@pytest.mark.parametrize("spec", [SPEC, "shufflenet(resolution=32)", "nasbench201(resolution=8)", "mobilenet"])
def test_covering_networks_show_every_block(spec: str) -> None:
    space = get_space(spec)
    need = np.full(len(space.catalog), 4)
    chosen = covering_networks(space, need)
    assert len(set(chosen)) == len(chosen)
    seen = (space.counts(np.array(chosen)) > 0).sum(axis=0)
    if space.size <= 20_000:
        possible = (space.counts(space.all()) > 0).sum(axis=0)
        assert (seen >= np.minimum(need, possible)).all()
    else:
        assert (seen >= need).all()
    assert len(chosen) <= 2 * 4 * int(space.radices.max())
    assert covering_networks(space, need) == chosen
    assert covering_networks(space, 0 * need) == []
    more = covering_networks(space, need, avoid=chosen)
    assert not set(more) & set(chosen)


def test_a_network_says_in_its_metadata_which_it_is(space: SearchSpace) -> None:
    notes = {entry.key: entry.value for entry in network_model(space, (0,) * len(space.decisions)).metadata_props}
    assert get_space(notes["hwnas.space"]).spec == space.spec
    assert notes["hwnas.architecture"] == str([0] * len(space.decisions))


SCRIPT = f"""
import sys
from hwnas.latency_tables import LatencyTable
from hwnas.profilers import get_profiler, profile_space
from hwnas.profilers.testing import QUICK
from hwnas.spaces import get_space
profiler = get_profiler("cpu-onnxruntime")
table = LatencyTable.create(sys.argv[1], profiler.device_record(QUICK))
print("go", flush=True)
profile_space(get_space("{SPEC}"), profiler, table, networks=3, cover=1, protocol=QUICK)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_kill_at_any_moment_loses_nothing_that_was_finished(
    space: SearchSpace, profiler: Profiler, tmp_path: Path
) -> None:
    rng = random.Random(0)
    path = tmp_path / profiler.key
    record = path / "samples.jsonl"
    rows: set[object] = set()
    passes = divided = 0
    for _ in range(4):
        with subprocess.Popen([sys.executable, "-c", SCRIPT, str(path)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"go\n"
            size = record.stat().st_size if record.exists() else 0
            more = rng.randrange(1, 30_000)
            while process.poll() is None and (record.stat().st_size if record.exists() else 0) < size + more:
                time.sleep(0.001)
            process.send_signal(signal.SIGKILL)
            process.wait()
        table = LatencyTable.load(path)
        now = {*table.rows.items(), *table.networks}
        assert rows <= now
        assert len(list(table.records("pass"))) >= passes
        assert len(list(table.records("shares"))) >= divided
        rows, passes, divided = now, len(list(table.records("pass"))), len(list(table.records("shares")))
    assert passes > 0
    subprocess.run([sys.executable, "-c", SCRIPT, str(path)], check=True, stdout=subprocess.DEVNULL)
    table = LatencyTable.load(path)
    assert rows <= {*table.rows.items(), *table.networks}
    assert missing_rows(space, table) == {"network": (), "isolated": ()}
    assert len(table.networks) == 3
    models = [entry["model"] for entry in table.records("pass")]
    assert max(models.count(model) for model in models) <= QUICK.max_passes
