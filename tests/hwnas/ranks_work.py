"""What `test_ranks` computes in one process and in two: ``torchrun ... ranks_work.py FOLDER``, results in a folder.

Networks compute in float64, so that the order of sums does not show: what differs is wrong.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hwnas import ranks
from hwnas.constraints import ConstraintSet
from hwnas.data import load_data
from hwnas.data.augment import Augmentation
from hwnas.data.base import Dataset
from hwnas.spaces import get_space
from hwnas.spaces.darts import DARTS
from hwnas.spaces.errors import RankError
from hwnas.spaces.supernet import Supernet
from hwnas.strategies import make_strategy
from hwnas.strategies.darts import Darts
from hwnas.tasks import get_task
from hwnas.training import TrainConfig, save_checkpoint, train, train_mixture, train_shared, train_supernet

#: 33 images a step: the two ranks have 16 and 17
CONFIG = TrainConfig(epochs=2, batch_size=33, lr=0.02, precision="float32", device="cpu")
SHARED = TrainConfig.supernet(epochs=2, batch_size=33, lr=0.02, precision="float32", device="cpu")
SPACE = "mobilenet(width=0.15,depth=0.25)"
AUGMENTED = Augmentation(pad=1, flip=True, erasing=0.5)


class Wide(nn.Module):
    """A network in float64."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner.double()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.inner(x.double())
        return found


class WideSupernet(Supernet):
    """A supernet in float64."""

    def forward(self, x: Tensor, architecture: Sequence[int]) -> Tensor:
        return super().forward(x.double(), architecture)


class Stopped(Dataset):
    """Data that end after one epoch, on every rank."""

    def training_batches(self, *args: Any, epoch: int, **options: Any) -> Iterator[tuple[Tensor, Tensor]]:
        if epoch == 1:
            raise InterruptedError
        return super().training_batches(*args, epoch=epoch, **options)


def digits(kind: type[Dataset] = Dataset) -> Dataset:
    """A few images: two steps an epoch."""
    return kind(**{**vars(load_data("digits", limit=70)), "augmentation": AUGMENTED})


def final(checkpoint: Path | None = None, kind: type[Dataset] = Dataset) -> tuple[dict[str, Tensor], Any]:
    """Training of one network."""
    space = get_space(SPACE, resolution=8, channels=1, classes=10)
    torch.manual_seed(ranks.rank())  # rank 0's weights count
    module = Wide(space.lower([1] * len(space.radices)).to_module())
    result = train(module, digits(kind), CONFIG, checkpoint=checkpoint, save_seconds=0)
    return module.state_dict(), [result.valid_accuracy, result.test_accuracy, [r.loss for r in result.history]]


def rotated() -> tuple[dict[str, Tensor], Any]:
    """Training for a task without labels."""
    made, data = get_task("rotation").apply(get_space(SPACE, resolution=8, channels=1, classes=10), digits())
    torch.manual_seed(0)
    module = Wide(made.lower([1] * len(made.radices)).to_module())
    result = train(module, data, CONFIG.replace(epochs=1))
    return module.state_dict(), [result.valid_accuracy, result.test_accuracy, [r.loss for r in result.history]]


def supernet() -> tuple[dict[str, Tensor], Any]:
    """Training of a supernet, distilled in place."""
    torch.manual_seed(0)
    net = WideSupernet(get_space(SPACE, resolution=8, channels=1, classes=10)).double()
    result = train_supernet(net, digits(), SHARED, distill=True)
    return net.state_dict(), [record.loss for record in result.history]


def shared() -> tuple[dict[str, Tensor], Any]:
    """Weights and a distribution together; what was drawn, and the state of the strategy."""
    space = get_space("fbnetv2(width=0.25,depth=0.25)", resolution=8, channels=1, classes=10)
    strategy = make_strategy("fpnas", space, ConstraintSet(["flops <= 1M"], space).sampler(), seed=1, rate=0.05)
    torch.manual_seed(0)
    net = WideSupernet(space).double()
    drawn: list[Any] = []
    ask: Callable[[int], Any] = strategy.ask
    strategy.ask = lambda count=1: drawn.append(found := ask(count)) or found  # type: ignore[func-returns-value]
    train_shared(net, strategy, digits(), SHARED.replace(epochs=1))
    return net.state_dict(), [drawn, [array.tolist() for array in strategy.distribution.logits]]


def mixture() -> tuple[dict[str, Tensor], Any]:
    """Weights and the parameters of a mixture."""
    strategy = Darts(DARTS(resolution=8, channels=1, width=0.25, depth=0.375), seed=0, frozen=0.0)
    torch.manual_seed(0)
    net = Supernet(strategy.space)
    data = load_data("digits", limit=33)
    train_mixture(net, strategy, data, SHARED.replace(epochs=1, lr=0.01))
    return net.state_dict(), strategy.alphas.tolist()


WORK: dict[str, Callable[[], tuple[dict[str, Tensor], Any]]] = {
    "final": final,
    "rotated": rotated,
    "supernet": supernet,
    "shared": shared,
    "mixture": mixture,
}


def stop_after_one_epoch(checkpoint: Path) -> None:
    """Leave a checkpoint of `final` behind."""
    try:
        final(checkpoint, Stopped)
    except InterruptedError:
        return
    raise AssertionError("it was not stopped")


def main(folder: Path) -> None:
    """Do everything on each rank; rank 0 writes it down."""
    torch.set_num_threads(1)
    ranks.start(timeout=120)
    assert ranks.size() == 2
    stop_after_one_epoch(folder / "of-two.safetensors")
    work = {**WORK, "resumed": lambda: final(folder / "of-one.safetensors")}
    for name, task in work.items():
        weights, found = task()
        if ranks.leads():
            save_checkpoint(folder / f"{name}.safetensors", weights, {"found": found})
    try:
        ranks.check_same(ranks.rank(), "their own numbers")
    except RankError as error:
        (folder / f"rank-{ranks.rank()}.json").write_text(json.dumps(str(error)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
