"""``hwnas profile``: measure the pieces of a space on a device, or networks of many kinds."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from hwnas.cli.common import (
    Address,
    DataRoot,
    Engine,
    Json,
    Tables,
    duration,
    fraction,
    print_json,
    print_table,
    progress_bar,
    resumable,
)
from hwnas.spaces.errors import ConfigError

__all__ = ["profile"]


def profile(
    device: Annotated[str, typer.Option(metavar="DEVICE", help="Device to measure; see `hwnas devices`.")],
    space: Annotated[
        str | None,
        typer.Option(
            metavar="SPACE", help="Space whose blocks to measure; see `hwnas spaces`. Without it: any network."
        ),
    ] = None,
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
        typer.Option(
            min=0,
            metavar="N",
            help="Whole networks to measure: for the correction of a space, or to learn kernels from.",
        ),
    ] = None,
    repeat_until: Annotated[
        str, typer.Option(metavar="SHARE", help="Repeat until the interval of a median is this narrow.")
    ] = "2%",
    budget: Annotated[
        str | None, typer.Option(metavar="TIME", help="Stop after this time, such as 20m; a later call goes on.")
    ] = None,
    fusions: Annotated[
        bool, typer.Option("--fusions", help="Only find out which operators the runtime fuses, by timing pairs.")
    ] = False,
    active: Annotated[
        bool, typer.Option("--active", help="Without a space: every other network where the predictor is in doubt.")
    ] = False,
    engine: Engine = None,
    address: Address = None,
    tables: Tables = None,
    data_root: DataRoot = None,
    resume: Annotated[  # noqa: ARG001 - a table is always gone on with
        bool, typer.Option("--resume", help="Go on where an earlier call stopped; that is always done.")
    ] = False,
    json: Json = False,
) -> None:
    """Measure a device, into its table.

    With a space, its blocks and a few dozen whole networks are measured: what a search in it needs. Without
    one, networks of many kinds are drawn and measured, and the latency of kernels is
    learned from them: `hwnas predict` then prices any ONNX file. A learning curve is printed as it goes.

    Every number is on the disk as soon as it is measured. A call that was stopped, even killed, goes on
    where it was when it is repeated.

    \b
    Examples:
      hwnas profile --device cpu-onnxruntime --space mobilenet
      hwnas profile --device cpu-onnxruntime --budget 20m
      hwnas profile --device cpu-onnxruntime --fusions
      hwnas profile --device cpu-onnxruntime --space mobilenet --data digits --quick
      hwnas profile --device cpu-onnxruntime --space "shufflenet(resolution=96)" --repeat-until 1% --budget 1h
      hwnas profile --device cpu-onnxruntime.int8 --space mobilenet --threads 2 --json
      hwnas profile --device cpu-onnxruntime --space mobilenet --engine ray --address 192.168.1.5:6379
    """
    import hwnas

    if (engine or address) and (fusions or space is None):
        raise ConfigError("--engine and --address belong to the profile of a space; name one with --space")
    if fusions:
        _fusions(device, threads, quick, tables, json)
        return
    if active and space is not None:
        raise ConfigError("--active belongs to profiles of any network; leave out --active or --space")
    if space is None:
        if context is not None or data is not None:
            raise ConfigError("--context and --data belong to a space; name one with --space, or leave them out")
        _any_network(device, threads, networks, active, quick, budget, tables, json)
        return
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
            engine=engine or ("local" if address is None else "ray"),
            address=address,
            progress=progress,
        )
    if json:
        print_json(asdict(summary))
        return
    typer.echo(f"{summary.device}: {summary.space}")
    typer.echo(
        f"  {summary.method} {summary.measured} blocks and {summary.networks} networks in {summary.seconds:.0f} s"
    )
    typer.echo(f"  there already {summary.skipped}, unstable {summary.unstable}, still missing {summary.missing}")
    typer.echo(f"  drift of the reference model {summary.drift:.1%}")
    typer.echo(f"  table {summary.table}")
    if summary.missing:
        typer.echo("  the time was up; the same command goes on from here")


def _any_network(
    device: str,
    threads: int | None,
    networks: int | None,
    active: bool,
    quick: bool,
    budget: str | None,
    tables: str | None,
    json: bool,
) -> None:
    """Learn the latency of kernels, see `hwnas.profile_kernels`."""
    from hwnas.kernel_profiling import NETWORKS, profile_kernels

    seconds = None if budget is None else duration(budget, "--budget")
    with resumable("what was measured is kept: the same command goes on from there"), progress_bar() as progress:
        found = profile_kernels(
            device,
            threads=threads,
            networks=NETWORKS if networks is None else networks,
            active=active,
            quick=quick,
            budget_s=seconds,
            tables=tables,
            progress=progress,
            report=None if json else lambda point: typer.echo(f"after {point}"),
        )
    if json:
        print_json(asdict(found))
        return
    typer.echo(f"{found.device}: kernels of any network")
    typer.echo(f"  {found.method} {found.measured} networks in {found.seconds:.0f} s; there are {found.networks} now,")
    typer.echo(f"  with {found.kernels} different kernels; still missing {found.missing}")
    if found.interval_90 is not None:
        low, high = (factor - 1 for factor in found.interval_90)
        typer.echo(
            f"  nine of ten networks are within {low:+.0%} and {high:+.0%} of their prediction (cross-validated)"
        )
    typer.echo(f"  table {found.table}")
    if found.missing:
        typer.echo("  the time was up; the same command goes on from here")


def _fusions(device: str, threads: int | None, quick: bool, tables: str | None, json: bool) -> None:
    """Time pairs of operators, see `hwnas.profilers.fusions.find_fusions`."""
    from hwnas.profilers import Protocol, get_profiler
    from hwnas.profilers.fusions import find_fusions
    from hwnas.quantize import preparation

    profiler = get_profiler(device, tables=tables, **({} if threads is None else {"threads": threads}))
    protocol = Protocol.quick() if quick else Protocol()
    with progress_bar() as progress:
        found = find_fusions(
            profiler, protocol=protocol, prepare=preparation(profiler.file_precision), progress=progress
        )
    if json:
        print_json([asdict(pair) for pair in found])
        return
    verdict = {True: "fused", False: "apart", None: "open"}
    rows = [
        {
            "first": pair.first,
            "second": pair.second,
            "adds": f"{1e3 * pair.adds_ms:.1f} us",
            "elsewhere": f"{1e3 * pair.elsewhere_ms:.1f} us",
            "verdict": verdict[pair.fused],
        }
        for pair in found
    ]
    print_table(rows, ("first", "second", "adds", "elsewhere", "verdict"))
