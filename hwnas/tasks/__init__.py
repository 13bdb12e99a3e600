"""Tasks: what networks are trained for while they are searched. Classification needs labels, the others none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwnas.spaces.registry import Registry

if TYPE_CHECKING:
    from hwnas.tasks.base import Task

__all__ = ["get_task", "list_tasks", "tasks"]

tasks = Registry(
    "task",
    "hwnas.tasks",
    {
        "classification": "hwnas.tasks.base:Classification",
        "rotation": "hwnas.tasks.rotation:Rotation",
        "jigsaw": "hwnas.tasks.jigsaw:Jigsaw",
        "jigsaw9": "hwnas.tasks.jigsaw:Jigsaw9",
        "colorization": "hwnas.tasks.colorization:Colorization",
    },
)


def list_tasks() -> list[str]:
    """Names of all registered tasks."""
    return tasks.names()


def get_task(name: str) -> Task:
    """A task by name.

    Raises
    ------
    ConfigError
        If there is none of that name.
    """
    found: Task = tasks.get(name)()
    return found
