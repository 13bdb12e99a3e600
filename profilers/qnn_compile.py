"""Compiling a model for a Hexagon chip, or running it on one, in a process and a folder of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwnas.profilers import qnn_worker
from hwnas.profilers.qnn_schematic import Schematic, read_schematic, read_trace
from hwnas.spaces.errors import ModelError
from hwnas.spaces.files import atomic_write

__all__ = ["LIMIT_S", "Compiled", "check_taken", "compile_model", "qnn_job", "write_context"]

#: A ResNeXt-101 compiles in 6 s; what takes minutes is a graph whose quantised operators were not fused.
LIMIT_S = 120.0
#: what may stay on the CPU: the ends, where floats become the network's integers and back
_ENDS = frozenset({"QuantizeLinear", "DequantizeLinear"})
#: environment of the worker: its libraries must not start threads for a machine that is shared
_THREADS = {"OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Compiled:
    """A model as Qualcomm's compiler made it.

    Attributes
    ----------
    schematic
        The program.
    qnn_operators
        How many operators Qualcomm's graph had before it was tiled.
    compile_s
        Seconds that compiling took.
    """

    schematic: Schematic
    qnn_operators: int
    compile_s: float


@contextmanager
def qnn_job(
    data: bytes, soc_model: int | None, *, runs: int = 0, context: bool = False, limit_s: float = LIMIT_S
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Let a worker compile or run a model; gives its folder, which goes afterwards, and its result.

    Parameters
    ----------
    data
        The serialised model.
    soc_model
        Qualcomm's id of the chip; None takes the chip of this machine.
    runs
        Inferences after compiling.
    context
        Whether to write the binary that a phone loads.
    limit_s
        Seconds after which the worker is killed.

    Raises
    ------
    ModelError
        If the worker fails, crashes, takes too long, or onnxruntime left a part of the model to the CPU.
    """
    where = "this chip" if soc_model is None else f"chip {soc_model}"
    with tempfile.TemporaryDirectory(prefix="hwnas-qnn-") as name:
        folder = Path(name)
        (folder / qnn_worker.MODEL).write_bytes(data)
        job = {"soc_model": soc_model, "runs": runs, "context": context}
        (folder / qnn_worker.JOB).write_text(json.dumps(job), encoding="utf-8")
        try:
            done = subprocess.run(
                [sys.executable, "-m", qnn_worker.__name__],
                cwd=folder,
                env={**os.environ, **_THREADS},
                capture_output=True,
                text=True,
                errors="replace",
                timeout=limit_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ModelError(
                f"Qualcomm's compiler did not finish within {limit_s:g} s for {where}; a model of that size takes "
                "seconds if it is quantised in QDQ form and every convolution has its own bias"
            ) from error
        result = _result(folder, done)
        if "error" in result:
            raise ModelError(f"Qualcomm's provider refuses the model for {where}: {result['error']}")
        check_taken(folder, where)
        yield folder, result


def _result(folder: Path, done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    try:
        found = json.loads((folder / qnn_worker.RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1][:300]
        raise ModelError(f"Qualcomm's compiler ended with code {done.returncode}: {last}") from error
    return dict(found)


def check_taken(folder: Path, where: str) -> None:
    """Refuse a model of which onnxruntime kept more than the ends on the CPU, as it does without a word.

    Parameters
    ----------
    folder
        Where onnxruntime-qnn wrote its operator trace.
    where
        What it was compiled for, in words.

    Raises
    ------
    ModelError
        With the operators that were not taken.
    """
    trace = folder / qnn_worker.TRACE
    if not trace.is_file():
        raise ModelError(
            f"Qualcomm's compiler took no part of the model for {where}; check that such a chip exists, and that the "
            "model is quantised in QDQ form"
        )
    count, left = read_trace(trace)
    kept = sorted({operator for _, operator in left if operator not in _ENDS})
    if kept or not count:
        raise ModelError(f"the Hexagon processor of {where} does not take {', '.join(kept) or 'any operator'}")


def compile_model(data: bytes, soc_model: int, *, limit_s: float = LIMIT_S) -> Compiled:
    """Compile a quantised model for a chip, which need not be here.

    Raises
    ------
    ModelError
        If it cannot be compiled as one program, see `qnn_job`.
    """
    with qnn_job(data, soc_model, limit_s=limit_s) as (folder, result):
        schematics = list(folder.glob("*_schematic.bin"))
        if len(schematics) != 1:
            raise ModelError(f"the model became {len(schematics)} programs for chip {soc_model}; it must become one")
        count, _ = read_trace(folder / qnn_worker.TRACE)
        return Compiled(read_schematic(schematics[0]), count, float(result["compile_s"]))


def write_context(
    data: bytes, soc_model: int, path: str | os.PathLike[str], *, limit_s: float = LIMIT_S
) -> tuple[Path, Path]:
    """Compile a quantised model to the binary that a phone loads, and write it with its wrapper in ONNX.

    Parameters
    ----------
    data
        The serialised model.
    soc_model
        Qualcomm's id of the chip.
    path
        Where to: ``NAME.onnx``, the wrapper; the binary goes beside it as ``NAME.bin``.

    Returns
    -------
    tuple of Path
        The wrapper and the binary.

    Raises
    ------
    ModelError
        If it cannot be compiled as one program, see `qnn_job`.
    """
    import onnx

    target = Path(path)
    binary = target.with_suffix(".bin")
    with qnn_job(data, soc_model, context=True, limit_s=limit_s) as (folder, _):
        wrapper = onnx.load(folder / qnn_worker.CONTEXT)
        found = [folder / str(name) for name in _binaries(wrapper)]
        if len(found) != 1 or not found[0].is_file():
            raise ModelError(f"the model became {len(found)} binaries for chip {soc_model}; it must become one")
        for node in wrapper.graph.node:
            for attribute in node.attribute:
                if attribute.name == "ep_cache_context":
                    attribute.s = binary.name.encode()
        atomic_write(binary, found[0].read_bytes())
        atomic_write(target, wrapper.SerializeToString())
    return target, binary


def _binaries(wrapper: Any) -> set[str]:
    """The files that a wrapper of context binaries names."""
    return {
        Path(attribute.s.decode()).name
        for node in wrapper.graph.node
        if node.op_type == "EPContext"
        for attribute in node.attribute
        if attribute.name == "ep_cache_context"
    }
