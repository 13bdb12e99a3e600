"""The command line: one small module per command, each of them a thin layer over the Python functions.

Nothing heavy is imported before a command runs, so that ``hwnas --help`` answers at once.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    arguments
        Words of the command line without the program's name; ``None`` takes them from `sys.argv`.

    Returns
    -------
    int
        Exit code: 0 success, 2 a user's mistake, 130 interrupted by Ctrl-C.
    """
    import typer

    from hwnas.cli.app import app

    try:
        typer.main.get_command(app)(args=None if arguments is None else list(arguments), prog_name="hwnas")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0
