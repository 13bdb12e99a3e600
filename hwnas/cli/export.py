"""``hwnas export``: the winner of a run as a verified, measured ONNX file."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from hwnas.cli.common import DataRoot, Json, print_json, progress_bar, resumable
from hwnas.spaces.errors import ConfigError

__all__ = ["export"]


def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder of a finished run.")],
    precision: Annotated[
        str | None,
        typer.Option(
            metavar="float32|int8",
            help="int8 is static QDQ, calibrated on training images [default: what the target needs, or float32].",
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(metavar="DEVICE", help="Also write what this device loads, such as dsp-qnn:57, beside the file."),
    ] = None,
    output: Annotated[
        str | None, typer.Option(metavar="FILE", help="The file to write [default: in the run folder].")
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Measure the file on the devices of the run's constraints.")
    ] = True,
    backbone: Annotated[
        bool,
        typer.Option("--backbone", help="Train it for the run's task, and export its features without the classifier."),
    ] = False,
    data_root: DataRoot = None,
    json: Json = False,
) -> None:
    """Export the winner of a run, verified and measured.

    The file is checked against torch on the test set, and measured on the devices of the constraints.
    With --backbone it is trained for the run's task (`hwnas tasks`) and ends in its pooled features.

    \b
    Examples:
      hwnas export runs/NAME --precision int8
      hwnas export runs/NAME --output model.onnx --no-measure --json
      hwnas export runs/NAME --backbone
      hwnas export runs/NAME --target dsp-qnn:57
    """
    import hwnas

    if backbone and precision not in (None, "float32"):
        raise ConfigError(f"a backbone is exported in float32, not {precision}; leave out --precision")
    if backbone and target is not None:
        raise ConfigError(f"a backbone is not compiled for {target}; leave out --target or --backbone")
    with resumable("the same command goes on from here"), progress_bar() as progress:
        if backbone:
            result = hwnas.export_backbone(run, output=output, measure=measure, data_root=data_root, progress=progress)
        else:
            result = hwnas.export(
                run,
                precision=precision,
                output=output,
                measure=measure,
                target=target,
                data_root=data_root,
                progress=progress,
            )
    if json:
        print_json(asdict(result))
        return
    for file in result.compiled:
        typer.echo(f"{target}  {file}")
    typer.echo(f"onnx  {result.onnx} ({result.precision}, {result.bytes / 1000:.4g} KB)")
    what = "at its task, with its end" if backbone else f"on the test set, float32 {result.float32_accuracy:.4g}"
    typer.echo(f"accuracy  {result.accuracy:.4g} {what}")
    for device, ms in result.latency_ms.items():
        low, high = result.interval_ms[device]
        typer.echo(f"latency@{device}  {result.method} {ms:.4g} ms ({low:.4g} to {high:.4g})")
