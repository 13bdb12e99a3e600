"""Constraints: what is read, what is refused, and what the sets of them price, draw and explain."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.constraints import METRICS, Constraint, ConstraintSet, format_value, parse_constraint, parse_constraints
from hwnas.evaluators.tabular import TabularLatency
from hwnas.latency_tables import DeviceRecord, LatencyTable
from hwnas.spaces import ConfigError, InfeasibleError, TableError, get_space
from tests.hwnas.toy import ToySpace

SMALL = "mobilenet(resolution=32,width=0.25)"


def table(root: Path, key: str) -> LatencyTable:
    return LatencyTable.create(
        root / key, DeviceRecord(key, "a phone", "cpu", "some", "1", "float32", 1, 1, "measured")
    )


@pytest.mark.parametrize(
    ("text", "metric", "device", "relation", "bound"),
    [
        ("latency@cpu-onnxruntime <= 2ms", "latency", "cpu-onnxruntime", "<=", 2.0),
        ("latency@cpu-onnxruntime.int8.t2<=500us", "latency", "cpu-onnxruntime.int8.t2", "<=", 0.5),
        ("  latency @ cpu-onnxruntime ≤ .5 s ", "latency", "cpu-onnxruntime", "<=", 500.0),
        ("latency@recorded.cpu-onnxruntime ≥ 20 µs", "latency", "recorded.cpu-onnxruntime", ">=", 0.02),
        ("energy@cpu-onnxruntime <= 1.5J", "energy", "cpu-onnxruntime", "<=", 1500.0),
        ("flops <= 40M", "flops", None, "<=", 40e6),
        ("FLOPS <= 4e7", "flops", None, "<=", 40e6),
        ("macs >= 12k", "macs", None, ">=", 12e3),
        ("params <= 1234567", "params", None, "<=", 1234567.0),
        ("size <= 4MB", "size", None, "<=", 4e6),
        ("size <= 4MiB", "size", None, "<=", 4 * 2.0**20),
        ("memory<=320kb", "memory", None, "<=", 320e3),
        ("memory >= 12 B", "memory", None, ">=", 12.0),
        ("intensity >= 10", "intensity", None, ">=", 10.0),
    ],
)
def test_what_is_read(text: str, metric: str, device: str | None, relation: str, bound: float) -> None:
    found = parse_constraint(text)
    assert (found.metric, found.device, found.relation) == (metric, device, relation)
    assert found.bound == pytest.approx(bound, rel=1e-12)
    assert parse_constraint(found.text) == found


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("", ["empty", "latency@cpu-onnxruntime <= 2ms"]),
        ("fast please", ["no <= or >="]),
        ("latency@cpu-onnxruntime <= 2", ["no unit", "ms, us, s"]),
        ("latency@cpu-onnxruntime <= 2MB", ["'MB'", "latency", "ms, us, s"]),
        ("latency@cpu-onnxruntime <= 2 M", ["'M'", "ms, us, s"]),
        ("latency <= 2ms", ["needs a device", "latency@cpu-onnxruntime"]),
        ("latency@ <= 2ms", ["needs a device"]),
        ("latency@cpu-onnxrumtime <= 2ms", ["no device called 'cpu-onnxrumtime'", "did you mean 'cpu-onnxruntime'"]),
        ("latency@toaster9 <= 2ms", ["no device called 'toaster9'", "known are"]),
        ("flops@cpu-onnxruntime <= 2M", ["same on every device", "without @cpu-onnxruntime"]),
        ("latencey@cpu-onnxruntime <= 2ms", ["no metric 'latencey'", "did you mean 'latency'"]),
        ("beauty >= 3", ["no metric 'beauty'", "intensity"]),
        ("flops <= 40m", ["'m'", "a plain number or K, M, G"]),
        ("flops <= 40MFLOPs", ["'MFLOPs'"]),
        ("size <= 4", ["no unit", "KiB"]),
        ("size <= 4ms", ["'ms'", "MB"]),
        ("intensity >= 10K", ["'K'", "a plain number"]),
        ("flops < 40M", ["'<'", "<= or >="]),
        ("flops == 40M", ["'=='", "<= or >="]),
        ("flops <= -3M", ["positive"]),
        ("flops <= 0", ["positive"]),
        ("flops <= 1e999", ["positive"]),
        ("flops <= 1,000,000", ["separators"]),
        ("flops <= forty", ["no number"]),
        ("flops <= nan", ["no number"]),
        ("10 <= flops <= 40M", ["several relations"]),
        ("flops 40M <=", ["no number"]),
        ("flops <= 40M please", ["cannot read", "flops <= 40M"]),
        ("\x00 <= 3", ["cannot read"]),
    ],
)
def test_what_is_refused(text: str, pieces: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_constraint(text)
    message = str(caught.value)
    assert "\n" not in message
    for piece in pieces:
        assert piece in message


def test_several_at_once() -> None:
    wanted = ["latency@cpu-onnxruntime <= 2ms", "flops <= 40M", "size <= 4MB"]
    for text in (
        ", ".join(wanted),
        "; ".join(wanted),
        " and ".join(wanted),
        wanted,
        [", ".join(wanted[:2]), wanted[2]],
    ):
        assert parse_constraints(text) == [parse_constraint(one) for one in wanted]
    assert len(parse_constraints(["flops <= 40M", "flops <= 40000K"])) == 1, "the same limit twice is one"
    with pytest.raises(ConfigError, match="empty"):
        parse_constraints("flops <= 40M,, size <= 4MB")


@settings(max_examples=100, deadline=None)
@given(
    metric=st.sampled_from(sorted(METRICS)),
    relation=st.sampled_from(["<=", ">="]),
    bound=st.floats(1e-6, 1e12).map(lambda value: float(f"{value:.9g}")),
)
def test_the_tidied_text_reads_back(metric: str, relation: str, bound: float) -> None:
    unit = next(iter(METRICS[metric].units))
    device = "@cpu-onnxruntime" if METRICS[metric].device else ""
    found = parse_constraint(f"{metric}{device} {relation} {bound!r}{unit}")
    assert found.bound == bound
    assert parse_constraint(found.text) == found
    assert found.met(bound)
    assert not found.met(math.nan)


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=40))
def test_no_text_is_anything_but_a_constraint_or_a_clear_error(text: str) -> None:
    with contextlib.suppress(ConfigError):
        assert parse_constraint(text).metric in METRICS


def test_a_device_is_known_by_its_table_or_by_the_caller(tmp_path: Path) -> None:
    table(tmp_path, "dsp-somebody.int8")
    assert parse_constraint("latency@dsp-somebody.int8 <= 1ms", root=tmp_path).device == "dsp-somebody.int8"
    with pytest.raises(ConfigError, match=r"did you mean 'dsp-somebody.int8'"):
        parse_constraint("latency@dsp-somebody <= 1ms", root=tmp_path)
    assert parse_constraint("latency@Pixel_4 <= 1ms", devices=["Pixel_4"]).device == "Pixel_4"


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ("latency", 1.23456, "1.235 ms"),
        ("latency", 12345.6, "12346 ms"),
        ("flops", 40.2e6, "40.2M"),
        ("params", 999, "999"),
        ("memory", 320e3, "320 KB"),
        ("size", 12, "12 B"),
        ("energy", 0.5, "500 uJ"),
        ("intensity", 10.123456, "10.12"),
        ("latency", math.nan, "unknown"),
    ],
)
def test_values_are_written_with_their_unit(metric: str, value: float, text: str) -> None:
    assert format_value(metric, value) == text


@pytest.mark.parametrize("spec", [SMALL, "shufflenet(resolution=32,width=0.25)", "nasbench201"])
def test_values_are_those_of_the_lowered_graph(spec: str) -> None:
    space = get_space(spec)
    metrics = ["macs", "flops", "params", "size", "memory", "intensity"]
    units = [next(iter(METRICS[metric].units)) for metric in metrics]
    limits = ConstraintSet([f"{m} >= 1{u}" for m, u in zip(metrics, units, strict=True)], space)
    assert limits.names == metrics
    rows = space.sample(12, np.random.default_rng(0))
    for row, found in zip(rows.tolist(), limits.values(rows), strict=True):
        graph = space.lower(row)
        exact = [graph.macs, graph.macs, graph.params, graph.size, graph.peak_memory, graph.intensity]
        assert found == pytest.approx(exact, rel=1e-12)
    assert limits.costs(rows)[3] == dict(zip(metrics, limits.values(rows)[3].tolist(), strict=True))


def test_what_is_drawn_meets_every_constraint_by_its_graph() -> None:
    space = get_space(SMALL)
    rows = space.sample(2000, np.random.default_rng(0))
    probe = ConstraintSet("flops >= 0, memory >= 0B, intensity >= 0, params >= 0", space)
    flops, memory, intensity, params = np.quantile(probe.values(rows), 0.5, axis=0)
    limits = ConstraintSet(
        [
            f"flops <= {flops:.0f}",
            f"memory <= {memory:.0f}B",
            f"intensity >= {intensity:.6f}",
            f"params >= {params * 0.8:.0f}",
        ],
        space,
    )
    sampler = limits.sampler()
    drawn = sampler.sample(60, np.random.default_rng(1))
    assert limits.feasible(drawn).all()
    assert (limits.feasible(rows) == sampler.contains(rows)).all()
    assert 0 < limits.feasible(rows).mean() < 1
    for row in drawn[:10].tolist():
        graph = space.lower(row)
        assert graph.macs <= flops + 0.5
        assert graph.peak_memory <= memory + 0.5
        assert graph.intensity >= intensity - 1e-6
        assert graph.params >= 0.8 * params - 0.5


def test_memory_of_a_space_that_is_no_chain_is_met_by_lowering() -> None:
    space = get_space("nasbench201(resolution=8,depth=0.2)")
    rows = space.sample(40, np.random.default_rng(0))
    memory = np.array([space.lower(row).peak_memory for row in rows.tolist()])
    bound = int(np.quantile(memory, 0.5))
    limits = ConstraintSet([f"memory <= {bound}B", "params >= 1"], space)
    assert (limits.feasible(rows) == (memory <= bound)).all()
    drawn = limits.sampler().sample(15, np.random.default_rng(1))
    assert all(space.lower(row).peak_memory <= bound for row in drawn.tolist())
    assert limits.sampler().exact_count is None
    assert limits.sampler().count()[0] == 0


def test_memory_from_below_is_met_by_rejection() -> None:
    space = get_space(SMALL)
    rows = space.sample(500, np.random.default_rng(0))
    memory = ConstraintSet("memory >= 0B", space).values(rows)[:, 0]
    levels = np.unique(memory)
    sampler = ConstraintSet(f"memory >= {levels[-1]:.0f}B", space).sampler()
    assert sampler.contains(rows).sum() == (memory == levels[-1]).sum()
    assert sampler.contains(sampler.sample(50, np.random.default_rng(1))).all()
    low, high = sampler.count()
    assert low <= sampler.share() * space.size <= high
    with pytest.raises(InfeasibleError, match="at most"):
        ConstraintSet(f"memory >= {levels[-1] * 2:.0f}B", space).sampler()


def test_a_memory_that_no_graph_meets_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hwnas.sampler.GIVE_UP_GRAPHS", 30)
    with pytest.raises(InfeasibleError, match=r"none of 30 drawn architectures .* of those tried"):
        ConstraintSet("memory <= 1B", get_space("nasbench201(resolution=8,depth=0.2)")).sampler()


def test_an_unreachable_budget_says_what_can_be_reached() -> None:
    space = get_space(SMALL)
    with pytest.raises(InfeasibleError) as caught:
        ConstraintSet(["flops <= 1K", "memory <= 1KB", "intensity >= 100"], space).sampler()
    text = str(caught.value)
    for piece in (
        "flops <= 1K (alone: at least ",
        "memory <= 1KB (alone: at least",
        "intensity >= 100 (alone: at most",
    ):
        assert piece in text
    assert "the nearest is [" in text


def test_the_reach_of_an_intensity_is_the_best_ratio() -> None:
    space = ToySpace()
    macs, moved = (
        space.price(space.all(), np.array([getattr(b, name) for b in space.catalog])) for name in ("macs", "bytes")
    )
    best = float((macs / moved).max())
    with pytest.raises(InfeasibleError, match=f"at most {best:.4g}"):
        ConstraintSet(f"intensity >= {best * 1.01}", space).sampler()
    assert ConstraintSet(f"intensity >= {best * 0.9999999}", space).sampler().count() == (1, 1)


def test_limits_from_both_sides_are_one_bound() -> None:
    space = ToySpace()
    macs = space.price(space.all(), np.array([block.macs for block in space.catalog]))
    low, high = np.quantile(macs, [0.4, 0.6]).round()
    limits = ConstraintSet(f"macs >= {low}, macs <= {high}, macs <= {2 * high}", space)
    assert len(limits.bounds) == 1
    assert limits.sampler().count()[0] == ((macs >= low) & (macs <= high)).sum()


def test_devices_are_priced_by_given_models_or_tables(tmp_path: Path) -> None:
    space = ToySpace((2, 3))
    model = TabularLatency(space, "phone", np.array([1.0, 2.0, np.nan, 4.0, 5.0, 6.0]))
    limits = ConstraintSet(
        ["latency@phone <= 4.5ms", "energy@phone >= 2mJ"], space, {"phone": model, "energy@phone": model}
    )
    assert limits.feasible(space.all()).tolist() == [False, True, False, True, False, False]
    assert limits.sampler().count() == (2, 2)
    with pytest.raises(ConfigError, match="no device called 'phone'"):
        ConstraintSet("latency@phone <= 4ms", space, {})
    with pytest.raises(ConfigError, match="no energy of phone was given"):
        ConstraintSet("energy@phone <= 4mJ", space, {"phone": model})
    with pytest.raises(TableError, match="hwnas profile"):
        ConstraintSet("latency@cpu-onnxruntime.t77 <= 4ms", space, tmp_path)
    table(tmp_path, "dsp-somebody")
    with pytest.raises(TableError, match=r"11 of the 11|6 of the 6"):
        ConstraintSet("latency@dsp-somebody <= 4ms", space, tmp_path)
    with pytest.raises(ConfigError, match="holds latencies"):
        ConstraintSet("energy@dsp-somebody <= 4mJ", space, tmp_path)


def test_no_constraints_leave_everything() -> None:
    space = ToySpace()
    limits = ConstraintSet([], space)
    assert limits.values(space.all()).shape == (space.size, 0)
    assert limits.feasible(space.all()).all()
    assert limits.sampler().count() == (space.size, space.size)
    assert isinstance(ConstraintSet(parse_constraint("macs >= 0"), space).constraints[0], Constraint)
