"""``hwnas import``: a table of networks that somebody else measured."""

from __future__ import annotations

from typing import Annotated

import typer

from hwnas.cli.common import Json, Tables, print_json

__all__ = ["import_networks"]


def import_networks(
    source: Annotated[
        str, typer.Argument(metavar="FILE.CSV|COLUMN", help="Columns architecture and ms, or a published column.")
    ],
    device: Annotated[str, typer.Option(metavar="KEY", help="What the table shall be called.")],
    hardware: Annotated[str, typer.Option(metavar="TEXT", help="What was measured, in words.")],
    runtime: Annotated[str, typer.Option(metavar="TEXT", help="The software that ran the networks, in words.")],
    space: Annotated[str, typer.Option(metavar="SPACE", help="Space of the architectures.")] = "nasbench201",
    precision: Annotated[str, typer.Option(metavar="FORMAT", help="Number format that was computed in.")] = "float32",
    batch: Annotated[int, typer.Option(min=1, metavar="N", help="Images of one inference.")] = 1,
    method: Annotated[
        str, typer.Option(metavar="measured|modelled|vendor-estimate|simulated", help="How the numbers came to be.")
    ] = "measured",
    tables: Tables = None,
    json: Json = False,
) -> None:
    """Import latencies of whole networks that somebody else measured.

    A space of up to 20,000 architectures is then priced by what is learned from them: search with the constraint
    latency@recorded.KEY. The file's architectures are the numbers of their choices, separated by blanks. With
    HWNAS_DATA set, a latency column of the published NAS-Bench-201 tables will do instead of a file.

    \b
    Examples:
      hwnas import measured.csv --device vpu-board --hardware "my board" --runtime "its SDK 1.2" --precision float16
      hwnas import nnmeter.myriad_vpu_ncs2 --device vpu-myriad.nnmeter --hardware "Myriad X (NCS2)"
          --runtime "OpenVINO, by nn-Meter" --precision float16
    """
    import hwnas

    table = hwnas.import_networks(
        source,
        device,
        space=space,
        hardware=hardware,
        runtime=runtime,
        precision=precision,
        batch=batch,
        method=method,
        tables=tables,
    )
    found = {"device": table.device.key, "networks": len(table.networks), "table": str(table.path)}
    if json:
        print_json(found)
    else:
        typer.echo(f"{found['networks']} networks of {hardware} in {found['table']} ({method})")
        typer.echo(f"search with: latency@recorded.{device}")
