"""``hwnas tune``: search fast schedules for the kernels of a space or a model."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from hwnas.cli.common import DataRoot, Json, Tables, duration, print_json, progress_bar, resumable

__all__ = ["tune"]


def tune(
    device: Annotated[str, typer.Option(metavar="DEVICE", help="Device whose compiler to tune.")] = "cpu-tvm",
    space: Annotated[
        str | None, typer.Option(metavar="SPACE", help="Space whose kernels to tune; see `hwnas spaces`.")
    ] = None,
    model: Annotated[str | None, typer.Option(metavar="FILE", help="ONNX file whose kernels to tune.")] = None,
    data: Annotated[
        str | None, typer.Option(metavar="DATA", help="Take resolution, channels and classes from this data set.")
    ] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Trials of each kernel [default: 64, or as begun with].")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(metavar="TIME", help="Stop after this time, such as 30m; a later call goes on.")
    ] = None,
    tables: Tables = None,
    data_root: DataRoot = None,
    json: Json = False,
) -> None:
    """Tune a device's compiler, for a table or a model to measure afterwards.

    Each kernel gets its trials, the most costly first, at about three seconds a trial; kernels that are tuned
    already are skipped. Trials are on the disk as soon as a batch of 16 is done: a call that was stopped, even
    killed, goes on where it was when it is repeated. Nothing else should run on the core meanwhile.

    \b
    Examples:
      hwnas tune --device cpu-tvm --space mobilenet --data digits --budget 30m
      hwnas tune --model model.onnx --trials 32
      nohup hwnas tune --space mobilenet --budget 8h > tune.log 2>&1 &
      hwnas profile --device cpu-tvm.tuned --space mobilenet
    """
    import hwnas

    seconds = None if budget is None else duration(budget, "--budget")
    with resumable("finished trials are kept: the same command goes on from there"), progress_bar() as progress:
        summary = hwnas.tune(
            device,
            space,
            model=model,
            data=data,
            data_root=data_root,
            trials=trials,
            budget_s=seconds,
            tables=tables,
            progress=progress,
        )
    if json:
        print_json(asdict(summary))
        return
    typer.echo(f"{summary.device}: {summary.kernels} kernels, {summary.trials_per_kernel} trials each")
    typer.echo(f"  tuned {summary.tuned} kernels with {summary.trials} trials in {summary.seconds:.0f} s")
    typer.echo(f"  there already {summary.there_already}, still missing {summary.missing}")
    if summary.failed:
        typer.echo(f"  no trial worked, so they stay untuned: {', '.join(summary.failed)}")
    typer.echo(f"  records {summary.records}")
    if summary.missing:
        typer.echo("  the time was up; the same command goes on from here")
