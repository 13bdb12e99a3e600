"""``hwnas predict``: the price of any ONNX file on a device."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Annotated

import typer

from hwnas.cli.common import Json, Tables, print_json

__all__ = ["predict"]


def predict(
    model: Annotated[str, typer.Argument(metavar="MODEL.ONNX", help="The model to price.")],
    device: Annotated[str, typer.Option(metavar="DEVICE", help="Device whose table to use; see `hwnas tables`.")],
    level: Annotated[
        float,
        typer.Option(min=0.5, max=0.999, metavar="SHARE", help="Share of networks that the interval is meant to hold."),
    ] = 0.9,
    tables: Tables = None,
    json: Json = False,
) -> None:
    """Predict the latency of any ONNX file.

    The price comes from the device's table; the device itself is not needed. The answer says how much of
    it rests on rows of the table (coverage), and where the rest comes from.

    \b
    Examples:
      hwnas predict model.onnx --device cpu-onnxruntime
      hwnas predict model.onnx --device cpu-onnxruntime --level 0.95 --json
    """
    import hwnas

    prediction = hwnas.predict(model, device, tables=tables, level=level)
    if json:
        print_json(asdict(prediction))
        return
    low, high = prediction.interval_ms
    typer.echo(f"{model} on {prediction.device} ({prediction.hardware}, {prediction.precision}, {prediction.method})")
    interval = f"{low:.4g} to {high:.4g} ms" if math.isfinite(high) else "unknown: too few networks were measured"
    typer.echo(f"  latency {prediction.latency_ms:.4g} ms, {level:.0%} interval {interval}")
    typer.echo(f"  coverage {prediction.coverage:.0%}")
    for source, share in prediction.sources.items():
        typer.echo(f"  from {source}: {share:.0%}")
    for operator, count in prediction.unknown.items():
        typer.echo(f"  unknown operator {operator}: {count} times")
