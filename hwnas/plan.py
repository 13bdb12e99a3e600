"""What a search was told, and what that means: settings that are kept, and the space, data and limits they name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from hwnas import ranks
from hwnas.constraints import ConstraintSet
from hwnas.spaces.errors import ConfigError
from hwnas.spaces.space import SearchSpace, get_space

if TYPE_CHECKING:
    from hwnas.data.base import Dataset
    from hwnas.profilers import Profiler
    from hwnas.sampler import FeasibleSampler
    from hwnas.strategies.base import Strategy

__all__ = ["Plan", "SearchSettings", "TrainingPlan"]

EVALUATORS = ("one-shot", "scratch")
ENGINES = ("local", "ray")
#: architectures that a search by training from scratch evaluates unless told otherwise
SCRATCH_EVALUATIONS = 32


@dataclass(frozen=True)
class SearchSettings:
    """Everything that a run needs to be repeated; kept in its ``run.toml``. See `search` for the meanings."""

    space: str
    data: str
    constraints: tuple[str, ...]
    strategy: str = "evolution"
    options: tuple[str, ...] = ()
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
    inherit: bool | None = None
    jobs: int | None = None
    task: str = "classification"
    engine: str = "local"
    address: str | None = None
    retries: int = 4

    def __post_init__(self) -> None:
        if self.evaluator not in EVALUATORS:
            raise ConfigError(f"there is no evaluator {self.evaluator!r}; choose one of {', '.join(EVALUATORS)}")
        if self.engine not in ENGINES:
            raise ConfigError(f"there is no engine {self.engine!r}; choose one of {', '.join(ENGINES)}")
        if self.address is not None and self.engine != "ray":
            raise ConfigError(f"the address {self.address} is of a Ray cluster; use the engine ray, or leave it out")
        if self.retries < 0:
            raise ConfigError(f"retries must be at least 0, not {self.retries}")
        if self.distill and self.evaluator != "one-shot":
            raise ConfigError("distillation needs a supernet for its teacher; use the evaluator one-shot")
        if self.distill and self.task != "classification":
            raise ConfigError(f"a supernet trained for {self.task} cannot teach classes; leave out the distillation")
        if self.evaluator != "scratch" and ((self.jobs or 1) > 1 or self.inherit):
            what = "several jobs" if (self.jobs or 1) > 1 else "inherited weights"
            raise ConfigError(f"{what} need trainings of their own; use the evaluator scratch")
        counts = ("evaluations", "supernet_epochs", "epochs", "finalists", "limit", "batch_size", "threads", "jobs")
        for name in counts:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, not {value}")

    def to_json(self) -> dict[str, Any]:
        """Those that are not None, which `from_run` reads back."""
        return {name: value for name, value in asdict(self).items() if value is not None}

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
                f"has the setting {unknown[0]!r:.80}, which is unknown"
                if unknown
                else "lacks its space, data or constraints"
            )
            raise ConfigError(f"the run {what}; it is damaged or of another version of hwnas")
        for field in fields(cls):
            if field.name in settings and not _is_of(settings[field.name], str(field.type)):
                raise ConfigError(
                    f"the run's setting {field.name} is {str(settings[field.name])[:80]!r}; it is damaged"
                )
        lists = {name: tuple(settings[name]) for name in ("constraints", "options") if name in settings}
        return cls(**{**settings, **lists})


def _is_of(value: Any, kind: str) -> bool:
    """Whether a value of TOML can be a setting of this type."""
    if kind == "tuple[str, ...]":
        return isinstance(value, list) and all(isinstance(part, str) for part in value)
    names = {"float": ("float", "int")}.get(kind.removesuffix(" | None"), (kind.removesuffix(" | None"),))
    return type(value).__name__ in names


class TrainingPlan:
    """What a worker needs of a search's settings: space, data, and how candidates are trained.

    Candidates are trained and scored with `task_space` and `task_data`. Prices, and what is delivered, are of `space`
    and `data`; the two pairs differ where the task is not classification. No device or latency table is needed.

    Raises
    ------
    HwnasError
        If the space, the data or the task does not exist or does not fit.
    """

    def __init__(self, settings: SearchSettings) -> None:
        from hwnas.data import load_data
        from hwnas.tasks import get_task
        from hwnas.training import TrainConfig

        self.settings = settings
        if (settings.jobs or 1) > 1 and ranks.size() > 1:
            raise ConfigError(
                f"jobs={settings.jobs} starts worker processes of its own, which {ranks.size()} ranks of torchrun "
                "cannot share; leave out one of them"
            )
        common: dict[str, Any] = {"seed": settings.seed, "precision": settings.precision}
        if settings.batch_size is not None:
            common["batch_size"] = settings.batch_size
        if settings.lr is not None:
            common["lr"] = settings.lr
        own: dict[str, Any] = {} if settings.epochs is None else {"epochs": settings.epochs}
        self.config = TrainConfig(**common, **own)
        shared: dict[str, Any] = {} if settings.supernet_epochs is None else {"epochs": settings.supernet_epochs}
        self.supernet_config = TrainConfig.supernet(**common, **shared)
        ranks.share().weight(self.config.batch_size)  # refuses one that leaves ranks without an image
        task = get_task(settings.task)
        # a subset for training has the classes in proportion, which a label-free task must not know
        part: dict[str, Any] = {
            "limit": settings.limit if task.labels else None,
            "root": settings.data_root,
            "seed": settings.seed,
        }
        data: Dataset = load_data(settings.data, **part)
        self.space: SearchSpace = get_space(
            settings.space, resolution=data.resolution, channels=data.channels, classes=data.classes
        )
        if (self.space.channels, self.space.classes) != (data.channels, data.classes):
            raise ConfigError(
                f"{self.space.spec} takes {self.space.channels} channels and {self.space.classes} classes, "
                f"but {data.name} has {data.channels} and {data.classes}"
            )
        if self.space.resolution != data.resolution:
            data = load_data(settings.data, **part, resolution=self.space.resolution)
        self._whole = data
        self.task_space, self.task_data = task.apply(self.space, data)
        if not task.labels:
            self.task_data = self.task_data.limited(settings.limit, settings.seed)

    @cached_property
    def data(self) -> Dataset:
        """The images and labels that the result is trained with; a label-free search does not look at them before."""
        return self._whole.limited(self.settings.limit, self.settings.seed)

    @property
    def inherits(self) -> bool:
        """Whether candidates that are trained begin with the weights of similar ones."""
        from hwnas.strategies import get_strategy

        inherit = self.settings.inherit
        return get_strategy(self.settings.strategy).inherits if inherit is None else inherit


class Plan(TrainingPlan):
    """A search's settings made concrete: also its limits, sampler and strategy.

    Parameters
    ----------
    settings
        What the search was told.
    profiler
        Makes the profiler of a device key; `hwnas.profilers.get_profiler` unless devices are at other machines.

    Raises
    ------
    HwnasError
        If anything that the settings name does not exist, does not fit, or cannot be met.
    """

    def __init__(self, settings: SearchSettings, profiler: Callable[[str], Profiler] | None = None) -> None:
        from hwnas.delivery import check_devices
        from hwnas.profilers import get_profiler
        from hwnas.strategies import make_strategy

        if not settings.constraints:
            raise ConfigError("a search needs at least one constraint, such as 'latency@cpu-onnxruntime <= 2ms'")
        super().__init__(settings)
        self.profiler = profiler or partial(get_profiler, tables=settings.tables)
        self.limits = ConstraintSet(settings.constraints, self.space, settings.tables)
        self.sampler: FeasibleSampler = self.limits.sampler()
        self.strategy: Strategy = make_strategy(
            settings.strategy, self.space, self.sampler, seed=settings.seed, **_strategy_settings(settings.options)
        )
        if self.strategy.mixes and settings.evaluator != "one-shot":
            raise ConfigError(f"{settings.strategy} trains a mixture of all choices; use the evaluator one-shot")
        self.strategy.expect(self.evaluations)
        if ranks.leads():  # which alone measures
            check_devices(self.limits, settings.tables, self.profiler)

    @property
    def evaluations(self) -> int:
        """How many candidates are scored."""
        if self.settings.evaluations is not None:
            return self.settings.evaluations
        return self.strategy.planned if self.settings.evaluator == "one-shot" else SCRATCH_EVALUATIONS


def _strategy_settings(options: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in options:
        name, separator, value = (part.strip() for part in text.partition("="))
        if not separator or not name:
            raise ConfigError(f"cannot read the option {text!r} of the strategy; write name=value")
        found[name] = value
    return found
