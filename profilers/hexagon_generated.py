"""Hexagon code for parts of networks that have no kernel: TVM generates it, zig links it, qemu-hexagon runs it.

The code is scalar and computes in floating point between bytes, so a part takes many times the packets that a kernel
written by hand would. Which way it takes can depend on numbers (`expf`), so counts of one model repeat exactly, but
those of two parts that differ in numbers alone may differ a little.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.profilers.hexagon_fusion import quantise
from hwnas.profilers.hexagon_part import Part
from hwnas.profilers.hexagon_program import SOURCES, Counts, Program
from hwnas.profilers.tvm_compile import build, lowered, make_target
from hwnas.spaces.errors import ModelError

__all__ = ["GeneratedCall", "generator_missing", "generator_version"]

TARGET = (
    '{"kind": "llvm", "mtriple": "hexagon-unknown-linux-musl", "mcpu": "hexagonv67",'
    ' "mattr": ["+hvxv67", "+hvx-length128b"]}'
)
_RUNTIME = Path(__file__).parent / "hexagon_generated.c"
_MATH = Path(__file__).parent / "hexagon_math.h"
#: kinds of numbers in TVM's interface
_CODES = {"i": 0, "u": 1, "f": 2, "b": 6}
#: arrays begin at whole vectors
_ALIGN = 128
#: numbers of a kernel's job, none of which generated code reads
_NO_JOB = (0,) * 21
_MOST_ARGUMENTS = 16


def generator_missing() -> str | None:
    """None if code can be generated here; else one sentence saying what to install."""
    try:
        version("apache-tvm")
    except PackageNotFoundError:
        return "TVM, which generates code for Hexagon, is not installed; install it with: pip install 'hwnas[tvm]'"
    return None


def generator_version() -> str:
    """What moves counts of generated code: TVM's version, and a digest of the source that it is linked with."""
    source = _RUNTIME.read_bytes() + _MATH.read_bytes()
    return f"tvm {version('apache-tvm')} with {hashlib.sha256(source).hexdigest()[:8]}"


@dataclass(frozen=True, eq=False)
class GeneratedCall:
    """One run of generated code, in the place of a `hwnas.profilers.hexagon_kernels.Call`.

    Attributes
    ----------
    part
        What it computes.
    """

    part: Part

    @property
    def kind(self) -> str:
        return "generated"

    @property
    def macs(self) -> int:
        return self.part.macs

    @property
    def signature(self) -> tuple[object, ...]:
        return ("generated", self.part.signature)

    @property
    def expected(self) -> np.ndarray:
        """What onnxruntime computed, all outputs one after the other, see `run`."""
        return self._bytes(self.part.outputs)

    def run(self, program: Program) -> tuple[Counts, np.ndarray]:
        """Generate the code, build it and run it.

        Parameters
        ----------
        program
            Its modelled cache is used.

        Returns
        -------
        tuple
            The counts, and the outputs as unsigned bytes; floating-point outputs as bytes over the range of what
            onnxruntime computed.

        Raises
        ------
        ModelError
            If TVM does not take the part, or its code fails.
        """
        folder = Path(tempfile.mkdtemp(prefix="hwnas-hexagon-"))
        try:
            network = _Network(self.part, lowered(self.part.model.SerializeToString(), make_target(TARGET)))
            made = build(network.module, make_target(TARGET))
            made.mod.imports[0].write_to_file(str(folder / "code.o"), "o")
            (folder / "calls.h").write_text(network.header())
            sources = (SOURCES / "main.c", _RUNTIME, folder / "code.o")
            own = Program(sources, (f"-I{folder}",), program.cache)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        counts, said = own.run(_NO_JOB, [network.given()], network.written)
        return counts, self._bytes(network.outputs(said))

    def _bytes(self, outputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Outputs as one row of unsigned bytes."""
        rows = []
        for name, meant in self.part.outputs.items():
            values = outputs[name].reshape(-1)
            if meant.dtype.kind == "f":
                low, high = float(meant.min()), float(meant.max())
                values = quantise(values - low, (high - low) / 255 or 1.0, 0)
            elif meant.dtype == np.int8:
                values = (values.astype(np.int16) + 128).astype(np.uint8)
            rows.append(values.astype(np.uint8))
        return np.concatenate(rows)


@dataclass(frozen=True, eq=False)
class _Array:
    """An array of the generated code: inputs and constants have `values`."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    values: np.ndarray | None = None

    @property
    def bytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    @property
    def room(self) -> int:
        return -(-self.bytes // _ALIGN) * _ALIGN


class _Network:
    """The calls of a module that TVM lowered, and the arrays between them."""

    def __init__(self, part: Part, module: Any) -> None:
        self.module = module
        self._given: list[_Array] = []
        self._made: list[_Array] = []
        self._calls: list[tuple[str, list[tuple[bool, int]]]] = []
        #: by TVM's variables: whether it is made, and its number
        self._places: dict[Any, tuple[bool, int]] = {}
        main = module["main"]
        for variable, (_, values) in zip(main.params, part.inputs.items(), strict=True):
            self._places[variable] = self._give(values)
        for block in main.body.blocks:
            for binding in block.bindings:
                self._places[binding.var] = self._bind(binding.value)
        results = self._all(main.body.body)
        self._results = dict(zip(part.outputs, results, strict=True))

    # -------------------------------------------------------------- reading TVM's module

    def _bind(self, value: Any) -> Any:
        """The place, or places, of what a variable stands for."""
        from tvm import relax

        if not isinstance(value, relax.Call):
            return self._place(value)
        if value.op.name != "relax.call_tir":
            raise ModelError(f"TVM leaves {value.op.name} of the part, for which no code can be generated")
        arguments = [place for one in value.args[1] for place in self._all(one)]
        kinds = list(value.ty_args[0].fields) if hasattr(value.ty_args[0], "fields") else [value.ty_args[0]]
        results = []
        for kind in kinds:
            shape = tuple(int(size) for size in kind.shape)
            self._made.append(_Array(shape, np.dtype(str(kind.dtype))))
            results.append((True, len(self._made) - 1))
        if len(arguments) + len(results) > _MOST_ARGUMENTS:
            raise ModelError(f"TVM fuses the part to a function of more than {_MOST_ARGUMENTS} arrays")
        self._calls.append((value.args[0].name_hint, [*arguments, *results]))
        return results[0] if len(results) == 1 else results

    def _place(self, value: Any) -> Any:
        from tvm import ir, relax

        if isinstance(value, ir.GenericConst):
            return self._give(value.value.numpy())
        if isinstance(value, relax.Tuple):
            return [self._place(one) for one in value.fields]
        if isinstance(value, relax.TupleGetItem):
            return self._place(value.tuple_value)[value.index]
        if value in self._places:
            return self._places[value]
        raise ModelError(f"TVM leaves a {type(value).__name__} in the part, for which no code can be generated")

    def _all(self, value: Any) -> list[tuple[bool, int]]:
        found = self._place(value)
        return found if isinstance(found, list) else [found]

    def _give(self, values: np.ndarray) -> tuple[bool, int]:
        self._given.append(_Array(values.shape, values.dtype, np.ascontiguousarray(values)))
        return False, len(self._given) - 1

    # -------------------------------------------------------------- writing

    @property
    def written(self) -> int:
        """Bytes of the output."""
        return sum(self._made[number].room for number in self._kept)

    @property
    def _kept(self) -> list[int]:
        """Numbers of the made arrays that are outputs."""
        return sorted({number for made, number in self._results.values() if made})

    def given(self) -> bytes:
        """Inputs and constants, each at a whole vector."""
        return b"".join(
            array.values.tobytes().ljust(array.room, b"\0") for array in self._given if array.values is not None
        )

    def header(self) -> str:
        """``calls.h``."""
        lines, arrays, places, start = [], [], [], 0
        for number, array in enumerate([*self._given, *self._made]):
            sizes = ", ".join(map(str, array.shape)) or "1"
            lines.append(f"static int64_t shape_{number}[] = {{{sizes}}};")
            kind = f"{{{_CODES[array.dtype.kind]}, {8 * array.dtype.itemsize}, 1}}"
            arrays.append(f"    {{0, {{1, 0}}, {len(array.shape)}, {kind}, shape_{number}, 0, 0}},")
            where = -1
            if number - len(self._given) in self._kept:
                where, start = start, start + array.room
            places.append(f"    {{{array.bytes}, {where}}},")
        functions = {name for name, _ in self._calls}
        lines += [f"int __tvm_ffi_{name}(void *, const Argument *, int32_t, Argument *);" for name in sorted(functions)]
        calls = []
        for name, used in self._calls:
            numbers = ", ".join(str(number + made * len(self._given)) for made, number in used)
            calls.append(f"    {{__tvm_ffi_{name}, {len(used)}, {{{numbers}}}}},")
        lines.append(f"enum {{ ARRAYS = {len(arrays)}, INPUTS = {len(self._given)}, CALLS = {len(calls)} }};")
        lines += ["static Array arrays[] = {", *arrays, "};", "static const Place places[] = {", *places, "};"]
        lines += ["static const Invocation calls[] = {", *calls, "};"]
        return "\n".join(lines) + "\n"

    def outputs(self, said: np.ndarray) -> dict[str, np.ndarray]:
        """The outputs of the part by name, from the bytes that the program wrote."""
        starts, start = {}, 0
        for number in self._kept:
            starts[number], start = start, start + self._made[number].room
        found = {}
        for name, (made, number) in self._results.items():
            array = (self._made if made else self._given)[number]
            if array.values is not None:
                found[name] = array.values
                continue
            raw = said[starts[number] : starts[number] + array.bytes]
            found[name] = raw.copy().view(array.dtype).reshape(array.shape)
        return found
