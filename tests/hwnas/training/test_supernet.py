"""Supernets: single paths, resuming, recalibration that leaves no trace, and the evaluators on top."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from hwnas.data import load_data
from hwnas.data.base import Dataset
from hwnas.evaluators.one_shot import OneShotEvaluator
from hwnas.spaces import SearchSpace, get_space
from hwnas.spaces.errors import ConfigError, ModelError
from hwnas.spaces.supernet import Supernet
from hwnas.training import (
    BoxSampler,
    Calibration,
    Teacher,
    TrainConfig,
    evaluate,
    largest,
    recalibrated,
    train_supernet,
)

SMALL = TrainConfig.supernet(epochs=2, batch_size=64, precision="float32", device="cpu")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_data("digits")


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return get_space("nasbench201", resolution=8, channels=1, width=0.25, depth=0.2)


def supernet(space: SearchSpace, seed: int = 0) -> Supernet:
    torch.manual_seed(seed)
    return Supernet(space)


def state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Fixed:
    """Always the same path."""

    def __init__(self, architecture: tuple[int, ...]) -> None:
        self.architecture = architecture

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        return np.tile(self.architecture, (n, 1))


def test_only_the_drawn_paths_are_trained(digits: Dataset) -> None:
    space = get_space("mobilenet", resolution=8, channels=1, classes=10, width=0.1, depth=0.2)
    net = supernet(space)
    path = tuple(space.sample(1, np.random.default_rng(0))[0].tolist())
    before = state(net)
    train_supernet(net, digits.limited(128), SMALL.replace(epochs=1), sampler=Fixed(path))
    active = {f"nodes.{node.name}." for node in net.graph(path).nodes}
    assert len(active) < len(net.nodes)
    for name, tensor in net.state_dict().items():
        if not tensor.is_floating_point():
            continue
        on_path = any(name.startswith(prefix) for prefix in active)
        assert torch.equal(tensor, before[name]) is not on_path, name


def test_a_box_is_drawn_from_uniformly(space: SearchSpace) -> None:
    allowed = [np.arange(radix) % 2 == 0 for radix in space.radices.tolist()]
    drawn = BoxSampler(allowed).sample(3000, np.random.default_rng(0))
    for column, mask in zip(drawn.T, allowed, strict=True):
        choices, counts = np.unique(column, return_counts=True)
        assert choices.tolist() == np.flatnonzero(mask).tolist()
        assert abs(counts / 3000 - 1 / mask.sum()).max() < 0.05


def test_the_loss_falls_and_a_path_predicts(digits: Dataset, space: SearchSpace) -> None:
    net = supernet(space)
    calls: list[tuple[float, float, str]] = []
    result = train_supernet(net, digits, SMALL.replace(epochs=20), progress=lambda *call: calls.append(call))
    losses = [record.loss for record in result.history]
    assert losses[-1] < losses[0]
    assert calls[-1][:2] == (320, 320)
    assert calls[-1][2].startswith("supernet: epoch 20/20")
    scores = [e.score for e in OneShotEvaluator(net, digits).evaluate([largest(space)] * 2)]
    assert scores[0] == scores[1] > 0.3


def test_a_stopped_supernet_goes_on_to_the_same_bits(digits: Dataset, space: SearchSpace, tmp_path: Path) -> None:
    whole = supernet(space)
    expected = train_supernet(whole, digits, SMALL)

    class StoppedError(Exception):
        pass

    def progress(done: float, _total: float, _text: str) -> None:
        if done == 20:
            raise StoppedError

    path = tmp_path / "supernet.safetensors"
    with pytest.raises(StoppedError):
        train_supernet(supernet(space), digits, SMALL, checkpoint=path, progress=progress, save_seconds=0)
    resumed = supernet(space, seed=1)
    assert train_supernet(resumed, digits, SMALL, checkpoint=path).history == expected.history
    assert same(state(resumed), state(whole))
    with pytest.raises(ModelError, match="kind=supernet"):
        train_supernet(supernet(space), digits, SMALL, checkpoint=path, distill=True)
    with pytest.raises(ConfigError, match="ema"):
        train_supernet(supernet(space), digits, SMALL.replace(ema=1))


def test_in_place_distillation_trains_both_paths(digits: Dataset, space: SearchSpace) -> None:
    net = supernet(space)
    result = train_supernet(net, digits, SMALL.replace(epochs=4), distill=True)
    assert result.history[-1].loss < result.history[0].loss


@pytest.mark.parametrize("name", ["mobilenet", "shufflenet", "nasbench201", "hurricane"])
def test_the_largest_architecture_has_the_most_macs(name: str) -> None:
    space = get_space(name, resolution=8, channels=1, classes=10, width=0.25, depth=0.2)
    found = space.lower(largest(space)).macs
    macs = np.array([block.macs for block in space.catalog])
    others = space.price(space.all() if space.size < 20_000 else space.sample(5000, np.random.default_rng(1)), macs)
    assert found >= others.max()

    class Few:
        def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
            return np.zeros((n, len(space.decisions)), dtype=np.int64)

    assert largest(space, Few()) == (0,) * len(space.decisions)


def test_recalibration_gives_a_path_its_own_statistics_and_leaves_no_trace(digits: Dataset, space: SearchSpace) -> None:
    net = supernet(space)
    train_supernet(net, digits, SMALL)
    path = largest(space)
    before = state(net)
    momenta = [m.momentum for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    calibration = Calibration(digits, batches=3, batch_size=100)
    with recalibrated(net, path, calibration):
        module = space.lower(path).to_module()
        module.load_state_dict(net.weights_of(path))
        inside = state(net)
        # what torch itself averages over the same batches, in a network of its own
        for part in module.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.reset_running_stats()
                part.momentum = None
        module.train()
        with torch.no_grad():
            for images in calibration:
                module(images)
        module.eval()
        for images, _ in digits.batches(digits.valid, 100):
            assert torch.allclose(module(images), net(images, path), atol=1e-4)
    assert same(state(net), before)
    assert not same(inside, before)
    assert momenta == [m.momentum for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert not net.training
    with pytest.raises(ZeroDivisionError), recalibrated(net, path, calibration):
        raise ZeroDivisionError
    assert same(state(net), before)


def test_calibration_images_are_a_fixed_balanced_draw(digits: Dataset) -> None:
    one, other = (torch.cat(list(Calibration(digits, batches=2, batch_size=50, seed=3))) for _ in range(2))
    assert torch.equal(one, other)
    assert len(one) == 100
    assert sum(len(images) for images in Calibration(digits)) == len(digits.train)  # never more than there are
    with pytest.raises(ConfigError, match="recalibration"):
        Calibration(digits, batches=0)


def test_one_shot_scores_change_nothing_and_repeat(digits: Dataset, space: SearchSpace) -> None:
    net = supernet(space)
    train_supernet(net, digits, SMALL)
    before = state(net)
    evaluator = OneShotEvaluator(net, digits, batches=4, limit=200)
    architectures = space.sample(6, np.random.default_rng(0))
    first = evaluator.evaluate(architectures)
    again = OneShotEvaluator(net, digits, batches=4, limit=200).evaluate(architectures[::-1])
    assert [e.score for e in first] == [e.score for e in again][::-1]
    assert same(state(net), before)
    assert all(e.info["images"] == 200 for e in first)
    assert [e.architecture for e in first] == [tuple(row) for row in architectures.tolist()]
    assert evaluator.space is space
    by_loss = OneShotEvaluator(net, digits, batches=4, limit=200, metric="loss")
    assert [e.score for e in by_loss.evaluate(architectures)] == [-e.info["loss"] for e in first]
    assert "loss" in by_loss.fidelity
    with pytest.raises(ConfigError, match="'speed'"):
        OneShotEvaluator(net, digits, metric="speed")
    # the score is the accuracy of the stand-alone network with these weights and statistics
    path = first[0].architecture
    with recalibrated(net, path, Calibration(digits, batches=4)):
        module = space.lower(path).to_module()
        module.load_state_dict(net.weights_of(path))
        alone = evaluate(module, digits, digits.valid).accuracy
    (whole,) = OneShotEvaluator(net, digits, batches=4, limit=None).evaluate([path])
    assert whole.score == pytest.approx(alone, abs=0.01)


def test_a_teacher_is_a_copy_with_statistics_of_its_own(digits: Dataset, space: SearchSpace) -> None:
    net = supernet(space)
    train_supernet(net, digits, SMALL)
    path = largest(space)
    calibration = Calibration(digits, batches=4)
    teacher = Teacher(net, path, calibration)
    images, _ = next(iter(digits.batches(digits.valid, 64)))
    with recalibrated(net, path, calibration), torch.no_grad():
        expected = net(images, path)
    assert torch.allclose(teacher(images), expected, atol=1e-4)
    assert not teacher(images).requires_grad
