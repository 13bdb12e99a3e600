"""``hwnas devices``, ``spaces``, ``strategies``, ``tasks``, ``tables``: what there is."""

from __future__ import annotations

import inspect
from dataclasses import asdict
from typing import Annotated, Any

import typer

from hwnas.cli.common import Json, Tables, print_json, print_table

__all__ = ["devices", "spaces", "strategies", "tables", "tasks"]


def devices(
    keys: Annotated[
        list[str] | None, typer.Argument(metavar="[DEVICE]...", help="Only these, with their qualifiers.")
    ] = None,
    json: Json = False,
) -> None:
    """What can be measured here, and what the rest lacks.

    Name devices to have them tried: whether a board answers, say, and what it is.

    \b
    Examples:
      hwnas devices
      hwnas devices cpu-onnxruntime-ssh:pi4
      hwnas devices --json
    """
    from hwnas.profilers import list_profilers, try_profiler

    rows = [asdict(profiler) for profiler in (map(try_profiler, keys) if keys else list_profilers())]
    if json:
        print_json(rows)
    else:
        shown = [{**row, "here": "yes" if row["available"] else "no"} for row in rows]
        print_table(shown, ("name", "device_class", "method", "here", "state"))


def spaces(json: Json = False) -> None:
    """Search spaces: decisions, sizes, parameters.

    Wherever a space is asked for, parameters may follow its name: "mobilenet(width=0.5,resolution=32)".

    \b
    Examples:
      hwnas spaces
      hwnas spaces --json
    """
    from hwnas.spaces.space import get_space, list_spaces

    rows: list[dict[str, Any]] = []
    for name in list_spaces():
        space = get_space(name)
        rows.append(
            {
                "name": name,
                "summary": space.summary,
                "paper": space.paper,
                "decisions": len(space.decisions),
                "size": space.size,
                "parameters": space.parameters,
                "spec": space.spec,
            }
        )
    if json:
        print_json(rows)
    else:
        shown = [{**row, "architectures": f"{row['size']:.2g}"} for row in rows]
        print_table(shown, ("name", "decisions", "architectures", "summary"))


def strategies(json: Json = False) -> None:
    """Search strategies: papers and default settings.

    \b
    Examples:
      hwnas strategies
      hwnas strategies --json
    """
    from hwnas.strategies import get_strategy, list_strategies

    rows: list[dict[str, Any]] = []
    for name in list_strategies():
        cls = get_strategy(name)
        defaults = {
            key: parameter.default
            for key, parameter in inspect.signature(cls).parameters.items()
            if key not in ("space", "sampler", "seed")
        }
        rows.append({"name": name, "summary": cls.summary, "paper": cls.paper, "defaults": defaults})
    if json:
        print_json(rows)
    else:
        print_table(rows, ("name", "summary"))


def tasks(json: Json = False) -> None:
    """What candidates can be trained for: classes, or label-free tasks.

    \b
    Examples:
      hwnas tasks
      hwnas tasks --json
    """
    from hwnas.tasks import get_task, list_tasks

    rows = [
        {"name": task.name, "labels": task.labels, "summary": task.summary, "paper": task.paper}
        for task in map(get_task, list_tasks())
    ]
    if json:
        print_json(rows)
    else:
        shown = [{**row, "labels": "yes" if row["labels"] else "no"} for row in rows]
        print_table(shown, ("name", "labels", "summary"))


def tables(tables: Tables = None, json: Json = False) -> None:
    """Latency tables: shipped ones and your own.

    \b
    Examples:
      hwnas tables
      hwnas tables --tables my_tables --json
    """
    from hwnas.latency_tables import list_tables

    rows: list[dict[str, Any]] = []
    for table in list_tables(tables):
        device = table.device
        rows.append(
            {
                "name": table.key,
                "method": None if device is None else device.method,
                "rows": table.rows,
                "networks": table.networks,
                "hardware": None if device is None else device.name,
                "runtime": None if device is None else f"{device.runtime} {device.runtime_version}",
                "precision": None if device is None else device.precision,
                "threads": None if device is None else device.threads,
                "created_at": None if device is None else device.created_at,
                "shipped": table.shipped,
                "path": str(table.path),
                "problem": table.problem,
            }
        )
    if json:
        print_json(rows)
    elif rows:
        shown = [{**row, "place": row["problem"] or row["path"]} for row in rows]
        print_table(shown, ("name", "method", "rows", "networks", "hardware", "runtime", "place"))
    else:
        typer.echo("there are no tables yet; `hwnas profile` makes them")
