"""Scores the candidates of a search, whatever its stage: with a supernet's weights, or by training each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hwnas import ranks
from hwnas.evaluators.base import Evaluation, Evaluator
from hwnas.plan import Plan
from hwnas.run import Run
from hwnas.spaces.space import Architecture
from hwnas.strategies.base import Stage

if TYPE_CHECKING:
    from hwnas.spaces.supernet import Supernet
    from hwnas.strategies.base import Strategy
    from hwnas.training import Teacher

__all__ = ["StageEvaluator"]

Progress = Callable[[float, float, str], None]
#: while a strategy trains the weights by its draws, its state is kept this often
STATE_SECONDS = 10.0


class StageEvaluator(Evaluator):
    """The evaluator of each stage of a search; trains the stage's supernet if there is one to train.

    Ranks that follow have one without a run folder; they get all weights from rank 0.

    Parameters
    ----------
    run, plan
        Of the search.
    progress
        Called as ``progress(done, total, text)`` while something is trained.
    """

    def __init__(self, run: Run | None, plan: Plan, progress: Progress | None) -> None:
        self.run, self.plan, self.progress = run, plan, progress
        #: What is evaluated next.
        self.stage = plan.strategy.stage
        self._trained = -1
        self._supernet: Supernet | None = None
        self._evaluator: Evaluator | None = None

    def evaluate(self, architectures: Iterable[Architecture]) -> list[Evaluation]:
        """Evaluate in `stage`, on all ranks at once; without architectures, only what they need is trained."""
        wanted = list(architectures)
        if ranks.leads():
            ranks.order("evaluate", stage=self.stage.to_json(), architectures=wanted)
        return self._current().evaluate(wanted)

    def _current(self) -> Evaluator:
        """The evaluator of `stage`; stages come in order, and a resumed search begins with the one it was in."""
        if self.plan.settings.evaluator == "scratch":
            if self._evaluator is None:
                from hwnas.evaluators.scratch import ScratchEvaluator

                folder = None if self.run is None else self.run.path / "checkpoints"
                self._evaluator = ScratchEvaluator.of_plan(self.plan, folder)
            return self._evaluator
        if self._evaluator is None or self.stage.number != self._trained:
            self._evaluator = self._one_shot(self.stage)
            self._trained = self.stage.number
        return self._evaluator

    def _one_shot(self, stage: Stage) -> Evaluator:
        import torch

        from hwnas.evaluators.one_shot import OneShotEvaluator
        from hwnas.spaces.supernet import Supernet
        from hwnas.training import BoxSampler, load_weights, train_mixture, train_shared, train_supernet

        plan, run = self.plan, self.run
        name = f"supernet-{stage.number + 1}" if stage.name else "supernet"
        checkpoint = None if run is None else run.checkpoint(name)
        torch.manual_seed(plan.settings.seed + stage.number)
        if self._supernet is None or not stage.reuse:
            self._supernet = Supernet(plan.task_space)
            if run is not None and stage.reuse and stage.number and not run.checkpoint(name).exists():
                self._supernet.load_state_dict(load_weights(run.checkpoint(f"supernet-{stage.number}")))
        config = plan.supernet_config
        if plan.strategy.shares_weights:
            train: Any = train_mixture if plan.strategy.mixes else train_shared
            train(
                self._supernet,
                plan.strategy,
                plan.task_data,
                config,
                checkpoint=checkpoint,
                progress=None if run is None else _saving(run, plan.strategy, self.progress),
            )
            return OneShotEvaluator(self._supernet, plan.task_data, seed=plan.settings.seed, share=ranks.share())
        train_supernet(
            self._supernet,
            plan.task_data,
            replace(config, epochs=max(1, round(stage.share * config.epochs))),
            sampler=None if stage.allowed is None else BoxSampler(stage.allowed),
            checkpoint=checkpoint,
            progress=self.progress,
            stage=f"supernet, {stage.name}" if stage.name else "supernet",
        )
        return OneShotEvaluator(self._supernet, plan.task_data, seed=plan.settings.seed, share=ranks.share())

    def teacher(self, stage: Stage) -> Teacher | None:
        """For distillation, if it is wanted: the largest network that the supernet of `stage` was trained on."""
        if not self.plan.settings.distill:
            return None
        from hwnas.training import BoxSampler, Calibration, Teacher, largest

        plan = self.plan
        if ranks.leads():
            ranks.order("teacher", stage=stage.to_json())
        if self._supernet is None:
            self.stage = stage
            self._current()
        assert self._supernet is not None
        sampler = None if stage.allowed is None else BoxSampler(stage.allowed)
        architecture = largest(plan.space, sampler, seed=plan.settings.seed)
        return Teacher(self._supernet, architecture, Calibration(plan.data, batches=16, seed=plan.settings.seed))


def _saving(run: Run, strategy: Strategy, progress: Progress | None) -> Progress:
    """A progress callback that also keeps the strategy's state now and then, for a report on an unfinished run."""
    saved = time.monotonic()

    def report(done: float, total: float, text: str) -> None:
        nonlocal saved
        if time.monotonic() - saved >= STATE_SECONDS:
            run.save_state({"told": 0, "strategy": strategy.state_dict()})
            saved = time.monotonic()
        if progress is not None:
            progress(done, total, text)

    return report
