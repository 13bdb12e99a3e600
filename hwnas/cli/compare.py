"""``hwnas compare``: whether devices rank networks alike, and where not."""

from __future__ import annotations

from typing import Annotated

import typer

from hwnas.cli.common import Json, Tables, print_json

__all__ = ["compare"]


def compare(
    devices: Annotated[
        list[str], typer.Argument(metavar="DEVICE...", help="Devices with a table; see `hwnas tables`.")
    ],
    space: Annotated[
        str | None,
        typer.Option(metavar="SPACE", help="Search space [default: one of which all the tables have networks]."),
    ] = None,
    architectures: Annotated[int, typer.Option(min=2, metavar="N", help="Random architectures to price.")] = 200,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of the drawing.")] = 0,
    html: Annotated[str | None, typer.Option(metavar="FILE", help="Also write the comparison as an HTML page.")] = None,
    tables: Tables = None,
    json: Json = False,
) -> None:
    """Compare devices on the same random architectures.

    Prices come from the devices' latency tables; nothing is measured.

    \b
    Examples:
      hwnas compare cpu-onnxruntime cpu-openvino vpu-npu4000 --html devices.html
      hwnas compare cpu-onnxruntime dsp-hexagon-sim --space nasbench201 --json
    """
    from hwnas.compare import compare_devices

    found = compare_devices(devices, space, architectures=architectures, seed=seed, tables=tables)
    file = None if html is None else found.write_html(html)
    if json:
        print_json({**found.as_dict(), "html": file})
        return
    typer.echo(found.text())
    if file is not None:
        typer.echo(f"\npage  {file}")
