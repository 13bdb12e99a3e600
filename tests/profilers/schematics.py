"""Schematics written by hand, in the form of the compiler's but with made-up programs."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["entry", "schematic"]


def entry(number: int, operation: str, kind: str, dims: Sequence[int], reads: Sequence[int] = ()) -> str:
    """One operator of the graph."""
    inputs = "".join(f"\t\t\t({source:#x},0),\n" for source in reads)
    return (
        f"\t{number:#018x}: {{\n\t\t'operation':'{operation}',\n\t\t'inputs' : [\n{inputs}\t\t],\n"
        f"\t\t'outputs' : [\t{{\n\t\t\t'dtype': '{kind}', 'rank': 4,\n\t\t\t\t'zero_offset': 0, 'stepsize': 1.0,\n"
        f"\t\t\t\t'dims': [{','.join(map(str, dims))}],\n\t\t\t}},\n\t\t],\n\t}},\n"
    )


def schematic(
    graph: str,
    moved: dict[int, tuple[int, int, int, int]],
    flags: dict[int, str],
    main: Sequence[int],
    vector: Sequence[int],
    names: dict[int, str],
) -> str:
    """The text of a whole schematic; `moved` are bytes read from and written to main memory, and on the chip."""
    rows = "".join(
        f'{{"opid" : {n:#018x} , "dram_read": {a} , "dram_write": {b} , "vtcm_read": {c} , "vtcm_write": {d}, '
        f'"is_dma": {int(bool(a or b))}}},\n'
        for n, (a, b, c, d) in moved.items()
    )
    marks = "".join(f"\t\t{n:#x}: {{'flags' : ({f})}},\n" for n, f in flags.items())
    words = "".join(f"{n:#018x}: '{name}',\n" for n, name in names.items())

    def listed(name: str, numbers: Sequence[int]) -> str:
        return f"\n{name} = [\n" + "".join(f"\t{n:#x},\n" for n in numbers) + "]\n"

    return (
        "graph_before_optimization = { # :::BEGIN:graph_before_optimization:::\n}\n"
        f"graph_after_optimization = {{ # :::BEGIN:graph_after_optimization:::\n{graph}}}\n"
        "# :::END:graph_after_optimization:::\n"
        f"{listed('runlist1', [])}runlist = runlist1\n"
        f"\nbandwidth_information = [\n{rows}]\n"
        f"\ngraph_res_flags0 = {{ # :::BEGIN:graph_flag0:::\n\t'graph': {{\n{marks}\t}},\n}}\n"
        "# :::END:graph_flag0:::\n"
        f"{listed('runlist2', main)}{listed('runlist_vec', vector)}"
        f"{listed('runlist_mtx', [])}{listed('runlist_elt', [])}"
        f"\nqnn_name_translations = {{\n{words}}}\n"
    )
