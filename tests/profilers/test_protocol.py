"""The protocol's settings and statistics."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwnas.profilers.protocol import LEVEL, Pass, Protocol, interval, relative_width
from hwnas.spaces.errors import ConfigError


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"passes": 2}, "at least 3 passes"),
        ({"max_passes": 2}, "max_passes is 2"),
        ({"warmup_s": -1.0}, "warmup_s"),
        ({"pass_s": math.nan}, "pass_s"),
        ({"sample_s": 0.0}, "sample_s"),
        ({"repeat_until": 0.0}, "repeat_until"),
        ({"percentile": 90.0}, "percentile"),
        ({"open_models": 0}, "open_models"),
    ],
)
def test_settings_are_checked(changes: dict[str, float], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        replace(Protocol(), **changes)  # type: ignore[arg-type]


def test_settings_are_plain_data() -> None:
    assert json.loads(json.dumps(asdict(Protocol())))["passes"] == 3
    assert Protocol().for_networks().warmup_s == Protocol().network_warmup_s


def test_passes_mix_only_under_one_way_of_timing() -> None:
    assert Protocol().fingerprint == replace(Protocol(), passes=5, max_passes=20, seed=3).fingerprint
    assert Protocol().fingerprint != Protocol().for_networks().fingerprint != Protocol.quick().fingerprint


@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=30))
def test_the_interval_brackets_the_median(values: list[float]) -> None:
    low, median, high = interval(values)
    assert min(values) <= low <= median <= high <= max(values)
    assert low in values
    assert high in values
    assert relative_width(values) >= 0


@pytest.mark.parametrize("count", [3, 4, 5, 6, 9, 15, 40])
def test_the_interval_covers_the_median_as_often_as_it_says(count: int) -> None:
    rng = np.random.default_rng(count)
    hits = []
    for _ in range(4000):
        low, _, high = interval(rng.exponential(size=count).tolist())
        hits.append(low <= math.log(2) <= high)
    # the exact coverage is at least LEVEL; three standard errors of 4000 draws are 0.02
    assert np.mean(hits) >= LEVEL - 0.02


def test_the_interval_narrows_with_more_passes() -> None:
    assert interval([1, 2, 3]) == (1, 2, 3)
    assert interval([1, 2, 3, 4, 5, 6]) == (2, 3.5, 5)
    assert interval([1.0]) == (1, 1, 1)


def test_a_pass_is_a_low_percentile_of_its_clean_samples() -> None:
    result = Pass.of([1.0, 1.1, 5.0], [0.1], 4, 10.0, 0.3)
    assert result.value_ms == pytest.approx(np.percentile([1.0, 1.1, 5.0], 10))
    assert result.clean
    assert not Pass.of([1.0], [2.0, 2.0], 4, 10.0, None).clean
    assert Pass.of([], [2.0, 3.0], 4, 0.0, None).value_ms == 2.0


def test_a_pass_survives_the_record() -> None:
    result = Pass((0.5, 0.25), (0.75,), 8, 0.275, 0.3)
    assert Pass.from_json(json.loads(json.dumps(result.to_json()))) == result
    plain = Pass((0.5,), (), 8, 0.5)
    assert Pass.from_json(json.loads(json.dumps(plain.to_json()))) == plain
    for damage in ({"value_ms": -1.0}, {"ms": "no"}, {"ms": [None]}, {"anchor_ms": "x"}, {"inner": 1.5}, {"ms": [0.0]}):
        assert Pass.from_json({**result.to_json(), **damage}) is None
