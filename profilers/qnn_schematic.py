"""Reading what Qualcomm's compiler says of the program that it made: the schematic, the operator trace, the profile.

The schematic is text of Python literals: the tiled operators of one chip with the bytes that each moves, the unit that
each uses, and the order in which they are issued. It holds no time. Nothing of it is evaluated: numbers and names are
picked out by their form, and what lacks them is refused.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hwnas.spaces.errors import ModelError

__all__ = ["Operator", "Schematic", "node_cycles", "read_schematic", "read_trace"]

#: A network whose quantised operators were not fused makes one of hundreds of megabytes.
_MAX_BYTES = 128 * 1000 * 1000
_LOW = 0xFFFFFFFF
#: low parts of the ids of what moves the network's input and output
_ENDS = {2: "Input", 3: "Output"}
_WEIGHTS = frozenset({"QInt8", "QUInt8", "QInt4"})

_GRAPH = re.compile(r"^\t(0x[0-9a-f]+): \{\n\t\t'operation':'([^'\n]*)',(.*?)^\t\},", re.S | re.M)
_READS = re.compile(r"\((0x[0-9a-f]+),\d+\)")
_TENSOR = re.compile(r"'dtype': '(\w+)'.*?'dims': \[([\d, ]*)\]", re.S)
_BYTES = re.compile(
    r'"opid" ?: ?(0x[0-9a-f]+) ?, ?"dram_read": ?(\d+) ?, ?"dram_write": ?(\d+) ?, ?"vtcm_read": ?(\d+) ?, ?'
    r'"vtcm_write": ?(\d+)'
)
_FLAGS = re.compile(r"(0x[0-9a-f]+): \{\s*'flags' ?: \(([^)]*)\)")
_NAMES = re.compile(r"(0x[0-9a-f]+): '([^'\n]*)'")
_LIST = re.compile(r"^runlist(\d+) ?= ?\[", re.M)
_ID = re.compile(r"0x[0-9a-f]+")


@dataclass(frozen=True)
class Operator:
    """One operator of the compiled program: a tile of a layer, a transfer, a change of layout.

    Attributes
    ----------
    name
        The layer that it is a part of, as onnxruntime called it; ``Input``, ``Output`` or empty if it is of none.
    kind
        What Qualcomm's library calls it, such as ``q::ConvLayer_s1.opt``; empty if the compiler added it later.
    unit
        ``hmx`` (the matrix unit), ``hvx`` (a vector thread), ``dma`` (a transfer), or empty if it costs nothing.
    ddr_bytes, vtcm_bytes
        Bytes read and written in main memory, and in the memory on the chip.
    macs
        Multiply-accumulates of the matrix unit, padded to tiles of 8 × 8 pixels, 16 channels that it reads and 32 that
        it makes.
    reads
        Ids of the operators whose results it reads.
    """

    name: str
    kind: str
    unit: str
    ddr_bytes: int
    vtcm_bytes: int
    macs: int
    reads: tuple[int, ...]


@dataclass(frozen=True)
class Schematic:
    """A compiled program.

    Attributes
    ----------
    operators
        Operators by id.
    main
        Ids in the order in which the main thread issues them: transfers, some vector work, and up to Hexagon v79 the
        matrix work.
    matrix
        Ids in the order in which the matrix unit takes them, from Hexagon v81 on.
    vector, elementwise
        Ids in the order in which the vector threads take them, from two queues.
    """

    operators: dict[int, Operator]
    main: tuple[int, ...]
    matrix: tuple[int, ...]
    vector: tuple[int, ...]
    elementwise: tuple[int, ...]

    @property
    def issued(self) -> tuple[int, ...]:
        """Ids of everything that is run, queue after queue."""
        return (*self.main, *self.matrix, *self.vector, *self.elementwise)


def _text(path: Path) -> str:
    size = path.stat().st_size
    if size > _MAX_BYTES:
        raise ModelError(
            f"Qualcomm's compiler wrote a program of {size // 1_000_000} MB, as it does when quantised operators are "
            "not fused; give every convolution its own bias, and quantise the model in QDQ form"
        )
    return path.read_text(encoding="latin-1")


def _section(text: str, begin: str, end: str) -> str:
    """The text between two marks; raises `ModelError` if they are not there."""
    start = text.find(begin)
    stop = text.find(end, start + len(begin)) if start >= 0 else -1
    if stop < 0:
        raise ModelError(f"the compiler's schematic has no section {begin.split('=')[0].strip()!r}; update hwnas")
    return text[start + len(begin) : stop]


def _ids(text: str, name: str) -> tuple[int, ...]:
    return tuple(int(found, 16) for found in _ID.findall(_section(text, f"\n{name} = [", "]")))


def _tensors(text: str) -> list[tuple[str, tuple[int, ...]]]:
    return [
        (kind, tuple(int(size) for size in dims.split(",") if size.strip())) for kind, dims in _TENSOR.findall(text)
    ]


def _up(size: int, step: int) -> int:
    return -(-size // step) * step


def read_schematic(path: Path) -> Schematic:
    """Read a ``*_schematic.bin`` of onnxruntime-qnn's ``optrace``.

    Raises
    ------
    ModelError
        If it is too large, or lacks a section that the schedule needs.
    """
    text = _text(path)
    graph: dict[int, tuple[str, tuple[int, ...], list[tuple[str, tuple[int, ...]]]]] = {}
    for number, operation, body in _GRAPH.findall(
        _section(text, "\ngraph_after_optimization = {", ":::END:graph_after_optimization")
    ):
        inputs, _, outputs = body.partition("'outputs'")
        reads = tuple(int(found, 16) for found in _READS.findall(inputs))
        graph[int(number, 16)] = (operation, reads, _tensors(outputs))
    moved = {
        int(number, 16): (int(read) + int(write), int(vread) + int(vwrite))
        for number, read, write, vread, vwrite in _BYTES.findall(_section(text, "\nbandwidth_information = [", "\n]"))
    }
    flags = {
        int(number, 16): listed
        for number, listed in _FLAGS.findall(_section(text, "\ngraph_res_flags0 = {", ":::END:graph_flag0"))
    }
    names = {
        int(number, 16): name for number, name in _NAMES.findall(_section(text, "\nqnn_name_translations = {", "\n}"))
    }
    # the number of the main list counts the graphs of the process
    numbers = [int(found) for found in _LIST.findall(text)]
    if not numbers or not moved:
        raise ModelError("the compiler's schematic has no list of operators to run; update hwnas")
    main = _ids(text, f"runlist{max(numbers)}")
    matrix, vector, elementwise = (_ids(text, name) for name in ("runlist_mtx", "runlist_vec", "runlist_elt"))
    issued = {*main, *matrix, *vector, *elementwise}
    if unmarked := issued - flags.keys():
        raise ModelError(f"the compiler's schematic has no flags of {len(unmarked)} operators; update hwnas")

    def macs(number: int) -> int:
        _, reads, outputs = graph.get(number, ("", (), []))
        if not outputs or len(outputs[0][1]) != 4:
            return 0
        for source in reads:
            operation, _, tensors = graph.get(source, ("", (), []))
            constant = "weights" in operation or operation == "$Const"
            if constant and tensors and len(tensors[0][1]) == 4 and tensors[0][0] in _WEIGHTS:
                (_, rows, columns, channels), (height, width, depth, _) = outputs[0][1], tensors[0][1]
                tiles = _up(rows, 8) * _up(columns, 8) * _up(channels, 32)
                # 16: networks of few channels are published as quicker than blocks of 32 would have them
                return tiles * height * width * _up(depth, 16)
        return 0

    operators = {}
    for number in {*graph, *issued}:
        ddr, vtcm = moved.get(number, (0, 0))
        listed = flags.get(number, "")
        unit = "hmx" if "uses_hmx" in listed else "hvx" if "uses_hvx" in listed else "dma" if ddr else ""
        name = names.get(number & _LOW) or _ENDS.get(number & _LOW, "")
        kind, reads, _ = graph.get(number, ("", (), []))
        operators[number] = Operator(name, kind, unit, ddr, vtcm, macs(number) if unit == "hmx" else 0, reads)
    return Schematic(operators, main, matrix, vector, elementwise)


def read_trace(path: Path) -> tuple[int, list[tuple[str, str]]]:
    """Read ``qnn_op_trace.json``: how many operators Qualcomm's graph has, and what onnxruntime kept on the CPU.

    Returns
    -------
    tuple
        Number of operators; names and operators of the nodes that were not taken.

    Raises
    ------
    ModelError
        If it is not what onnxruntime-qnn 2 writes.
    """
    try:
        found = json.loads(_text(path))
        count = found["summary"]["total_qnn_ops"]
        left = [(str(node["node_name"]), str(node["op_type"])) for node in found["unsupported_nodes"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"onnxruntime-qnn's operator trace cannot be read ({type(error).__name__})") from error
    if type(count) is not int or count < 0:
        raise ModelError(f"onnxruntime-qnn's operator trace counts {count!r} operators")
    return count, left


def node_cycles(path: Path) -> dict[str, list[int]]:
    """Cycles of each layer in each run, from the provider's profile in CSV.

    On an x86 machine these are ticks of the host's clock and say nothing of a chip.

    Raises
    ------
    ModelError
        If it is not such a file.
    """
    cycles: dict[str, list[int]] = {}
    for row in _rows(path):
        if row["Message"] != "NODE" or row["Unit of Measurement"] != "CYCLES":
            continue
        name = re.sub(r"[ :]OpId_\d+ \(cycles\)$", "", row["Event Identifier"])
        try:
            value = int(row["Time"])
        except ValueError as error:
            raise ModelError(f"the profile of onnxruntime-qnn counts {row['Time']!r} cycles") from error
        cycles.setdefault(name, []).append(value)
    if not cycles or not math.isfinite(sum(map(sum, cycles.values()))):
        raise ModelError("the profile of onnxruntime-qnn counts no layer; the model may not have run there")
    return cycles


def _rows(path: Path) -> Iterator[dict[str, str]]:
    reader = csv.DictReader(_text(path).splitlines())
    needed = {"Message", "Time", "Unit of Measurement", "Event Identifier"}
    if lacking := needed - set(reader.fieldnames or ()):
        raise ModelError(f"the profile of onnxruntime-qnn lacks the columns {', '.join(sorted(lacking))}")
    for row in reader:
        yield {name: row[name] or "" for name in needed}
