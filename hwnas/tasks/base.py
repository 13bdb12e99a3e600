"""What a task is: other examples made of the same images, and another end of the same networks.

A label-free task makes its own answers from images alone (UnNAS, arXiv 2003.12056). `Task.apply` turns a space and a
data set into the space and the data that a search trains with; everything that trains or scores works on these as on
any other. What the search is constrained by, and what it delivers, stays the space and the data that were named.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np

from hwnas.data.base import Dataset, Split
from hwnas.ranks import WHOLE, Share
from hwnas.spaces.errors import ConfigError
from hwnas.spaces.graph import Graph
from hwnas.spaces.space import Architecture, SearchSpace, Term

if TYPE_CHECKING:
    from torch import Generator, Tensor, device

__all__ = ["Classification", "PretextData", "PretextTask", "Task", "TaskSpace", "Unlabelled"]


class Task(ABC):
    """Base of every task; a plug-in is one class without parameters."""

    name: ClassVar[str]
    summary: ClassVar[str]
    paper: ClassVar[str] = ""
    #: Whether it reads the labels of the data.
    labels: ClassVar[bool] = False
    #: What networks that were trained for it take, as their files say.
    inputs: ClassVar[str] = "normalised"

    @abstractmethod
    def apply(self, space: SearchSpace, data: Dataset) -> tuple[SearchSpace, Dataset]:
        """The space and the data to train with.

        Raises
        ------
        ConfigError
            If the images do not allow the task.
        """


class Classification(Task):
    """The classes that the data set names."""

    name: ClassVar[str] = "classification"
    summary: ClassVar[str] = "the classes of the data set"
    labels: ClassVar[bool] = True

    def apply(self, space: SearchSpace, data: Dataset) -> tuple[SearchSpace, Dataset]:
        return space, data


class PretextTask(Task):
    """A task that makes its examples and answers from images alone."""

    paper: ClassVar[str] = "UnNAS, arXiv 2003.12056"
    #: Inputs of the network that are made of one image.
    multiple: ClassVar[int] = 1

    def apply(self, space: SearchSpace, data: Dataset) -> tuple[SearchSpace, Dataset]:
        channels, resolution, outputs = self.shape(data)
        made = type(space)(**{**space.parameters, "channels": channels, "resolution": resolution, "classes": outputs})
        if made.radices.tolist() != space.radices.tolist():
            raise ConfigError(
                f"{space.name} has other decisions at the {resolution} pixels that {self.name} leaves of "
                f"{data.resolution}; give larger images"
            )
        mean, std = self.statistics(data)
        return TaskSpace(made, self), PretextData(
            name=f"{data.name}, {self.name}",
            train=Unlabelled(data.train),
            valid=Unlabelled(data.valid),
            test=Unlabelled(data.test),
            channels=channels,
            resolution=resolution,
            class_names=tuple(self.answers()),
            mean=mean,
            std=std,
            augmentation=data.augmentation,
            task=self,
        )

    # ------------------------------------------------------------------ what a task says

    @abstractmethod
    def answers(self) -> list[str]:
        """A name for each possible answer."""

    @abstractmethod
    def examples(
        self, images: Tensor, data: PretextData, generator: Generator, training: bool
    ) -> tuple[Tensor, Tensor]:
        """Inputs of the network and answers, as many as it gives outputs for them.

        Parameters
        ----------
        images
            uint8, ``(B, C, H, W)``, of the data set that the task was applied to, cropped and flipped when `training`.
        data
            The data with their `mean` and `std`.
        generator
            Where randomness comes from.
        training
            Whether the examples are trained on, or judged by.
        """

    def shape(self, data: Dataset) -> tuple[int, int, int]:
        """Channels and resolution of the network's input, and its outputs."""
        return data.channels, data.resolution, len(self.answers())

    def statistics(self, data: Dataset) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation that inputs are normalised by, per channel."""
        return data.mean, data.std

    def adapt(self, graph: Graph) -> Graph:
        """The network with the task's own end."""
        return graph


class TaskSpace(SearchSpace):
    """The networks of a space with the input and the end that a task needs; their costs are those of the space."""

    name: ClassVar[str] = "task"
    summary: ClassVar[str] = "the networks of a space, trained for a task"

    def __init__(self, space: SearchSpace, task: PretextTask) -> None:
        self.space, self.task = space, task
        self.decisions = space.decisions
        self.resolution, self.channels, self.classes = space.resolution, space.channels, space.classes

    @property
    def spec(self) -> str:
        """The space and the task."""
        return f"{self.space.spec} for {self.task.name}"

    @property
    def layers(self) -> tuple[tuple[int, ...], ...]:
        """Those of the space."""
        return self.space.layers

    def build(self, architecture: Architecture) -> Graph:
        return self.task.adapt(self.space.build(architecture))

    def covering(self) -> np.ndarray:
        return self.space.covering()

    def live(self, architectures: np.ndarray) -> np.ndarray:
        return self.space.live(architectures)

    @property
    def _costs(self) -> tuple[tuple[Graph, ...], tuple[Term, ...]]:
        return self.space._costs


class Unlabelled(Split):
    """Images of a split without their labels, which are never read; all are of class 0 here.

    Parameters
    ----------
    split
        The images.
    indices
        Which of them; all if not given.
    """

    def __init__(self, split: Split, indices: np.ndarray | None = None) -> None:
        self.split = split
        self.indices = np.arange(len(split)) if indices is None else np.asarray(indices, dtype=np.int64)
        self.labels = np.zeros(len(self.indices), dtype=np.int64)

    def batches(
        self, size: int, *, order: np.ndarray | None = None, crop_seed: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        import torch

        for images in self.image_batches(size, order=order, crop_seed=crop_seed):
            yield images, torch.zeros(len(images), dtype=torch.int64)

    def image_batches(
        self, size: int, *, order: np.ndarray | None = None, crop_seed: int | None = None
    ) -> Iterator[Tensor]:
        chosen = self.indices if order is None else self.indices[order]
        return self.split.image_batches(size, order=chosen, crop_seed=crop_seed)

    def take(self, indices: np.ndarray) -> Unlabelled:
        return Unlabelled(self.split, self.indices[indices])


@dataclass(frozen=True)
class PretextData(Dataset):
    """Images with the examples and answers that a task makes of them.

    A batch holds as many inputs of the network as it is asked for, of as many times fewer images as the task makes
    inputs of one.
    """

    task: PretextTask = field(default=cast(PretextTask, None))

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint compares."""
        return {**super().identity, "task": self.task.name}

    def limited(self, limit: int | None, seed: int = 0) -> Dataset:
        """The same with at most `limit` training images, drawn from all alike."""
        if limit is None or limit >= len(self.train):
            return self
        chosen = np.random.default_rng([seed, limit]).permutation(len(self.train))[:limit]
        return replace(self, train=self.train.take(np.sort(chosen)))

    def _images(self, batch_size: int) -> int:
        return max(1, batch_size // self.task.multiple)

    def steps(self, batch_size: int) -> int:
        """Batches in an epoch."""
        return max(1, len(self.train) // self._images(batch_size))

    def step_images(self, batch_size: int) -> int:
        """Images that a batch is made of."""
        return min(self._images(batch_size), len(self.train))

    def training_batches(
        self,
        batch_size: int,
        *,
        seed: int,
        epoch: int,
        device: device | str = "cpu",
        augment: bool = True,
        share: Share = WHOLE,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Shuffled examples of one epoch, which `seed` and `epoch` determine.

        With a `share`, the images are those of a process on its own; what the task itself draws (jigsaw's orders of
        tiles) is each rank's own.
        """
        import torch

        rng = np.random.default_rng([seed, epoch])
        count = self.step_images(batch_size)
        order = rng.permutation(len(self.train))[: self.steps(batch_size) * self._images(batch_size)]
        drawn = int(rng.integers(2**62))
        generator = torch.Generator().manual_seed(drawn)
        own = generator if share.ranks == 1 else torch.Generator().manual_seed(drawn + 1 + share.rank)
        crop_seed = int(rng.integers(2**62)) if augment else None
        part = share.part(count)
        size, indices = part.stop - part.start, share.of_steps(order, count)
        for images in self.train.image_batches(size, order=indices, crop_seed=crop_seed):
            images = images.to(device, non_blocking=True)
            if augment:
                images = self.augmentation.geometric(images, generator, count, part)
            yield self.task.examples(images, self, own, augment)

    def batches(
        self, split: Split, batch_size: int, device: device | str = "cpu", share: Share = WHOLE
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Examples of a split, or of a share of it, in its own order, the same ones each time."""
        import torch

        generator = torch.Generator().manual_seed(share.rank)
        for images in split.image_batches(self._images(batch_size), order=share.of_all(len(split))):
            yield self.task.examples(images.to(device, non_blocking=True), self, generator, False)
