"""The main job: the best architecture of a space that fits its budgets, trained, exported, and measured.

A search is a run folder (`hwnas.run.Run`) that goes through three stages, each of which continues
where a killed process left it:

1. the supernet is trained (one-shot evaluation only; a checkpoint an epoch),
2. a strategy asks for feasible architectures and is told their accuracy (a line of ``trials.jsonl`` each),
3. the best ones are measured on the device until one fits; it is trained from scratch, exported,
   compared with torch, and measured again (`hwnas.delivery`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwnas.constraints import ConstraintSet
from hwnas.run import Run, default_run_path
from hwnas.spaces.errors import ConfigError, InfeasibleError
from hwnas.spaces.space import Architecture, SearchSpace, get_space

if TYPE_CHECKING:
    from hwnas.data.base import Dataset
    from hwnas.evaluators.base import Evaluation, Evaluator
    from hwnas.sampler import FeasibleSampler
    from hwnas.spaces.supernet import Supernet
    from hwnas.strategies.base import Strategy
    from hwnas.training import Teacher

__all__ = ["Plan", "SearchResult", "SearchSettings", "resume", "search"]

Progress = Callable[[float, float, str], None]
EVALUATORS = ("one-shot", "scratch")
#: architectures that a search by training from scratch evaluates unless told otherwise
SCRATCH_EVALUATIONS = 32
#: architectures asked for at a time; a kill loses at most their evaluations
BATCH = 8


@dataclass(frozen=True)
class SearchSettings:
    """Everything that a run needs to be repeated; kept in its ``run.toml``. See `search` for the meanings."""

    space: str
    data: str
    constraints: tuple[str, ...]
    strategy: str = "evolution"
    evaluator: str = "one-shot"
    evaluations: int | None = None
    supernet_epochs: int | None = None
    epochs: int | None = None
    finalists: int = 5
    seed: int = 0
    tables: str | None = None
    data_root: str | None = None
    limit: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    threads: int | None = None
    precision: str = "float32"
    distill: bool = False

    def __post_init__(self) -> None:
        if self.evaluator not in EVALUATORS:
            raise ConfigError(f"there is no evaluator {self.evaluator!r}; choose one of {', '.join(EVALUATORS)}")
        if self.distill and self.evaluator != "one-shot":
            raise ConfigError("distillation needs a supernet for its teacher; use the evaluator one-shot")
        for name in ("evaluations", "supernet_epochs", "epochs", "finalists", "limit", "batch_size", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, not {value}")

    @classmethod
    def from_run(cls, settings: Mapping[str, Any]) -> SearchSettings:
        """Read back what a run was started with.

        Raises
        ------
        ConfigError
            If a setting is unknown or missing: the run is of another version of hwnas.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(settings) - known)
        if unknown or not {"space", "data", "constraints"} <= set(settings):
            what = (
                f"has the setting {unknown[0]!r}, which is unknown"
                if unknown
                else "lacks its space, data or constraints"
            )
            raise ConfigError(f"the run {what}; it is damaged or of another version of hwnas")
        return cls(**{**settings, "constraints": tuple(settings["constraints"])})


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
        For every constraint's text: ``bound``, ``predicted``, ``interval`` (90 %), ``measured`` and
        ``method``. ``measured`` is None where nothing was measured.
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
    progress
        Called as ``progress(done, total, text)``.

    Raises
    ------
    ConfigError, DataError, TableError, DeviceUnavailable, InfeasibleError
        With one sentence that says what to change. The run folder keeps what was finished.
    """
    texts = (constraints,) if isinstance(constraints, str) else tuple(constraints)
    settings = SearchSettings(
        space=space,
        data=data,
        constraints=texts,
        strategy=strategy,
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
    )
    plan = Plan(settings)  # every mistake of the user shows before a folder is made
    folder = Path(run) if run is not None else default_run_path(space, data)
    with Run.create(folder, asdict(settings)) as opened:
        return _execute(opened, plan, progress)


def resume(run: str | Path, progress: Progress | None = None) -> SearchResult:
    """Go on with a run that was stopped or killed; a finished one just returns its result.

    Raises
    ------
    ConfigError
        If `run` is no run folder, is damaged, or is in use.
    """
    with Run.open(run) as opened:
        if opened.best is not None and opened.onnx.exists():
            return _result(opened)
        return _execute(opened, Plan(SearchSettings.from_run(opened.settings)), progress)


class Plan:
    """A search's settings made concrete: space, data, limits, sampler, strategy.

    Raises
    ------
    HwnasError
        If anything that the settings name does not exist, does not fit, or cannot be met.
    """

    def __init__(self, settings: SearchSettings) -> None:
        from hwnas.data import load_data
        from hwnas.delivery import check_devices
        from hwnas.strategies import make_strategy
        from hwnas.training import TrainConfig

        self.settings = settings
        if not settings.constraints:
            raise ConfigError("a search needs at least one constraint, such as 'latency@cpu-onnxruntime <= 2ms'")
        common: dict[str, Any] = {"seed": settings.seed, "precision": settings.precision}
        if settings.batch_size is not None:
            common["batch_size"] = settings.batch_size
        if settings.lr is not None:
            common["lr"] = settings.lr
        own: dict[str, Any] = {} if settings.epochs is None else {"epochs": settings.epochs}
        self.config = TrainConfig(**common, **own)
        shared: dict[str, Any] = {} if settings.supernet_epochs is None else {"epochs": settings.supernet_epochs}
        self.supernet_config = TrainConfig.supernet(**common, **shared)
        self.data: Dataset = load_data(settings.data, root=settings.data_root, limit=settings.limit, seed=settings.seed)
        self.space: SearchSpace = get_space(
            settings.space, resolution=self.data.resolution, channels=self.data.channels, classes=self.data.classes
        )
        if (self.space.channels, self.space.classes) != (self.data.channels, self.data.classes):
            raise ConfigError(
                f"{self.space.spec} takes {self.space.channels} channels and {self.space.classes} classes, "
                f"but {self.data.name} has {self.data.channels} and {self.data.classes}"
            )
        if self.space.resolution != self.data.resolution:
            self.data = load_data(
                settings.data,
                root=settings.data_root,
                limit=settings.limit,
                seed=settings.seed,
                resolution=self.space.resolution,
            )
        self.limits = ConstraintSet(settings.constraints, self.space, settings.tables)
        self.sampler: FeasibleSampler = self.limits.sampler()
        self.strategy: Strategy = make_strategy(settings.strategy, self.space, self.sampler, seed=settings.seed)
        check_devices(self.limits, settings.tables)

    @property
    def evaluations(self) -> int:
        """How many candidates are scored."""
        if self.settings.evaluations is not None:
            return self.settings.evaluations
        return self.strategy.planned if self.settings.evaluator == "one-shot" else SCRATCH_EVALUATIONS


def _execute(run: Run, plan: Plan, progress: Progress | None) -> SearchResult:
    from hwnas.delivery import deliver

    if plan.settings.threads is not None:
        import torch

        torch.set_num_threads(plan.settings.threads)
    evaluator, teacher = _evaluator(run, plan, progress)
    ranked = _candidates(run, plan, evaluator, progress)
    if not ranked:
        raise InfeasibleError("no candidate could be evaluated; look at info in trials.jsonl for the reason")
    deliver(run, plan, ranked, teacher, progress)
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


def _evaluator(run: Run, plan: Plan, progress: Progress | None) -> tuple[Evaluator, Teacher | None]:
    """The evaluator, and a teacher for distillation if one is wanted; trains the supernet if it must."""
    if plan.settings.evaluator == "scratch":
        from hwnas.evaluators.scratch import ScratchEvaluator

        return ScratchEvaluator(plan.space, plan.data, plan.config, folder=run.path / "checkpoints"), None
    import torch

    from hwnas.evaluators.one_shot import OneShotEvaluator
    from hwnas.spaces.supernet import Supernet
    from hwnas.training import train_supernet

    torch.manual_seed(plan.settings.seed)
    supernet = Supernet(plan.space)
    train_supernet(
        supernet,
        plan.data,
        plan.supernet_config,
        sampler=None,
        checkpoint=run.checkpoint("supernet"),
        progress=progress,
    )
    teacher = _teacher(supernet, plan) if plan.settings.distill else None
    return OneShotEvaluator(supernet, plan.data, seed=plan.settings.seed), teacher


def _teacher(supernet: Supernet, plan: Plan) -> Teacher:
    """The supernet's largest network, whatever it costs on the device."""
    from hwnas.training import Calibration, Teacher, largest

    calibration = Calibration(plan.data, batches=16, seed=plan.settings.seed)
    return Teacher(supernet, largest(plan.space, seed=plan.settings.seed), calibration)


def _candidates(run: Run, plan: Plan, evaluator: Evaluator, progress: Progress | None) -> list[Evaluation]:
    """Ask and tell until the budget of evaluations is used up; best first."""
    strategy, total = plan.strategy, plan.evaluations
    trials = run.trials()
    state = run.state
    told = 0
    if state is not None and state.get("told", 0) <= len(trials):
        strategy.load_state_dict(state["strategy"])
        told = int(state["told"])
    strategy.tell(trials[told:])  # finished after the state was saved
    report = _staged(progress, "search")
    waiting: list[Architecture] = list(strategy.pending)
    while len(trials) < total:
        architectures = waiting or strategy.ask(min(BATCH, total - len(trials)))
        waiting = []
        if not architectures:
            break
        for evaluation in evaluator.evaluate(architectures[: total - len(trials)]):
            priced = _with_costs(evaluation, plan.limits)
            run.add_trial(priced)
            trials.append(priced)
            strategy.tell([priced])
            best = f", best {strategy.best.score:.4f}" if strategy.best else ""
            report(len(trials), total, f"{len(trials)} of {total} architectures{best}")
        run.save_state({"told": len(trials), "strategy": strategy.state_dict()})
    unique = {trial.architecture: trial for trial in trials if not trial.failed}
    return sorted(unique.values(), key=lambda trial: -trial.score)


def _with_costs(evaluation: Evaluation, limits: ConstraintSet) -> Evaluation:
    from dataclasses import replace

    import numpy as np

    (costs,) = limits.costs(np.array([evaluation.architecture]))
    return replace(evaluation, costs={**evaluation.costs, **costs})


def _staged(progress: Progress | None, stage: str) -> Progress:
    """A progress callback whose texts begin with the stage."""

    def report(done: float, total: float, text: str) -> None:
        if progress is not None:
            progress(done, total, f"{stage}: {text}")

    return report
