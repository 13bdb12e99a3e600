"""``hwnas pool``: the operators that each layer of a space keeps for a device."""

from __future__ import annotations

from typing import Annotated

import typer

from hwnas.cli.common import DataRoot, Json, Tables, print_json, print_table, progress_bar, resumable
from hwnas.spaces.errors import ConfigError

__all__ = ["pool"]


def pool(
    space: Annotated[str, typer.Option(metavar="SPACE", help="Space with a pool of operators, such as hurricane.")],
    device: Annotated[
        list[str], typer.Option(metavar="DEVICE", help="Device to choose for; repeat it to compare devices.")
    ],
    size: Annotated[int, typer.Option(min=1, metavar="N", help="Operators that a layer keeps.")] = 4,
    rule: Annotated[str, typer.Option(metavar="RULE", help="How operators are chosen: bands or efficiency.")] = "bands",
    constraint: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONSTRAINT", help="Leave out what is too dear for this latency; one a device, as in hwnas search."
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="DATA", help="Data set that gives resolution, channels and classes.")
    ] = None,
    data_root: DataRoot = None,
    plot: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Also draw operators x layers, one panel a device (svg, png, pdf)."),
    ] = None,
    tables: Tables = None,
    json: Json = False,
) -> None:
    """Choose the operators that suit a device, layer by layer.

    Reads the device's table, and measures what it lacks. Prints the space with these operators only, to
    search in. With several devices it also says how alike they rank the operators (Kendall's tau: 1 for
    the same order, 0 for none in common).

    \b
    Examples:
      hwnas pool --space hurricane --device cpu-onnxruntime
      hwnas pool --space hurricane --device cpu-onnxruntime --constraint "latency@cpu-onnxruntime <= 60ms"
      hwnas pool --space "hurricane(width=0.25,depth=0.5)" --data fashion-mnist \\
          --device cpu-onnxruntime --device cpu-onnxruntime.int8 --size 4 --plot pools.svg
      hwnas search --strategy hurricane --space "SPACE THAT IT PRINTED" --data fashion-mnist \\
          --constraint "latency@cpu-onnxruntime <= 1.5ms"
    """
    from hwnas.constraints import parse_constraints
    from hwnas.operator_pool import rank_agreement, select_pool
    from hwnas.profiling import space_for

    limits = {limit.device: limit.text for limit in parse_constraints(constraint or [], devices=device, root=tables)}
    if unused := [text for key, text in limits.items() if key not in device]:
        raise ConfigError(f"{unused[0]!r} limits no device of this command; a pool is chosen for {', '.join(device)}")
    spec = space_for(space, data, data_root).spec
    with resumable("what was measured is kept: the same command goes on from there"), progress_bar() as progress:
        pools = [
            select_pool(spec, key, size=size, rule=rule, constraint=limits.get(key), tables=tables, progress=progress)
            for key in dict.fromkeys(device)
        ]
    agreement = rank_agreement({found.device: found.layers for found in pools})
    if plot is not None:
        from hwnas.pool_plot import draw_pools

        draw_pools(pools, plot)
    if json:
        print_json(
            {
                "pools": [
                    {
                        "device": p.device,
                        "rule": p.rule,
                        "constraint": p.constraint,
                        "source": p.source,
                        "space": p.space,
                        "operators": p.rows(),
                    }
                    for p in pools
                ],
                "kendall_tau": [{"devices": list(pair), "tau": tau} for pair, tau in agreement.items()],
            }
        )
        return
    for found in pools:
        within = f", {found.constraint}" if found.constraint else ""
        typer.echo(f"{found.device}, rule {found.rule}{within}:")
        layers = zip(found.layers, found.kept, strict=True)
        rows = [{"layer": layer.name, "kept": ", ".join(layer.operators[i] for i in kept)} for layer, kept in layers]
        print_table(rows, ("layer", "kept"))
        typer.echo(f"space: {found.space}\n")
    for (one, other), tau in agreement.items():
        typer.echo(f"{one} and {other} rank the operators of a layer alike by tau = {tau:.2f}")
