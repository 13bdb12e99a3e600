"""Predictors from few measurements: better than a guess, calibrated, chosen well, and safe to save."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from hwnas.features import architecture_features
from hwnas.latency_predictor import SOURCES, LatencyPredictor, choose_items
from hwnas.spaces import ConfigError, TableError, get_space

SPACE = get_space("shufflenet(resolution=16,width=0.25,depth=0.25)")
ROWS = SPACE.sample(400, np.random.default_rng(0))
FEATURES = architecture_features(SPACE, ROWS)


def take(features: dict[str, np.ndarray], items: np.ndarray) -> dict[str, np.ndarray]:
    return {name: values[items] for name, values in features.items()}


def made_device(seed: int) -> np.ndarray:
    """Milliseconds of a made device: every choice costs something of its own, and measurements scatter by 1 %."""
    rng = np.random.default_rng(seed)
    choices = FEATURES["choices"]
    common = np.random.default_rng(99).uniform(0.5, 2.0, choices.shape[1])
    costs = common * rng.uniform(0.8, 1.2, choices.shape[1])
    return np.asarray((2.0 + choices @ costs) * rng.normal(1.0, 0.01, len(choices)))


def test_forty_measurements_predict_the_rest_with_their_interval() -> None:
    latency = made_device(1)
    items = choose_items(FEATURES, 40)
    rest = np.setdiff1d(np.arange(len(latency)), items)
    predictor = LatencyPredictor.fit(take(FEATURES, items), latency[items], reference=FEATURES)
    found = predictor.predict(take(FEATURES, rest), interval=0.9)
    assert spearmanr(found.ms, latency[rest])[0] > 0.9
    assert np.mean(np.abs(found.ms / latency[rest] - 1)) < 0.03
    inside = (found.low <= latency[rest]) & (latency[rest] <= found.high)
    assert 0.8 <= inside.mean() <= 1.0
    wider = predictor.predict(take(FEATURES, rest), interval=0.97)
    assert (wider.high - wider.low >= found.high - found.low).all()


def test_other_devices_help_where_measurements_are_few() -> None:
    alone, helped = [], []
    sources = {}
    for number in (2, 3, 4):
        items = np.random.default_rng(number).choice(len(ROWS), 120, replace=False)
        sources[f"device{number}"] = LatencyPredictor.fit(take(FEATURES, items), made_device(number)[items])
    for seed in (5, 6, 7):
        latency, items = made_device(seed), np.random.default_rng(seed).choice(len(ROWS), 8, replace=False)
        own = LatencyPredictor.fit(take(FEATURES, items), latency[items], reference=FEATURES)
        with_others = LatencyPredictor.transfer(sources, take(FEATURES, items), latency[items], reference=FEATURES)
        alone.append(spearmanr(own.predict(FEATURES).ms, latency)[0])
        helped.append(spearmanr(with_others.predict(FEATURES).ms, latency)[0])
    assert np.mean(helped) > np.mean(alone) + 0.05


def test_many_measurements_are_used() -> None:
    latency = made_device(8)
    predictor = LatencyPredictor.fit(take(FEATURES, np.arange(300)), latency[:300])
    found = predictor.predict(take(FEATURES, np.arange(300, 400)))
    assert np.mean(np.abs(found.ms / latency[300:] - 1)) < 0.015
    assert 0.8 <= np.mean((found.low <= latency[300:]) & (latency[300:] <= found.high)) <= 1.0


def test_a_wild_measurement_does_not_spoil_the_rest() -> None:
    latency = made_device(9)
    items = choose_items(FEATURES, 40)
    spoilt = latency[items].copy()
    spoilt[3] *= 3
    clean = LatencyPredictor.fit(take(FEATURES, items), latency[items], reference=FEATURES).predict(FEATURES).ms
    found = LatencyPredictor.fit(take(FEATURES, items), spoilt, reference=FEATURES).predict(FEATURES).ms
    assert np.median(np.abs(found / latency - 1)) < 3 * np.median(np.abs(clean / latency - 1)) + 0.01


def test_chosen_items_tell_more_than_the_first_ones() -> None:
    chosen = choose_items(FEATURES, 30, seed=3)
    assert len(set(chosen.tolist())) == 30
    assert choose_items(FEATURES, 10, seed=3).tolist() == chosen[:10].tolist()  # fewer: the first of them
    scaled = FEATURES["choices"] - FEATURES["choices"].mean(axis=0)

    def left(items: np.ndarray) -> float:
        gram = scaled[items] @ scaled[items].T + 0.1 * np.eye(len(items))
        cross = scaled @ scaled[items].T
        return float((scaled**2).sum() - np.trace(cross @ np.linalg.solve(gram, cross.T)))

    assert left(chosen) < left(np.random.default_rng(0).choice(len(ROWS), 30, replace=False))


def test_saved_predictors_predict_the_same(tmp_path: Path) -> None:
    items = np.arange(30)
    source = LatencyPredictor.fit(take(FEATURES, items), made_device(2)[items])
    predictor = LatencyPredictor.transfer(
        {"other": source}, take(FEATURES, items), made_device(5)[items], reference=FEATURES
    )
    predictor.save(tmp_path / "predictor.json")
    again = LatencyPredictor.load(tmp_path / "predictor.json").predict(FEATURES)
    before = predictor.predict(FEATURES)
    assert np.allclose(again.ms, before.ms)
    assert np.allclose(again.high, before.high)


def test_too_few_measurements_give_an_infinite_interval() -> None:
    predictor = LatencyPredictor.fit(take(FEATURES, np.arange(5)), made_device(1)[:5])
    found = predictor.predict(FEATURES, interval=0.9)
    assert np.isinf(found.high).all()
    assert np.isnan(predictor.predict(FEATURES, interval=None).high).all()


def test_mistakes_get_one_sentence(tmp_path: Path) -> None:
    few, latency = take(FEATURES, np.arange(5)), made_device(1)[:5]
    with pytest.raises(TableError, match="at least 3"):
        LatencyPredictor.fit(take(FEATURES, np.arange(2)), latency[:2])
    with pytest.raises(TableError, match="positive"):
        LatencyPredictor.fit(few, np.array([1.0, 2.0, np.nan, 1.0, 1.0]))
    with pytest.raises(TableError, match="one row an item"):
        LatencyPredictor.fit(few, latency[:4])
    with pytest.raises(TableError, match="finite"):
        LatencyPredictor.fit({**few, "odd": np.full((5, 1), np.inf)}, latency)
    with pytest.raises(TableError, match="same groups"):
        LatencyPredictor.fit(few, latency, reference={"choices": FEATURES["choices"]})
    with pytest.raises(ConfigError, match="other device"):
        LatencyPredictor.transfer({}, few, latency)
    predictor = LatencyPredictor.fit({**few, SOURCES: latency[:, None]}, latency)
    with pytest.raises(TableError, match="missing"):
        predictor.predict(FEATURES)
    with pytest.raises(TableError, match="columns here"):
        predictor.predict({**few, SOURCES: np.ones((5, 2))})
    with pytest.raises(ConfigError, match=r"between 0 and 1"):
        predictor.predict(few, interval=1.5)
    with pytest.raises(ConfigError, match="cannot choose"):
        choose_items(few, 6)
    with pytest.raises(TableError, match="check the path"):
        LatencyPredictor.load(tmp_path / "absent.json")
    predictor.save(tmp_path / "good.json")
    good = (tmp_path / "good.json").read_text()
    (tmp_path / "bad.json").write_text(good.replace(f'"latency_ms": [{latency[0]}', '"latency_ms": [-1.0'))
    with pytest.raises(TableError, match="positive"):
        LatencyPredictor.load(tmp_path / "bad.json")
    for content in ("", "{}", '{"format": "other"}', "[1]"):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(TableError, match="fit it again"):
            LatencyPredictor.load(tmp_path / "bad.json")
    whole = json.loads(good)
    first, *others = whole["scalings"]
    for scalings in (
        [],
        [{**first, "mean": 1.0}, *others],
        [{**first, "factor": [float("nan")]}, *others],
        [first, first],
    ):
        (tmp_path / "bad.json").write_text(json.dumps({**whole, "scalings": scalings}))
        with pytest.raises(TableError, match="fit it again"):
            LatencyPredictor.load(tmp_path / "bad.json")
