"""Spaces whose architectures grow part by part, which progressive strategies climb."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

__all__ = ["Growing"]


class Growing(ABC):
    """What a `SearchSpace` adds if its architectures have sizes: where they begin, and how one becomes larger.

    A part is a block of a cell or an edge of one, and is described by a few tokens, such as what it reads and does.
    """

    #: Of each token of a part, which vocabulary it is from.
    token_kinds: ClassVar[tuple[int, ...]]

    @property
    @abstractmethod
    def vocabularies(self) -> tuple[int, ...]:
        """How many different tokens each vocabulary has."""

    @abstractmethod
    def parts(self, architectures: np.ndarray) -> np.ndarray:
        """Tokens of each part, ``(n, most parts, tokens)``; -1 for parts that an architecture does not have."""

    @abstractmethod
    def complexity(self, architectures: np.ndarray) -> np.ndarray:
        """How many parts each architecture has, int64 ``(n,)``."""

    @abstractmethod
    def canonical(self, architectures: np.ndarray) -> np.ndarray:
        """The one spelling of each architecture that all of its isomorphic copies share, ``(n, decisions)``."""

    @abstractmethod
    def seeds(self) -> np.ndarray:
        """Every architecture that is no expansion of a smaller one, canonical and each once, ``(n, decisions)``."""

    @abstractmethod
    def expansions(self, architectures: np.ndarray) -> np.ndarray:
        """Every architecture that one step of growth makes of the given ones, canonical and each once."""
