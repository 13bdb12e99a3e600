"""What the ranks that follow do in a search: train and score with rank 0, at its orders (see `hwnas.ranks`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hwnas import ranks
from hwnas.plan import Plan, SearchSettings
from hwnas.stage_evaluator import StageEvaluator
from hwnas.strategies.base import Stage

if TYPE_CHECKING:
    from hwnas.training import Teacher

__all__ = ["follow", "set_threads"]


def follow() -> dict[str, Any]:
    """Do what rank 0 orders until its search ends.

    Returns
    -------
    dict
        What rank 0 says of its result.

    Raises
    ------
    HwnasError
        What rank 0 stopped with, or what failed on every rank.
    """
    from hwnas.delivery import train_finalist

    plan: Any = None
    evaluator: Any = None
    teacher: Teacher | None = None
    for name, content in ranks.orders():
        if name == "plan":
            plan = Plan(SearchSettings.from_run(content))
            set_threads(plan)
            evaluator = StageEvaluator(None, plan, None)
        elif name == "evaluate":
            evaluator.stage = Stage.from_json(content["stage"])
            evaluator.evaluate([tuple(row) for row in content["architectures"]])
        elif name == "teacher":
            teacher = evaluator.teacher(Stage.from_json(content["stage"]))
        elif name == "train":
            train_finalist(plan, tuple(content["architecture"]), teacher)
        elif name == "end":
            return content
    raise AssertionError("orders end with an error or with the search")


def set_threads(plan: Plan) -> None:
    """Train with as many threads as the settings say, if they do."""
    if plan.settings.threads is not None:
        import torch

        torch.set_num_threads(plan.settings.threads)
