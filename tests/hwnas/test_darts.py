"""DARTS: the mixture on a supernet's weights, the parameters it moves, and the cells it delivers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hwnas
from hwnas.constraints import ConstraintSet
from hwnas.data import load_data
from hwnas.spaces import ConfigError, get_space
from hwnas.spaces.darts import DARTS, NONE, OPERATIONS, SKIP
from hwnas.spaces.mixture import Mixture
from hwnas.spaces.supernet import Supernet
from hwnas.strategies.darts import Darts
from hwnas.tasks import get_task
from hwnas.training import TrainConfig, train_mixture

SPACE = DARTS(resolution=8, channels=1, width=0.25, depth=0.375)
POOLS = [OPERATIONS.index("max3"), OPERATIONS.index("avg3")]
CONFIG = TrainConfig.supernet(epochs=2, batch_size=32, precision="float32", device="cpu")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    torch.manual_seed(0)
    return Supernet(SPACE)


def one_hot(row: np.ndarray) -> torch.Tensor:
    return torch.eye(len(OPERATIONS))[torch.from_numpy(row)]


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_a_mixture_of_one_is_a_path_of_the_supernet(supernet: Supernet, seed: int) -> None:
    row = SPACE.sample(1, np.random.default_rng(seed))[0]
    row[np.isin(row, POOLS)] = OPERATIONS.index("sep3")  # the mixture normalises what is pooled
    supernet.eval()
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        assert torch.allclose(Mixture(supernet)(x, one_hot(row)), supernet(x, row.tolist()), atol=1e-5)


def test_every_operation_has_a_part_in_the_mixture(supernet: Supernet) -> None:
    shares = torch.full((28, 8), 1 / 8, requires_grad=True)
    supernet.train()
    Mixture(supernet)(torch.randn(4, 1, 8, 8), shares).square().sum().backward()
    assert shares.grad is not None
    assert (shares.grad[:, NONE] == 0).all()
    assert (shares.grad[:, 1:] != 0).float().mean() > 0.95
    with pytest.raises(ConfigError, match="space darts"):
        Mixture(Supernet(get_space("nasbench201", resolution=8, channels=1, width=0.25, depth=0.2)))


def test_tasks_have_mixtures_too() -> None:
    made, data = get_task("jigsaw").apply(SPACE, load_data("digits"))
    inputs, answers = next(data.batches(data.valid, 16))
    torch.manual_seed(0)
    outputs = Mixture(Supernet(made))(inputs, torch.full((28, 8), 1 / 8))
    assert outputs.shape == (len(answers), 24)


def test_a_network_of_reduction_cells_alone_can_be_searched() -> None:
    shallow = DARTS(resolution=8, channels=1, width=0.25, depth=0.25)
    strategy = Darts(shallow, seed=0)
    assert (shallow.normal, shallow.kinds) == ((), 1)
    found = strategy.recommendation
    assert found is not None
    assert shallow.validate(found) == found


def test_parameters_go_down_the_gradient_once_they_are_free() -> None:
    strategy = Darts(SPACE, seed=0, learning_rate=0.1, frozen=0.5)
    before, better = strategy.alphas, OPERATIONS.index("sep5")
    strategy.advance(0.4)
    strategy.descend(-strategy.shares()[:, better].sum())
    assert (strategy.alphas == before).all()
    strategy.advance(0.5)
    for _ in range(30):
        strategy.descend(-strategy.shares()[:, better].sum())
    found = strategy.recommendation
    assert found is not None
    assert set(found) == {NONE, better}
    assert strategy.trace[-1]["entropy"] < strategy.trace[0]["entropy"]


def test_cells_of_skip_connections_are_not_delivered() -> None:
    strategy = Darts(SPACE, seed=0, learning_rate=0.05, frozen=0.0, skips=2)
    for _ in range(60):
        strategy.descend(-strategy.shares()[:, SKIP].sum())
    collapsed = np.array(SPACE.derive(strategy.alphas)).reshape(2, 14)
    assert (collapsed == SKIP).sum() == 16
    (normal,) = SPACE.normal
    for row in [strategy.recommendation, *strategy.candidates(20)]:
        assert row is not None
        assert (np.array(row).reshape(2, 14)[normal] == SKIP).sum() <= 2


def test_what_is_delivered_fits() -> None:
    plain = ConstraintSet(["params <= 1M"], SPACE)
    typical = plain.values(SPACE.sample_derived(500, np.random.default_rng(0)))[:, 0]
    limits = ConstraintSet([f"params <= {np.quantile(typical, 0.2):.0f}"], SPACE)
    strategy = Darts(SPACE, limits.sampler(), seed=0)
    found = strategy.candidates(30)
    assert len(set(found)) == 30
    assert limits.feasible(np.array(found)).all()
    assert strategy.recommendation == found[0]
    assert all(np.count_nonzero(row) == 16 for row in found)


def test_a_search_goes_on_where_it_was(tmp_path: Path) -> None:
    data = load_data("digits", limit=64)

    def trained(epochs: int, checkpoint: Path | None) -> tuple[Supernet, Darts]:
        torch.manual_seed(0)
        net, strategy = Supernet(SPACE), Darts(SPACE, seed=0, frozen=0.0)
        config = CONFIG.replace(epochs=epochs, schedule="constant", warmup=0.0)
        train_mixture(net, strategy, data, config, checkpoint=checkpoint, save_seconds=0.0)
        return net, strategy

    _, whole = trained(2, None)
    file = tmp_path / "mixture.safetensors"
    steps = data.steps(CONFIG.batch_size)

    class KilledError(Exception):
        pass

    def killed(done: float, _total: float, _text: str) -> None:
        if done > steps:
            raise KilledError

    torch.manual_seed(0)
    net, strategy = Supernet(SPACE), Darts(SPACE, seed=0, frozen=0.0)
    config = CONFIG.replace(epochs=2, schedule="constant", warmup=0.0)
    with pytest.raises(KilledError):
        train_mixture(net, strategy, data, config, checkpoint=file, save_seconds=0.0, progress=killed)
    _, resumed = trained(2, file)
    assert np.abs(resumed.alphas - whole.alphas).max() < 1e-6
    assert len(resumed.trace) == len(whole.trace) == 2 * steps
    copy = Darts(SPACE, seed=7, frozen=0.0)
    copy.load_state_dict(json.loads(json.dumps(whole.state_dict())))
    assert copy.candidates(5)[0] == whole.candidates(5)[0]


def test_a_search_ends_in_a_file(tmp_path: Path) -> None:
    result = hwnas.search(
        "darts(width=0.25,depth=0.375)",
        "digits",
        ["params <= 20K"],
        strategy="darts",
        supernet_epochs=1,
        epochs=1,
        evaluations=2,
        limit=64,
        threads=1,
        run=tmp_path / "run",
    )
    assert result.onnx.exists()
    assert np.count_nonzero(result.architecture) == 16


@pytest.mark.parametrize(
    ("space", "more", "what"),
    [
        ("nasbench201", {}, "space darts"),
        ("darts(depth=0.375)", {"evaluator": "scratch"}, "one-shot"),
        ("darts(depth=0.375)", {"options": ["frozen=1"]}, "frozen below 1"),
    ],
)
def test_what_it_cannot_do_is_refused(space: str, more: dict[str, object], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        hwnas.search(space, "digits", ["params <= 1M"], strategy="darts", **more)  # type: ignore[arg-type]
