"""Weights and distribution trained together: it learns, goes on from a checkpoint, and delivers from the shell."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import hwnas
from hwnas.constraints import ConstraintSet
from hwnas.data import load_data
from hwnas.data.base import Dataset
from hwnas.spaces import get_space
from hwnas.spaces.errors import ModelError
from hwnas.spaces.supernet import Supernet
from hwnas.strategies import make_strategy
from hwnas.training import TrainConfig, load_checkpoint, train_shared

SMALL = TrainConfig.supernet(epochs=2, batch_size=32, precision="float32", device="cpu")
SPACE = "fbnetv2(width=0.25,depth=0.25)"


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_data("digits", limit=128)


def run(digits: Dataset, checkpoint: Path | None, config: TrainConfig = SMALL, name: str = "fpnas") -> tuple:  # type: ignore[type-arg]
    space = get_space(SPACE, resolution=8, channels=1, classes=10)
    limits = ConstraintSet(["flops <= 1M"], space)
    strategy = make_strategy(name, space, limits.sampler(), seed=1, **({"rate": 0.1} if name == "fpnas" else {}))
    torch.manual_seed(0)
    supernet = Supernet(space)
    result = train_shared(supernet, strategy, digits, config, checkpoint=checkpoint, save_seconds=0)
    return supernet, strategy, result


def test_weights_and_distribution_learn(digits: Dataset) -> None:
    _, strategy, result = run(digits, None, SMALL.replace(epochs=4))
    assert result.history[-1].loss < result.history[0].loss
    first, last = strategy.trace[0], strategy.trace[-1]
    assert len(strategy.trace) == 4 * digits.steps(32)
    assert last["entropy"] < first["entropy"]
    assert last["score"] > first["score"]
    assert last["logits"] > first["logits"]  # joint by then
    wanted = strategy.candidates(5)
    assert len(set(wanted)) == len(wanted) == 5
    assert strategy.sampler.contains(wanted).all()
    assert wanted[0] == strategy.recommendation


def test_a_checkpoint_holds_both(digits: Dataset, tmp_path: Path) -> None:
    whole, one, _ = run(digits, None)
    checkpoint = tmp_path / "c.safetensors"
    space = get_space(SPACE, resolution=8, channels=1, classes=10)
    strategy = make_strategy("fpnas", space, ConstraintSet(["flops <= 1M"], space).sampler(), seed=1, rate=0.1)
    torch.manual_seed(0)
    supernet = Supernet(space)

    def kill(*progress: object) -> None:
        if float(str(progress[0])) > 1.5 * digits.steps(32):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_shared(supernet, strategy, digits, SMALL, checkpoint=checkpoint, progress=kill, save_seconds=0)
    resumed, other, _ = run(digits, checkpoint)
    assert json.dumps(other.state_dict()) == json.dumps(one.state_dict())
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name
    assert load_checkpoint(checkpoint)[1]["kind"] == "supernet by fpnas"
    with pytest.raises(ModelError, match="supernet by fpnas"):
        run(digits, checkpoint, name="parsec")


def test_a_search_delivers_what_is_likely(tmp_path: Path) -> None:
    result = hwnas.search(
        SPACE,
        "digits",
        ["flops <= 1M"],
        strategy="fpnas",
        options={"rate": 0.1},
        supernet_epochs=2,
        epochs=1,
        evaluations=4,
        limit=128,
        threads=1,
        run=tmp_path / "run",
    )
    assert result.trials == 4
    assert result.costs["flops <= 1M"]["fits"]
    opened = hwnas.Run.open(tmp_path / "run", write=False)
    state = opened.state
    assert state is not None
    assert len(state["strategy"]["own"]["trace"]) == 2 * (128 // 64)
    assert result.architecture == opened.trials()[0].architecture
    space = get_space(opened.best["space"])  # type: ignore[index]
    assert space.lower(result.architecture).macs <= 1_000_000
    assert np.isfinite(result.accuracy)
    html = hwnas.report(tmp_path / "run").html.read_text()
    assert html.count('{"title":"') == 4  # plots: draws and what they count as share one
    assert html.count('class="p"') == sum(space.radices)
