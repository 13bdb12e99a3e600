"""The main job: the best architecture of a space that fits its budgets, trained, exported, and measured.

A search is a run folder (`hwnas.run.Run`) that goes through three stages, each of which continues
where a killed process left it:

1. the supernet is trained (one-shot evaluation only; a checkpoint an epoch),
2. a strategy asks for feasible architectures and is told their accuracy (a line of ``trials.jsonl`` each),
3. the best ones are measured on the device until one fits; it is trained from scratch, exported,
   compared with torch, and measured again (`hwnas.delivery`).

With several ranks (`hwnas.ranks`), rank 0 does all this; where something is trained or scored, it orders the others to
do the same at the same time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwnas import ranks
from hwnas.constraints import ConstraintSet
from hwnas.engine import Engine, LocalEngine, SerialEngine
from hwnas.evaluators.base import Evaluation
from hwnas.following import follow, set_threads
from hwnas.plain import for_json
from hwnas.plan import Plan, SearchSettings
from hwnas.run import Run, default_run_path
from hwnas.spaces.errors import ConfigError, InfeasibleError
from hwnas.spaces.space import Architecture
from hwnas.stage_evaluator import Progress, StageEvaluator
from hwnas.strategies.base import Stage

if TYPE_CHECKING:
    from hwnas.ray_engine import RayCluster

__all__ = ["SearchResult", "resume", "search"]

#: architectures asked for at a time in one process, and evaluations after which the strategy's state is saved
BATCH = 8


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

    Under ``torchrun`` every rank calls this; rank 0's arguments count, and all get the result.

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
    RankError
        If another rank ends, or does not answer.
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

    def lead() -> SearchResult:
        with _cluster(settings) as cluster:
            # every mistake of the user shows before a folder is made
            plan = Plan(settings, None if cluster is None else cluster.profiler)
            folder = Path(run) if run is not None else default_run_path(space, data)
            with Run.create(folder, settings.to_json(), space=plan.space.spec) as opened:
                return _execute(opened, plan, cluster, progress)

    return _together(lead)


def resume(
    run: str | Path, progress: Progress | None = None, *, engine: str | None = None, address: str | None = None
) -> SearchResult:
    """Go on with a run that was stopped or killed; a finished one just returns its result.

    The number of ranks, where ``torchrun`` starts this, need not be what it was.

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

    def lead() -> SearchResult:
        with Run.open(run) as opened:
            if opened.best is not None and opened.onnx.exists():
                return _result(opened)
            settings = SearchSettings.from_run(opened.settings)
            if engine is not None or address is not None:
                settings = replace(settings, engine=engine or "ray", address=address)
            with _cluster(settings) as cluster:
                plan = Plan(settings, None if cluster is None else cluster.profiler)
                return _execute(opened, plan, cluster, progress)

    return _together(lead)


def _together(lead: Callable[[], SearchResult]) -> SearchResult:
    """What `lead` returns on rank 0, on every rank."""
    ranks.start()
    if not ranks.leads():
        content = follow()
        paths = {"onnx": Path(content["onnx"]), "run": Path(content["run"])}
        return SearchResult(**{**content, **paths, "architecture": tuple(content["architecture"])})
    with ranks.leading():
        result = lead()
    ranks.order("end", **for_json(asdict(result)))
    return result


def _cluster(settings: SearchSettings) -> AbstractContextManager[RayCluster | None]:
    """The Ray cluster of a search, if it has one, which is left with the context."""
    if settings.engine != "ray":
        return nullcontext()
    if ranks.size() > 1:
        raise ConfigError(
            f"the engine ray has workers of its own, which {ranks.size()} ranks of torchrun cannot share; "
            "leave out one of them"
        )
    from hwnas.ray_engine import RayCluster

    return RayCluster(settings.address)


def _execute(run: Run, plan: Plan, cluster: RayCluster | None, progress: Progress | None) -> SearchResult:
    from hwnas.delivery import deliver

    set_threads(plan)
    ranks.order("plan", **plan.settings.to_json())
    evaluator = StageEvaluator(run, plan, progress)
    ranked = _candidates(run, plan, evaluator, cluster, progress)
    if not ranked:
        trials = run.trials()
        if all(trial.failed for trial in trials):
            raise InfeasibleError("no candidate could be evaluated; look at info in trials.jsonl for the reason")
        raise InfeasibleError(
            f"none of the {len(trials)} architectures that {plan.settings.strategy} evaluated fits; "
            "allow more --evaluations in a new run, or loosen the constraints"
        )
    deliver(run, plan, ranked, evaluator.teacher(plan.strategy.stage), progress)
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


def _engine(run: Run, settings: SearchSettings, evaluator: StageEvaluator, cluster: RayCluster | None) -> Engine:
    """Where the candidates are evaluated."""
    if cluster is not None and settings.evaluator == "scratch":
        return cluster.engine(run.path, settings)
    if settings.jobs in (None, 1):
        return SerialEngine(lambda: evaluator, BATCH)
    threads = max(1, (settings.threads or os.cpu_count() or 1) // settings.jobs)
    return LocalEngine(run.path, settings.jobs, threads, settings.retries)


def _candidates(
    run: Run, plan: Plan, evaluator: StageEvaluator, cluster: RayCluster | None, progress: Progress | None
) -> list[Evaluation]:
    """Ask and tell until the budget of evaluations is used up; what fits, the best of the last stage first.

    A strategy that would deliver something else than its best evaluation has that in the first place.
    """
    import numpy as np

    strategy, total = plan.strategy, plan.evaluations
    trials = run.trials()
    state = run.state
    told = 0
    if strategy.shares_weights and plan.settings.evaluator == "one-shot":
        return _likely_candidates(run, plan, evaluator, progress)
    if state is not None and state.get("told", 0) <= len(trials):
        strategy.load_state_dict(state["strategy"])
        told = int(state["told"])
    strategy.tell(trials[told:])  # finished after the state was saved
    waiting: list[Architecture] = list(strategy.pending)
    with _engine(run, plan.settings, evaluator, cluster) as engine:
        unsaved = 0
        while len(trials) < total:
            room = min(engine.room, total - len(trials) - engine.busy)
            if room > 0:
                waiting = waiting or strategy.ask(room)
                for architecture in waiting[:room]:
                    engine.submit(architecture)
                waiting = waiting[room:]
                evaluator.stage = strategy.stage
            if not engine.busy:
                break
            stage = evaluator.stage
            report = _staged(progress, f"search, {stage.name}" if stage.name else "search")
            for evaluation in engine.wait():
                priced = _with_costs(evaluation, plan.limits, stage)
                run.add_trial(priced)
                trials.append(priced)
                strategy.tell([priced])
                unsaved += 1
                best = f", best {strategy.best.score:.4f}" if strategy.best else ""
                report(len(trials), total, f"{len(trials)} of {total} architectures{best}")
            # a state grows with the trials: saved ever more rarely, all savings together stay linear in them
            if unsaved >= max(BATCH, len(trials) // 200):
                run.save_state({"told": len(trials), "strategy": strategy.state_dict()})
                unsaved = 0
        if unsaved:
            run.save_state({"told": len(trials), "strategy": strategy.state_dict()})
    recommended = strategy.recommendation
    if recommended is not None and all(trial.architecture != recommended for trial in trials):
        evaluator.stage = strategy.stage
        (evaluation,) = evaluator.evaluate([recommended])
        trials.append(_with_costs(evaluation, plan.limits, evaluator.stage))
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


def _likely_candidates(run: Run, plan: Plan, evaluator: StageEvaluator, progress: Progress | None) -> list[Evaluation]:
    """Train weights and strategy together, then score what the strategy finds likely; its first choice first."""
    strategy = plan.strategy
    evaluator.evaluate(())
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
