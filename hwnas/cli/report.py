"""``hwnas report``: a run in words, and as one HTML page."""

from __future__ import annotations

from typing import Annotated

import typer

from hwnas.cli.common import Json, print_json
from hwnas.spaces.errors import ConfigError

__all__ = ["report"]


def report(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder.")],
    output: Annotated[
        str | None, typer.Option(metavar="FILE", help="Where to write the HTML [default: report.html in the run].")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="RUN", help="A run with --strategy random and otherwise the same settings, to compare with."
        ),
    ] = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Show the page on this machine and keep it fresh, until Ctrl-C.")
    ] = False,
    port: Annotated[
        int,
        typer.Option(min=0, max=65535, metavar="N", help="Port of --serve [default: a free one].", show_default=False),
    ] = 0,
    json: Json = False,
) -> None:
    """Summarise a run in words and as one HTML page.

    The run may still be going on. The page works without a network; its plots need the extra "report".

    \b
    Examples:
      hwnas report runs/NAME
      hwnas report runs/NAME --against runs/RANDOM --output report.html
      hwnas report runs/NAME --serve
    """
    if serve:
        from hwnas.report import serve_report

        if json or output is not None:
            raise ConfigError(f"--serve writes nothing; leave out {'--json' if json else '--output'}")
        with serve_report(run, against=against, port=port) as server:
            typer.echo(f"{server.url}  (Ctrl-C ends it)")
            server.wait()
        return
    from hwnas.report import make_report

    result = make_report(run, output=output, against=against)
    if json:
        print_json(result.summary)
        return
    typer.echo(result.text)
    typer.echo(f"report  {result.html}")
