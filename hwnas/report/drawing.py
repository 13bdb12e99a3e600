"""A network drawn as inline SVG: its blocks from top to bottom, what reads what, and what each costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from hwnas.report.words import number
from hwnas.spaces.graph import Graph

__all__ = ["draw_network"]

_BOX, _HEIGHT, _GAP, _ROW = 206, 38, 14, 54
_BAR, _PAD = 128, 6
_LABEL, _TIMES = 36, 48
#: Blocks that are drawn at most: a picture of more is no picture.
_MOST_BLOCKS = 300


def draw_network(graph: Graph, prices: Mapping[str, float] | None = None, method: str = "") -> str:
    """Draw a network.

    Parameters
    ----------
    graph
        The network; blocks that no output depends on are left out.
    prices
        Milliseconds by a block's signature.
    method
        How these came to be; for what a pointer shows.
    """
    blocks = graph.pruned().blocks
    shown, same, cells = _folded(blocks[:_MOST_BLOCKS])
    owner = {node.name: same[index] for index, block in enumerate(blocks[:_MOST_BLOCKS]) for node in block.nodes}
    reads: list[set[int]] = [set() for _ in shown]
    for index, block in enumerate(blocks[:_MOST_BLOCKS]):
        # what a repeated cell reads of the one before would point upward
        reads[same[index]] |= {owner[name] for name in block.inputs if name in owner and owner[name] < same[index]}
    row: list[int] = []
    for inputs in reads:
        row.append(1 + max((row[source] for source in inputs), default=-1))
    columns = _columns(row, reads)
    costs = [None if prices is None else prices.get(block.signature) for block in shown]
    wide = 1 + max(columns, default=0)
    bars = wide == 1 and any(cost is not None for cost in costs)
    members = [row.count(each) for each in row]
    places = [
        (_PAD + (wide - members[at]) * (_BOX + _GAP) / 2 + columns[at] * (_BOX + _GAP), _PAD + row[at] * _ROW)
        for at in range(len(shown))
    ]
    edges = [_edge(places[source], places[at]) for at, inputs in enumerate(reads) for source in sorted(inputs)]
    right = _PAD + wide * (_BOX + _GAP) + (_BAR if bars else 0)
    right = max([right, *(int(side) + 14 for _, side in edges)])
    width, height = right + (_TIMES if cells else 0), 2 * _PAD + _ROW * (1 + max(row, default=0)) - (_ROW - _HEIGHT)
    marks = [_repeat([places[at][1] for at in cell], right, times) for cell, times in cells]
    marks += [edge for edge, _ in edges]
    largest = max((cost for cost in costs if cost is not None), default=0.0)
    for block, place, cost in zip(shown, places, costs, strict=True):
        marks.append(_box(block, *place, cost, method, not bars))
        if bars and cost is not None:
            marks.append(_bar(place[0] + _BOX + _GAP, place[1], cost, largest))
    left = len(blocks) - _MOST_BLOCKS
    more = f"<p>{left} further blocks are not drawn.</p>" if left > 0 else ""
    return (
        f'<div class="wide"><svg class="net" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img" aria-label="the network, {len(blocks)} blocks">{"".join(marks)}</svg></div>{more}'
    )


def _folded(blocks: Sequence[Graph]) -> tuple[list[Graph], list[int], list[tuple[list[int], int]]]:
    """Cells that repeat, one after the other, are drawn once.

    Returns
    -------
    tuple
        The blocks to draw; for every block, which of them stands for it; and the repeated cells: which of the blocks
        to draw each has, and how often it comes.
    """
    groups: list[list[int]] = []
    before = None
    for index, block in enumerate(blocks):
        parts = block.block.name.split("/")
        cell = parts[:2] if len(parts) > 2 else None
        if cell is not None and cell == before:
            groups[-1].append(index)
        else:
            groups.append([index])
        before = cell
    shown: list[Graph] = []
    same = [0] * len(blocks)
    cells: list[tuple[list[int], int]] = []
    drawn: list[int] = []
    times, known = 1, None
    for group in [*groups, []]:
        kind = [blocks[index].signature for index in group]
        if len(group) > 1 and kind == known:
            times += 1
        else:
            if times > 1:
                cells.append((drawn, times))
            drawn, times = list(range(len(shown), len(shown) + len(group))), 1
            shown += [blocks[index] for index in group]
            known = kind
        for index, stands in zip(group, drawn, strict=True):
            same[index] = stands
    return shown, same, cells


def _columns(row: list[int], reads: list[set[int]]) -> list[int]:
    """A column for each block: those of a row beside each other, each as near below what it reads as order allows."""
    columns = [0] * len(row)
    for number_of_row in range(1 + max(row, default=-1)):
        members = [index for index, own in enumerate(row) if own == number_of_row]
        members.sort(key=lambda index: sum(columns[s] for s in reads[index]) / max(1, len(reads[index])))
        for column, index in enumerate(members):
            columns[index] = column
    return columns


def _edge(source: tuple[float, float], target: tuple[float, float]) -> tuple[str, float]:
    """A line from the bottom of one box to the top of another, past boxes between them in a bow; and its right end."""
    x0, y0, x1, y1 = source[0] + _BOX / 2, source[1] + _HEIGHT, target[0] + _BOX / 2, target[1]
    middle, side = (y0 + y1) / 2, max(x0, x1)
    if y1 - y0 <= _ROW:
        way = f"C{x0:.0f} {middle:.0f} {x1:.0f} {middle:.0f} {x1:.0f} {y1:.0f}"
    else:
        # the longer it is, the farther out it runs: two of them do not lie on each other
        side += _BOX / 2 + 5 + 4 * (y1 - y0) / _ROW
        way = (
            f"C{x0:.0f} {y0 + 16:.0f} {side:.0f} {y0 - 4:.0f} {side:.0f} {y0 + 28:.0f}"
            f"V{y1 - 28:.0f}C{side:.0f} {y1 + 4:.0f} {x1:.0f} {y1 - 16:.0f} {x1:.0f} {y1:.0f}"
        )
    return f'<path class="e" d="M{x0:.0f} {y0:.0f}{way}"/>', side


def _repeat(tops: Sequence[float], right: float, times: int) -> str:
    """A bracket beside a cell that comes several times."""
    top, bottom = min(tops), max(tops) + _HEIGHT
    return (
        f'<path class="e" d="M{right:.0f} {top:.0f}h8V{bottom:.0f}h-8"/>'
        f'<text x="{right + 16:.0f}" y="{(top + bottom) / 2 + 4:.0f}">×{times}</text>'
    )


def _short(text: str, most: int = _LABEL) -> str:
    return text if len(text) <= most else text[: max(1, most - 1)] + "…"


def _box(block: Graph, x: float, y: float, cost: float | None, method: str, inside: bool) -> str:
    shape = " + ".join("×".join(map(str, block.shapes[name][1:])) for name in block.outputs)
    title = f"{block.block.name}: {block.label}, gives {shape}, {number(block.macs / 1e6)} M MACs"
    title += f", {number(cost)} ms predicted from {method} rows" if cost is not None else ""
    kind = "box" if block.block.decision is not None else "box fixed"
    price = f", {number(cost, 3)} ms" if inside and cost is not None else ""
    words = f"{_short(block.block.name, _LABEL - len(shape) - len(price))} → {shape}{price}"
    return (
        f"<g><title>{escape(title)}</title>"
        f'<rect class="{kind}" x="{x:.0f}" y="{y:.0f}" width="{_BOX}" height="{_HEIGHT}" rx="5"/>'
        f'<text x="{x + 9:.0f}" y="{y + 16:.0f}">{escape(_short(block.label, 28))}</text>'
        f'<text class="s" x="{x + 9:.0f}" y="{y + 30:.0f}">{escape(words)}</text>'
        "</g>"
    )


def _bar(x: float, y: float, cost: float, largest: float) -> str:
    length = max(1.0, (_BAR - 64) * cost / largest) if largest > 0 and cost > 0 else 0.0
    return (
        f'<rect class="bar" x="{x:.0f}" y="{y + 11:.0f}" width="{length:.1f}" height="16" rx="2"/>'
        f'<text class="s" x="{x + length + 7:.1f}" y="{y + 23:.0f}">{number(cost, 3)} ms</text>'
    )
