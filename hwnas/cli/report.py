"""``hwnas report``: a run in words, and as one HTML file."""

from __future__ import annotations

from typing import Annotated

import typer

from hwnas.cli.common import Json, print_json

__all__ = ["report"]


def report(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder.")],
    output: Annotated[
        str | None, typer.Option(metavar="FILE", help="Where to write the HTML [default: report.html in the run].")
    ] = None,
    json: Json = False,
) -> None:
    """Summarise a run in words and as HTML.

    The run may still be going on.

    \b
    Examples:
      hwnas report runs/NAME
      hwnas report runs/NAME --output report.html
    """
    from hwnas.report import make_report

    result = make_report(run, output=output)
    if json:
        print_json(result.summary)
        return
    typer.echo(result.text)
    typer.echo(f"report  {result.html}")
