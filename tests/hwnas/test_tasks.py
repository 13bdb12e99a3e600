"""Tasks: what they make of images, that they read no label, and that everything trains on them as on classes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import hwnas.data
from hwnas.constraints import ConstraintSet
from hwnas.data import load_data
from hwnas.data.base import ArraySplit, Dataset, Split
from hwnas.evaluators.one_shot import OneShotEvaluator
from hwnas.evaluators.scratch import ScratchEvaluator
from hwnas.plan import Plan, SearchSettings
from hwnas.spaces import ConfigError, ModelError, get_space, list_spaces
from hwnas.spaces.supernet import Supernet
from hwnas.strategies import make_strategy
from hwnas.tasks import get_task, list_tasks
from hwnas.tasks.base import PretextData
from hwnas.tasks.colorization import colour_bins, to_lab
from hwnas.training import TrainConfig, train, train_shared, train_supernet

CONFIG = TrainConfig(epochs=1, batch_size=32, precision="float32", device="cpu")
SUPERNET = TrainConfig.supernet(epochs=1, batch_size=32, precision="float32", device="cpu")
LABEL_FREE = [name for name in list_tasks() if not get_task(name).labels]
PATH = (3, 1, 2, 4, 1, 3)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class NoLabels(Split):
    """Images whose labels raise."""

    def __init__(self, images: np.ndarray) -> None:
        self._images = images

    @property
    def labels(self) -> np.ndarray:  # type: ignore[override]
        raise AssertionError("a label was read")

    def __len__(self) -> int:
        return len(self._images)

    def batches(
        self, size: int, *, order: np.ndarray | None = None, crop_seed: int | None = None
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        raise AssertionError("images were read with their labels")

    def image_batches(
        self, size: int, *, order: np.ndarray | None = None, crop_seed: int | None = None
    ) -> Iterator[torch.Tensor]:
        chosen = self._images if order is None else self._images[order]
        for start in range(0, len(chosen), size):
            yield torch.from_numpy(chosen[start : start + size])

    def take(self, indices: np.ndarray) -> Split:
        raise AssertionError("a subset with its labels was taken")


def colours(count: int = 48, size: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 3, size, size), dtype=np.uint8)


def unlabelled(size: int = 16) -> Dataset:
    return Dataset(
        "colours",
        *(NoLabels(colours(size=size)) for _ in range(3)),
        channels=3,
        resolution=size,
        class_names=("a", "b"),
        mean=(0.5,) * 3,
        std=(0.29,) * 3,
    )


def applied(name: str, data: Dataset, width: float = 0.25) -> tuple[Supernet, PretextData]:
    space = get_space("nasbench201", resolution=data.resolution, channels=data.channels, width=width, depth=0.2)
    made, pretext = get_task(name).apply(space, data)
    assert isinstance(pretext, PretextData)
    torch.manual_seed(0)
    return Supernet(made), pretext


@pytest.mark.parametrize("name", LABEL_FREE)
def test_no_label_is_read(name: str, tmp_path: Path) -> None:
    supernet, data = applied(name, unlabelled())
    train_supernet(supernet, data, SUPERNET)
    (evaluation,) = OneShotEvaluator(supernet, data, batches=1, limit=24).evaluate([PATH])
    assert 0 <= evaluation.score <= 1
    assert evaluation.info["images"] > 0
    (evaluation,) = ScratchEvaluator(supernet.space, data, CONFIG, folder=tmp_path).evaluate([PATH])
    assert 0 <= evaluation.score <= 1
    train_shared(supernet, make_strategy("manas", supernet.space, seed=0), data, SUPERNET)


def test_a_search_reads_no_label_before_its_result_is_trained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hwnas.data, "load_data", lambda *_, **given: unlabelled(given.get("resolution") or 16))
    settings = SearchSettings(
        space="nasbench201(width=0.25,depth=0.2)",
        data="colours",
        constraints=("params <= 1M",),
        evaluator="scratch",
        task="rotation",
        epochs=1,
        limit=24,
    )
    plan = Plan(settings)
    assert len(plan.task_data.train) == 24
    (evaluation,) = ScratchEvaluator.of_plan(plan, tmp_path).evaluate([PATH])
    assert 0 <= evaluation.score <= 1
    with pytest.raises(AssertionError, match="a label was read"):
        assert plan.data  # for training the result


@pytest.mark.parametrize("name", list_tasks())
@pytest.mark.parametrize("space_name", list_spaces())
def test_every_space_serves_every_task(name: str, space_name: str) -> None:
    data = Dataset(
        "colours",
        *(ArraySplit(colours(8, 32), np.arange(8) % 2) for _ in range(3)),
        channels=3,
        resolution=32,
        class_names=("a", "b"),
        mean=(0.5,) * 3,
        std=(0.29,) * 3,
    )
    space = get_space(space_name, resolution=32, classes=2, width=0.25, depth=0.5)
    made, examples = get_task(name).apply(space, data)
    row = space.sample(1, np.random.default_rng(0))
    module = made.lower(row[0].tolist()).to_module().eval()
    inputs, answers = next(examples.batches(examples.valid, 36))
    with torch.no_grad():
        outputs = module(inputs)
    assert outputs.shape == (len(answers), examples.classes)
    assert (made.counts(row) >= 0).all()
    if name != "classification":
        assert answers.min() >= 0
        assert answers.max() < examples.classes
    if name.startswith(("jigsaw", "colorization")):
        with pytest.raises(ModelError, match="for training only"):
            made.lower(row[0].tolist()).to_onnx()


def test_answers_are_learned() -> None:
    data = load_data("digits")
    space = get_space("nasbench201", resolution=8, channels=1, width=0.25, depth=0.2)
    for name, chance in (("rotation", 1 / 4), ("jigsaw", 1 / 24)):
        made, examples = get_task(name).apply(space, data)
        torch.manual_seed(0)
        config = TrainConfig(epochs=2, precision="float32", device="cpu")
        assert train(made.lower([3] * 6).to_module(), examples, config).valid_accuracy > 1.6 * chance


def test_examples_repeat() -> None:
    for name in LABEL_FREE:
        _, data = applied(name, unlabelled())
        for again in (
            lambda data=data: data.batches(data.valid, 36),
            lambda data=data: data.training_batches(36, seed=1, epoch=2),
        ):
            one, other = list(again()), list(again())
            assert all(torch.equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))
        assert data.limited(16).train.labels.shape == (16,)
        assert len(list(data.training_batches(36, seed=0, epoch=0))) == data.steps(36)


# ---------------------------------------------------------------------- each task


def test_rotation_turns_by_quarters() -> None:
    _, data = applied("rotation", unlabelled())
    inputs, answers = next(data.batches(data.valid, 32))
    assert inputs.shape == (32, 3, 16, 16)
    assert answers.tolist() == [turns for turns in range(4) for _ in range(8)]
    plain = data.normalise(torch.from_numpy(colours()[:8]))
    for turns in range(4):
        assert torch.equal(torch.rot90(inputs[8 * turns : 8 * turns + 8], -turns, (2, 3)), plain)


@pytest.mark.parametrize(("name", "grid"), [("jigsaw", 2), ("jigsaw9", 3)])
def test_tiles_lie_where_the_answer_says(name: str, grid: int) -> None:
    patch = 8
    side = grid * patch
    pattern = torch.arange(grid**2).view(grid, grid).repeat_interleave(patch, 0).repeat_interleave(patch, 1)
    ramp = torch.arange(side).view(1, -1) % 2
    images = (20 * pattern + (pattern + 1) * ramp).to(torch.uint8).expand(12, 1, side, side)  # its steps tell a patch
    data = Dataset(
        "patches",
        *(NoLabels(images.numpy()) for _ in range(3)),
        channels=1,
        resolution=side,
        class_names=("a", "b"),
        mean=(0.0,),
        std=(1.0,),
    )
    task = get_task(name)
    _, examples = task.apply(get_space("nasbench201", resolution=side if side % 4 == 0 else 32, channels=1), data)
    assert isinstance(examples, PretextData)
    tile = examples.resolution
    seen: list[torch.Tensor] = []
    plain = torch.Tensor.std  # the spread of a tile before it is divided out says which patch it is of

    def noted(self: torch.Tensor, *args: object, **keywords: object) -> torch.Tensor:
        seen.append(plain(self, *args, **keywords))  # type: ignore[arg-type]
        return seen[-1]

    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(torch.Tensor, "std", noted)
        inputs, answers = next(examples.batches(examples.valid, 12 * grid**2))
    assert inputs.shape == (12 * grid**2, 1, tile, tile)
    assert inputs.mean(dim=(2, 3)).abs().max() < 1e-4
    spreads = seen[0].view(12, grid**2) * 255
    unit = float(torch.tensor([0.0, 1.0]).repeat(tile * tile // 2).std())
    which = (spreads / unit).round().long() - 1
    orders = torch.from_numpy(task.permutations)[answers]  # type: ignore[attr-defined]
    assert torch.equal(which, orders)


def test_the_end_of_a_jigsaw_network_is_a_linear_layer_over_all_tiles() -> None:
    supernet, data = applied("jigsaw", unlabelled())
    graph = supernet.space.lower(PATH)
    module = graph.to_module().eval()
    inputs, answers = next(data.batches(data.valid, 16))
    classifier = next(m for m in module.modules() if isinstance(m, torch.nn.Linear))
    features: list[torch.Tensor] = []
    hook = classifier.register_forward_hook(lambda _module, given, _result: features.append(given[0]))
    with torch.no_grad():
        outputs = module(inputs)
    hook.remove()
    joined = features[0].reshape(len(answers), -1)  # the features of four tiles, side by side
    parts = classifier.weight.view(4, 24, -1)
    whole = torch.cat(list(parts), dim=1)  # (24, 4 * features)
    bias = classifier.bias.view(4, 24).sum(dim=0)
    assert torch.allclose(outputs, joined @ whole.T + bias, atol=1e-5)


def test_orders_of_nine_tiles_differ_much() -> None:
    orders = get_task("jigsaw9").permutations  # type: ignore[attr-defined]
    assert len({tuple(order) for order in orders.tolist()}) == 64
    apart = (orders[:, None] != orders[None]).sum(axis=2)[np.triu_indices(64, 1)]
    assert apart.min() >= 5
    assert len(get_task("jigsaw").permutations) == 24  # type: ignore[attr-defined]


def test_colours_in_lab() -> None:
    """Published values of sRGB's corners under D65 (to the second decimal)."""
    known = {
        (255, 255, 255): (100.0, 0.0, 0.0),
        (0, 0, 0): (0.0, 0.0, 0.0),
        (255, 0, 0): (53.24, 80.09, 67.20),
        (0, 255, 0): (87.73, -86.18, 83.18),
        (0, 0, 255): (32.30, 79.19, -107.86),
        (128, 128, 128): (53.59, 0.0, 0.0),
    }
    images = torch.tensor(list(known), dtype=torch.uint8).view(-1, 3, 1, 1)
    found = to_lab(images).view(-1, 3)
    assert torch.allclose(found, torch.tensor(list(known.values())), atol=0.02)


def test_each_pixel_has_the_nearest_of_313_colours() -> None:
    bins = torch.from_numpy(colour_bins()).float()
    assert bins.shape == (313, 2)
    supernet, data = applied("colorization", unlabelled())
    inputs, answers = next(data.batches(data.valid, 8))
    assert inputs.shape == (8, 1, 16, 16)
    ab = to_lab(torch.from_numpy(colours()[:8]))[:, 1:].permute(0, 2, 3, 1).reshape(-1, 2)
    distance = torch.cdist(ab, bins)
    assert torch.allclose(distance.gather(1, answers[:, None])[:, 0], distance.min(dim=1).values, atol=1e-4)
    assert abs(float(inputs.mean())) < 0.2
    graph = supernet.space.lower(PATH)
    assert graph.macs > get_space("nasbench201", resolution=16, channels=1, width=0.25, depth=0.2).lower(PATH).macs


# ---------------------------------------------------------------------- what cannot be


def test_grey_images_have_no_colours() -> None:
    with pytest.raises(ConfigError, match="three channels, and digits has 1"):
        applied("colorization", load_data("digits"))


def test_small_images_have_no_tiles() -> None:
    with pytest.raises(ConfigError, match="at least 12 pixels, not 8"):
        applied("jigsaw9", load_data("digits"))


def test_a_label_free_supernet_teaches_no_classes() -> None:
    with pytest.raises(ConfigError, match="cannot teach"):
        SearchSettings(space="mobilenet", data="digits", constraints=("params <= 1M",), task="jigsaw", distill=True)
    with pytest.raises(ConfigError, match="rotation"):
        get_task("rotations")


def test_budgets_are_those_of_the_named_space() -> None:
    space = get_space("nasbench201", resolution=16, channels=3, width=0.25, depth=0.2)
    made, _ = get_task("rotation").apply(space, unlabelled())
    rows = space.sample(20, np.random.default_rng(0))
    limits = ConstraintSet(["params <= 1M"], space)
    four = get_space("nasbench201", resolution=16, channels=3, classes=4, width=0.25, depth=0.2)
    assert (
        ConstraintSet(["params <= 1M"], made).values(rows).tolist()
        == ConstraintSet(["params <= 1M"], four).values(rows).tolist()
    )
    assert (limits.values(rows) > ConstraintSet(["params <= 1M"], made).values(rows)).all()
