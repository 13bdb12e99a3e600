"""Training on real digits: it learns, resumes to the bit, selects on validation, and refuses what it must."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hwnas.data import load_data
from hwnas.data.base import ArraySplit, Dataset
from hwnas.spaces.errors import ConfigError, HwnasError, ModelError
from hwnas.training import TrainConfig, evaluate, load_checkpoint, load_weights, train
from hwnas.training.loop import Loop, Progress, distillation_loss
from hwnas.training.precision import choose_precision, cpu_has_bfloat16, pick_device

SMALL = TrainConfig(epochs=4, batch_size=64, precision="float32", device="cpu")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_data("digits")


def network(seed: int = 0, dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def weights(module: nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.detach().numpy().copy() for name, tensor in module.state_dict().items()}


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_a_small_network_learns_digits(digits: Dataset) -> None:
    module = network()
    calls: list[tuple[float, float, str]] = []
    result = train(module, digits, SMALL.replace(epochs=20), progress=lambda *call: calls.append(call))
    assert result.test_accuracy > 0.9
    assert result.history[-1].loss < result.history[0].loss
    assert len(result.history) == 20
    assert calls[-1][:2] == (320, 320)
    assert calls[-1][2].startswith("training: epoch 20/20")
    assert not module.training
    # what is returned is what is in the module, and the best of the history
    assert result.valid_accuracy == max(record.accuracy or 0 for record in result.history)
    assert evaluate(module, digits, digits.valid).accuracy == result.valid_accuracy
    assert evaluate(module, digits, digits.test).accuracy == result.test_accuracy


def test_the_same_seed_repeats_and_another_does_not(digits: Dataset) -> None:
    config = SMALL.replace(epochs=2)
    runs = []
    for seed in (0, 0, 1):
        module = network(dropout=0.3)
        torch.manual_seed(np.random.default_rng(None).integers(2**31))  # the caller's randomness has no say
        result = train(module, digits, config.replace(seed=seed))
        runs.append((weights(module), result.history))
    assert same(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1]
    assert not same(runs[0][0], runs[2][0])


@pytest.mark.parametrize("ema", [0.0, 1.0])
def test_a_stopped_run_goes_on_to_the_same_bits(digits: Dataset, tmp_path: Path, ema: float) -> None:
    config = SMALL.replace(ema=ema)
    whole = network(dropout=0.3)
    expected = train(whole, digits, config, checkpoint=tmp_path / "whole.safetensors")

    class StoppedError(Exception):
        pass

    def stop_at(step: int) -> Progress:
        def progress(done: float, _total: float, _text: str) -> None:
            if done == step:
                raise StoppedError

        return progress

    path = tmp_path / "stopped.safetensors"
    for step in (5, 20, 60):  # inside the first, the second and the last epoch
        with pytest.raises(StoppedError):
            train(network(dropout=0.3), digits, config, checkpoint=path, progress=stop_at(step), save_seconds=0)
    assert load_checkpoint(path)[1]["epoch"] == 3
    resumed = network(9, dropout=0.3)  # other first weights: everything must come from the checkpoint
    result = train(resumed, digits, config, checkpoint=path)
    assert result.history == expected.history
    assert result.test_accuracy == expected.test_accuracy
    assert same(weights(resumed), weights(whole))
    one, other = (load_checkpoint(file)[0] for file in (tmp_path / "whole.safetensors", path))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    # a finished run is returned from its file
    again = network(9, dropout=0.3)
    assert train(again, digits, config, checkpoint=path).history == expected.history
    assert same(weights(again), weights(whole))
    assert same({k: v.numpy() for k, v in load_weights(path).items()}, weights(whole))


KILLED = """
import sys, torch
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_trainer import SMALL, network
from hwnas.data import load_data
from hwnas.training import train
torch.set_num_threads(1)
def progress(done, total, text):
    if done == 40:
        print("epoch two", flush=True)
        import time
        time.sleep(60)
train(network(), load_data("digits"), SMALL, checkpoint=sys.argv[1], save_seconds=0, progress=progress)
"""


def test_a_killed_process_loses_at_most_its_epoch(digits: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "killed.safetensors"
    command = [sys.executable, "-c", KILLED, str(path), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "epoch two\n"
        os.kill(child.pid, signal.SIGKILL)
    assert load_checkpoint(path)[1]["epoch"] == 2
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    resumed, whole = network(5), network()
    result = train(resumed, digits, SMALL, checkpoint=path)
    assert result.history == train(whole, digits, SMALL).history
    assert same(weights(resumed), weights(whole))


def test_a_checkpoint_of_something_else_is_refused(digits: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    config = SMALL.replace(epochs=1)
    train(network(), digits, config, checkpoint=path)
    with pytest.raises(ModelError, match=r"made with lr=0\.1, not 0\.2"):
        train(network(), digits, config.replace(lr=0.2), checkpoint=path)
    with pytest.raises(ModelError, match="images="):
        train(network(), load_data("digits", limit=100), config, checkpoint=path)
    other = nn.Sequential(nn.Conv2d(1, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    with pytest.raises(ModelError, match="another network"):
        train(other, digits, config, checkpoint=path)


def test_the_average_follows_its_formula(digits: Dataset) -> None:
    config = SMALL.replace(epochs=1, ema=0.25)
    module = network()
    loop = Loop(module, digits, config)
    loop.precision = "float32"
    average = {name: t.clone() for name, t in module.state_dict().items() if t.is_floating_point()}
    for _ in loop:
        for step, (images, labels) in enumerate(loop.batches()):
            loop.step(nn.functional.cross_entropy(module(images), labels))
            decay = min(math.exp(-1 / 4), (1 + step) / (10 + step))
            for name, tensor in average.items():
                tensor.mul_(decay).add_(module.state_dict()[name], alpha=1 - decay)
        raw = weights(module)
        with loop.averaged() as averaged:
            inside = weights(averaged)
        assert same(weights(module), raw)
        loop.end_epoch()
    for name, tensor in average.items():
        assert np.allclose(inside[name], tensor.numpy(), rtol=1e-4, atol=1e-6)
        assert "running" not in name or not np.allclose(inside[name], raw[name])


def test_weight_decay_spares_norms_and_biases(digits: Dataset) -> None:
    module = network()
    loop = Loop(module, digits, SMALL)
    decayed, others = loop.optimizer.param_groups
    assert {p.ndim for p in decayed["params"]} == {2, 4}
    assert {p.ndim for p in others["params"]} == {1}
    assert others["weight_decay"] == 0


def test_a_step_is_what_torch_says_sgd_is(digits: Dataset) -> None:
    """The preset momentum buffers must not change Nesterov's first step."""
    ours, theirs = network(), network()
    config = SMALL.replace(epochs=1, ema=0, clip=0, weight_decay=0.01)
    loop = Loop(ours, digits, config)
    loop.precision = "float32"
    groups = [
        {"params": [p for p in theirs.parameters() if p.ndim > 1], "weight_decay": 0.01},
        {"params": [p for p in theirs.parameters() if p.ndim <= 1]},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True)
    for _ in loop:
        for step, (images, labels) in enumerate(loop.batches()):
            loop.step(nn.functional.cross_entropy(ours(images), labels))
            for group in optimizer.param_groups:
                group["lr"] = config.rate(step, loop.steps)
            optimizer.zero_grad()
            nn.functional.cross_entropy(theirs(images), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        loop.end_epoch()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-4)


def test_the_learning_rate_warms_up_and_falls() -> None:
    config = TrainConfig(epochs=10, lr=0.5, warmup=2)
    for schedule in ("cosine", "linear", "constant"):
        rates = [config.replace(schedule=schedule).rate(step, 10) for step in range(100)]
        assert rates[:20] == sorted(rates[:20])
        assert rates[20] == pytest.approx(0.5)
        assert rates[20:] == sorted(rates[20:], reverse=True)
        assert (rates[-1] < 0.01) == (schedule != "constant")
    linear = config.replace(schedule="linear")
    assert linear.rate(60, 10) == pytest.approx(0.25)


def test_distillation_teaches(digits: Dataset) -> None:
    teacher = network(1)
    train(teacher, digits, SMALL.replace(epochs=12))
    student = network(2)
    config = SMALL.replace(epochs=8, distillation=1.0)
    # the labels are useless: all that is learnt comes from the teacher
    mute = torch.zeros(len(digits.train.labels), dtype=torch.int64).numpy()
    silent = replace(digits, train=ArraySplit(digits.train.images, mute))  # type: ignore[attr-defined]

    def answer(images: Tensor) -> Tensor:
        return teacher(images)  # type: ignore[no-any-return]

    assert train(student, silent, config, teacher=answer).test_accuracy > 0.5


def test_the_divergence_is_zero_for_equal_outputs() -> None:
    logits = torch.randn(5, 10)
    assert distillation_loss(logits, logits, 3.0).item() == pytest.approx(0, abs=1e-6)
    other = torch.randn(5, 10)
    p, q = torch.softmax(other / 2, 1), torch.softmax(logits / 2, 1)
    expected = 4 * (p * (p / q).log()).sum(1).mean()
    assert distillation_loss(logits, other, 2.0).item() == pytest.approx(expected.item(), rel=1e-4)


def test_divergence_is_one_sentence(digits: Dataset) -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = network()

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x) * float("nan")  # type: ignore[no-any-return]

    with pytest.raises(ModelError, match=r"diverged in epoch 1.*lower lr from 0\.1"):
        train(Broken(), digits, SMALL)


def test_bfloat16_trains_and_auto_settles(digits: Dataset) -> None:
    result = train(network(), digits, SMALL.replace(epochs=8, precision="bf16"))
    assert result.precision == "bfloat16"
    assert result.test_accuracy > 0.5
    module = network()
    before = weights(module)
    images, labels = next(iter(digits.training_batches(64, seed=0, epoch=0)))
    module.train()

    def loss_of() -> Tensor:
        return nn.functional.cross_entropy(module(images).float(), labels)

    chosen = choose_precision("auto", torch.device("cpu"), module, loss_of)
    assert chosen in (("float32", "bfloat16") if cpu_has_bfloat16() else ("float32",))
    assert same(weights(module), before)
    assert all(p.grad is None for p in module.parameters())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"epochs": 0}, "epochs between 1"),
        ({"lr": float("nan")}, "lr between"),
        ({"batch_size": 1}, "batch_size between 2"),
        ({"schedule": "step"}, "'step'"),
        ({"precision": "int4"}, "'int4'"),
    ],
)
def test_settings_out_of_range_are_named(settings: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        TrainConfig(**settings)  # type: ignore[arg-type]


def test_unknown_settings_and_devices_are_named(digits: Dataset) -> None:
    with pytest.raises(ConfigError, match="'learning_rate'"):
        TrainConfig().replace(learning_rate=1)
    for name in ("tpu", "meta"):
        with pytest.raises(ConfigError, match=name):
            pick_device(name)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="CUDA"):
            train(network(), digits, SMALL.replace(device="cuda"))
    with pytest.raises(HwnasError, match="float16 trains on CUDA only"):
        train(network(), digits, SMALL.replace(precision="fp16"))
