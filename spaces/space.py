"""Search spaces: named decisions, and how an architecture becomes a graph.

An **architecture** is a tuple of plain ints, one choice index per decision. A space lowers it to a
`Graph`, and describes its cost structure once and for all: a *catalog* of distinct blocks, and
*terms* that say how often each block occurs for every joint choice of a few decisions. Any metric
that adds up over blocks (latency from a table, MACs, parameters) is then priced for a whole matrix
of architectures by table look-ups, see `SearchSpace.price`.
"""

from __future__ import annotations

import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from hwnas.spaces.errors import ConfigError, ModelError
from hwnas.spaces.registry import Registry

if TYPE_CHECKING:
    from hwnas.spaces.graph import Graph

__all__ = ["Architecture", "Decision", "SearchSpace", "Term", "get_space", "list_spaces", "spaces"]

Architecture = tuple[int, ...]

spaces = Registry(
    "space",
    "hwnas.spaces",
    {
        "mobilenet": "hwnas.spaces.mobilenet:MobileNet",
        "shufflenet": "hwnas.spaces.shufflenet:ShuffleNet",
        "nasbench201": "hwnas.spaces.nasbench201:NASBench201",
        "hurricane": "hwnas.spaces.hurricane:Hurricane",
        "fbnetv2": "hwnas.spaces.fbnetv2:FBNetV2",
        "darts": "hwnas.spaces.darts:DARTS",
        "pnas": "hwnas.spaces.pnas:PNAS",
        "epnas": "hwnas.spaces.epnas:EPNAS",
    },
)


@dataclass(frozen=True)
class Decision:
    """One thing to decide: its name and the labels of its choices."""

    name: str
    choices: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Term:
    """One additive part of an architecture's cost.

    Attributes
    ----------
    decisions
        Indices of the decisions that this part depends on; empty for the fixed part.
    counts
        Shape ``(joint choices, catalog size)``: how often each catalog block occurs for every joint
        choice, in the order of `numpy.ravel_multi_index` over the decisions.
    """

    decisions: tuple[int, ...]
    counts: np.ndarray


class SearchSpace(ABC):
    """Base of every search space.

    A concrete space is a class with keyword parameters (resolution, width, ...), a tuple of
    `decisions` set in ``__init__``, and `build`. Everything else follows from these; a space whose
    blocks do not depend on one decision each also overrides `terms`.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    paper: ClassVar[str] = ""

    decisions: tuple[Decision, ...]
    resolution: int
    channels: int
    classes: int

    @abstractmethod
    def build(self, architecture: Architecture) -> Graph:
        """Wire the kernels of one valid `architecture`; every node is tagged with its block."""

    # ------------------------------------------------------------------ identity

    @property
    def parameters(self) -> dict[str, Any]:
        """The constructor's parameters with this instance's values."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    @property
    def spec(self) -> str:
        """Canonical text, such as ``mobilenet(resolution=28,channels=1,...)``; `get_space` reads it back."""
        return f"{self.name}({','.join(f'{key}={value}' for key, value in self.parameters.items())})"

    def __repr__(self) -> str:
        return self.spec

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """Shape of the network's input, batch 1: ``(1, channels, resolution, resolution)``."""
        return (1, self.channels, self.resolution, self.resolution)

    @cached_property
    def radices(self) -> np.ndarray:
        """Number of choices of each decision, shape ``(decisions,)``."""
        return np.array([len(decision.choices) for decision in self.decisions], dtype=np.int64)

    @cached_property
    def size(self) -> int:
        """Number of architectures in the space, exact."""
        size = 1
        for radix in self.radices.tolist():
            size *= radix
        return size

    @property
    def layers(self) -> tuple[tuple[int, ...], ...]:
        """Decisions that belong together, as the variables of one layer do, by their indices; each in one group."""
        return tuple((decision,) for decision in range(len(self.decisions)))

    # ------------------------------------------------------------------ architectures

    def validate(self, architecture: Sequence[int]) -> Architecture:
        """Return `architecture` as a tuple of ints.

        Raises
        ------
        ModelError
            If the length or a choice does not fit this space.
        """
        try:
            choices = tuple(int(choice) for choice in architecture)
        except (TypeError, ValueError) as error:
            raise ModelError(f"an architecture is a list of integers, not {architecture!r}") from error
        if len(choices) != len(self.decisions):
            raise ModelError(
                f"{self.name} has {len(self.decisions)} decisions, but the architecture has {len(choices)}"
            )
        for decision, choice in zip(self.decisions, choices, strict=True):
            if not 0 <= choice < len(decision.choices):
                raise ModelError(f"{decision.name} has choices 0 to {len(decision.choices) - 1}, not {choice}")
        return choices

    def sample(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Draw `count` architectures uniformly; shape ``(count, decisions)``, int64."""
        return rng.integers(0, self.radices, size=(count, len(self.decisions)))

    def mutate(self, architecture: Architecture, rng: np.random.Generator, probability: float = 0.1) -> Architecture:
        """Redraw each decision with `probability` (SPOS uses 0.1 per layer)."""
        redraw = rng.random(len(self.decisions)) < probability
        return tuple(np.where(redraw, self.sample(1, rng)[0], architecture).tolist())

    def crossover(self, left: Architecture, right: Architecture, rng: np.random.Generator) -> Architecture:
        """Take each decision from one of two parents with equal chance."""
        return tuple(np.where(rng.random(len(self.decisions)) < 0.5, left, right).tolist())

    def encode(self, architectures: np.ndarray) -> np.ndarray:
        """One-hot encoding, shape ``(n, sum of choices)``, float32."""
        architectures = np.atleast_2d(architectures)
        offsets = np.concatenate([[0], np.cumsum(self.radices)[:-1]])
        encoded = np.zeros((len(architectures), int(self.radices.sum())), dtype=np.float32)
        np.put_along_axis(encoded, architectures + offsets, 1.0, axis=1)
        return encoded

    def live(self, architectures: np.ndarray) -> np.ndarray:
        """Whether what each decision chose takes part in the computation, shape ``(n, decisions)``."""
        return np.ones(np.atleast_2d(architectures).shape, dtype=bool)

    def enumerate(self) -> Iterator[Architecture]:
        """Every architecture, in lexicographic order."""
        return iter(np.ndindex(*self.radices.tolist()))

    def all(self) -> np.ndarray:
        """Every architecture as a matrix, shape ``(size, decisions)``; for spaces that fit in memory."""
        if self.size > 10_000_000:
            raise ConfigError(f"{self.name} has {self.size:.2g} architectures: too many to list; sample instead")
        return np.stack(np.unravel_index(np.arange(self.size), self.radices), axis=1).astype(np.int64)

    def covering(self) -> np.ndarray:
        """A few architectures that together contain the weights of every choice, ``(n, decisions)``.

        One of them has all last choices, which where weights are sliced are the largest.
        """
        rows = [np.full(len(self.radices), shift) % self.radices for shift in range(int(self.radices.max()))]
        return np.stack([*rows, self.radices - 1])

    def describe(self, architecture: Architecture) -> dict[str, str]:
        """Decision name to chosen label."""
        choices = self.validate(architecture)
        return {d.name: d.choices[c] for d, c in zip(self.decisions, choices, strict=True)}

    # ------------------------------------------------------------------ graphs and costs

    def lower(self, architecture: Sequence[int]) -> Graph:
        """Turn an architecture into its `Graph`."""
        return self.build(self.validate(architecture))

    #: whether blocks follow each other on a single tensor, so that the peak memory is the largest block's
    is_chain: ClassVar[bool] = True

    @cached_property
    def _costs(self) -> tuple[tuple[Graph, ...], tuple[Term, ...]]:
        """Catalog and terms of a space in which each block depends on at most one decision."""
        catalog: dict[str, Graph] = {}
        found: dict[tuple[int | None, int], list[str]] = {}
        for shift in range(int(self.radices.max())):
            architecture = tuple((np.full(len(self.radices), shift) % self.radices).tolist())
            for block in self.lower(architecture).blocks:
                catalog.setdefault(block.signature, block)
                owner = block.block.decision
                if owner is None:
                    if shift == 0:
                        found.setdefault((None, 0), []).append(block.signature)
                elif shift < self.radices[owner]:
                    found.setdefault((owner, shift), []).append(block.signature)
        column = {signature: index for index, signature in enumerate(catalog)}

        def counts(owner: int | None, joint: int) -> np.ndarray:
            table = np.zeros((joint, len(catalog)), dtype=np.int64)
            for choice in range(joint):
                for signature in found.get((owner, choice), []):
                    table[choice, column[signature]] += 1
            return table

        terms = [Term((), counts(None, 1))]
        terms += [Term((index,), counts(index, int(radix))) for index, radix in enumerate(self.radices)]
        return tuple(catalog.values()), tuple(terms)

    @property
    def catalog(self) -> tuple[Graph, ...]:
        """Every distinct block of the space as a graph, each with its `signature`."""
        return self._costs[0]

    @property
    def terms(self) -> tuple[Term, ...]:
        """The additive cost structure over `catalog`."""
        return self._costs[1]

    def price(self, architectures: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Sum a per-block value over each architecture's blocks.

        Parameters
        ----------
        architectures
            Shape ``(n, decisions)``.
        values
            Shape ``(len(catalog),)``: milliseconds, MACs, ... of each catalog block.

        Returns
        -------
        numpy.ndarray
            Shape ``(n,)``, float64.
        """
        architectures = np.atleast_2d(architectures)
        total = np.zeros(len(architectures))
        for term in self.terms:
            table = term.counts @ values
            if not term.decisions:
                total += table[0]
                continue
            total += table[self._joint(architectures, term.decisions)]
        return total

    def counts(self, architectures: np.ndarray) -> np.ndarray:
        """How often each catalog block occurs in each architecture, shape ``(n, len(catalog))``."""
        architectures = np.atleast_2d(architectures)
        total = np.zeros((len(architectures), len(self.catalog)), dtype=np.int64)
        for term in self.terms:
            total += term.counts[self._joint(architectures, term.decisions)] if term.decisions else term.counts[0]
        return total

    def _joint(self, architectures: np.ndarray, decisions: tuple[int, ...]) -> np.ndarray:
        if len(decisions) == 1:
            return architectures[:, decisions[0]]
        columns = tuple(architectures[:, d] for d in decisions)
        return np.ravel_multi_index(columns, tuple(self.radices[list(decisions)].tolist()))


_SPEC = re.compile(r"^\s*([\w.-]+)\s*(?:\((.*)\))?\s*$")


def list_spaces() -> list[str]:
    """Names of all registered spaces."""
    return spaces.names()


def get_space(spec: str, **parameters: Any) -> SearchSpace:
    """Make a search space from its name, or from text such as ``"mobilenet(width=0.5, resolution=32)"``.

    Parameters
    ----------
    spec
        A registered name, with parameters in parentheses if wanted.
    parameters
        Further parameters; what `spec` says in its parentheses wins.

    Raises
    ------
    ConfigError
        If the space or a parameter does not exist, or a value is out of range.
    """
    match = _SPEC.match(spec)
    if match is None:
        raise ConfigError(f"cannot read the space {spec!r:.200}; write mobilenet or mobilenet(width=0.5), say")
    cls = spaces.get(match[1])
    known = inspect.signature(cls).parameters
    settings = {key: value for key, value in parameters.items() if value is not None}
    for item in filter(None, (part.strip() for part in (match[2] or "").split(","))):
        key, separator, text = (piece.strip() for piece in item.partition("="))
        if not separator:
            raise ConfigError(f"cannot read {item!r:.200} in the space {spec!r:.200}; write parameter=value")
        settings[key] = text
    for key, value in settings.items():
        if key not in known:
            raise ConfigError(f"the space {match[1]} has no parameter {key!r:.200}; it has {', '.join(known)}")
        try:
            settings[key] = type(known[key].default)(value)
        except ValueError as error:
            raise ConfigError(f"{key}={value} is not a valid value for the space {match[1]}") from error
    made: SearchSpace = cls(**settings)
    return made
