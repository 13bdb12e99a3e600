"""What every evaluator answers: how good are these architectures?"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from hwnas.spaces.errors import ModelError
from hwnas.spaces.space import Architecture, SearchSpace

__all__ = ["Evaluation", "Evaluator"]


@dataclass(frozen=True)
class Evaluation:
    """One architecture, evaluated.

    Attributes
    ----------
    architecture
        Choice indices.
    score
        Higher is better; NaN for an evaluation that failed.
    costs
        Name of a cost (``latency@DEVICE``, ``flops``, ...) to its value.
    info
        Anything else worth keeping, JSON-able. ``"feasible": False`` marks an architecture that was
        found to miss a constraint (when it was measured, say): strategies never call it their best.
    """

    architecture: Architecture
    score: float
    costs: dict[str, float] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether there is no usable score."""
        return not math.isfinite(self.score)

    def to_json(self) -> dict[str, Any]:
        """A JSON object; numbers that JSON cannot hold become null."""
        return {
            "architecture": list(self.architecture),
            "score": self.score if math.isfinite(self.score) else None,
            "costs": {name: value if math.isfinite(value) else None for name, value in self.costs.items()},
            "info": self.info,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Evaluation:
        """Read back what `to_json` wrote; null becomes NaN.

        Raises
        ------
        ModelError
            If `data` is not such an object.
        """
        try:
            return cls(
                architecture=tuple(int(choice) for choice in data["architecture"]),
                score=math.nan if data["score"] is None else float(data["score"]),
                costs={str(k): math.nan if v is None else float(v) for k, v in data.get("costs", {}).items()},
                info=dict(data.get("info", {})),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ModelError(f"cannot read an evaluation from {str(data)[:120]}") from error


class Evaluator(ABC):
    """Base of every evaluator.

    An evaluator has a `name`, and a `fidelity`: one line that says what its score is, so that no
    report can pass off a cheap estimate as a trained network's accuracy.
    """

    name: ClassVar[str]
    fidelity: str
    space: SearchSpace

    @abstractmethod
    def evaluate(self, architectures: Iterable[Architecture]) -> list[Evaluation]:
        """Evaluate `architectures`: one `Evaluation` for each, in order.

        Raises
        ------
        ModelError
            If an architecture does not fit the space.
        """
