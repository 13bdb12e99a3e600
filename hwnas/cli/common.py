"""What the commands share: reading percentages and durations, printing, progress, and interruption."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from hwnas import ranks
from hwnas.spaces.errors import ConfigError

__all__ = [
    "Address",
    "DataRoot",
    "Engine",
    "Json",
    "Progress",
    "Tables",
    "duration",
    "fraction",
    "print_json",
    "print_table",
    "progress_bar",
    "resumable",
]

Progress = Callable[[float, float, str], None]
"""Called as ``progress(done, total, text)``; when `done` falls back, another stage of the work has begun."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, to standard output.")]
Tables = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        help="Folder of latency tables [default: $HWNAS_TABLES, then ~/.local/share/hwnas/latency_tables].",
    ),
]
Engine = Annotated[
    str | None,
    typer.Option(metavar="local|ray", help="This machine, or the nodes of a Ray cluster [default: local]."),
]
Address = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="Of the Ray cluster [default: Ray is started on this machine]."),
]
DataRoot = Annotated[
    str | None, typer.Option(metavar="DIR", help="Where the files of the data set lie [default: its usual places].")
]

_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def fraction(text: str, option: str) -> float:
    """Read ``2%`` or ``0.02`` as 0.02.

    Raises
    ------
    ConfigError
        If it is neither, or not between 0 and 1.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(%?)\s*", text)
    value = float(match[1]) / (100.0 if match[2] else 1.0) if match else -1.0
    if not 0.0 < value < 1.0:
        raise ConfigError(f"{option} {text!r} is not a share between 0 and 1; write it as 2% or 0.02")
    return value


def duration(text: str, option: str) -> float:
    """Read ``90s``, ``20m``, ``1.5h`` or a plain number of seconds; the result is in seconds.

    Raises
    ------
    ConfigError
        If it is none of these, or not above zero.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([a-z]*)\s*", text)
    if match is None or match[2] not in _SECONDS or float(match[1]) <= 0.0:
        raise ConfigError(f"{option} {text!r} is not a length of time; write it as 90s, 20m or 1h")
    return float(match[1]) * _SECONDS[match[2]]


def print_json(content: Any) -> None:
    """Print `content` as indented JSON; what is not a finite number is null."""
    from hwnas.plain import for_json

    typer.echo(json.dumps(for_json(content), indent=2, ensure_ascii=False))


def print_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Print rows as aligned columns with a header; the last column may be of any length."""
    cells = [[column.replace("_", " ") for column in columns]]
    cells += [["" if row[column] is None else str(row[column]) for column in columns] for row in rows]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    for line in cells:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


@contextmanager
def progress_bar() -> Iterator[Progress | None]:
    """A progress bar with an estimate of the time left; ``None`` when standard error is not a terminal.

    Of several ranks, only the first one has it.
    """
    if not sys.stderr.isatty() or not ranks.leads():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar
    from rich.table import Column

    columns = (
        BarColumn(bar_width=24, table_column=Column(min_width=24)),
        TaskProgressColumn(table_column=Column(min_width=4)),
        TimeElapsedColumn(table_column=Column(min_width=7)),
        TextColumn("left", table_column=Column(min_width=4)),
        TimeRemainingColumn(table_column=Column(min_width=7)),
        TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
    )
    console = Console(stderr=True)
    with Bar(*columns, console=console, transient=True, expand=True, speed_estimate_period=60) as bar:
        task = bar.add_task("starting", total=None)
        last = 0.0

        def update(done: float, total: float, text: str) -> None:
            nonlocal last
            if done < last:  # a new stage has its own pace: the estimate of the time left starts afresh
                bar.reset(task, total=total)
            last = done
            bar.update(task, description=text, completed=done, total=total)

        yield update


@contextmanager
def resumable(hint: str) -> Iterator[None]:
    """Tell the user who presses Ctrl-C how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; {hint}") from None
