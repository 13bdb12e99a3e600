"""``cpu-tvm``: this machine's CPU through TVM, as it compiles without tuning.

Device keys: ``cpu-tvm`` (float32, one thread, one image) and ``.b8``, ... (images at once). Untuned code is many times
slower than onnxruntime's; it stands for what a compiler does for a target that has no kernel library. TVM counts no
kernels, so tables hold isolated blocks; their sum is close to the whole, because TVM changes no layouts.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from typing import Any, ClassVar

import numpy as np

from hwnas.profilers.base import RuntimeProfiler
from hwnas.profilers.model_io import first_line, load_model, random_input, with_batch
from hwnas.profilers.timing import Runner
from hwnas.spaces.errors import DeviceUnavailable, ModelError

__all__ = ["CpuTvm"]

#: compiled models that are kept: compiling takes seconds, and the protocol opens a model several times
KEPT = 512


class CpuTvm(RuntimeProfiler):
    """Measures on this machine's CPU with TVM."""

    name = "cpu-tvm"
    device_class = "cpu"
    runtime = "tvm"
    summary = "this machine's CPU through TVM without tuning, measured"
    _compiled: ClassVar[OrderedDict[bytes, Any]] = OrderedDict()

    @classmethod
    def unavailable(cls) -> str | None:
        try:
            version("apache-tvm")
        except PackageNotFoundError:
            return "TVM is not installed; install it with: pip install 'hwnas[tvm]'"
        return None

    def runtime_version(self) -> str:
        return version("apache-tvm")

    def load(self, data: bytes) -> Runner:
        tvm = _tvm()
        model = load_model(data)
        if any(value.type.tensor_type.shape.dim[:1] and not _size(value) for value in model.graph.input):
            data = with_batch(data, 1)  # a free batch is one image
            model = load_model(data)
        machine = tvm.relax.VirtualMachine(self._compile(data), tvm.cpu())
        rng, stored = np.random.default_rng(0), {tensor.name for tensor in model.graph.initializer}
        inputs = []
        for value in model.graph.input:
            if value.name not in stored:
                kind, shape = value.type.tensor_type, [dim.dim_value for dim in value.type.tensor_type.shape.dim]
                inputs.append(tvm.runtime.tensor(random_input(_dtype(kind.elem_type), shape, rng)))
        function = machine["main"]

        def run() -> None:
            function(*inputs)

        try:
            run()
        except Exception as error:  # TVM's errors have no common base
            raise ModelError(f"TVM cannot run the model: {first_line(error)}") from error
        return run

    def _compile(self, data: bytes) -> Any:
        """The compiled model, from memory if it was compiled before."""
        tvm = _tvm()
        key = sha256(data).digest()
        if key in self._compiled:
            self._compiled.move_to_end(key)
            return self._compiled[key]
        from tvm.relax.frontend.onnx import from_onnx

        target = tvm.target.Target(
            {"kind": "llvm", "mcpu": tvm.target.codegen.llvm_get_system_cpu(), "num-cores": self.threads}
        )
        try:
            module = from_onnx(load_model(data), keep_params_in_input=False)
            with target:
                module = tvm.relax.transform.DecomposeOpsForInference()(module)
                module = tvm.relax.get_pipeline("zero")(module)
                made = tvm.compile(module, target=target)
        except Exception as error:  # TVM's errors have no common base
            raise ModelError(f"TVM cannot compile the model: {first_line(error)}") from error
        self._compiled[key] = made
        while len(self._compiled) > KEPT:
            self._compiled.popitem(last=False)
        return made


def _tvm() -> Any:
    """TVM, without its pool of threads: untuned code runs on one, and the others would wait for work in a loop."""
    if reason := CpuTvm.unavailable():
        raise DeviceUnavailable(reason)
    os.environ.setdefault("TVM_NUM_THREADS", "1")
    import tvm
    import tvm.relax

    return tvm


def _size(value: Any) -> int:
    """The first size of an input; 0 if it is free."""
    return int(value.type.tensor_type.shape.dim[0].dim_value)


def _dtype(kind: int) -> np.dtype[Any]:
    from onnx import helper

    return np.dtype(helper.tensor_dtype_to_np_dtype(kind))
