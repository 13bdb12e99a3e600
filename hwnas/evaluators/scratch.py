"""Evaluation from scratch: every architecture is trained with weights of its own."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

from hwnas.evaluators.base import Evaluation, Evaluator
from hwnas.spaces.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

    from hwnas.data.base import Dataset
    from hwnas.plan import TrainingPlan
    from hwnas.spaces.space import Architecture, SearchSpace
    from hwnas.training.config import TrainConfig
    from hwnas.training.loop import Progress

__all__ = ["ScratchEvaluator"]

#: Trained networks whose weights are kept for others to inherit.
KEPT = 64


class ScratchEvaluator(Evaluator):
    """Validation accuracy after training from random weights, or from those of a similar network.

    Parameters
    ----------
    space
        Lowers architectures to networks.
    data, config
        What each is trained on, and how. Every architecture starts from the same seed.
    folder
        Where checkpoints of the architectures in work lie, so that a killed run loses at most an epoch; those of
        earlier calls are removed when the next call begins. Several evaluators may share a folder.
    inherit
        Whether a network begins with the weights of the trained one in `folder` that agrees with it in the most
        decisions, wherever name and shape are the same. Scores then depend on what was trained before.
    progress
        Called as ``progress(steps done, steps in all, text)`` for each training.

    Raises
    ------
    ModelError
        If weights are to be inherited without a folder to keep them in.
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
        inherit: bool = False,
        progress: Progress | None = None,
    ) -> None:
        from hwnas.training.config import TrainConfig

        self.space, self.data, self.config = space, data, config or TrainConfig()
        self.folder = None if folder is None else Path(folder)
        if inherit and self.folder is None:
            raise ModelError("weights are inherited from a folder; give one, or inherit=False")
        self.inherit = inherit
        start = "with inherited weights" if inherit else "from scratch"
        self.fidelity = f"validation accuracy after {self.config.epochs} epochs of training {start}"
        self.progress = progress
        self._known: dict[Architecture, Evaluation] = {}

    @classmethod
    def of_plan(cls, plan: TrainingPlan, folder: Path | None) -> Self:
        """The evaluator that a search from scratch uses; its checkpoints lie in `folder`.

        Without a folder, it is that of a rank that gets its weights from rank 0.
        """
        if folder is None:
            return cls(plan.task_space, plan.task_data, plan.config)
        return cls(plan.task_space, plan.task_data, plan.config, folder=folder, inherit=plan.inherits)

    def evaluate(self, architectures: Iterable[Sequence[int]]) -> list[Evaluation]:
        """Train and score; `Evaluation.score` is the best validation accuracy.

        `Evaluation.info` has epoch, seconds, loss and, where weights may be inherited, the share of the network's
        weights that were, and from which architecture.
        """
        wanted = [self.space.validate(architecture) for architecture in architectures]
        for architecture in self._known.keys() - set(wanted):
            if self.folder is not None:
                self._file("candidate", architecture).unlink(missing_ok=True)
        return [self._evaluate(architecture) for architecture in wanted]

    def _file(self, kind: str, architecture: Architecture) -> Path:
        assert self.folder is not None
        text = json.dumps([self.space.spec, list(architecture)])
        return self.folder / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.safetensors"

    def _evaluate(self, architecture: Architecture) -> Evaluation:
        import torch

        from hwnas.training.trainer import train

        if architecture not in self._known:
            with torch.random.fork_rng():
                torch.manual_seed(self.config.seed)
                module = self.space.lower(architecture).to_module()
            checkpoint = None if self.folder is None else self._file("candidate", architecture)
            inherited = {}
            if self.inherit:
                inherited = self._inherit(module, architecture)
            result = train(
                module, self.data, self.config, checkpoint=checkpoint, progress=self.progress, stage="candidate"
            )
            info = {"epoch": result.best_epoch, "seconds": result.seconds, "loss": result.history[-1].loss, **inherited}
            if self.inherit:
                self._keep(module, architecture)
            self._known[architecture] = Evaluation(architecture, result.valid_accuracy, {}, info)
        return self._known[architecture]

    # ------------------------------------------------------------------ inherited weights

    def _inherit(self, module: nn.Module, architecture: Architecture) -> dict[str, object]:
        """Copy the weights of the most similar trained network into `module`, and say how many and whose."""
        from hwnas.training.checkpoint import load_checkpoint, load_meta

        assert self.folder is not None
        found: list[tuple[int, float, Path, list[int]]] = []
        for path in self.folder.glob("weights-*.safetensors"):
            try:
                donor, written = load_meta(path)["architecture"], path.stat().st_mtime
            except (ModelError, OSError):  # another process has just removed it
                continue
            same = sum(ours == theirs for ours, theirs in zip(architecture, donor, strict=True))
            found.append((same, written, path, donor))
        for _, _, path, donor in sorted(found, reverse=True):
            try:
                weights, _ = load_checkpoint(path)
            except ModelError:
                continue
            state = module.state_dict()
            fitting = {name: w for name, w in weights.items() if name in state and state[name].shape == w.shape}
            module.load_state_dict(fitting, strict=False)
            share = sum(w.numel() for w in fitting.values()) / sum(w.numel() for w in state.values())
            return {"inherited": round(share, 4), "parent": donor}
        return {"inherited": 0.0}

    def _keep(self, module: nn.Module, architecture: Architecture) -> None:
        """Keep the trained weights for later networks, and remove the oldest of too many."""
        from hwnas.training.checkpoint import save_checkpoint

        assert self.folder is not None
        save_checkpoint(self._file("weights", architecture), module.state_dict(), {"architecture": list(architecture)})
        kept = sorted(self.folder.glob("weights-*.safetensors"), key=_written)
        for path in kept[:-KEPT]:
            path.unlink(missing_ok=True)


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # another process has just removed it
        return 0.0
