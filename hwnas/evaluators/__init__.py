"""Evaluators: architecture in, score out. Listing them imports nothing heavy."""

from __future__ import annotations

from hwnas.evaluators.base import Evaluation, Evaluator
from hwnas.spaces.registry import Registry

__all__ = ["Evaluation", "Evaluator", "evaluators", "list_evaluators"]

evaluators = Registry(
    "evaluator",
    "hwnas.evaluators",
    {
        "one-shot": "hwnas.evaluators.one_shot:OneShotEvaluator",
        "scratch": "hwnas.evaluators.scratch:ScratchEvaluator",
        "tabular": "hwnas.evaluators.tabular:TabularEvaluator",
    },
)


def list_evaluators() -> list[str]:
    """Names of all registered evaluators."""
    return evaluators.names()
