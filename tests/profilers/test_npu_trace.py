"""Schedule traces of Intel's NPU compiler: one that it wrote here for a small block, and damaged ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hwnas.profilers.npu_trace import Schedule, Task, read_trace
from hwnas.spaces import ModelError

#: block 600 of fbnetv2(resolution=32), for NPU4000, by the compiler of OpenVINO 2026.4.1
RECORDED = (Path(__file__).parent / "data" / "npu4000-trace.json").read_bytes()


def test_a_recorded_trace_is_read() -> None:
    schedule = read_trace(RECORDED)
    said = json.loads(RECORDED)["taskStatistics"]
    assert (schedule.clock_mhz, schedule.tiles) == (1850.0, 4)
    assert schedule.makespan_us == pytest.approx(said["total duration"])
    for kind, text in (("dma", "DMA"), ("dpu", "DPU"), ("shave", "SW")):
        total = sum(task.duration_us for task in schedule.tasks if task.kind == kind)
        assert total == pytest.approx(said[f"Sum of {text} task durations"], abs=0.01)
    types = {layer.name: layer.type for layer in schedule.layers}
    assert types["stage2/1/mix/depthwise0"] == "GroupConvolution"
    assert types["stage2/1/mix/attention/gate"] == "Sigmoid"
    gate = next(layer for layer in schedule.layers if layer.name.endswith("gate"))
    assert "dpu" not in gate.busy_us
    assert 0 < gate.busy_us["shave"] <= schedule.tiles * gate.span_us + 1e-6


def test_what_delays_the_end_is_divided_and_loading_the_program_is_not() -> None:
    schedule = read_trace(RECORDED)
    exposed = schedule.exposed_us()
    loading = sum(task.duration_us for task in schedule.tasks if task.layer == "fetch_dma")
    assert loading > 0
    assert sum(exposed.values()) == pytest.approx(schedule.makespan_us - loading, rel=0.01)
    assert max(exposed, key=exposed.__getitem__) in {layer.name for layer in schedule.layers}


def test_a_transfer_behind_a_computation_is_for_nothing() -> None:
    def task(layer: str, kind: str, start: float, duration: float) -> Task:
        return Task(layer, kind, "engine 0", start, duration)

    tasks = (
        task("fetch_dma", "dma", 0, 1),  # belongs to none
        task("a", "dma", 1, 2),
        task("a", "dpu", 3, 4),
        task("a", "dpu", 3, 2),  # another tile
        task("b", "dma", 3, 5),  # 4 us of it while a computes
        task("b", "shave", 8, 1),
        task("c", "dpu", 8, 2),  # 1 us beside b
        task("d", "dpu", 11, 1),  # after 1 us of nothing
    )
    schedule = Schedule(12.0, 1000.0, tasks, ())
    assert schedule.exposed_us() == {"a": 2 + 4, "b": 1 + 0.5, "c": 0.5 + 1, "d": 1}


def edited(edit: Callable[[dict[str, Any]], Any]) -> bytes:
    content = json.loads(RECORDED)
    edit(content)
    return json.dumps(content).encode()


def first_task(content: dict[str, Any]) -> dict[str, Any]:
    return next(event for event in content["traceEvents"] if event["ph"] == "X")


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        RECORDED[:-1000],
        edited(lambda content: content.pop("traceEvents")),
        edited(lambda content: content.update(traceEvents=7)),
        edited(lambda content: content.update(traceEvents=["text"])),
        edited(lambda content: content.pop("workpoint")),
        edited(lambda content: content["workpoint"].update(freq="fast")),
        edited(lambda content: content["workpoint"].update(freq=0)),
        edited(lambda content: first_task(content).update(ts=-1)),
        edited(lambda content: first_task(content).update(dur=float("nan"))),
        edited(lambda content: first_task(content).update(pid=77)),
        edited(lambda content: first_task(content).update(name=7)),
        edited(lambda content: content["taskStatistics"].update({"total duration": 1.0})),
        edited(lambda content: content.update(traceEvents=[])),
    ],
)
def test_a_damaged_trace_is_refused(damaged: bytes) -> None:
    with pytest.raises(ModelError, match="schedule trace") as caught:
        read_trace(damaged)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
