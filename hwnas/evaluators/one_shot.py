"""One-shot evaluation: how accurate an architecture is with the weights of a trained supernet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from hwnas.data.base import subset_indices
from hwnas.evaluators.base import Evaluation, Evaluator
from hwnas.ranks import WHOLE, Share
from hwnas.spaces.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from hwnas.data.base import Dataset
    from hwnas.spaces.space import Architecture
    from hwnas.spaces.supernet import Supernet

__all__ = ["OneShotEvaluator"]

#: validation images that are held as normalised floats; above it they are read again each time
MOST_CACHED_BYTES = 512_000_000


class OneShotEvaluator(Evaluator):
    """Validation score along a path of a supernet, after its BatchNorm is recalibrated (SPOS, section 3.4).

    The supernet is left exactly as it was. What was evaluated is remembered.

    Parameters
    ----------
    supernet
        Trained shared weights.
    data
        Calibrates on training images and scores on validation images, never on test images.
    batches, batch_size
        Of the recalibration; SPOS takes 200 of 128 on ImageNet. On digits, 1, 2 or 4 batches rank paths as all
        training images do (Spearman 0.94 to 0.96, the noise of 360 validation images), and cost a third to two
        thirds as much.
    limit
        Score on so many validation images at most, classes in proportion (SPOS: 8,000).
    metric
        ``accuracy``, as SPOS has it, or ``loss``: the score is then minus the cross-entropy, in nats, which
        repeats better where validation images are few.
    seed
        Of both draws, which are made once.
    share
        The part of the validation images that this rank scores; all ranks then evaluate the same architectures.
    """

    name: ClassVar[str] = "one-shot"
    fidelity: str

    def __init__(
        self,
        supernet: Supernet,
        data: Dataset,
        *,
        batches: int = 4,
        batch_size: int = 128,
        limit: int | None = 8_000,
        metric: str = "accuracy",
        seed: int = 0,
        share: Share = WHOLE,
    ) -> None:
        from hwnas.training.supernet import Calibration

        if metric not in ("accuracy", "loss"):
            raise ConfigError(f"there is no one-shot metric called {metric!r}; choose accuracy or loss")
        self.metric, self.share = metric, share
        self.fidelity = f"validation {metric} with the weights of a supernet, not trained alone"
        self.supernet, self.data, self.space = supernet, data, supernet.space
        self._device = next(supernet.parameters()).device
        self._calibration = Calibration(data, batches=batches, batch_size=batch_size, seed=seed, device=self._device)
        self._valid = data.valid
        if limit is not None and limit < len(data.valid):
            self._valid = data.valid.take(subset_indices(data.valid.labels, limit, np.random.default_rng([seed, 1])))
        self._batches: list[tuple[Tensor, Tensor]] | None = None
        self._known: dict[Architecture, Evaluation] = {}

    def evaluate(self, architectures: Iterable[Sequence[int]]) -> list[Evaluation]:
        """Score architectures; `info` has the accuracy, 0–1, the loss in nats, and the number of images."""
        return [self._evaluate(tuple(int(choice) for choice in architecture)) for architecture in architectures]

    def _evaluate(self, architecture: Architecture) -> Evaluation:
        from hwnas.training.scoring import score_batches
        from hwnas.training.supernet import recalibrated

        if architecture not in self._known:
            # every rank calibrates by all images: there are few, and the statistics need no exchange
            with recalibrated(self.supernet, architecture, self._calibration):
                score = score_batches(
                    lambda images: self.supernet(images, architecture), self._validation(), self.share
                )
            info = {"accuracy": score.accuracy, "loss": score.loss, "images": score.images}
            value = score.accuracy if self.metric == "accuracy" else -score.loss
            self._known[architecture] = Evaluation(architecture, value, {}, info)
        return self._known[architecture]

    def _validation(self) -> Iterable[tuple[Tensor, Tensor]]:
        from hwnas.training.scoring import EVAL_BATCH

        if self._batches is not None:
            return self._batches
        size = len(self._valid) * self.data.channels * self.data.resolution**2 * 4
        batches = self.data.batches(self._valid, EVAL_BATCH, self._device, self.share)
        if size > MOST_CACHED_BYTES:
            return batches
        self._batches = list(batches)
        return self._batches
