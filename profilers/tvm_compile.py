"""Compiling ONNX models with TVM, for this machine or any other target of LLVM."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from hwnas.profilers.model_io import first_line, fixed_sizes, load_model
from hwnas.spaces.errors import ConfigError, ModelError

__all__ = ["build", "cross_compile", "find_linker", "load_tvm", "local_target", "lowered", "make_target"]


def load_tvm() -> Any:
    """Import TVM, without its pool of threads: the code runs on one, and the others would wait for work in a loop."""
    os.environ.setdefault("TVM_NUM_THREADS", "1")
    # its foreign function interface would import torch, for tensors that are never passed
    os.environ.setdefault("TVM_FFI_DISABLE_TORCH_C_DLPACK", "1")
    import tvm
    import tvm.relax

    return tvm


def local_target(threads: int = 1) -> Any:
    """The target of this machine's CPU."""
    tvm = load_tvm()
    return tvm.target.Target({"kind": "llvm", "mcpu": tvm.target.codegen.llvm_get_system_cpu(), "num-cores": threads})


def make_target(text: str) -> Any:
    """The target that a JSON text describes, such as ``{"kind": "llvm", "mtriple": "aarch64-linux-gnu"}``.

    Raises
    ------
    ConfigError
        If it is no JSON, or not a target of LLVM.
    """
    example = '{"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a76"}'
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"the target {text!r} is not JSON ({error}); write it like {example}") from error
    if not isinstance(fields, dict) or fields.get("kind") != "llvm":
        raise ConfigError(f"the target {text!r} is not one of LLVM; write it like {example}")
    try:
        return load_tvm().target.Target(fields)
    except Exception as error:  # TVM's errors have no common base
        raise ConfigError(f"TVM does not know the target {text!r}: {first_line(error)}") from error


def lowered(data: bytes, target: Any) -> Any:
    """The model as a module of fused kernels, whose loops are as they were written: not scheduled yet.

    Raises
    ------
    ModelError
        If TVM refuses the model.
    """
    tvm = load_tvm()
    from tvm.relax.frontend.onnx import from_onnx

    model = load_model(data)
    try:
        module = from_onnx(model, keep_params_in_input=False)
        with target:
            module = tvm.relax.transform.DecomposeOpsForInference()(module)
            return tvm.relax.get_pipeline("zero")(module)
    except Exception as error:  # TVM's errors have no common base
        raise ModelError(f"TVM cannot compile the model: {first_line(error)}") from error


def build(module: Any, target: Any, database: Any = None) -> Any:
    """Compile what `lowered` gave to an executable of TVM's virtual machine.

    Parameters
    ----------
    module
        The kernels.
    target
        What to compile for.
    database
        MetaSchedule's records; kernels that are in it get the best schedule that was found.

    Raises
    ------
    ModelError
        If TVM cannot compile it.
    """
    tvm = load_tvm()
    try:
        with target, database or nullcontext():
            if database is not None:
                module = tvm.relax.transform.MetaScheduleApplyDatabase()(module)
            return tvm.compile(module, target=target)
    except Exception as error:  # TVM's errors have no common base
        raise ModelError(f"TVM cannot compile the model: {first_line(error)}") from error


def cross_compile(data: bytes, path: str | Path, target: Any, linker: str | None = None) -> Path:
    """Write a model's code for a target that need not be here.

    Parameters
    ----------
    data
        The serialised ONNX model.
    path
        Where to; a name that ends in ``.o`` gets an object file with the kernels alone, each a C function
        ``__tvm_ffi_NAME`` on tensors, for firmware without TVM. Any other gets a shared library for TVM's runtime.
    target
        What to compile for, as JSON or from `make_target`.
    linker
        Command that links for the target, such as ``aarch64-linux-gnu-g++``; None takes the one named after the
        target's triple. Object files need none.

    Raises
    ------
    ConfigError
        If the target is unknown, or the linker is missing or fails.
    ModelError
        If TVM cannot compile the model.
    """
    target = make_target(target) if isinstance(target, str) else target
    file = Path(path)
    made = build(lowered(fixed_sizes(data), target), target)
    if file.suffix == ".o":
        made.mod.imports[0].write_to_file(str(file), "o")
        return file
    command = find_linker(target, linker)

    def link(output: str, objects: Sequence[str], **_: Any) -> None:
        done = subprocess.run(
            [*command, "-shared", "-fPIC", "-o", output, *objects], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise ConfigError(f"{command[0]} cannot link for {target}: {first_line(OSError(done.stderr))}")

    made.export_library(str(file), fcompile=link)
    return file


def find_linker(target: Any, linker: str | None = None) -> list[str]:
    """The words of the command that links for a target; see `cross_compile`.

    Raises
    ------
    ConfigError
        If it is not installed.
    """
    triple = json.loads(str(target)).get("mtriple")
    words = shlex.split(linker or (f"{triple}-g++" if triple else "g++"))
    if not words or shutil.which(words[0]) is None:
        raise ConfigError(
            f"there is no linker {' '.join(words)!r} for {triple or 'this machine'}; install it, or name another"
        )
    return words
