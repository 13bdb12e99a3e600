"""What every search strategy does: ask for architectures, be told how good they are.

::

    strategy = get_strategy("evolution")(space, sampler, seed=0)
    while budget_left:
        architectures = strategy.ask(8)             # at most 8; [] once the space is exhausted
        if not architectures:
            break
        strategy.tell(evaluator.evaluate(architectures))
    strategy.best
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from hwnas.evaluators.base import Evaluation
from hwnas.sampler import FeasibleSampler
from hwnas.spaces.errors import ConfigError
from hwnas.spaces.space import Architecture, SearchSpace

__all__ = ["Stage", "Strategy"]

#: Fruitless batches after which a feasible set of unknown size counts as exhausted.
PATIENCE = 64


@dataclass(frozen=True, eq=False)
class Stage:
    """A part of the space that is searched with a supernet of its own.

    Attributes
    ----------
    number, name
        From 0, and what progress calls it; empty where a search has one stage.
    allowed
        Per decision a bool mask over its choices: the paths that the supernet is trained on; None for all.
    share
        Of the supernet's epochs, what this stage trains for.
    reuse
        Whether the supernet begins with the weights of the stage before.
    """

    number: int = 0
    name: str = ""
    allowed: tuple[np.ndarray, ...] | None = None
    share: float = 1.0
    reuse: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain values, for other processes."""
        allowed = None if self.allowed is None else [mask.tolist() for mask in self.allowed]
        return {
            "number": self.number,
            "name": self.name,
            "allowed": allowed,
            "share": self.share,
            "reuse": self.reuse,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Stage:
        """Read back what `to_json` made."""
        allowed = data["allowed"]
        return cls(**{**data, "allowed": None if allowed is None else tuple(np.array(mask, bool) for mask in allowed)})


class Strategy(ABC):
    """Base of every strategy.

    A strategy only ever proposes feasible architectures, unless its class says otherwise (`bounded`).
    Several asks may be outstanding at once,
    and evaluations may be told in any order. Evaluations of architectures that were never asked for
    (a warm start) are welcome too. All state is in `state_dict`, JSON-able: a strategy restored from
    it asks for the same architectures as the one it was saved from.

    A concrete strategy is a class with keyword parameters after `seed`, and the four methods
    `_propose`, `_observe`, `_state`, `_restore`; `hwnas.strategies.testing.check_strategy` tests it.

    Parameters
    ----------
    space
        The search space.
    sampler
        Draws feasible architectures; None: everything is feasible.
    seed
        Where all randomness comes from.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    paper: ClassVar[str] = ""
    #: Whether an architecture may be asked for again after it was asked for once.
    repeats: ClassVar[bool] = False
    #: Whether it asks for feasible architectures only; false where others teach it where the budget ends.
    bounded: ClassVar[bool] = True
    #: Whether its own draws train a supernet's weights, in `hwnas.training.train_shared`, instead of uniform ones.
    shares_weights: ClassVar[bool] = False
    #: Whether it moves by gradients through a mixture of all choices, in `hwnas.training.train_mixture`.
    mixes: ClassVar[bool] = False
    #: Whether its candidates, where each is trained, begin with the weights of similar ones unless told otherwise.
    inherits: ClassVar[bool] = False
    #: Whether it only ends when every feasible architecture was asked for.
    thorough: ClassVar[bool] = True

    def __init__(self, space: SearchSpace, sampler: FeasibleSampler | None = None, *, seed: int = 0) -> None:
        self.space = space
        self.sampler = FeasibleSampler(space) if sampler is None else sampler
        self.seed = seed
        self.rng = np.random.default_rng(seed)
        self._pending: list[Architecture] = []
        self._visited: dict[Architecture, None] = {}
        self._best: Evaluation | None = None
        self._exhausted = False
        self._total: int | None = None
        self._elapsed: float | None = None

    # ------------------------------------------------------------------ the interface

    def ask(self, count: int = 1) -> list[Architecture]:
        """Propose architectures to evaluate.

        Returns
        -------
        list
            At most `count`, and fewer where the strategy needs evaluations before it goes on (the
            end of a generation) or where nothing is left: an empty list means `exhausted`.
        """
        if count < 1:
            raise ConfigError(f"a strategy is asked for at least one architecture, not {count}")
        found = self._propose(count)
        self._pending += found
        if not found:
            self._exhausted = True
        return found

    def tell(self, evaluations: Iterable[Evaluation]) -> None:
        """Report evaluations, in any order; failed ones (score NaN) too."""
        for evaluation in evaluations:
            architecture = self.space.validate(evaluation.architecture)
            asked = architecture in self._pending
            if asked:
                self._pending.remove(architecture)
            if not self.repeats:
                self._visited[architecture] = None
            feasible = bool(self.sampler.contains([architecture])[0]) and evaluation.info.get("feasible", True)
            usable = feasible and not evaluation.failed
            if usable and (self._best is None or evaluation.score > self._best.score):
                self._best = evaluation
            self._observe(evaluation, asked, usable)

    @property
    def best(self) -> Evaluation | None:
        """The feasible evaluation with the highest score so far, the first of equals; None before there is one."""
        return self._best

    @property
    def recommendation(self) -> Architecture | None:
        """What the strategy itself would deliver, where that is not its best evaluation; else None."""
        return None

    def candidates(self, count: int) -> list[Architecture]:
        """The feasible architectures that a strategy which trained the weights would evaluate, the first one first."""
        return [] if self.recommendation is None else [self.recommendation][:count]

    @property
    def pending(self) -> list[Architecture]:
        """Asked for and not told yet; after a restart these are evaluated first."""
        return list(self._pending)

    @property
    def exhausted(self) -> bool:
        """Whether the last `ask` found nothing left to propose."""
        return self._exhausted

    @property
    def planned(self) -> int:
        """How many evaluations the method's authors gave it; it never stops by itself."""
        return 1000

    @classmethod
    def uniform_start(cls, hyper: Mapping[str, Any]) -> float:
        """How many of its first proposals are uniform feasible draws whatever it is told: a sample of random search.

        Parameters
        ----------
        hyper
            The strategy's own parameters, as `hyper` gives them.
        """
        return 0.0

    def expect(self, evaluations: int) -> None:
        """Be told how many evaluations the search will make; a strategy in stages divides them."""
        self._total = evaluations

    def advance(self, share: float) -> None:
        """Be told how much of the search is over, 0 to 1, where that is not counted in evaluations."""
        self._elapsed = share

    @property
    def stage(self) -> Stage:
        """What the next asks are of; a search trains a supernet for each stage."""
        return Stage()

    @property
    def hyper(self) -> dict[str, Any]:
        """The strategy's own parameters with their values."""
        names = inspect.signature(type(self)).parameters
        return {name: getattr(self, name) for name in names if name not in ("space", "sampler", "seed")}

    def state_dict(self) -> dict[str, Any]:
        """Everything that future asks depend on, JSON-able."""
        return {
            "strategy": self.name,
            "decisions": self.space.radices.tolist(),
            "hyper": self.hyper,
            "seed": self.seed,
            "rng": self.rng.bit_generator.state,
            "pending": [list(a) for a in self._pending],
            "visited": [list(a) for a in self._visited],
            "best": None if self._best is None else self._best.to_json(),
            "exhausted": self._exhausted,
            "own": self._state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`.

        Raises
        ------
        ConfigError
            If it belongs to another strategy, space or setting, or is damaged.
        """
        mine = {"strategy": self.name, "decisions": self.space.radices.tolist(), "hyper": self.hyper}
        for key, value in mine.items():
            if not isinstance(state, dict) or state.get(key) != value:
                theirs = state.get(key) if isinstance(state, dict) else state
                raise ConfigError(f"the saved search has {key} {theirs}, and this {self.name} search has {value}")
        try:
            self.seed = int(state["seed"])
            self.rng.bit_generator.state = state["rng"]
            self._pending = [self.space.validate(a) for a in state["pending"]]
            self._visited = {self.space.validate(a): None for a in state["visited"]}
            self._best = None if state["best"] is None else Evaluation.from_json(state["best"])
            self._exhausted = bool(state["exhausted"])
            self._restore(state["own"])
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise ConfigError(f"the saved state of this {self.name} search is damaged ({error!r})") from error

    # ------------------------------------------------------------------ for concrete strategies

    @abstractmethod
    def _propose(self, count: int) -> list[Architecture]:
        """At most `count` feasible architectures; none only if nothing is left."""

    @abstractmethod
    def _observe(self, evaluation: Evaluation, asked: bool, usable: bool) -> None:
        """Learn from one evaluation: whether it was asked for, and whether it is feasible and has a score."""

    @abstractmethod
    def _state(self) -> dict[str, Any]:
        """The strategy's own state, JSON-able."""

    @abstractmethod
    def _restore(self, state: dict[str, Any]) -> None:
        """Take over what `_state` returned."""

    def _draw(self, allowed: Sequence[np.ndarray] | None = None) -> Architecture:
        """One uniform feasible architecture of the space or of a box in it."""
        return tuple(self.sampler.sample(1, self.rng, allowed)[0].tolist())

    def _fresh(self, count: int) -> list[Architecture]:
        """Uniform feasible architectures never seen before, marked as seen; fewer where none is left."""
        found: list[Architecture] = []
        feasible = self.sampler.exact_count
        fruitless = 0
        while len(found) < count and fruitless < PATIENCE:
            batch = count - len(found) if not fruitless else 256
            fruitless += 1
            for row in self.sampler.sample(batch, self.rng).tolist():
                architecture = tuple(row)
                if architecture not in self._visited and len(found) < count:
                    self._visited[architecture] = None
                    found.append(architecture)
                    fruitless = 0
            if fruitless and feasible is not None:
                fruitless = 1 if self._left(feasible) else PATIENCE
        return found

    def _left(self, feasible: int) -> bool:
        """Whether some of the `feasible` architectures were never seen."""
        if len(self._visited) < feasible:
            return True
        return int(self.sampler.contains(list(self._visited)).sum()) < feasible
