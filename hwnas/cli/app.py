"""The program `hwnas` with all its commands, and what happens when one of them fails."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from hwnas import __version__, ranks
from hwnas.cli.compare import compare
from hwnas.cli.export import export
from hwnas.cli.import_networks import import_networks
from hwnas.cli.listings import devices, spaces, strategies, tables, tasks
from hwnas.cli.pool import pool
from hwnas.cli.predict import predict
from hwnas.cli.profile import profile
from hwnas.cli.report import report
from hwnas.cli.search import search
from hwnas.cli.tune import tune
from hwnas.spaces.errors import HwnasError

__all__ = ["app"]


class _Group(TyperGroup):
    """Turns the errors that users can meet into one sentence and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except HwnasError as error:
            if isinstance(error, ranks.RelayedError):
                raise typer.Exit(2) from error  # rank 0 says it
            sentence, code = str(error) if ranks.leads() else f"rank {ranks.rank()}: {error}", 2
        except OSError as error:
            if error.filename is None or isinstance(error, BrokenPipeError):
                raise
            sentence, code = f"cannot use {error.filename}: {error.strerror}", 2
        except KeyboardInterrupt as error:
            sentence, code = str(error) or "interrupted", 130
        typer.echo(f"hwnas: {sentence}", err=True)
        raise typer.Exit(code)


app = typer.Typer(
    name="hwnas",
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

for command in (
    devices,
    spaces,
    strategies,
    tasks,
    tables,
    profile,
    tune,
    pool,
    search,
    export,
    predict,
    report,
    compare,
):
    app.command()(command)
app.command("import")(import_networks)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Hardware-aware neural architecture search.

    Name a device, a budget and a data set; hwnas returns an ONNX file whose latency on that device was
    measured, whose accuracy was tested, and which fits the budget.

    \b
    The main job:
      hwnas devices
      hwnas profile --device cpu-onnxruntime --space mobilenet --data digits
      hwnas search --space mobilenet --data digits --constraint "latency@cpu-onnxruntime <= 1ms"
      hwnas export runs/NAME --precision int8
      hwnas predict model.onnx --device cpu-onnxruntime
      hwnas report runs/NAME
    """
