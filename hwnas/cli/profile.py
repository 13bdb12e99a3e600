"""``hwnas profile``: measure the pieces of a space on a device."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from hwnas.cli.common import DataRoot, Json, Tables, duration, fraction, print_json, progress_bar, resumable

__all__ = ["profile"]


def profile(
    device: Annotated[str, typer.Option(metavar="DEVICE", help="Device to measure; see `hwnas devices`.")],
    space: Annotated[str, typer.Option(metavar="SPACE", help="Space whose blocks to measure; see `hwnas spaces`.")],
    data: Annotated[
        str | None, typer.Option(metavar="DATA", help="Take resolution, channels and classes from this data set.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A shorter protocol: minutes, with wider intervals.")] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Threads of the runtime [default: 1].")
    ] = None,
    context: Annotated[
        str | None,
        typer.Option(
            metavar="isolated|network|both",
            help="Measure blocks alone, inside whole networks, or both ways [default: both].",
        ),
    ] = None,
    networks: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Whole networks to measure for the correction and its interval."),
    ] = None,
    repeat_until: Annotated[
        str, typer.Option(metavar="SHARE", help="Repeat until the interval of a median is this narrow.")
    ] = "2%",
    budget: Annotated[
        str | None, typer.Option(metavar="TIME", help="Stop after this time, such as 20m; a later call goes on.")
    ] = None,
    tables: Tables = None,
    data_root: DataRoot = None,
    resume: Annotated[  # noqa: ARG001 - a table is always gone on with
        bool, typer.Option("--resume", help="Go on where an earlier call stopped; that is always done.")
    ] = False,
    json: Json = False,
) -> None:
    """Measure a space on a device, into its table.

    Every number is on the disk as soon as it is measured. A call that was stopped, even killed, goes on
    where it was when it is repeated.

    \b
    Examples:
      hwnas profile --device cpu-onnxruntime --space mobilenet
      hwnas profile --device cpu-onnxruntime --space mobilenet --data digits --quick
      hwnas profile --device cpu-onnxruntime --space "shufflenet(resolution=96)" --repeat-until 1% --budget 1h
      hwnas profile --device cpu-onnxruntime.int8 --space mobilenet --threads 2 --json
    """
    import hwnas

    narrow = fraction(repeat_until, "--repeat-until")
    seconds = None if budget is None else duration(budget, "--budget")
    with resumable("what was measured is kept: the same command goes on from there"), progress_bar() as progress:
        summary = hwnas.profile(
            device,
            space,
            data=data,
            data_root=data_root,
            threads=threads,
            context=context,
            networks=networks,
            repeat_until=narrow,
            quick=quick,
            budget_s=seconds,
            tables=tables,
            progress=progress,
        )
    if json:
        print_json(asdict(summary))
        return
    typer.echo(f"{summary.device}: {summary.space}")
    typer.echo(f"  measured {summary.measured} blocks and {summary.networks} networks in {summary.seconds:.0f} s")
    typer.echo(f"  there already {summary.skipped}, unstable {summary.unstable}, still missing {summary.missing}")
    typer.echo(f"  drift of the reference model {summary.drift:.1%}")
    typer.echo(f"  table {summary.table}")
    if summary.missing:
        typer.echo("  the time was up; the same command goes on from here")
