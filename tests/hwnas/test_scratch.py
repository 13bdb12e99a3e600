"""Candidates that are trained one by one: resumed, and with inherited weights."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hwnas.data import load_data
from hwnas.data.base import Dataset
from hwnas.evaluators import scratch
from hwnas.evaluators.scratch import ScratchEvaluator
from hwnas.spaces import get_space
from hwnas.spaces.errors import ModelError
from hwnas.training import TrainConfig

CONFIG = TrainConfig(epochs=2, precision="float32", device="cpu")
EPNAS = get_space("epnas", resolution=8, channels=1, width=0.25, depth=0.5)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_data("digits", limit=300)


def edited(**choices: int) -> tuple[int, ...]:
    """The empty network with other choices for some decisions."""
    names = [decision.name.replace("/", "_") for decision in EPNAS.decisions]
    row = [0] * len(names)
    for name, choice in choices.items():
        row[names.index(name)] = choice
    return tuple(row)


def test_each_is_trained_and_resumes(digits: Dataset, tmp_path: Path) -> None:
    space = get_space("nasbench201", resolution=8, channels=1, width=0.25, depth=0.2)
    architectures = [(3, 3, 3, 3, 3, 3), (0, 0, 0, 1, 0, 0)]
    evaluator = ScratchEvaluator(space, digits, CONFIG, folder=tmp_path)
    good, bad = evaluator.evaluate(architectures)
    assert good.architecture == architectures[0]
    assert 0 <= bad.score <= 1
    assert 1 <= good.info["epoch"] <= 2
    assert "inherited" not in good.info
    assert len(list(tmp_path.iterdir())) == 2
    calls: list[float] = []
    fresh = ScratchEvaluator(space, digits, CONFIG, folder=tmp_path, progress=lambda done, *_: calls.append(done))
    assert [e.score for e in fresh.evaluate(architectures)] == [good.score, bad.score]
    assert not calls  # nothing was trained twice
    fresh.evaluate(architectures[:1])
    assert len(list(tmp_path.iterdir())) == 1


def test_weights_are_inherited_from_the_most_similar(digits: Dataset, tmp_path: Path) -> None:
    evaluator = ScratchEvaluator(EPNAS, digits, CONFIG, folder=tmp_path, inherit=True)
    assert "inherited" in evaluator.fidelity
    small, wide = edited(), edited(stage1_width=4, stage2_width=4, stage3_width=4, stage4_width=4)
    child = edited(stage4_layer2=3)
    first, other, grown = (evaluator.evaluate([row])[0] for row in (small, wide, child))
    assert first.info["inherited"] == 0.0
    assert "parent" not in first.info
    assert 0 < other.info["inherited"] < 1  # the stem, and what else happens to have the same shape
    assert grown.info["parent"] == list(small)
    assert grown.info["inherited"] > 0.5
    again = ScratchEvaluator(EPNAS, digits, CONFIG, folder=tmp_path, inherit=True)
    assert again.evaluate([child])[0].score == grown.score
    for path in tmp_path.glob("weights-*"):
        path.write_bytes(b"damaged")
    assert again.evaluate([edited(stage3_layer2=1)])[0].info["inherited"] == 0.0


def test_only_the_newest_weights_are_kept(digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "KEPT", 2)
    evaluator = ScratchEvaluator(EPNAS, digits, CONFIG, folder=tmp_path, inherit=True)
    for number, row in enumerate((edited(), edited(stage1_layer2=1), edited(stage2_layer2=1))):
        evaluator.evaluate([row])
        for path in tmp_path.glob("weights-*"):
            os.utime(path, (path.stat().st_atime, min(path.stat().st_mtime, number)))
    assert len(list(tmp_path.glob("weights-*"))) == 2


def test_weights_need_a_folder(digits: Dataset) -> None:
    with pytest.raises(ModelError, match="folder"):
        ScratchEvaluator(EPNAS, digits, CONFIG, inherit=True)
