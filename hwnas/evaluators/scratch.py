"""Evaluation from scratch: every architecture is trained with weights of its own."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from hwnas.evaluators.base import Evaluation, Evaluator

if TYPE_CHECKING:
    from hwnas.data.base import Dataset
    from hwnas.spaces.space import Architecture, SearchSpace
    from hwnas.training.config import TrainConfig
    from hwnas.training.loop import Progress

__all__ = ["ScratchEvaluator"]


class ScratchEvaluator(Evaluator):
    """Validation accuracy after training from random weights.

    Parameters
    ----------
    space
        Lowers architectures to networks.
    data, config
        What each is trained on, and how. Every architecture starts from the same seed.
    folder
        Where checkpoints of the architectures in work lie, so that a killed run loses at most an epoch; those of
        earlier calls are removed when the next call begins.
    progress
        Called as ``progress(steps done, steps in all, text)`` for each training.
    """

    name: ClassVar[str] = "scratch"
    fidelity: str

    def __init__(
        self,
        space: SearchSpace,
        data: Dataset,
        config: TrainConfig | None = None,
        *,
        folder: str | os.PathLike[str] | None = None,
        progress: Progress | None = None,
    ) -> None:
        from hwnas.training.config import TrainConfig

        self.space, self.data, self.config = space, data, config or TrainConfig()
        self.fidelity = f"validation accuracy after {self.config.epochs} epochs of training from scratch"
        self.folder = None if folder is None else Path(folder)
        self.progress = progress
        self._known: dict[Architecture, Evaluation] = {}

    def evaluate(self, architectures: Iterable[Sequence[int]]) -> list[Evaluation]:
        """Train and score; `Evaluation.score` is the best validation accuracy, `info` has epoch, seconds and loss."""
        wanted = [self.space.validate(architecture) for architecture in architectures]
        if self.folder is not None and self.folder.is_dir():
            current = {self._checkpoint(architecture) for architecture in wanted}
            for path in self.folder.glob("candidate-*.safetensors"):
                if path not in current:
                    path.unlink()
        return [self._evaluate(architecture) for architecture in wanted]

    def _checkpoint(self, architecture: Architecture) -> Path | None:
        if self.folder is None:
            return None
        text = json.dumps([self.space.spec, list(architecture)])
        return self.folder / f"candidate-{hashlib.sha256(text.encode()).hexdigest()[:16]}.safetensors"

    def _evaluate(self, architecture: Architecture) -> Evaluation:
        import torch

        from hwnas.training.trainer import train

        if architecture not in self._known:
            with torch.random.fork_rng():
                torch.manual_seed(self.config.seed)
                module = self.space.lower(architecture).to_module()
            result = train(
                module,
                self.data,
                self.config,
                checkpoint=self._checkpoint(architecture),
                progress=self.progress,
                stage="candidate",
            )
            info = {"epoch": result.best_epoch, "seconds": result.seconds, "loss": result.history[-1].loss}
            self._known[architecture] = Evaluation(architecture, result.valid_accuracy, {}, info)
        return self._known[architecture]
