"""The main job: the best architecture of a space that fits its budgets, trained, exported, and measured.

A search is a run folder (`hwnas.run.Run`) that goes through three stages, each of which continues
where a killed process left it:

1. the supernet is trained (one-shot evaluation only; a checkpoint an epoch),
2. a strategy asks for feasible architectures and is told their accuracy (a line of ``trials.jsonl`` each),
3. the best ones are measured on the device until one fits; it is trained from scratch, exported,
   compared with torch, and measured again (`hwnas.delivery`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwnas.constraints import ConstraintSet
from hwnas.engine import Engine, LocalEngine, SerialEngine
from hwnas.plan import Plan, SearchSettings
from hwnas.run import Run, default_run_path
from hwnas.spaces.errors import ConfigError, InfeasibleError
from hwnas.spaces.space import Architecture

if TYPE_CHECKING:
    from hwnas.evaluators.base import Evaluation, Evaluator
    from hwnas.ray_engine import RayCluster
    from hwnas.spaces.supernet import Supernet
    from hwnas.strategies.base import Stage, Strategy
    from hwnas.training import Teacher

__all__ = ["SearchResult", "resume", "search"]

Progress = Callable[[float, float, str], None]
#: architectures asked for at a time in one process, and evaluations after which the strategy's state is saved
BATCH = 8
#: while a strategy trains the weights by its draws, its state is kept this often
STATE_SECONDS = 10.0


@dataclass(frozen=True)
class SearchResult:
    """What a search delivers.

    Attributes
    ----------
    architecture
        Choice indices.
    onnx
        The exported model, ready to deploy.
    accuracy
        On the test set, of the exported file.
    costs
        For every constraint's text: ``bound``, ``predicted``, ``interval`` (90 %), ``checked`` (what the device
        gave), ``method`` and ``measured``, which is None unless that method is ``measured``.
    run
        The run folder.
    trials
        Architectures evaluated.
    """

    architecture: Architecture
    onnx: Path
    accuracy: float
    costs: dict[str, dict[str, Any]]
    run: Path
    trials: int


def search(
    space: str,
    data: str,
    constraints: str | Sequence[str],
    *,
    strategy: str = "evolution",
    options: Mapping[str, Any] | Sequence[str] = (),
    evaluator: str = "one-shot",
    evaluations: int | None = None,
    supernet_epochs: int | None = None,
    epochs: int | None = None,
    finalists: int = 5,
    seed: int = 0,
    run: str | Path | None = None,
    tables: str | None = None,
    data_root: str | None = None,
    limit: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    threads: int | None = None,
    precision: str = "float32",
    distill: bool = False,
    inherit: bool | None = None,
    jobs: int | None = None,
    task: str = "classification",
    engine: str = "local",
    address: str | None = None,
    retries: int = 4,
    progress: Progress | None = None,
) -> SearchResult:
    """Find, train, export and measure the best network of a space under constraints.

    Parameters
    ----------
    space, data
        Space spec and data set; the data's resolution, channels and classes shape the space.
    constraints
        One or more texts such as ``"latency@cpu-onnxruntime <= 2ms"``.
    strategy
        Name of a strategy.
    options
        Settings of the strategy: a mapping, or texts such as ``"population=20"``.
    evaluator
        ``one-shot`` scores candidates with a supernet's weights, ``scratch`` trains each.
    evaluations
        Candidates to score; by default what the strategy's authors used (32 from scratch).
    supernet_epochs, epochs
        Epochs of the supernet, and of every training from scratch.
    finalists
        How many candidates may be measured until one fits.
    seed
        Of everything random.
    run
        The run folder; ``runs/<space>-<data>-<time>`` if not given.
    tables, data_root
        Folders of latency tables and of the data set.
    limit, batch_size, lr
        Training images used, images a step, and peak learning rate.
    threads
        Threads of the training (not of the measuring, which is part of the device's key).
    precision
        Arithmetic of the training: ``float32``, ``bfloat16``, ``float16`` or ``auto``.
    distill
        Train the winner with a larger sampled network of the supernet as its teacher.
    inherit
        From scratch: whether candidates begin with the weights of similar ones; by default what the strategy does.
    jobs
        From scratch: candidates trained at a time, each in a process of its own with its share of the threads; by
        default one, and with the engine ``ray`` as many as the cluster has room for, each with `threads` (1) threads.
        Which evaluations a strategy knows when it asks then depends on their speed: a search is no longer repeatable.
    task
        What candidates are trained for; a label-free one (``rotation``, ``jigsaw``, ``colorization``) searches without
        reading a label. The result is trained with labels all the same.
    engine
        ``local``: this machine; ``ray``: candidates are trained, from scratch, by the nodes of a Ray cluster, and
        finalists are measured by the node that owns the device. See `hwnas.ray_engine`.
    address
        Of the Ray cluster; if not given, Ray is started on this machine for the search.
    retries
        How often a candidate is begun again after its worker or node died, before its evaluation counts as failed.
    progress
        Called as ``progress(done, total, text)``.

    Raises
    ------
    ConfigError, DataError, TableError, DeviceUnavailable, InfeasibleError
        With one sentence that says what to change. The run folder keeps what was finished.
    """
    texts = (constraints,) if isinstance(constraints, str) else tuple(constraints)
    pairs = [f"{key}={value}" for key, value in options.items()] if isinstance(options, Mapping) else options
    settings = SearchSettings(
        space=space,
        data=data,
        constraints=texts,
        strategy=strategy,
        options=tuple(pairs),
        evaluator=evaluator,
        evaluations=evaluations,
        supernet_epochs=supernet_epochs,
        epochs=epochs,
        finalists=finalists,
        seed=seed,
        tables=None if tables is None else str(tables),
        data_root=data_root,
        limit=limit,
        batch_size=batch_size,
        lr=lr,
        threads=threads,
        precision=precision,
        distill=distill,
        inherit=inherit,
        jobs=jobs,
        task=task,
        engine=engine,
        address=address,
        retries=retries,
    )
    with ExitStack() as stack:
        cluster = _cluster(stack, settings)
        plan = Plan(settings, cluster and cluster.profiler)  # every mistake of the user shows before a folder is made
        folder = Path(run) if run is not None else default_run_path(space, data)
        opened = stack.enter_context(Run.create(folder, asdict(settings)))
        return _execute(opened, plan, cluster, progress)


def resume(
    run: str | Path, progress: Progress | None = None, *, engine: str | None = None, address: str | None = None
) -> SearchResult:
    """Go on with a run that was stopped or killed; a finished one just returns its result.

    Parameters
    ----------
    run, progress
        The run folder; called as ``progress(done, total, text)``.
    engine, address
        Where it goes on, if not where it began; an address alone means the engine ``ray``.

    Raises
    ------
    ConfigError
        If `run` is no run folder, is damaged, or is in use.
    """
    with ExitStack() as stack:
        opened = stack.enter_context(Run.open(run))
        if opened.best is not None and opened.onnx.exists():
            return _result(opened)
        settings = SearchSettings.from_run(opened.settings)
        if engine is not None or address is not None:
            settings = replace(settings, engine=engine or "ray", address=address)
        cluster = _cluster(stack, settings)
        return _execute(opened, Plan(settings, cluster and cluster.profiler), cluster, progress)


def _cluster(stack: ExitStack, settings: SearchSettings) -> RayCluster | None:
    """The Ray cluster of a search, if it has one; left with the stack."""
    if settings.engine != "ray":
        return None
    from hwnas.ray_engine import RayCluster

    return stack.enter_context(RayCluster(settings.address))


def _execute(run: Run, plan: Plan, cluster: RayCluster | None, progress: Progress | None) -> SearchResult:
    from hwnas.delivery import deliver

    if plan.settings.threads is not None:
        import torch

        torch.set_num_threads(plan.settings.threads)
    evaluators = _Evaluators(run, plan, cluster, progress)
    ranked = _candidates(run, plan, evaluators, progress)
    if not ranked:
        trials = run.trials()
        if all(trial.failed for trial in trials):
            raise InfeasibleError("no candidate could be evaluated; look at info in trials.jsonl for the reason")
        raise InfeasibleError(
            f"none of the {len(trials)} architectures that {plan.settings.strategy} evaluated fits; "
            "allow more --evaluations in a new run, or loosen the constraints"
        )
    deliver(run, plan, ranked, evaluators.teacher(), progress)
    return _result(run)


def _result(run: Run) -> SearchResult:
    best = run.best
    if best is None:
        raise ConfigError(f"the run {run.path} has no best.json; resume it")
    return SearchResult(
        architecture=tuple(best["architecture"]),
        onnx=run.onnx,
        accuracy=best["accuracy"],
        costs=best["costs"],
        run=run.path,
        trials=best["trials"],
    )


class _Evaluators:
    """The evaluator of each stage of a search; trains the stage's supernet if there is one to train."""

    def __init__(self, run: Run, plan: Plan, cluster: RayCluster | None, progress: Progress | None) -> None:
        self.run, self.plan, self.cluster, self.progress = run, plan, cluster, progress
        #: What is evaluated next.
        self.stage = plan.strategy.stage
        self._trained = -1
        self._supernet: Supernet | None = None
        self._evaluator: Evaluator | None = None

    def engine(self) -> Engine:
        """Where the candidates are evaluated."""
        settings = self.plan.settings
        if self.cluster is not None and settings.evaluator == "scratch":
            return self.cluster.engine(self.run.path, settings)
        if settings.jobs in (None, 1):
            return SerialEngine(self.current, BATCH)
        threads = max(1, (settings.threads or os.cpu_count() or 1) // settings.jobs)
        return LocalEngine(self.run.path, settings.jobs, threads, settings.retries)

    def current(self) -> Evaluator:
        """The evaluator of `stage`; stages come in order, and a resumed search begins with the one it was in."""
        if self.plan.settings.evaluator == "scratch":
            if self._evaluator is None:
                from hwnas.evaluators.scratch import ScratchEvaluator

                self._evaluator = ScratchEvaluator.of_plan(self.plan, self.run.path / "checkpoints")
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

        plan = self.plan
        name = f"supernet-{stage.number + 1}" if stage.name else "supernet"
        torch.manual_seed(plan.settings.seed + stage.number)
        if self._supernet is None or not stage.reuse:
            self._supernet = Supernet(plan.task_space)
            if stage.reuse and stage.number and not self.run.checkpoint(name).exists():
                self._supernet.load_state_dict(load_weights(self.run.checkpoint(f"supernet-{stage.number}")))
        config = plan.supernet_config
        if plan.strategy.shares_weights:
            train: Any = train_mixture if plan.strategy.mixes else train_shared
            train(
                self._supernet,
                plan.strategy,
                plan.task_data,
                config,
                checkpoint=self.run.checkpoint(name),
                progress=_saving(self.run, plan.strategy, self.progress),
            )
            return OneShotEvaluator(self._supernet, plan.task_data, seed=plan.settings.seed)
        train_supernet(
            self._supernet,
            plan.task_data,
            replace(config, epochs=max(1, round(stage.share * config.epochs))),
            sampler=None if stage.allowed is None else BoxSampler(stage.allowed),
            checkpoint=self.run.checkpoint(name),
            progress=self.progress,
            stage=f"supernet, {stage.name}" if stage.name else "supernet",
        )
        return OneShotEvaluator(self._supernet, plan.task_data, seed=plan.settings.seed)

    def teacher(self) -> Teacher | None:
        """For distillation, if it is wanted: the largest network that the supernet was trained on."""
        if not self.plan.settings.distill:
            return None
        from hwnas.training import BoxSampler, Calibration, Teacher, largest

        plan, stage = self.plan, self.plan.strategy.stage
        if self._supernet is None:
            self.stage = stage
            self.current()
        assert self._supernet is not None
        sampler = None if stage.allowed is None else BoxSampler(stage.allowed)
        architecture = largest(plan.space, sampler, seed=plan.settings.seed)
        return Teacher(self._supernet, architecture, Calibration(plan.data, batches=16, seed=plan.settings.seed))


def _candidates(run: Run, plan: Plan, evaluators: _Evaluators, progress: Progress | None) -> list[Evaluation]:
    """Ask and tell until the budget of evaluations is used up; what fits, the best of the last stage first.

    A strategy that would deliver something else than its best evaluation has that in the first place.
    """
    import numpy as np

    strategy, total = plan.strategy, plan.evaluations
    trials = run.trials()
    state = run.state
    told = 0
    if strategy.shares_weights and plan.settings.evaluator == "one-shot":
        return _likely_candidates(run, plan, evaluators, progress)
    if state is not None and state.get("told", 0) <= len(trials):
        strategy.load_state_dict(state["strategy"])
        told = int(state["told"])
    strategy.tell(trials[told:])  # finished after the state was saved
    waiting: list[Architecture] = list(strategy.pending)
    with evaluators.engine() as engine:
        unsaved = 0
        while len(trials) < total:
            room = min(engine.room, total - len(trials) - engine.busy)
            if room > 0:
                waiting = waiting or strategy.ask(room)
                for architecture in waiting[:room]:
                    engine.submit(architecture)
                waiting = waiting[room:]
                evaluators.stage = strategy.stage
            if not engine.busy:
                break
            stage = evaluators.stage
            report = _staged(progress, f"search, {stage.name}" if stage.name else "search")
            for evaluation in engine.wait():
                priced = _with_costs(evaluation, plan.limits, stage)
                run.add_trial(priced)
                trials.append(priced)
                strategy.tell([priced])
                unsaved += 1
                best = f", best {strategy.best.score:.4f}" if strategy.best else ""
                report(len(trials), total, f"{len(trials)} of {total} architectures{best}")
            if unsaved >= BATCH or not engine.busy:
                run.save_state({"told": len(trials), "strategy": strategy.state_dict()})
                unsaved = 0
    recommended = strategy.recommendation
    if recommended is not None and all(trial.architecture != recommended for trial in trials):
        evaluators.stage = strategy.stage
        (evaluation,) = evaluators.current().evaluate([recommended])
        trials.append(_with_costs(evaluation, plan.limits, evaluators.stage))
        run.add_trial(trials[-1])
    for pattern in ("candidate-*", "weights-*"):  # of candidates: no stage after this needs them
        for path in (run.path / "checkpoints").glob(f"{pattern}.safetensors"):
            path.unlink()
    usable = [trial for trial in trials if not trial.failed]
    if not strategy.bounded and usable:
        inside = plan.limits.feasible(np.array([trial.architecture for trial in usable]))
        usable = [trial for trial, fits in zip(usable, inside.tolist(), strict=True) if fits]
    if plan.settings.evaluator == "one-shot":  # scores of different supernets do not compare
        last = max((trial.info.get("stage", 0) for trial in usable), default=0)
        usable = [trial for trial in usable if trial.info.get("stage", 0) == last]
    unique = {trial.architecture: trial for trial in usable}
    return sorted(unique.values(), key=lambda trial: (trial.architecture != recommended, -trial.score))


def _likely_candidates(run: Run, plan: Plan, evaluators: _Evaluators, progress: Progress | None) -> list[Evaluation]:
    """Train weights and strategy together, then score what the strategy finds likely; its first choice first."""
    strategy = plan.strategy
    evaluator = evaluators.current()
    known = {trial.architecture: trial for trial in run.trials()}
    wanted = strategy.candidates(plan.evaluations)
    report = _staged(progress, "search")
    for number, architecture in enumerate(wanted, start=1):
        if architecture not in known:
            (evaluation,) = evaluator.evaluate([architecture])
            known[architecture] = _with_costs(evaluation, plan.limits, strategy.stage)
            run.add_trial(known[architecture])
        report(number, len(wanted), f"{number} of {len(wanted)} likely architectures")
    run.save_state({"told": 0, "strategy": strategy.state_dict()})
    usable = [known[architecture] for architecture in wanted if not known[architecture].failed]
    return [*usable[:1], *sorted(usable[1:], key=lambda trial: -trial.score)]


def _with_costs(evaluation: Evaluation, limits: ConstraintSet, stage: Stage) -> Evaluation:
    import numpy as np

    (costs,) = limits.costs(np.array([evaluation.architecture]))
    info = {**evaluation.info, "stage": stage.number} if stage.number else evaluation.info
    return replace(evaluation, costs={**evaluation.costs, **costs}, info=info)


def _staged(progress: Progress | None, stage: str) -> Progress:
    """A progress callback whose texts begin with the stage."""

    def report(done: float, total: float, text: str) -> None:
        if progress is not None:
            progress(done, total, f"{stage}: {text}")

    return report


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
